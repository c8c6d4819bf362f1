"""A task with a reward of the user's: all else is the task's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from llm.tasks import ChainReasoning, Example, Task, make_task
from llm.tasks.rewarded import RewardedTask


def length(example: Example, completion: str) -> float:
    return float(len(completion))


def test_rewarded_task__only_the_reward_differs() -> None:
    task = ChainReasoning(length=3, modulus=5, operations=["+1", "*2"], train=6, test=2)
    rewarded = RewardedTask(task, length)
    examples = list(rewarded.examples("test"))
    assert examples == list(task.examples("test")) and str(rewarded) == str(task)
    assert rewarded.reward(examples[0], "abcde") == 5
    names = ("delimiter", "stop", "has_checker")
    assert [getattr(rewarded, n) for n in names] == [getattr(task, n) for n in names]
    thoughts = ["a", "b"]
    assert (rewarded.errors(examples[0], thoughts) == task.errors(examples[0], thoughts)).all()
    prompts = [each.localization_prompt(examples[0], thoughts) for each in (task, rewarded)]
    assert prompts[0] == prompts[1]
    assert rewarded.follow_up(examples[0], "") == task.follow_up(examples[0], "")


def test_rewarded_task__of_a_file_has_its_answers(tmp_path: Path) -> None:
    rows = [{"q": f"What is {n} + {n}?", "a": str(2 * n)} for n in range(6)]
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "my.yaml").write_text("path: my.jsonl\nprompt: q\nanswer: a\ntest: 3\n")
    task = RewardedTask(make_task(str(tmp_path / "my.yaml")), lambda e, text: e.data == text)
    doubles = {row["q"]: row["a"] for row in rows}
    for example in [*task.examples("train"), *task.examples("test")]:
        right = doubles[example.problem]
        assert task.reward(example, right) == 1 and task.reward(example, right + "1") == 0


def test_reference__the_answer_for_people() -> None:
    task = ChainReasoning(length=2, modulus=10, operations=["+3", "-4"], train=2, test=2)
    example = task.examples("test")[0]
    *_, last = task.solution(example)
    reference = task.reference(example)
    assert reference.endswith(last.strip()) and len(reference.split()) == 2
    assert RewardedTask(task, length).reference(example) == reference
    assert Task().reference(Example("a", "b", 42)) == "42"
    assert Task().reference(Example("a", "b", {"tests": []})) == ""


def test_rewarded_task__an_error_names_the_problem() -> None:
    task = RewardedTask(ChainReasoning(train=2, test=2), lambda example, text: float("x"))
    example = task.examples("test")[0]
    with pytest.raises(ValueError, match=re.escape(f"reward of '{example.id}': ValueError")):
        task.reward(example, "")
