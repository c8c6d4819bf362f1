"""Batched verification: invalid results of a user's verifier, and the count of failures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpi.core.episodes import Prefix
from llm.config.train import TrainConfig
from llm.resets.prompted import request
from llm.tasks import ChainReasoning, Example, Task, checked
from llm.thoughts.options import ThoughtLimits
from llm.thoughts.simulator import Prompt, ThoughtSimulator, encode
from llm.verifiers import Verification
from tests.llm.small import EOS, ScriptedEngine, word_tokenizer
from tests.llm.training_runs import metrics, train

TOKENIZER = word_tokenizer(["a", "good", "odd", "</thought>"])


class CountingTask(Task):
    """Rewards "good", fails to verify "odd", and records the sizes of its batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def verify(self, examples: Sequence[Example], completions: Sequence[str]) -> list[Verification]:
        self.batches.append(len(completions))
        return [
            Verification(0.0, "timeout") if "odd" in text else Verification(float("good" in text))
            for text in completions
        ]


def test_rollout__one_verifier_batch_for_all_prefixes() -> None:
    words = TOKENIZER.get_vocab()
    engine = ScriptedEngine(
        lambda prompt, params, j: [words[("a", "good", "odd")[(len(prompt) + j) % 3]], words[EOS]]
    )
    task = CountingTask()
    sim = ThoughtSimulator(engine, TOKENIZER, task, ThoughtLimits())
    prefixes = [Prefix(Prompt((0,) * n, Example(str(n), "a"))) for n in (1, 2)]
    groups = sim.rollout(prefixes, 4, np.random.default_rng(0))
    assert task.batches == [8] and (sim.verified, len(sim.unverified)) == (8, 3)
    for n, group in zip((1, 2), groups, strict=True):
        expected = [float((n + j) % 3 == 1) for j in range(4)]
        assert [episode.ret for episode in group] == expected
        assert [episode.failed for episode in group] == [ret == 0 for ret in expected]


INVALID: dict[str, tuple[Any, str]] = {
    "fails": (lambda e, c: 1 / 0, "task: Mine.verify: ZeroDivisionError: division by zero ("),
    "too few": (lambda e, c: [Verification(1.0)], "task: Mine.verify gives 1 verifications for 2 "),
    "numbers": (lambda e, c: [1.0, 0.0], "task: Mine.verify of 'x' is 1.0, not an llm.verifi"),
    "nan": (
        lambda e, c: [Verification(1.0), Verification(float("nan"))],
        "task: Mine.verify of 'y' is Verification(reward=nan, failure='', parts=()), not an",
    ),
    "text": (
        lambda e, c: [Verification("1")] * 2,
        "task: Mine.verify of 'x' is Verification(reward='1'",
    ),
    "nothing": (lambda e, c: None, "task: Mine.verify: TypeError: 'NoneType' object is not iter"),
}


@pytest.mark.parametrize("case", INVALID)
def test_checked_verify__invalid_results_are_refused(case: str) -> None:
    function, message = INVALID[case]

    class Mine(Task):
        def verify(self, examples: Any, completions: Any) -> Any:
            return function(examples, completions)

    with pytest.raises(ValueError) as raised:
        checked.verify(Mine(), [Example("x", ""), Example("y", "")], ["a", "b"])
    assert str(raised.value).startswith(message)


def test_verify__defaults_to_the_reward() -> None:
    class Mine(Task):
        def reward(self, example: Example, completion: str) -> float:
            return len(completion)

    examples = [Example("x", ""), Example("y", "")]
    expected = [Verification(1.0), Verification(2.0)]
    assert checked.verify(Mine(), examples, ["a", "bb"]) == expected
    assert Mine().verify(examples, ["a", "bb"]) == expected


HALTING = """\
from llm.tasks import ChainReasoning
from llm.verifiers import Verification


class Halting(ChainReasoning):
    def verify(self, examples, completions):
        return [
            Verification(0.0, "timeout") if i % 2 else Verification(self.reward(e, c))
            for i, (e, c) in enumerate(zip(examples, completions))
        ]
"""


def test_train__verifier_failures_are_a_metric(
    chain_base: Path, chain_args: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "halting.py").write_text(HALTING)
    monkeypatch.syspath_prepend(tmp_path)
    more = ["--task=halting:Halting", "--steps=1", "--evaluation.steps=1"]
    assert train(chain_base, tmp_path / "run", chain_args, *more) == 0
    start, last = metrics(tmp_path / "run")
    assert start["eval/verifier/failure_rate"] == last["eval/verifier/failure_rate"] == 0.5
    assert last["verifier/failure_rate"] == 0.5


# --- prompts and names of tasks ---


def test_localizer_request__shows_the_problem_without_instructions() -> None:
    prompt = [{"role": "user", "content": "Is it so?\n\nReason step by step."}]
    (message,) = request(Example("x", prompt, None, "Is it so?"), ["Yes."])
    assert "Problem:\nIs it so?\n\nAttempt:\nStep 1: Yes." in message["content"]
    (message,) = request(Example("x", prompt), ["Yes."])
    assert "Reason step by step" in message["content"]


def test_encode__errors_of_the_chat_template_are_one_line() -> None:
    tokenizer = word_tokenizer(["a"])
    tokenizer.chat_template = "{{ raise_exception('System role\nnot supported') }}"
    with pytest.raises(ValueError) as raised:
        encode(tokenizer, [{"role": "system", "content": "a"}, {"role": "user", "content": "a"}])
    assert str(raised.value) == (
        "prompt: the model's chat template refuses messages of system, user: "
        "System role not supported"
    )


@pytest.mark.parametrize(
    "prompt",
    ["a \udc80", [{"role": "user", "content": "a"}, {"role": "user", "content": "\udc80"}]],
)
def test_encode__half_a_character_is_refused(prompt: Any) -> None:
    tokenizer = word_tokenizer(["a"])
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(ValueError, match=r"it has half a character, the lone surrogate '\\udc80'"):
        encode(tokenizer, prompt)


@pytest.mark.parametrize("prompt", [None, 3, [], ["a"], [{"role": "user"}], [{"content": "a"}]])
def test_checked_examples__prompts_are_text_or_messages(prompt: Any) -> None:
    class Mine(Task):
        def examples(self, split: Any) -> Any:
            return [Example("x", prompt)]

    with pytest.raises(
        ValueError, match=r"the prompt of 'x' is .*; give it text, or a list of chat"
    ):
        checked.examples(Mine(), "test")


def test_run_folder__named_after_the_task() -> None:
    names = {"gsm8k": "gsm8k", "data/my sums.yaml": "my sums", "my.tasks:Mine": "Mine"}
    for task, name in names.items():
        config = TrainConfig(model="m", task=task)
        assert str(config.folder) == f"runs/{name}-srpo-s0"


def test_task__str_is_the_class_name() -> None:
    assert str(ChainReasoning(train=1, test=1)) == "ChainReasoning"
