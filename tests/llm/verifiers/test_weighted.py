from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from cpi.core.episodes import Prefix
from llm.tasks import DataTask, Example
from llm.tasks.declaration import Declaration
from llm.thoughts.options import ThoughtLimits
from llm.thoughts.simulator import ThoughtSimulator
from llm.verifiers import Verification, make_weighted
from llm.verifiers.weighted import Format
from tests.llm.small import ScriptedEngine, byte_tokenizer


class Brief:
    """A user's reward."""

    def __call__(self, answers: Sequence[Any], completions: Sequence[str]) -> list[Verification]:
        return [
            Verification(1 / len(text), "cut" if len(text) > 20 else "") for text in completions
        ]


BRIEF = f"{__name__}:Brief"


def test_make_weighted__sum_and_parts() -> None:
    verify, first = make_weighted({"numeric": 2, "format": 0.1, BRIEF: 0.5})
    assert first == 2.0
    right, unboxed, long = verify([4, 4, 4], ["\\boxed{4}", "4", "it is 5, I am sure of it"])
    assert right.reward == pytest.approx(2 + 0.1 + 0.5 / 9)
    assert right.parts == (("numeric", 1.0), ("format", 1.0), ("Brief", 1 / 9))
    assert unboxed.reward == pytest.approx(2 + 0.5)
    assert long == Verification(
        pytest.approx(0.5 / 24), "cut", (("numeric", 0.0), ("format", 0.0), ("Brief", 1 / 24))
    )


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("so\n\\boxed{4}.", 1.0),
        ("so <answer>4</answer>\n", 1.0),
        ("2+2=4\nAnswer: 4", 1.0),
        ("\\boxed{4} or so", 0.0),
        ("4", 0.0),
    ],
)
def test_format(text: str, reward: float) -> None:
    assert Format()([None], [text]) == [Verification(reward)]
    assert Format("so.*")([None], [text])[0].reward == float(text.startswith("so"))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"numeric": -1}, "reward: the weight -1 of numeric is not a number ≥ 0"),
        ({"numeric": 0, "format": 1}, "the first reward decides what is a success"),
        ({"numbers": 1}, "verifier: 'numbers' is none of"),
        ({"numeric": 1, "format": {"weight": 1, "pattern": "("}}, "is not a regular expression"),
    ],
)
def test_make_weighted__bad_input(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_weighted(parts)


def test_take_rewards__means_by_name_of_a_declared_task() -> None:
    reward = {"numeric": 1, "format": {"weight": 0.25, "pattern": ".*\\."}}
    declared = {"prompt": "q", "answer": "a", "test": 1, "reward": reward, "delimiter": "\n"}
    task = DataTask(Declaration("sums", path="none.jsonl", **declared))  # type: ignore[arg-type]
    task.answer = lambda example: 4  # type: ignore[method-assign]
    tokenizer = byte_tokenizer()
    texts = ["4.", "4", "5.", "4."]
    engine = ScriptedEngine(
        lambda prompt, p, j: [*tokenizer(texts[j]).input_ids, tokenizer.eos_token_id]
    )
    simulator = ThoughtSimulator(engine, tokenizer, task, ThoughtLimits())
    prompt = simulator.prompt(Example("x", "q"))
    (episodes,) = simulator.rollout([Prefix(prompt)], 4, np.random.default_rng(0))
    assert [episode.ret for episode in episodes] == [1.25, 1.0, 0.25, 1.25]
    assert [episode.failed for episode in episodes] == [False, False, True, False]
    metrics = simulator.take_rewards()
    assert metrics["rewards/numeric/mean"] == metrics["rewards/format/mean"] == 0.75
    assert metrics["rewards/numeric/std"] == pytest.approx(np.sqrt(3) / 4)
    assert simulator.take_rewards() == {}
