"""Complete runs of each baseline on the shipped base model, and their settings."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cpi
from llm.config.algorithms import CLASSES
from llm.config.train import TrainConfig, parse_config
from llm.runs.metric_names import described
from llm.show.__main__ import main as show
from tests.llm.training_runs import assert_same_run, metrics, rollouts, train

#: Short enough for the shipped model to solve an eighth of them.
TASK: dict[str, Any] = {"length": 3, "train": 64, "test": 8}
COMMON = [
    "--evaluation.steps=0", "--prompts_per_step=6", "--steps=2",
    "--sampling.max_completion_length=16",
]  # fmt: skip
RUNS = {
    "score": ["--algorithm=score", "--score.stage1_steps=1", "--score.attempts=3"],
    "critique_grpo": ["--algorithm=critique_grpo", "--critique_grpo.answers=4"],
    "spo_tree": [
        "--algorithm=spo_tree", "--spo_tree.branches=[4,2,2]", "--spo_tree.segment_tokens=3",
    ],
    "vineppo": ["--algorithm=vineppo", "--vineppo.completions=2", "--vineppo.samples=2"],
    "dapo": [
        "--algorithm=rrpo", "--dynamic_sampling=2", "--loss.epsilon_high=0.28", "--plan.fresh=2",
        "--plan.per_reset=2",
    ],
}  # fmt: skip


def parsed(*argv: str) -> TrainConfig:
    return parse_config(["--model=m", *argv], "prog")


def run(output: Path, *more: str) -> int:
    return train(Path("chain-base"), output, TASK, *COMMON, *more)


@pytest.fixture(scope="module", params=RUNS)
def full_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of two steps."""
    output = tmp_path_factory.mktemp(request.param) / "run"
    assert run(output, *RUNS[request.param]) == 0
    return request.param, output


def test_metrics__are_in_the_table(full_run: tuple[str, Path]) -> None:
    lines = (full_run[1] / "metrics.jsonl").read_text().splitlines()
    assert not [name for line in lines for name in json.loads(line) if not described(name)]


def test_resume__equals_uninterrupted_run(full_run: tuple[str, Path], tmp_path: Path) -> None:
    name, output = full_run
    parts = tmp_path / "parts"
    assert run(parts, *RUNS[name], "--steps=1") == 0
    assert run(parts, *RUNS[name], "--resume=auto") == 0
    assert_same_run(output, parts)


def test_run__metrics_ledger_and_records_agree(full_run: tuple[str, Path]) -> None:
    name, output = full_run
    records = metrics(output)
    assert [record["step"] for record in records] == [1, 2]
    assert any(record["grad_norm"] > 0 for record in records)
    for record in records:
        assert all(np.isfinite(value) for value in record.values())
        # Parity: the engine's and the trainer's log-probs agree at each token.
        assert record.get("sampling/sampling_logp_difference/max", 0.0) < 1e-4
    groups = [record for step in rollouts(output).values() for record in step]
    continuations = [each for group in groups for each in group["continuations"]]
    last = records[-1]
    assert last["ledger/trained_steps"] == sum(each["tokens"] for each in continuations)
    assert all(sum(each["mask"]) == each["tokens"] for each in continuations)
    if name == "score":
        assert last["ledger/episodes"] == len(continuations) == 2 * 6 * 3 * 2
        assert records[0]["kl"] == pytest.approx(0.0, abs=1e-8) and "kl" not in last
    if name == "critique_grpo":
        assert last["ledger/episodes"] == 2 * 6 * 8
        assert last["ledger/trained_episodes"] == len(continuations) == 2 * 6 * 5
    if name == "spo_tree":
        assert last["ledger/steps"] == sum(each["generated"] for each in continuations)
        ends = [each for each in continuations if each["end"] != "open"]
        assert last["ledger/episodes"] == last["ledger/trained_episodes"] == len(ends)
    if name == "dapo":
        sampled = sum(record["dynamic_sampling/prompts"] for record in records)
        # Two fresh rollouts and two of a reset or fallback: four for each prompt.
        assert last["ledger/episodes"] == 4 * sampled > last["ledger/trained_episodes"]
        assert last["ledger/trained_episodes"] == len(continuations) == 2 * 6 * 4


def test_show__draws_rollouts(
    full_run: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, output = full_run
    assert show([str(output), "--limit=0"]) == 0
    shown = capsys.readouterr().out
    groups = len(rollouts(output)[2])
    assert len(re.findall(r"^group \d+ ·", shown, re.MULTILINE)) == groups
    page = tmp_path / "page.html"
    assert show([str(output), "--html", str(page)]) == 0
    assert page.stat().st_size > 10_000


# --- settings ---


def test_config__baselines_have_a_section_and_plans_none() -> None:
    for name in CLASSES:
        config = parsed(f"--algorithm={name}")
        assert config.section is getattr(config, name)
        assert config.group_plan() == cpi.GroupPlan(fresh=config.section.rollouts)
    assert parsed("--algorithm=grpo").section is None


def test_config__yaml_round_trip(tmp_path: Path) -> None:
    config = parsed("--algorithm=spo_tree", "--spo_tree.branches=[3,2]", "--score.alpha=1e1")
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert parse_config([f"--config={path}"], "prog") == config
    assert config.spo_tree.branches == [3, 2]


def test_needs_reference__score_stage_one_or_beta() -> None:
    assert parsed("--algorithm=score").needs_reference
    assert not parsed("--algorithm=score", "--score.stage1_steps=0").needs_reference
    assert not parsed("--algorithm=score", "--score.kl=0").needs_reference
    assert not parsed("--algorithm=critique_grpo").needs_reference
    assert parsed("--algorithm=grpo", "--loss.beta=0.1").needs_reference


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--algorithm=score", "--score.attempts=1"],
            "score.attempts: 1 is not a whole number ≥ 2",
        ),
        (["--score.alpha=-1"], "score.alpha: -1.0 is not a number ≥ 0"),
        (["--score.stage1_steps=-1"], "score.stage1_steps: -1 is not a whole number ≥ 0"),
        (["--critique_grpo.gamma=0"], "critique_grpo.gamma: 0.0 is not a number > 0"),
        (["--critique_grpo.refinements=8"], "critique_grpo.refinements: 8 are more than the 7"),
        (["--spo_tree.branches=[4,1]"], "spo_tree.branches: [4, 1] must be numbers ≥ 2"),
        (["--spo_tree.branches=[]"], "spo_tree.branches: [] must be numbers ≥ 2"),
        (["--spo_tree.rho=0"], "spo_tree.rho: 0.0 is not a number > 0"),
        (
            ["--algorithm=spo_tree", "--spo_tree.segment_tokens=128"],
            "spo_tree.segment_tokens: 2 levels of 128 tokens leave nothing for the last of "
            "sampling.max_completion_length, 256",
        ),
        (
            ["--algorithm=score", "--plan.fresh=8"],
            "plan.fresh: score has no plan of fresh and reset rollouts; how many it draws are "
            "options of its own, --score.attempts",
        ),
        (
            [
                "--algorithm=critique_grpo",
                "--prompts_per_step=1",
                "--update.steps_per_generation=9",
            ],
            "update.steps_per_generation: 9 optimizer steps, but a training step has 8 rollouts",
        ),
    ],
)
def test_config__bad_values_refused(argv: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parsed(*argv)


def test_run__prompt_without_room_for_two_attempts_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # 512 positions: one completion of 250 fits, two do not.
    more = ["--algorithm=score", "--sampling.max_completion_length=250"]
    assert run(tmp_path / "run", *more) == 2
    error = capsys.readouterr().err
    assert "sampling.max_completion_length: two attempts of 250 tokens" in error
    assert error.count("\n") == 1


def test_options__every_field_documented() -> None:
    for name in CLASSES:
        options = type(getattr(parsed(), name))
        doc = options.__doc__
        assert doc is not None
        assert all(f"    {field.name} : " in doc for field in dataclasses.fields(options))
