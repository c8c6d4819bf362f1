"""`llm.exact`: predicted and measured intervals, resets, and the command."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, target
from hypothesis import strategies as st

import cpi
from cpi.core.episodes import Episode
from cpi.core.resets import OracleReset
from cpi.exact.update import Update
from cpi.exact.values import tolerance
from llm.chain.readout import (
    ExactOracle,
    Readout,
    step_mdp,
    step_policy,
)
from llm.common.statistics import Estimate, proportion
from llm.config.train import parse_config
from llm.exact.__main__ import main
from llm.exact.bridge import Policies, exact_bridge, reset_weights
from llm.exact.gains import (
    certificate,
    measured_gain,
    predicted_gain,
    reset_quality,
    threshold,
)
from llm.exact.report import ExactReport
from llm.resets.localizers import random
from llm.resets.oracles import checker_rule
from llm.runs.checkpoints import complete
from llm.tasks import ChainReasoning
from tests.cpi.worlds import policies as tables
from tests.cpi.worlds import repeatable, worlds
from tests.llm.chain.test_readout import TASK, chances, prompts
from tests.llm.resets.test_localizers import episode
from tests.llm.small import dense_logprobs
from tests.llm.training_runs import train

STARTS = prompts(TASK)


def update(before: Any, after: Any, task: ChainReasoning = TASK) -> Update:
    """The update between two read-outs."""
    starts = prompts(task)
    base = cpi.evaluate(step_mdp(task, starts), step_policy(task, starts, np.array(before)))
    return Update(base, step_policy(task, starts, np.array(after)))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Use one thread, since two are no faster at this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- predicted ---


@repeatable
@given(chances(), chances())
def test_update_gain__equals_the_new_policys_advantage(before: Any, after: Any) -> None:
    # Kakade & Langford 2002, Lemma 6.1: exact at the new occupancy.
    step = update(before, after)
    difference = Readout(after).success.mean() - Readout(before).success.mean()
    assert step.gain == pytest.approx(difference, abs=1e-12)
    assert TASK.length * (step.new.occupancy * step.a).sum() == pytest.approx(difference, abs=1e-12)


def aim(estimate: Estimate, gain: float, label: str = "") -> None:
    """Guide Hypothesis to improvements near the end of their interval."""
    radius = estimate.high - estimate.value
    if radius > 1e-6:
        target(abs(gain - estimate.value) / radius, label=label)


@repeatable
@given(chances(), chances())
def test_predicted_gain__contains_the_exact_gain_of_two_models(before: Any, after: Any) -> None:
    step = update(before, after)
    narrow, wide = predicted_gain(step, len(STARTS)), predicted_gain(step)
    for name, estimate in (("narrow", narrow), ("wide", wide)):
        aim(estimate, step.gain, name)
        assert estimate.miss(step.gain) <= tolerance(step.mdp)
    assert narrow.value == wide.value
    assert narrow.high <= wide.high + tolerance(step.mdp)


@repeatable
@given(st.data())
def test_predicted_gain__contains_the_exact_gain_in_any_mdp(data: st.DataObject) -> None:
    mdp = data.draw(worlds(finite=True))
    step = Update(cpi.evaluate(mdp, data.draw(tables(mdp))), data.draw(tables(mdp)))
    estimate = predicted_gain(step)
    aim(estimate, step.gain)
    assert estimate.miss(step.gain) <= tolerance(mdp)


def with_length(n: int) -> ChainReasoning:
    return ChainReasoning(modulus=3, operations=["+1", "*2"], length=n, train=1, test=2)


TIGHT: dict[str, tuple[Any, Any]] = {
    "two steps, both better": ([[0.3, 0.5], [0.6, 0.1]], [[0.8, 0.9], [0.7, 0.4]]),
    "two steps, both worse": ([[0.8, 0.9], [0.7, 0.4]], [[0.3, 0.5], [0.6, 0.1]]),
    "two steps, one each": ([[0.2, 0.9], [0.7, 0.4]], [[0.6, 0.3], [0.1, 0.8]]),
    "all right at last": (
        [[0.3, 0.5, 0.9, 0.7, 0.2], [0.8, 0.4, 0.4, 0.6, 0.9]],
        np.ones((2, 5)),
    ),
}


@pytest.mark.parametrize("name", TIGHT)
def test_predicted_gain__interval_is_tight(name: str) -> None:
    # So the penalty cannot have a constant below 1, such as ½.
    before, after = TIGHT[name]
    step = update(before, after, with_length(len(before[0])))
    estimate = predicted_gain(step, 2)
    end = estimate.low if name.endswith("one each") else estimate.high
    assert step.gain == pytest.approx(end, abs=1e-12)
    assert estimate.high - estimate.value > 0.05


def test_predicted_gain__caps_the_parting_probability_at_1() -> None:
    # At each of 5 steps, the policies part with probability ½, and a = −½. The probabilities of
    # parting before a step are bounded by 0, ½, 1, 3/2 → 1, 2 → 1.
    step = update(np.ones((2, 5)), np.full((2, 5), 0.5), with_length(5))
    estimate = predicted_gain(step, 2)
    assert estimate.value == pytest.approx(-2.5)
    assert estimate.high - estimate.value == pytest.approx(0.5 * (0 + 0.5 + 1 + 1 + 1))
    assert estimate.miss(step.gain) == 0


# --- measured ---


def counts(ps: Sequence[float]) -> Any:
    """Distribution of the number of successes of trials with different probabilities."""
    pmf = np.ones(1)
    for p in ps:
        pmf = np.convolve(pmf, [1 - p, p])
    return pmf


def test_proportion__clopper_pearson_interval() -> None:
    estimate = proportion(3, 10, 0.05)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx(
        (0.3, 0.066740, 0.652453), abs=1e-6
    )
    assert proportion(0, 7, 0.1) == Estimate(0.0, 0.0, pytest.approx(1 - 0.05 ** (1 / 7)))
    assert proportion(7, 7, 0.1) == Estimate(1.0, pytest.approx(0.05 ** (1 / 7)), 1.0)


@pytest.mark.parametrize("delta", [0.05, 0.3])
def test_proportion__covers_the_mean_over_different_problems(delta: float) -> None:
    rng = np.random.default_rng(0)
    intervals = [proportion(k, 15, delta) for k in range(16)]
    worst = 1.0
    for spread in np.linspace(0.05, 1, 60):
        ps = np.repeat(rng.beta(spread, rng.uniform(0.1, 1), size=5), 3)
        inside = [estimate.miss(ps.mean()) == 0 for estimate in intervals]
        worst = min(worst, counts(ps) @ inside)
    assert 1 - delta <= worst


def test_measured_gain__covers_the_difference_over_different_problems() -> None:
    n, delta, rng = 12, 0.2, np.random.default_rng(0)
    before, after = np.zeros(n, bool), np.zeros(n, bool)
    worst = 1.0
    for _ in range(30):
        won, lost = rng.dirichlet([0.3, 0.3, 1.0], size=4).repeat(3, axis=0)[:, :2].T
        pmf = np.zeros((n + 1, n + 1))
        pmf[0, 0] = 1.0
        for w, v in zip(won, lost, strict=True):  # adds one pair
            longer = pmf * (1 - w - v)
            longer[1:] += w * pmf[:-1]
            longer[:, 1:] += v * pmf[:, :-1]
            pmf = longer
        assert pmf.sum() == pytest.approx(1)
        covered = 0.0
        for i, j in zip(*np.nonzero(pmf), strict=True):
            after[:], before[:] = np.arange(n) < i, np.arange(n) >= n - j
            gain = measured_gain(before.reshape(4, 3), after.reshape(4, 3), delta)
            assert gain.value == pytest.approx(after.mean() - before.mean())
            covered += pmf[i, j] * (gain.miss((won - lost).mean()) == 0)
        worst = min(worst, covered)
    assert worst >= 1 - delta


def test_measured_gain__interval_at_most_1_7_times_the_normal_one() -> None:
    at = np.arange(4000).reshape(100, 40)
    before, after = at % 10 < 4, (at + 1) % 10 < 5  # .3 solved by both, .1 lost, .2 won
    gain = measured_gain(before, after, 0.05)
    assert gain.value == pytest.approx(0.1)
    normal = 1.96 * np.std(after.astype(float) - before) / np.sqrt(after.size)
    assert 1 < (gain.high - gain.low) / 2 / normal < 1.7


# --- tau, resets ---


def test_threshold__half_of_the_largest_visited_advantage() -> None:
    # Unvisited states have advantages up to 2/3.
    step = update([[1.0, 0.9, 0.8]] * 6, np.ones((6, 3)))
    assert step.base.A.max() > 0.6
    assert threshold(step.base, None) == pytest.approx(0.1)
    assert threshold(step.base, 0.19) == 0.19
    with pytest.raises(ValueError, match=r"tau: 0\.3 is above every .*the largest is 0\.2"):
        threshold(step.base, 0.3)
    with pytest.raises(ValueError, match="could be improved"):
        threshold(update(np.ones((6, 3)), np.ones((6, 3))).base, None)


def hand_made() -> tuple[Readout, list[Episode]]:
    """Read-out with V = .225, .25, .5, 1 on the first problem; three failures and a success."""
    q = np.full((6, 3), 0.5)
    q[0] = [0.9, 0.5, 0.5]
    example = STARTS[0].example
    right = TASK.solution(example)
    values = TASK.chain.solution(example.data)
    wrong = [f"{(value + 1) % 3}\n" for value in values]
    return Readout(q), [
        episode(example, [wrong[0], right[1], right[2]]),
        episode(example, [right[0], right[1], wrong[2]]),
        episode(example, right, 1.0),
        episode(example, [right[0], wrong[1], right[2], "0\n"]),
    ]


def test_reset_quality__precision_and_recall_by_hand() -> None:
    readout, episodes = hand_made()
    mask = OracleReset(ExactOracle(TASK, readout, STARTS), "improvable", 0.2).weights(episodes)
    assert [list(m) for m in mask] == [[0, 0, 0], [0, 1, 1], [0, 1, 1], [0, 1, 0, 0]]
    p = 0.45  # (0 + .9 + .45) / 3, for the first problem only
    rule = checker_rule(TASK)
    assert rule is not None
    errors = [0, 2, None, 1]

    checked = reset_quality(reset_weights(rule.weights, episodes), mask, errors, 3, p)
    assert checked.accepted == pytest.approx(3 / 12)
    assert checked.precision == pytest.approx(2 / 3)
    assert checked.recall == pytest.approx(2 / 12 / p)
    assert checked.hit_rate == 1.0

    everywhere = reset_quality(reset_weights(random, episodes), mask, errors, 3, p)
    assert everywhere.accepted == pytest.approx(10 / 12)
    assert everywhere.precision == pytest.approx(3 / 10)
    assert everywhere.recall == pytest.approx(3 / 12 / p)
    assert everywhere.hit_rate == pytest.approx((1 / 3 + 1 / 3 + 1 / 4) / 3)

    base = update(readout.q, readout.q).base
    assert certificate(base, p, checked.recall, checked.precision, 0.2) == pytest.approx(
        (2 / 12) * (2 / 3) * 0.04 / 6
    )
    # p_w = p t / q for both.
    for quality in (checked, everywhere):
        assert quality.accepted == pytest.approx(p * quality.recall / quality.precision)


def test_sample__same_random_numbers_for_each_checkpoint() -> None:
    args = ["--config=chain", "--task_args={length: 3, train: 4, test: 2}"]
    policies = Policies(parse_config(args, "x"), None)
    first, second = (policies.sample(4, lambda share: None) for _ in range(2))
    texts = [[str(e.steps) for e in group] for group in first]
    assert texts == [[str(e.steps) for e in group] for group in second]
    assert len({text for group in texts for text in group}) > 2


def test_reset_weights__scaled_to_at_most_1() -> None:
    _, episodes = hand_made()

    def localizer(failed: Sequence[Episode]) -> list[Any]:
        return [np.arange(e.length) * 2.0 for e in failed]

    weights = reset_weights(localizer, episodes)
    expected = [[0, 1 / 3, 2 / 3], [0, 1 / 3, 2 / 3], [0, 0, 0], [0, 1 / 3, 2 / 3, 1]]
    for w, e in zip(weights, expected, strict=True):
        np.testing.assert_allclose(w, e)
    assert reset_weights(localizer, episodes[2:3])[0].tolist() == [0, 0, 0]
    empty = reset_quality([np.zeros(3)], [np.ones(3)], [None], 3, 0.0)
    assert (empty.precision, empty.recall, empty.hit_rate) == (0, 0, None)


# --- a run ---


@pytest.fixture(scope="module")
def run(
    chain_base: Path, chain_args: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("exact") / "run"
    assert train(chain_base, folder, chain_args, "--steps=4", "--evaluation.steps=0") == 0
    return folder


@pytest.fixture
def variant(run: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies of the run with other settings and, optionally, only some of its checkpoints."""

    def make(steps: Sequence[int] | None = None, **settings: Any) -> Path:
        folder = tmp_path / "variant"
        (folder / "checkpoints").mkdir(parents=True)
        for step, path in complete(run / "checkpoints").items():
            if steps is None or step in steps:
                (folder / "checkpoints" / path.name).symlink_to(path)
        config = yaml.safe_load((run / "config.yaml").read_text())
        for name, value in settings.items():
            config[name] = {**config[name], **value} if value and isinstance(value, dict) else value
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        return folder

    return make


def test_command__report_of_a_run(
    run: Path, chain_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = tmp_path / "exact.json"
    assert main([str(run), "--samples", "24", "--json", str(path)]) == 0
    captured = capsys.readouterr()
    assert captured.err.split("\n")[:5] == [f"step {step}" for step in range(5)]
    assert "Exact improvements inside the predicted interval: 4 of 4" in captured.out
    assert "Exact J inside the measured interval: 5 of 5" in captured.out
    table = captured.out.split("\nExact")[0].splitlines()[1:]
    assert max(map(len, table)) <= 100
    starts = [line.split()[0] for line in table if line.strip()]
    assert [s for s in starts if s.isdigit()] == [*"01234"] * 2

    record = json.loads(path.read_text())
    assert "commit" in record["environment"] and "torch" in record["environment"]["versions"]
    assert record["config"]["algorithm"] == "srpo" and record["localizer"] == "prompted"
    assert record["samples"] == 24 and len(record["problems"]) == 8 and record["horizon"] == 3
    rows = record["rows"]
    assert [row["step"] for row in rows] == list(range(5))
    largest = Readout(np.array(rows[0]["q"])).improvement.max()
    assert record["tau"] == pytest.approx(largest / 2) and rows[0]["gain"] is None
    for before, row in zip([None, *rows], rows, strict=False):
        readout = Readout(np.array(row["q"]))
        assert row["J"] == pytest.approx(readout.success.mean(), abs=1e-12)
        p = readout.coverage(record["tau"])
        assert row["coverage"] == pytest.approx(p, abs=1e-12)
        assert p <= row["visit"] <= 3 * p + 1e-12
        assert row["success"]["low"] <= row["J"] <= row["success"]["high"]
        assert row["certified"]["random"] == pytest.approx(p**2 * record["tau"] ** 2 / 6)
        assert row["certified"]["oracle"] == pytest.approx(p * record["tau"] ** 2 / 6)
        assert row["resets"]["hit_rate"] > 0.2 and row["unusable"] < 0.2
        if before is not None:
            gain = row["gain"]
            assert gain["exact"] == pytest.approx(row["J"] - before["J"], abs=1e-12)
            assert gain["measured"]["low"] <= gain["exact"] <= gain["measured"]["high"]
            assert gain["predicted"]["low"] <= gain["exact"] <= gain["predicted"]["high"]
            sampled = row["success"]["value"] - before["success"]["value"]
            assert gain["measured"]["value"] == pytest.approx(sampled)
    assert rows[-1]["J"] > rows[0]["J"] + 0.01

    # Independent computation: load the file of the last checkpoint into a plain model.
    model = AutoModelForCausalLM.from_pretrained(chain_base)
    tokenizer = AutoTokenizer.from_pretrained(chain_base)
    model.load_state_dict(
        load_file(complete(run / "checkpoints")[4] / "model.safetensors"), strict=False
    )
    task = ChainReasoning(**record["config"]["task_args"])
    for example, q in zip(task.examples("test"), rows[-1]["q"], strict=True):
        prompt = tokenizer(example.prompt).input_ids
        ids = tokenizer(example.prompt + "".join(task.solution(example))).input_ids
        scores = dense_logprobs(model.eval(), ids).detach()[len(prompt) - 1 :]
        expected = [part.sum().exp().item() for part in scores.split([2, 2, 3])]
        assert expected == pytest.approx(q, abs=1e-5)


@pytest.mark.parametrize("lora", [0, 4])
def test_policies__sampled_logprobs_equal_the_read_out(
    lora: int, chain_base: Path, chain_args: dict[str, Any], tmp_path: Path
) -> None:
    more = [f"--lora.r={lora}", "--steps=2", "--sampling.temperature=0.8", "--evaluation.steps=0",
            f"--optimizer.learning_rate={2e-2 if lora else 1e-3}"]  # fmt: skip
    assert train(chain_base, tmp_path, chain_args, *more) == 0
    policies = Policies(parse_config([f"--config={tmp_path / 'config.yaml'}"], "x"), None)
    checkpoints = complete(tmp_path / "checkpoints")
    first, base = policies.load(checkpoints[0])
    assert base.J == pytest.approx(first.success.mean(), abs=1e-12)
    last, _ = policies.load(checkpoints[2])
    assert np.abs(last.q - first.q).max() > 0.01
    compared = 0
    for group, q in zip(policies.sample(32, lambda share: None), last.q, strict=True):
        for e in (e for e in group if not e.failed):
            sampled = [np.exp(thought.logprobs.sum()) for thought in e.steps]
            assert sampled == pytest.approx(q, abs=1e-5)
            compared += 1
    assert compared > 10


@pytest.mark.parametrize("localizer", ["checker", "random"])
def test_exact_bridge__reset_quality_equals_exact_values(
    localizer: str, variant: Callable[..., Path]
) -> None:
    report = exact_bridge(variant([0], localizer=localizer), samples=128)
    (row,) = report.rows
    readout = Readout(np.array(row.q))
    inside = readout.improvement > report.tau
    error = readout.reach * (1 - readout.q if localizer == "checker" else 1 - readout.V[:, :-1])
    caught = float((error * inside).mean())
    assert row.resets.recall == pytest.approx(caught / row.coverage, abs=0.05)
    accepted = (1 - row.J) / (3 if localizer == "checker" else 1)
    assert row.resets.accepted == pytest.approx(accepted, abs=0.05)
    assert row.resets.precision == pytest.approx(caught / accepted, abs=0.05)
    assert row.resets.hit_rate == pytest.approx(1.0 if localizer == "checker" else 1 / 3, abs=0.01)
    assert row.unusable is None
    assert "One checkpoint, no improvement" in str(report)


def test_exact_bridge__user_supplied_localizer(variant: Callable[..., Path]) -> None:
    report = exact_bridge(
        variant([0, 4], localizer="llm.resets.localizers:surprisal"), samples=8, problems=3
    )
    assert report.localizer == "llm.resets.localizers:surprisal" and len(report.problems) == 3
    assert [row.step for row in report.rows] == [0, 4]
    assert all(row.resets.accepted > 0 and row.unusable is None for row in report.rows)
    assert "gained next" in str(report)
    assert "runs/[bold]x: 3 held-out" in str(dataclasses.replace(report, run="runs/[bold]x"))


def test_command__a_violation_of_the_theorem_exits_1(
    variant: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = variant([0, 4])
    report = exact_bridge(folder, samples=8)
    gain = report.rows[1].gain
    assert gain is not None and report.violations == 0
    beyond = dataclasses.replace(gain, exact=gain.predicted.high + 0.03)
    rows = [report.rows[0], dataclasses.replace(report.rows[1], gain=beyond)]
    broken: ExactReport = dataclasses.replace(report, rows=rows)
    assert broken.violations == 1
    assert "0 of 1, largest violation 0.03; THE THEOREM OR OUR CODE" in broken.conclusion()
    monkeypatch.setattr("llm.exact.bridge.exact_bridge", lambda *arguments: broken)
    assert main([str(folder)]) == 1
    assert "WRONG" in capsys.readouterr().out


BAD: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "no checkpoints": ({"steps": []}, [], "no checkpoints/step-* in it"),
    "answers": ({"task_args": {"verify": "answer"}}, [], "'answer' also rewards lucky answers"),
    "another task": (
        {"task": "tests.llm.small:Essay", "task_args": {}},
        [],
        "task: Essay has no exact values",
    ),
    "negative": ({}, ["--tau=-0.1"], "tau: -0.1 is not a number ≥ 0"),
    "not a number": ({}, ["--tau=nan"], "tau: nan is not a number ≥ 0"),
    "too large": ({}, ["--tau=0.9"], "tau: 0.9 is above every advantage"),
    "no samples": ({}, ["--samples=0"], "samples: 0 is not"),
    "too many problems": ({}, ["--problems=9"], "problems: 9, but the task has 1 to 8"),
    "truncated": ({"sampling": {"top_p": 0.9}}, [], "sampling.top_p: 0.9 samples from a truncated"),
    "cut": ({"sampling": {"max_thoughts": 2}}, [], "sampling.max_thoughts: 2 cuts the solution"),
    "localizer": ({"localizer": "guess"}, [], "localizer: 'guess' is none of prompted"),
    "no room for results": ({}, ["--json=."], "--json: . is a folder"),
    "no model": ({"model": "/no/such/model"}, [], "model: no tokenizer could be loaded"),
}


@pytest.mark.parametrize("case", BAD)
def test_command__bad_input_is_one_clear_line(
    case: str, variant: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    settings, flags, message = BAD[case]
    folder = variant(**settings)
    assert main([str(folder), "--samples=2", *flags]) == 2
    *progress, line = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m llm.exact: ") and message in line
    assert progress in ([], ["step 0"])


def test_command__names_a_folder_that_is_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2
    assert "no config.yaml in it; name the folder of a training run" in capsys.readouterr().err
