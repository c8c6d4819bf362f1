from __future__ import annotations

from typing import Any

import pytest

from llm.tasks import make_task
from llm.tasks.sums import Sums, solution


def test_examples__worked_steps_before_the_question() -> None:
    task = make_task("sums", shots=2, train=30, test=10, seed=1)
    example = task.examples("test")[0]
    assert isinstance(example.prompt, str)
    *worked, last = example.prompt.split("\n\n")
    assert last == f"Question: {example.id}\n"
    assert len(worked) == 2
    for text in worked:
        question, steps = text.split("\n", 1)
        assert steps == solution([int(n) for n in question[10:].split(" + ")])
    assert solution([3, 5, 2]) == "3 + 5 = 8\n8 + 2 = 10\nAnswer: 10"
    sums = [e.data for split in ("train", "test") for e in task.examples(split)]  # type: ignore[arg-type]
    assert len(set(sums)) == 40 and all(len(terms) == 3 for terms in sums)
    assert not {text.splitlines()[0][10:] for text in worked} & {
        " + ".join(map(str, s)) for s in sums
    }


def test_examples__lengths() -> None:
    task = Sums(min_terms=3, max_terms=5, train=200)
    assert {len(e.data) for e in task.examples("train")} == {3, 4, 5}


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("3 + 5 = 8\n8 + 2 = 10\nAnswer: 10\n\nQuestion", 1.0),
        ("Answer: 10Question: 1 + 1\nAnswer: 2", 1.0),
        ("Answer: 9\nAnswer: 10", 0.0),
        ("Answer: 10 or 11", 0.0),
        ("10", 0.0),
    ],
)
def test_reward__of_the_first_answer(completion: str, reward: float) -> None:
    task = Sums()
    example = task.examples("train")[0]._replace(data=(3, 5, 2))
    assert task.reward(example, completion) == reward


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"min_terms": 4}, "min_terms=4, max_terms=3"),
        ({"train": 900}, "there are only 729 such sums"),
        ({"shots": -1}, "shots=-1"),
    ],
)
def test_make_task__bad_input(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task("sums", **args)
