"""What README.md and the page of the comparison quote is what the records and programs say."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpi.bounds import __main__ as cpi_bounds
from cpi.run import __main__ as cpi_run
from llm.common.statistics import interval
from llm.compare.arms import (
    ARMS,
    BASELINES,
    KNOWN,
    LEARNING_RATE,
    REGIMES,
    RETIRED,
    predicted,
    run_config,
)
from llm.compare.records import read_records_of
from llm.compare.report import (
    Records,
    area,
    localized,
    read_records,
    tokens_to,
)
from llm.config.presets import presets
from llm.config.resume import recorded
from llm.evaluate import __main__ as evaluate
from llm.tasks import checked, make_task
from llm.tasks.declaration import Declaration
from llm.train import __main__ as train
from paper_figures import HOME, front_page
from paper_figures.analyses.adaptive_claims import gains_of

#: Packed records.
RESULTS = HOME / "results"

README = Path(__file__).parents[1] / "README.md"
DOCS = README.parent / "docs"
COMPARISON = DOCS / "findings" / "comparison.md"

#: Options of other commands.
ELSEWHERE = {
    *("--html", "--dry_run", "--dry_run.gpus", "--dry_run.gpu_memory", "--gpu"),
    *("--nproc_per_node", "--nnodes", "--node_rank", "--master_addr", "--master_port"),
    *("--task_args.min_terms", "--task_args.datasets"),  # of data sets of reasoning-gym
    *("--task_args.path.train", "--task_args.path.test"),
}

#: How a command prints all of its options, where --help is short.
HELP = {"llm.train.__main__": "--help_all", "llm.evaluate.__main__": "--help_all"}

#: What is tried to keep a prompted localizer's skill has a table of its own.
REMEDIES = (
    *("srpo-surprisal", "srpo-prompted"),
    *(arm for arm in (*ARMS, *RETIRED) if arm.count("-") == 2),
)


def gain(records: Records, arm: str) -> str:
    """Mean success over the budget minus GRPO's, with the same seeds."""
    if arm not in records:
        return ""
    gains = [area(records[arm][seed]) - area(records["grpo"][seed]) for seed in records[arm]]
    low, high = interval(gains)
    return f"{np.mean(gains):+.3f} [{low:+.3f}, {high:+.3f}]"


def theory(arm: str, regime: str) -> str:
    """Worth of a collection at the start, in GRPO's."""
    worth = predicted(arm, REGIMES[regime].length)
    return "" if worth is None else f"{worth:.2f}: "


def comparison() -> list[str]:
    """The lines of the README's table."""
    found = {regime: read_records(RESULTS, regime) for regime in REGIMES}
    rows = [arm for arm in ARMS if arm != "grpo" and arm.count("-") < 2]
    lines = []
    for arm in rows:
        cells = [theory(arm, r) + gain(found[r], arm) if arm in found[r] else "" for r in found]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    base = [np.mean([area(r) for r in records["grpo"].values()]) for records in found.values()]
    half = [
        np.median([tokens_to(r, 0.5) for r in records["grpo"].values()])
        for records in found.values()
    ]
    cells = (f"{b:.3f}, ½ at {h / 1000:.0f}k" for b, h in zip(base, half, strict=True))
    return [f"| grpo | {' | '.join(cells)} |", *lines]


def remedies() -> list[str]:
    """The lines of the table of what might keep a localizer's skill."""
    found = [read_records(RESULTS, r) for r in ("short", "middle", "long")]
    cells = {
        arm: [f"{gain(records, arm).split(' ')[0]}, {localized(records[arm].values())}"
              for records in found] for arm in REMEDIES
    }  # fmt: skip
    return [f"| {arm} | {' | '.join(row)} |" for arm, row in cells.items()]


#: Other methods with records.
OTHERS = [arm for arm in BASELINES if not arm.startswith("vineppo")]


def baselines() -> list[str]:
    """The lines of the table of other methods."""
    names = ("short", "middle", "long")
    found = [read_records(RESULTS, name, ["grpo", *OTHERS]) for name in names]
    return [f"| {arm} | {' | '.join(gain(records, arm) for records in found)} |" for arm in OTHERS]


def never_took_off(run: dict[str, Any]) -> bool:
    """Whether it ended with hardly any success."""
    return bool(run["curve"]["success"][-1] < 0.1)


def test_all_runs_of_the_comparison_are_recorded() -> None:
    for name, regime in REGIMES.items():
        records = read_records(RESULTS, name)
        assert records.keys() == {*regime.arms, *(RETIRED if regime.arms == tuple(ARMS) else ())}
        assert all(sorted(own) == list(range(8)) for own in records.values())


def test_all_runs_of_other_methods_are_recorded() -> None:
    for name in ("short", "middle", "long"):
        records = read_records(RESULTS, name, BASELINES)
        assert list(records) == OTHERS
        assert all(sorted(own) == list(range(8)) for own in records.values())
        for arm, own in records.items():
            for seed, record in own.items():
                config = run_config(
                    BASELINES[arm], REGIMES[name], "chain-base", LEARNING_RATE, seed
                )
                assert recorded(record["config"]) == config.plain()


def test_what_is_said_in_words() -> None:
    text = " ".join(COMPARISON.read_text().split())
    found = {name: read_records(RESULTS, name) for name in REGIMES}
    ends = {
        arm: [run["curve"]["success"][-1] for run in own.values()]
        for arm, own in found["few"].items()
    }
    stuck = {arm: sum(map(never_took_off, own.values())) for arm, own in found["few"].items()}
    assert {arm: n for arm, n in stuck.items() if n} == {
        "grpo": 1, "rrpo": 5, "deepest-rrpo": 1, "deepest-surprisal": 1
    }  # fmt: skip
    kept = [seed for seed, end in zip(found["few"]["grpo"], ends["grpo"], strict=True) if end > 0.1]
    for arm in ("oracle-first_error", "srpo-prompted"):
        own, base = found["few"][arm], found["few"]["grpo"]
        gains = [area(own[seed]) - area(base[seed]) for seed in kept]
        low, high = interval(gains)
        assert f"{np.mean(gains):+.3f} [{low:+.3f}, {high:+.3f}]" in text
    alone = {arm: own for arm, own in found["long"].items() if arm != "srpo-prompted-lora"}
    assert [a for a, own in alone.items() if any(never_took_off(r) for r in own.values())] == [
        "deepest-surprisal"
    ]
    for arm, come in (("srpo-prompted-rehearsal", 6), ("srpo-prompted-slow", 5)):
        ends = [tokens_to(run, 0.6) for run in found["long"][arm].values()]
        assert np.isfinite(ends).sum() == come
    doubled = list(read_records_of(RESULTS / "middle-1e-3").values())
    assert (len(doubled), sum(map(never_took_off, doubled))) == (144, 9)
    assert {r["config"]["optimizer"]["learning_rate"] for r in doubled} == {1e-3, 0.25e-3}
    deepest, chance = found["long"]["deepest-checker"], found["long"]["random-checker"]
    gains = [area(deepest[seed]) - area(chance[seed]) for seed in deepest]
    low, high = interval(gains)
    assert f"{np.mean(gains):+.3f} [{low:+.3f}, {high:+.3f}]" in text
    for arm, thousands in (("grpo", 44), ("one-checker", 36)):
        half = np.median([tokens_to(run, 0.5) for run in found["long"][arm].values()])
        assert round(half / 1000) == thousands
    assert "one half at 36 thousand tokens instead of 44" in text


def test_the_tables_of_the_comparison() -> None:
    lines = COMPARISON.read_text().splitlines()
    for line in comparison() + remedies() + baselines():
        assert line in lines


def test_verdicts_of_the_comparison() -> None:
    rows = re.findall(r"^\| (\S+) \| (\S+) \| ([✓✗?]) \| (.*) \|$", COMPARISON.read_text(), re.M)
    assert len(rows) == 10
    for arm, regime, verdict, told in rows:
        name = f"{regime}-fresh" if arm.startswith("equal") else regime
        found = read_records(RESULTS, name, ("grpo", arm))
        gains = [area(run) - area(found["grpo"][seed]) for seed, run in found[arm].items()]
        mark = "✓" if min(gains) > 0 else "✗" if interval(gains)[1] < 0 else "?"
        assert (arm, regime, verdict, told) == (arm, regime, mark, gain(found, arm))


def test_what_the_readme_tells_of_the_comparison() -> None:
    text = README.read_text()
    table = text[text.index("| arm | short") : text.index("On long problems adaptive")]
    names = ("short", "middle", "long")
    recorded_ones = [read_records(RESULTS, name) for name in names]
    rows = table.strip().splitlines()[2:]
    adaptive = {
        "adaptive, own verdicts": "equal-prompted",
        "adaptive, step checker": "equal-checker",
    }
    fresh = [read_records(RESULTS, f"{name}-fresh", ["grpo", *adaptive.values()]) for name in names]
    for row in rows:
        name = row.split("|")[1].strip()
        arm, found = adaptive.get(name, name), fresh if name in adaptive else recorded_ones
        assert row == f"| {name} | {' | '.join(gain(records, arm) for records in found)} |"
    assert len(rows) == 5
    files = [path.name.partition(".")[0] for path in RESULTS.glob("*.jsonl.gz")]
    runs = sum(len(read_records_of(RESULTS / name)) for name in files if name != "clip")
    arms = {name.rpartition("-s")[0] for f in files for name in read_records_of(RESULTS / f)}
    assert f"of {len(arms & KNOWN.keys())} arms" in text and f"{runs:,} recorded" in text


def test_adaptive_resets_in_the_readme() -> None:
    arms = ("equal-prompted", "equal-checker")
    found = read_records(RESULTS, "long-fresh", ("grpo", *arms))
    for arm in arms:
        gains = gains_of(found, arm, "long")
        assert len(gains) == 8 and min(gains) > 0
    seeds = found[arms[0]].keys()
    half = [
        np.median([tokens_to(found[arm][seed], 0.5) for seed in seeds]) for arm in (arms[0], "grpo")
    ]
    text = " ".join(README.read_text().split())
    assert "after {:.0f} thousand tokens instead of {:.0f}".format(*np.divide(half, 1000)) in text


def test_options_in_the_texts_exist(capsys: pytest.CaptureFixture[str]) -> None:
    texts = [path.read_text() for path in (README, *sorted((DOCS / "guides").glob("*.md")))]
    named = {flag for text in texts for flag in re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", text)}
    known = "".join(f" --task_args.{field.name} " for field in dataclasses.fields(Declaration))
    known += " --task_args.KEY "
    for main in (train.main, evaluate.main, cpi_bounds.main, cpi_run.main):
        with pytest.raises(SystemExit):
            main([HELP.get(main.__module__, "--help")])
        known += capsys.readouterr().out
    named = {re.sub(r"((verifier|env)_args)\..*", r"\1", flag) for flag in named}
    missing = {flag for flag in named if not re.search(rf"{re.escape(flag)}\b", known)}
    assert named > {"--lora.r", "--algorithm", "--correct"} and missing <= ELSEWHERE


def test_presets_in_the_texts_exist() -> None:
    text = (DOCS / "guides" / "algorithms.md").read_text()
    (pattern,) = re.findall(r"`(\{olmo3.*?\})`", text, re.S)
    choices = [part.split(",") for part in re.findall(r"\{(.*?)\}", "".join(pattern.split()))]
    named = {"-".join(parts) for parts in itertools.product(*choices)}
    others = {name for name in presets() if name.startswith("smollm2-135m-")}
    assert named | others | {"chain", "qwen2.5-1.5b-gsm8k-srpo"} == presets().keys()


def test_theory_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code = README.read_text().split("```python\n")[1].split("```")[0]
    exec(code, {})
    printed = capsys.readouterr().out
    assert printed.startswith("0.1") and "no violation" in printed
    assert re.search(r"at least [\d.]+ with probability 0.95", printed)


def test_files_that_the_readme_names_exist() -> None:
    text = README.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert len(links) > 5 and all((README.parent / link).exists() for link in links)


def test_problems_of_the_readme_are_verified() -> None:
    assert "--task docs/examples/problems.yaml" in README.read_text()
    task = make_task(str(DOCS / "examples" / "problems.yaml"))
    train_problems, test_problems = (checked.examples(task, s) for s in ("train", "test"))
    assert (len(train_problems), len(test_problems)) == (48, 12)
    example = test_problems[0]
    gold = task.answer(example)
    right, wrong = checked.verify(task, [example] * 2, [f"\\boxed{{{gold}}}", "\\boxed{-1}"])
    assert (right.reward, wrong.reward) == (1.0, 0.0)


def test_pictures_of_the_readme_are_drawn(tmp_path: Path) -> None:
    assert front_page.main(["--out", str(tmp_path)]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"tree.png", "curves.png"} and all((DOCS / "img" / n).exists() for n in names)
