from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cpi
from cpi.core.episodes import Episode, Prefix
from llm.resets.quality import SeedWeights
from llm.runs.rollout_records import (
    Record,
    group_record,
    read_rollouts,
    rollout_files,
    step_records,
    write_rollouts,
)
from llm.tasks import ChainReasoning, Example
from llm.thoughts.simulator import Prompt, token_ids
from tests.llm.scripted import collected, prompts, sloppy, thought, write_run

TASK = ChainReasoning(length=3, train=16, test=4)

#: 2 +3 → 5, *3 → 5, -4 → 1; the seed episode is wrong from its second step on.
EXAMPLE = Example("one", "2 +3 *3 -4\n", None)
START = Prompt(tuple(map(ord, EXAMPLE.prompt)), EXAMPLE)


def episode(origin: Prefix, texts: list[str], ret: float, end: str = "stop") -> Episode:
    suffix = [*map(thought, texts[:-1]), thought(texts[-1], end)]
    cost = sum(len(t.ids) for t in suffix)
    return Episode(origin, (*origin.steps, *suffix), ret, ret < 1, cost)


def reset_group() -> tuple[cpi.Group, Episode]:
    seed = episode(Prefix(START), ["5\n", "6\n", "\\boxed{2}"], 0.0)
    prefix = seed.prefix(1)
    episodes = [
        episode(prefix, ["5\n", "\\boxed{1}"], 1.0),
        episode(prefix, ["5\n", "5"], 0.0, "cut")._replace(cost=40),
    ]
    return cpi.Group(3, prefix, episodes, seed), seed


def test_group_record__reset_group_by_hand() -> None:
    group, seed = reset_group()
    weights = SeedWeights(seed, np.array([0.0, 2.0, 1.0]), 1)
    record = group_record(
        12, 7, group, [0.5, -0.5], reset_planned=True, rule="srpo prompted", seed_weights=weights
    )
    five, box = [53, 10], [92, 98, 111, 120, 101, 100, 123, 49, 125]
    assert record == {
        "step": 12,
        "group": 7,
        "start": 3,
        "id": "one",
        "kind": "reset",
        "prompt": "2 +3 *3 -4\n",
        "prompt_tokens": 11,
        "answer": "",
        "prefix": ["5\n"],
        "prefix_tokens": 2,
        "seed": {
            "thoughts": ["5\n", "6\n", "\\boxed{2}"],
            "reward": 0.0,
            "weights": [0.0, 2.0, 1.0],
            "first_error": 2,
            "why": "srpo prompted: step 2 of 3",
        },
        "continuations": [
            {
                "thoughts": ["5\n", "\\boxed{1}"],
                "reward": 1.0,
                "advantage": 0.5,
                "end": "stop",
                "tokens": 11,
                "generated": 11,
                "ids": five + five + box,
                "mask": [0, 0] + [1] * 11,
            },
            {
                "thoughts": ["5\n", "5"],
                "reward": 0.0,
                "advantage": -0.5,
                "end": "cut",
                "tokens": 3,
                "generated": 40,
                "ids": [*five, *five, 53],
                "mask": [0, 0, 1, 1, 1],
            },
        ],
    }


def test_group_record__truncated_completions_are_masked() -> None:
    group, _ = reset_group()
    record = group_record(
        0, 0, group, [0.5, -0.5], reset_planned=True, mask_truncated_completions=True
    )
    assert [c["tokens"] for c in record["continuations"]] == [11, 0]
    assert sum(record["continuations"][1]["mask"]) == 0


def test_group_record__unknown_weights_are_none() -> None:
    group, _ = reset_group()
    seed = group_record(0, 0, group, [0.5, -0.5], reset_planned=True)["seed"]
    assert seed is not None and seed["why"] == "step 2 of 3"
    assert seed["weights"] is None and seed["first_error"] is None


@pytest.mark.parametrize("step", range(3))
def test_step_records__masks_are_1_exactly_after_the_prefix(step: int) -> None:
    groups, records = collected(TASK, sloppy(TASK, 0.5), step=step, number=8)
    assert {record["kind"] for record in records} >= {"fresh", "reset"}
    for number, (group, record) in enumerate(zip(groups, records, strict=True)):
        assert (record["step"], record["group"], record["start"]) == (step, number, group.start)
        kept = len("".join(record["prefix"]))  # tokens of the scripted reasoner are characters
        assert record["prefix_tokens"] == kept
        for episode, c in zip(group.episodes, record["continuations"], strict=True):
            assert c["ids"] == token_ids(list(episode.steps))
            assert c["mask"] == [0] * kept + [1] * (len(c["ids"]) - kept)
            assert c["tokens"] == sum(c["mask"]) == c["generated"] == episode.cost
            assert "".join(record["prefix"] + c["thoughts"]) == "".join(map(chr, c["ids"]))
        advantages = [c["advantage"] for c in record["continuations"]]
        np.testing.assert_array_equal(advantages, cpi.group_advantages([group.returns])[0])
        if (seed := record["seed"]) is not None:  # the checker's first error, and the reset there
            assert seed["thoughts"][: len(record["prefix"])] == record["prefix"]
            assert seed["first_error"] == len(record["prefix"]) + 1
            weights = np.arange(len(seed["thoughts"])) == len(record["prefix"])
            assert seed["weights"] == weights.astype(float).tolist()


@pytest.mark.parametrize(
    ("plan", "kinds"),
    [
        (cpi.GroupPlan(8), ["fresh"]),
        (cpi.GroupPlan(4, 1, 4), ["fresh", "fallback"]),
        (cpi.GroupPlan(2, 2, 3), ["fresh", "fallback", "fallback"]),
        (cpi.GroupPlan(0, 2, 4), ["fallback", "fallback"]),
    ],
)
def test_step_records__planned_reset_without_seed_is_a_fallback(
    plan: cpi.GroupPlan, kinds: list[str]
) -> None:
    _, records = collected(TASK, sloppy(TASK, 0.0), plan=plan, number=2)  # no episode fails
    assert [record["kind"] for record in records] == 2 * kinds
    _, records = collected(TASK, sloppy(TASK, 1.0), plan=plan, number=2)  # every episode fails
    assert [record["kind"] for record in records] == [
        k.replace("fallback", "reset") for k in kinds * 2
    ]


def test_group_record__chat_prompt_stays_messages() -> None:
    messages = [{"role": "user", "content": "2 + 2?"}]
    start = Prompt((1, 2), Example("chat", messages))
    group = cpi.Group(0, Prefix(start), [episode(Prefix(start), ["4"], 1.0)])
    record = group_record(0, 0, group, [0.0], reset_planned=False)
    assert record["prompt"] == messages and record["prompt_tokens"] == 2


def test_write_rollouts__round_trip(tmp_path: Path) -> None:
    _, records = collected(TASK, sloppy(TASK, 0.5), step=7)
    path = write_rollouts(tmp_path / "run", 7, records)
    assert path == tmp_path / "run" / "rollouts" / "step-000007.jsonl"
    assert read_rollouts(path) == records
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # no .part is left


def test_write_rollouts__any_text_survives(tmp_path: Path) -> None:
    text = "a\u2028b\x85c\rd\x1b[2J </script> ∀ε \ud800 half a pair, \\ud800, \x00\n"
    group, _ = reset_group()
    record = group_record(0, 0, group, [0.5, -0.5], reset_planned=True)
    record["continuations"][0]["thoughts"] = [text]
    path = write_rollouts(tmp_path, 0, [record, record])
    assert read_rollouts(path) == [record, record]
    assert "∀ε" in path.read_text()  # readable for people


def test_rollout_files__sorted_by_step(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=(1_000_000, 5, 10))
    for stray in ("step-000011.jsonl.part", "notes.txt", "step-x.jsonl"):
        (run / "rollouts" / stray).write_text("")
    assert list(rollout_files(run)) == [5, 10, 1_000_000]


def test_write_rollouts__is_atomic(tmp_path: Path) -> None:
    _, records = collected(TASK, sloppy(TASK, 0.5))
    path = write_rollouts(tmp_path, 0, records)
    before = path.read_text()
    bad: Any = [{**records[0], "step": object()}]
    with pytest.raises(TypeError):
        write_rollouts(tmp_path, 0, bad)
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", r"step-000000.jsonl:2: not a rollouts record \(Expecting"),
        ("", "step-000000.jsonl:2: not a rollouts record"),
        ("[]", "list in place of a record"),
        ("{}", "a record without step, group"),
        ('{"kind": "other"}', "a record without"),
        ("\udcff", "not a rollouts record"),
        ("[" * 100_000, "not a rollouts record"),
        ({"kind": "other"}, "kind 'other' is none of fresh, reset, fallback"),
        ({"seed": {"reward": 0}}, "a seed without thoughts, weights, first_error, why"),
        ({"continuations": [{}]}, "a continuation without thoughts, reward"),
        ({"continuations": 3}, "not iterable"),
    ],
)
def test_read_rollouts__broken_line_is_named(tmp_path: Path, change: Any, message: str) -> None:
    _, records = collected(TASK, sloppy(TASK, 0.5))
    path = write_rollouts(tmp_path, 0, records)
    line = change if isinstance(change, str) else json.dumps({**records[1], **change})
    lines = path.read_text().split("\n")
    lines[1] = line
    path.write_text("\n".join(lines), errors="surrogateescape")
    with pytest.raises(ValueError, match=message):
        read_rollouts(path)


def test_rollout_files__missing_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such run folder"):
        rollout_files(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="setting rollout_steps is not 0"):
        rollout_files(tmp_path)


def test_group_record__numbers_are_finite_and_complete() -> None:
    group, _ = reset_group()
    with pytest.raises(ValueError, match=r"step 4, group 1: 1 advantages for 2 episodes"):
        group_record(4, 1, group, [0.5], reset_planned=True)
    with pytest.raises(ValueError, match=r"step 4, group 1: advantages \[nan, 0.0\]"):
        group_record(4, 1, group, [np.nan, 0.0], reset_planned=True)
    group.episodes[0] = group.episodes[0]._replace(ret=float("inf"))
    with pytest.raises(ValueError, match=r"step 4, group 1: rewards \[inf, 0.0\]"):
        group_record(4, 1, group, [0.5, -0.5], reset_planned=True)


def test_step_records__one_advantage_array_per_group() -> None:
    group, _ = reset_group()
    with pytest.raises(ValueError, match="shorter"):
        step_records(0, [group], [], cpi.GroupPlan(4, 1, 4), rule="rrpo")


def test_step_records__number_the_resets_of_adaptive_plans() -> None:
    plan = cpi.GroupPlan(2, 1, 2, choice="deepest", retries=3)
    _, records = collected(TASK, sloppy(TASK, 1.0), number=2, plan=plan)
    for start in range(2):
        groups = [record for record in records if record["start"] == start]
        assert [record["kind"] for record in groups] == ["fresh", "reset", "reset", "reset"]
        reasons = [record["seed"]["why"] for record in groups[1:] if record["seed"]]
        assert [f", reset {n}: step" in why for n, why in enumerate(reasons, 1)] == [True] * 3


def test_step_records__have_the_fields_of_their_type() -> None:
    _, records = collected(TASK, sloppy(TASK, 0.5), number=4)
    assert prompts(TASK, 4)[2].example.id in {record["id"] for record in records}
    assert all(record.keys() == Record.__annotations__.keys() for record in records)
