"""The comparison: what it judges by, that only the arm differs, and that it goes on."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import multiprocessing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cpi.signal import compare as exact_worth
from cpi.signal import speed
from llm.common.progress import Reporter
from llm.common.statistics import interval
from llm.compare.__main__ import main
from llm.compare.arms import (
    ADAPTIVE,
    ARMS,
    BASELINES,
    KNOWN_REGIMES,
    LEARNING_RATE,
    REGIMES,
    TUNING_RATES,
    predicted,
    predicted_speed,
    run_config,
)
from llm.compare.records import pack, read_records_of, unpack
from llm.compare.report import (
    area,
    read_records,
    tokens_to,
    tuning_table,
)
from llm.compare.runs import (
    READINGS,
    CompareConfig,
    check_settings,
    done,
    run,
    runs,
)
from llm.runs.folder import command
from llm.train.trainer import Trainer
from paper_figures import HOME
from paper_figures.__main__ import main as figures

#: Packed records.
RESULTS = HOME / "results"


def record(tokens: list[float], success: list[float], budget: int = 100) -> dict[str, Any]:
    return {
        "curve": {"tokens": tokens, "success": success, "step": list(range(len(tokens)))},
        "config": {"token_budget": budget},
    }


def test_area_is_the_mean_over_the_budget() -> None:
    # Linear from 0 to 1 at 50 tokens, then level: ¼ + ½.
    assert area(record([0, 50, 100], [0, 1, 1])) == pytest.approx(0.75, abs=2e-3)
    assert area(record([0, 120], [0.3, 0.3])) == pytest.approx(0.3)
    # What a run that overshoots does beyond the budget does not count.
    assert area(record([0, 100, 200], [0, 0, 1])) == 0


def test_tokens_to_a_success_that_is_never_reached_are_infinite() -> None:
    run = record([0, 10, 20, 30], [0.1, 0.5, 0.4, 0.6])
    assert tokens_to(run, 0.5) == 10
    assert tokens_to(run, 0.55) == 30
    assert tokens_to(run, 0.7) == float("inf")


def test_interval_of_a_mean() -> None:
    # As many values as there are seeds: 200 · 95 %, give or take 3 standard deviations.
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = interval(rng.normal(1.0, 2.0, size=8))
        covered += low <= 1.0 <= high
    assert 181 <= covered <= 199
    # Of many values it is the usual one.
    values = rng.normal(1.0, 2.0, size=400)
    usual = values.mean() + 1.96 * values.std(ddof=1) / 20 * np.array([-1, 1])
    assert interval(values) == pytest.approx(usual, abs=0.02)
    # The skewed tail of the data is the longer side.
    skewed = np.array([0.0, 0.0, 0.1, 0.1, 0.1, 0.2, 0.2, 2.0])
    low, high = interval(skewed)
    assert high - skewed.mean() > skewed.mean() - low
    assert np.isnan(interval([1.0])).all()
    assert interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
    assert interval([0.1, 0.1, 0.1]) == pytest.approx((0.1, 0.1), rel=1e-14)
    # It scales with the values.
    assert interval(1e-15 * skewed) == pytest.approx((1e-15 * low, 1e-15 * high))


def test_only_what_an_arm_is_differs() -> None:
    regime = REGIMES["long"]
    base = asdict(run_config(ARMS["grpo"], regime, "m", 1e-3, 0))
    for name, arm in ARMS.items():
        settings = asdict(run_config(arm, regime, "m", 1e-3, 0))
        odd = {name for name in base if settings[name] != base[name]}
        # The last three are what might keep a localizer's skill, and what they are named for.
        kept = {"optimizer", "lora"} if name.count("-") == 2 else set()
        assert odd <= {"algorithm", "localizer", "plan", "oracle"} | kept


def test_every_arm_is_another_one() -> None:
    assert len(set(map(repr, ARMS.values()))) == len(ARMS)


def test_adaptive_arms_differ_from_grpo_in_their_plan_alone() -> None:
    regime = REGIMES["long"]
    base = asdict(run_config(ARMS["grpo"], regime, "m", 1e-3, 0))
    for arm in ADAPTIVE.values():
        config = run_config(arm, regime, "m", 1e-3, 0)
        odd = {name for name in base if asdict(config)[name] != base[name]}
        assert odd <= {"algorithm", "localizer", "plan"}
        plan = config.group_plan()
        assert (plan.fresh, plan.per_reset, plan.retries) == (8, 4, 4)
    assert len(set(map(repr, ADAPTIVE.values()))) == len(ADAPTIVE)


def test_the_theory_of_an_adaptive_arm_is_that_of_its_plan() -> None:
    for name, rule in (
        ("adaptive-checker", "oracle"),
        ("adaptive-halving", "halving"),
        ("adaptive-first", "first"),
    ):
        plan = run_config(ADAPTIVE[name], REGIMES["short"], "m", 1e-3, 0).group_plan()
        expected = exact_worth(3, 0.5, {"x": (plan, rule)})["x"][1]
        assert predicted(name, 3) == pytest.approx(float(expected))


def test_the_theory_of_an_arm_is_that_of_its_plan() -> None:
    for name in ("rrpo", "oracle-first_error", "random-checker", "one-checker"):
        config = run_config(ARMS[name], REGIMES["short"], "m", 1e-3, 0)
        plan = dataclasses.replace(config.group_plan(), seeds="failed")
        rule = "rrpo" if ARMS[name].algorithm == "rrpo" else "oracle"
        expected = exact_worth(3, 0.5, {"x": (plan, rule)})["x"][1]
        assert predicted(name, 3) == pytest.approx(float(expected))
    assert predicted("deepest-checker", 3) is None  # nobody has its exact moments


def test_the_theory_of_a_localizer_is_that_of_its_accuracy() -> None:
    for name in ("srpo-prompted", "one-prompted", "adaptive-prompted", "adaptive-any-surprisal"):
        config = run_config((ARMS | ADAPTIVE)[name], REGIMES["short"], "m", 1e-3, 0)
        plan = dataclasses.replace(config.group_plan(), seeds="failed")
        expected = exact_worth(3, 0.5, {"x": (plan, 0.8)})["x"][1]
        assert predicted(name, 3, accuracy=0.8) == pytest.approx(float(expected))
        assert predicted(name, 3) is None


def test_speed_is_predicted_for_the_prompts_of_a_step() -> None:
    plan = run_config(ADAPTIVE["adaptive-checker"], REGIMES["long"], "m", 1e-3, 0).group_plan()
    for name, prompts in (("long", 8), ("few", 4)):
        expected = speed(8, 0.5, plan, "oracle", prompts)
        assert predicted_speed("adaptive-checker", REGIMES[name]) == pytest.approx(expected)
    assert predicted_speed("deepest-checker", REGIMES["short"]) is None
    assert predicted_speed("one-prompted", REGIMES["short"]) is None
    equal = speed(8, 0.5, plan, "oracle", 8, equal_cost=True)
    assert predicted_speed("equal-checker", REGIMES["long"]) == pytest.approx(equal)
    # A localizer that is never wrong is the checker, but for the failure that is reset.
    assert predicted_speed("one-prompted", REGIMES["short"], accuracy=1.0) == pytest.approx(
        predicted_speed("one-checker", REGIMES["short"])
    )


def test_predictions_written_down_are_those_of_the_theory() -> None:
    for regime in REGIMES.values():
        worth = predicted("oracle-first_error", regime.length)
        assert worth is not None
        assert f"({worth:.2f})" in regime.prediction


def test_all_arms_of_a_seed_come_before_the_next_seed() -> None:
    names = [path.stem for path in runs(CompareConfig(regimes=("short",), seeds=2))]
    assert names == [f"{arm}-s{seed}" for seed in (0, 1) for arm in ARMS]


def test_learning_rates_are_tuned_on_seeds_of_their_own() -> None:
    tuned = {c.seed for c in runs(CompareConfig(tune=True)).values()}
    compared = {c.seed for c in runs(CompareConfig()).values()}
    assert tuned
    assert not tuned & compared


def test_the_rate_is_the_largest_at_which_no_run_fails() -> None:
    table = tuning_table(RESULTS, list(REGIMES))
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    assert columns[0] == [*REGIMES, "take"]
    taken = [rate for rate, cells in zip(TUNING_RATES, columns[1:], strict=True) if cells[-1]]
    assert taken == [LEARNING_RATE]
    for rate, cells in zip(TUNING_RATES, columns[1:], strict=True):
        ends = [float(cell.split(", ")[1]) for cell in cells[:-1]]
        assert (min(ends) > 0.5) == (rate <= LEARNING_RATE)


def test_results_that_come_along_are_those_of_the_settings() -> None:
    results = runs(CompareConfig(seeds=1))
    assert results
    for path, config in results.items():
        record = read_records_of(RESULTS / path.parent.name)[path.stem]
        check_settings(record, config, path.stem)


def test_results_of_other_settings_are_refused(tmp_path: Path) -> None:
    config = run_config(ARMS["grpo"], REGIMES["short"], "m", 1e-3, 0)
    path = tmp_path / "grpo-s0.json"
    assert not done(path, config)
    curve = {"tokens": [0], "success": [0.1]}
    path.write_text(json.dumps({"config": asdict(config), "curve": curve}))
    assert done(path, config)
    off = {"file": "", "weight": 1.0, "batch": 32}
    older = {name: value for name, value in asdict(config).items() if name != "algorithm_args"}
    older |= {"rehearsal": off}
    path.write_text(json.dumps({"config": older, "curve": curve}))
    assert done(path, config)
    path.write_text(
        json.dumps({"config": older | {"rehearsal": off | {"file": "x"}}, "curve": curve})
    )
    with pytest.raises(ValueError, match=r"made with other settings \(rehearsal\)"):
        done(path, config)
    path.write_text(json.dumps({"config": older, "curve": curve}))
    with pytest.raises(ValueError, match=r"made with other settings \(seed\); remove it, or name"):
        done(path, dataclasses.replace(config, seed=1))


def test_localizations_are_paid_for() -> None:
    regime = dataclasses.replace(REGIMES["short"], token_budget=400, prompts_per_step=4)
    record = run(run_config(ARMS["srpo-prompted"], regime, "chain-base", 1e-3, 0))
    tokens, ledger = record["curve"]["tokens"], record["ledger"]
    assert ledger["localizer_cost"] > 0
    assert tokens[-1] == ledger["steps"] + ledger["localizer_cost"]
    assert tokens[-2] < 400 <= tokens[-1]


def test_bad_settings_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--arms", "[grpo,sgpo]"]) == 2
    assert "arms: 'sgpo' is none of grpo, rrpo" in capsys.readouterr().err
    assert main(["--seeds", "0"]) == 2
    assert "seeds=0" in capsys.readouterr().err
    assert main(["--arms", "[]"]) == 2
    assert "arms: none named" in capsys.readouterr().err
    assert main(["--tune", "--quick"]) == 2
    assert "tune: it has its own arms" in capsys.readouterr().err
    file = tmp_path / "file"
    file.touch()
    assert main(["--output", str(file)]) == 2
    assert f"output: {file} is a file" in capsys.readouterr().err
    assert main(["--model", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "model: no tokenizer could be loaded" in capsys.readouterr().err


def test_records_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    config = asdict(run_config(ARMS["grpo"], REGIMES["short"], "m", 1e-3, 0))
    curve = {"tokens": [0], "success": [0.1]}
    (tmp_path / "short").mkdir()
    first, second = (tmp_path / "short" / f"grpo-s{seed}.json" for seed in (0, 1))
    first.write_text(json.dumps({"config": config, "curve": curve}))
    second.write_text(json.dumps({"config": config | {"token_budget": 7}, "curve": curve}))
    with pytest.raises(ValueError, match=r"grpo-s1\.json was made with another token_budget"):
        read_records(tmp_path, "short")
    for torn in ("{", "{}", "null", "[]", json.dumps({"config": config})):
        second.write_text(torn)
        with pytest.raises(ValueError, match=r"grpo-s1\.json is no record of a run; remove it"):
            read_records(tmp_path, "short")


def test_a_quick_comparison_of_some_arms() -> None:
    paths = runs(CompareConfig(quick=True, regimes=("short",), arms=("rrpo",)))
    assert [path.stem for path in paths] == ["rrpo-s0", "rrpo-s1"]


def test_few_has_arms_of_its_own() -> None:
    assert {path.stem for path in runs(CompareConfig(regimes=("few",), seeds=1))} == {
        f"{arm}-s0" for arm in REGIMES["few"].arms
    }
    named = runs(CompareConfig(regimes=("few",), arms=("one-checker",), seeds=1))
    assert [path.stem for path in named] == ["one-checker-s0"]


@pytest.mark.slow
def test_a_quick_comparison_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # An eighth of its tokens, one run after the other in this process; below, one in a worker.
    for name, regime in REGIMES.items():
        budget = regime.token_budget // 8
        monkeypatch.setitem(KNOWN_REGIMES, name, dataclasses.replace(regime, token_budget=budget))
    flags = ["--quick", "--output", str(tmp_path)]
    assert main([*flags, "--jobs", "1"]) == 0
    printed = capsys.readouterr().out
    for regime in REGIMES:
        assert [len(own) for own in read_records(tmp_path, regime).values()] == [2, 2]
        assert f"{regime}: " in printed
    records = read_records(tmp_path, "short")
    assert list(records) == ["grpo", "oracle-first_error"]
    budget = KNOWN_REGIMES["short"].token_budget // 10
    for own in records.values():
        assert list(own) == [0, 1]
        for one in own.values():
            curve, ledger = one["curve"], one["ledger"]
            assert curve["tokens"][-1] == ledger["steps"] + ledger["localizer_cost"] >= budget
            # At most a step beyond the budget, and read out about as often as was asked.
            assert curve["tokens"][-2] < budget
            assert len(curve["step"]) <= READINGS + 2
            assert curve["tokens"][0] == 0
            assert one["environment"]["versions"]["torch"]
            assert one["environment"]["command"] == command()
            assert one["config"]["seed"] in (0, 1)
        # The same base model at the start, whatever the seed.
        assert len({one["curve"]["success"][0] for one in own.values()}) == 1
    assert "oracle-first_error" in printed
    # What is there stays; what is missing is made again, and is the same.
    path = tmp_path / "short" / "grpo-s1.json"
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "short").iterdir() if p != path}
    curve = json.loads(path.read_text())["curve"]
    path.unlink()
    assert main([*flags, "--regimes", "[short]"]) == 0
    assert not multiprocessing.active_children()  # they would hold up the end of the command
    assert {p: p.stat().st_mtime_ns for p in before} == before
    again = json.loads(path.read_text())
    assert again["curve"] == curve
    assert again["environment"]["command"] == command()  # not its worker's


@pytest.mark.parametrize("regime", REGIMES)
def test_baselines_differ_from_grpo_in_their_method_alone(regime: str) -> None:
    shared = {"model", "task", "task_args", "token_budget", "prompts_per_step", "seed", "sampling"}
    shared |= {"optimizer", "lora", "evaluation", "localization"}
    grpo = run_config(ARMS["grpo"], REGIMES[regime], "m", 1e-3, 0).plain()
    for arm in BASELINES.values():
        own = run_config(arm, REGIMES[regime], "m", 1e-3, 0)
        assert own.plain() != grpo
        assert all(own.plain()[name] == grpo[name] for name in shared)
        leaves = np.prod(own.spo_tree.branches) if own.algorithm == "spo_tree" else 8
        assert leaves == 8
        if own.algorithm in ("score", "critique_grpo"):
            assert own.section is not None and own.section.rollouts == 8
    named = runs(CompareConfig(regimes=(regime,), arms=tuple(BASELINES), seeds=2))
    assert len(named) == 2 * len(BASELINES)


def test_baselines_are_compared_if_they_are_named() -> None:
    assert not any(path.name.startswith(tuple(BASELINES)) for path in runs(CompareConfig()))
    assert not BASELINES.keys() & read_records(RESULTS, "short").keys()


@pytest.mark.parametrize("regime", ["short", "long"])
def test_both_levels_of_the_tree_are_trained_on(regime: str, tmp_path: Path) -> None:
    config = run_config(BASELINES["spo-tree"], REGIMES[regime], "chain-base", LEARNING_RATE, 0)
    quiet = Reporter(config.steps, Console(file=io.StringIO()))
    trainer = Trainer(dataclasses.replace(config, output=str(tmp_path)), quiet)
    prompt = max(len(each.ids) for each in trainer.sampler.train)
    first, second = [], []
    for row in trainer.batch(1).rows:
        (second if row.trained_from > prompt else first).append(row.trained)
    trainer.close()
    # Tokens that were certain are left out; what differs within a level is of like length.
    assert 0.2 < sum(second) / sum(first) < 5


def test_packed_records_are_the_records(tmp_path: Path) -> None:
    config = asdict(run_config(ARMS["grpo"], REGIMES["short"], "m", 1e-3, 0))
    curve = {"tokens": [0, 9], "success": [0.1, 0.25]}
    # Equal numbers of two types, missing entries, dictionaries that are empty or absent elsewhere.
    odd: list[dict[str, Any]] = [
        {},
        {"a": 1},
        {"a": 1.0},
        {"a": True},
        {"a": {}},
        {"a": {"b": None}},
    ]
    records = {
        f"at/{i}": {"config": config | {"seed": i}, "curve": curve, "odd": more}
        for i, more in enumerate(odd)
    }
    for some in (records, dict(list(records.items())[:1])):
        file = tmp_path / "short.jsonl.gz"
        pack(some, file)
        assert json.dumps(unpack(file), sort_keys=True) == json.dumps(some, sort_keys=True)
        assert read_records_of(tmp_path / "short") == some
        before = file.read_bytes()
        pack(dict(reversed(list(some.items()))), file)
        assert file.read_bytes() == before
    whole = file.read_bytes()
    for torn in (whole[:-9], whole[: len(whole) // 2], b"", b"{}", gzip.compress(b"{}\n")):
        file.write_bytes(torn)
        with pytest.raises(ValueError, match=r"short\.jsonl\.gz: a damaged file of records"):
            unpack(file)


def test_packing_keeps_records_of_other_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = asdict(run_config(ARMS["grpo"], REGIMES["short"], "m", 1e-3, 0))

    def live(name: str, success: float) -> None:
        path = tmp_path / "runs" / "short" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps({"config": config, "curve": {"tokens": [0], "success": [success]}})
        )

    command = ["pack", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    live("grpo-s0", 0.1)
    live("grpo-s1", 0.2)
    assert figures([*command]) == 0
    (tmp_path / "runs" / "short" / "grpo-s0.json").unlink()
    live("grpo-s1", 0.3)
    assert figures([*command]) == 0
    assert "short.jsonl.gz: 1 from" in capsys.readouterr().out
    found = read_records(tmp_path / "out", "short")["grpo"]
    assert {seed: one["curve"]["success"] for seed, one in found.items()} == {0: [0.1], 1: [0.3]}
    assert figures(["pack", str(tmp_path / "nothing")]) == 2
    assert "no runs in it" in capsys.readouterr().err
