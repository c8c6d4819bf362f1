"""Localizer by the log-prob of the step's number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpi.core.episodes import Episode, Prefix
from llm.engines.transformers import TransformersEngine
from llm.models.policy import load_tokenizer
from llm.models.shipped import locate
from llm.resets.oracles import first_error
from llm.resets.prompted import PromptedLocalizer, request
from llm.resets.step_logprob import StepLogprobLocalizer
from llm.runs.rollout_records import read_rollouts, rollout_files
from llm.tasks import Example, make_task
from llm.thoughts.options import ThoughtLimits
from llm.thoughts.simulator import Prompt, Thought, ThoughtSimulator
from tests.llm.small import Essay, Score, ScriptedEngine, byte_tokenizer
from tests.llm.training_runs import metrics, train

BYTES = byte_tokenizer()
ESSAY = Example("essay", "Write.")


def episode(n: int, text: str = "x") -> Episode:
    thoughts = tuple(Thought((1,), np.array([-1.0]), text, "delimiter") for _ in range(n))
    return Episode(Prefix(Prompt((1,), ESSAY)), thoughts, 0.0, True, n)


def localizer(
    score: Score, may_be_right: bool = False, max_model_len: int = 10_000
) -> tuple[StepLogprobLocalizer, list[tuple[str, str]]]:
    """The localizer on an engine with scripted log-probs, and its calls: prompts and replies."""
    calls = []

    def logprobs(prompt: Sequence[int], ids: Sequence[int]) -> Sequence[float]:
        calls.append((BYTES.decode(prompt), BYTES.decode(ids)))
        return score(prompt, ids)

    engine = ScriptedEngine(lambda *_: [], max_model_len, logprobs)
    simulator = ThoughtSimulator(engine, BYTES, Essay(), ThoughtLimits())
    prompted = PromptedLocalizer(simulator, np.random.default_rng(0), may_be_right=may_be_right)
    return StepLogprobLocalizer(prompted), calls


def by_number(probabilities: Sequence[float]) -> Score:
    """Gives the reply k the probability number k − 1, in equal parts per token."""

    def score(prompt: Sequence[int], ids: Sequence[int]) -> list[float]:
        number = int(BYTES.decode(ids).removesuffix("}"))
        return [np.log(probabilities[number]) / len(ids)] * len(ids)

    return score


def test_step_logprob__weights_are_the_normalized_probabilities() -> None:
    localize, calls = localizer(by_number([0.0, 0.1, 0.3, 0.2]))
    two, three = localize([episode(2), episode(3)])
    np.testing.assert_allclose(two, [1 / 4, 3 / 4])
    np.testing.assert_allclose(three, [1 / 6, 1 / 2, 1 / 3])
    # What all replies begin with is part of the prompt.
    assert [reply for _, reply in calls] == ["1}", "2}", "1}", "2}", "3}"]
    assert calls[-1][0] == request(ESSAY, ["x"] * 3)[0]["content"] + "\n\n\\boxed{"
    assert (localize.cost, localize.failed) == (0, 0)


def test_step_logprob__number_of_digits() -> None:
    # A model that draws each of V tokens equally says "10" with 1/V of the probability of "9".
    size = len(BYTES)
    localize, _ = localizer(lambda prompt, ids: [-np.log(size)] * len(ids))
    (weights,) = localize([episode(12)])
    np.testing.assert_allclose(weights / weights[0], [1.0] * 9 + [1 / size] * 3)


def test_step_logprob__no_error() -> None:
    localize, _ = localizer(by_number([0.4, 0.1, 0.3]), may_be_right=True)
    (probabilities,) = localize.probabilities([episode(2)])
    assert probabilities is not None
    np.testing.assert_allclose(probabilities, [1 / 2, 1 / 8, 3 / 8])
    (weights,) = localize([episode(2)])
    np.testing.assert_allclose(weights, [1 / 4, 3 / 4])


def test_step_logprob__too_long_request() -> None:
    long = len(request(ESSAY, ["x" * 50] * 2)[0]["content"] + "\n\n")
    for room, failed in ((8, 1), (9, 1), (10, 0)):  # a reply has 9 tokens, and one follows
        localize, calls = localizer(by_number([0, 0.2, 0.6]), max_model_len=long + room)
        weights = localize([episode(2, "x" * 50), episode(2)])
        np.testing.assert_allclose(weights, [[0.5, 0.5] if failed else [0.25, 0.75], [0.25, 0.75]])
        assert (localize.failed, len(calls)) == (failed, 4 - 2 * failed)


def test_step_logprob__trains_without_localization_tokens(
    chain_base: Path, chain_args: dict[str, Any], tmp_path: Path
) -> None:
    flags = ["--algorithm=srpo", "--localizer=step_logprob", "--steps=1", "--rollout_steps=1"]
    assert train(chain_base, tmp_path, chain_args, *flags) == 0
    row = metrics(tmp_path)[-1]
    assert row["ledger/localizer_cost"] == 0 and "localize/parse_failure_rate" not in row
    seeds = [r["seed"] for r in read_rollouts(rollout_files(tmp_path)[1]) if r["seed"]]
    weights = [seed["weights"] or [] for seed in seeds]
    np.testing.assert_allclose([sum(each) for each in weights], 1)
    assert all(0 < w < 1 for each in weights if len(each) > 1 for w in each)


def test_step_logprob__of_a_model_that_has_learned_to_localize() -> None:
    model = locate("chain-base")
    task, tokenizer = make_task("chain"), load_tokenizer(model)
    simulator = ThoughtSimulator(TransformersEngine(model), tokenizer, task, ThoughtLimits())
    starts = [Prefix(simulator.prompt(example)) for example in task.examples("train")[:40]]
    groups = simulator.rollout(starts, 1, np.random.default_rng(0))
    wrong = [(each, first_error(task, each)) for (each,) in groups]
    known = [(each, error) for each, error in wrong if error is not None]
    prompted = PromptedLocalizer(simulator, np.random.default_rng(0))
    weights = StepLogprobLocalizer(prompted)([each for each, _ in known])
    on_error = [w[error] for w, (_, error) in zip(weights, known, strict=True)]
    assert np.mean(on_error) > 2 * np.mean([1 / each.length for each, _ in known])


def test_step_logprob__no_episodes() -> None:
    localize, _ = localizer(by_number([]))
    assert localize([]) == []
    with pytest.raises(IndexError):  # the script has no such number
        localize([episode(1)])
