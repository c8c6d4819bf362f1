"""Self-correction: rounds by hand and against exact probabilities, curves by enumeration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cpi.core.episodes import Episode, Prefix
from llm.chain.readout import read_out
from llm.engines import SamplingParams
from llm.engines.transformers import TransformersEngine
from llm.evaluate.correction import (
    Curve,
    correct,
    fresh_curve,
    localize_by_prompt,
    localize_by_weights,
    mean,
    reset_curve,
    seed_of,
    stack,
)
from llm.evaluate.correction_report import compare, control_rounds, summarize_correction
from llm.models.logprobs import completion_logprobs
from llm.models.policy import load_policy, load_tokenizer
from llm.resets.localizers import random
from llm.resets.options import LocalizationOptions
from llm.resets.oracles import checker_rule
from llm.resets.prompted import PromptedLocalizer
from llm.tasks import ChainReasoning, Example
from llm.thoughts.options import ThoughtLimits
from llm.thoughts.simulator import Prompt, Thought, ThoughtSimulator
from tests.llm.small import EOS, Essay, ScriptedEngine, word_tokenizer

WORDS = word_tokenizer(["p", "q", ".", "good", "bad"])
ID = WORDS.get_vocab()


def ids(text: str) -> list[int]:
    return [ID[word] for word in text.split()]


def scripted(replies: dict[str, str]) -> tuple[ThoughtSimulator, ScriptedEngine]:
    """Simulator with scripted replies by prompt text; "." ends a thought."""

    def answer(prompt: Sequence[int], params: SamplingParams, j: int) -> list[int]:
        return ids(replies[" ".join(WORDS.convert_ids_to_tokens(prompt))])

    engine = ScriptedEngine(answer)
    return ThoughtSimulator(engine, WORDS, Essay("."), ThoughtLimits(20, 9, 9)), engine


def attempt(start: Prompt, *thoughts: str) -> Episode:
    steps = tuple(
        Thought(tuple(ids(t)), np.zeros(len(ids(t))), t.replace(" ", ""), "delimiter")
        for t in thoughts
    )
    right = any("good" in thought for thought in thoughts)
    return Episode(Prefix(start), steps, float(right), not right, sum(len(s.ids) for s in steps))


P, Q = (Prompt((ID[word],), Example(word, word)) for word in "pq")


def at_second(episodes: Sequence[Episode]) -> list[Any]:
    """Localizer that names the second thought, if there is one."""
    return [np.eye(e.length)[1] if e.length > 1 else np.zeros(1) for e in episodes]


def test_correct__rounds_by_hand() -> None:
    sim, engine = scripted(
        {
            "p bad .": f"bad . bad {EOS}",  # fails again
            "q": f"bad . bad {EOS}",  # restarts: no step was named
            "q bad .": f"good {EOS}",
        }
    )
    groups = [
        [attempt(P, "bad .", "bad .", f"bad {EOS}"), attempt(P, "good .", f"bad {EOS}")],
        [attempt(Q, f"bad {EOS}")],
    ]
    histories = correct(sim, localize_by_weights(at_second), groups, 2, (5,), [3, 8])
    first = {
        "chain": [0], "kept": [1], "thoughts": [3], "named": [True], "first_error": [None],
        "localizer_tokens": [0], "tokens": [4], "rewards": [0.0], "right": [False],
    }  # fmt: skip
    second = {**first, "thoughts": [3]}
    assert histories[0] == [first, second]
    assert histories[1] == [
        {**first, "kept": [0], "thoughts": [1], "named": [False], "tokens": [4]},
        {**first, "kept": [1], "thoughts": [2], "tokens": [2], "rewards": [1.0], "right": [True]},
    ]
    assert [len(prompts) for prompts, _ in engine.calls] == [2, 2]  # one call per round
    assert [p.seed for _, params in engine.calls for p in params] == [
        seed_of(5, r, 1, problem, 0) for r in (1, 2) for problem in (3, 8)
    ]
    assert all(p.max_tokens == 18 for _, params in engine.calls for p in params[:1])  # 20 − 2


def test_correct__right_attempts_cost_nothing() -> None:
    sim, engine = scripted({})
    group = [attempt(P, f"good {EOS}")]
    assert correct(sim, localize_by_weights(random), [group], 3, (0,), [0]) == [[]]
    assert not engine.calls


def test_localize_by_weights__cost_is_spread_over_the_problem() -> None:
    class CostlyLocalizer:
        cost = 0

        def __call__(self, episodes: Sequence[Episode]) -> list[Any]:
            self.cost += 1 + 2 * len(episodes)
            return [np.ones(e.length) for e in episodes]

    groups = [[attempt(P, "bad .")] * 2, [], [attempt(Q, "bad .")]]
    localizations = localize_by_weights(CostlyLocalizer())(groups, [[0, 0], [], [0]])
    assert [[each.tokens for each in group] for group in localizations] == [[3, 2], [], [3]]


# --- curves ---


def record(failed: Sequence[bool], tokens: Sequence[int]) -> dict[str, Any]:
    return {"n": len(failed), "c": len(failed) - sum(failed), "failed": [*failed],
            "tokens": [*tokens]}  # fmt: skip


@pytest.mark.parametrize(
    "failed", [[1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1], [1, 0, 0, 0]]
)
def test_fresh_curve__equals_enumeration_of_orders(failed: list[int]) -> None:
    tokens = [3, 11, 5, 8]
    curve = fresh_curve(record([bool(f) for f in failed], tokens))
    for k in range(1, 5):
        right, spent = [], []
        for order in permutations(range(4)):
            tried = next((t for t in range(1, k + 1) if not failed[order[t - 1]]), k)
            spent.append(sum(tokens[i] for i in order[:tried]))
            right.append(not failed[order[tried - 1]])
        assert curve.right[k - 1] == pytest.approx(np.mean(right))
        assert curve.tokens[k - 1] == pytest.approx(np.mean(spent))


def test_reset_curve__by_hand() -> None:
    history: Any = [
        {"chain": [0, 2], "tokens": [4, 6], "localizer_tokens": [1, 1], "right": [True, False]},
        {"chain": [2], "tokens": [3], "localizer_tokens": [0], "right": [True]},
    ]
    curve = reset_curve(record([True, False, True], [6, 6, 9]), history, 3)
    assert curve.right.tolist() == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert curve.tokens.tolist() == pytest.approx([7, 11, 12, 12])


def test_curve_at__interpolates_between_rounds() -> None:
    curve = Curve(np.array([0.2, 0.6, 0.7]), np.array([10.0, 20.0, 40.0]))
    assert curve.at(10) == (0.2, True)
    assert curve.at(15) == (pytest.approx(0.4), True)  # half of the attempts stop after round 0
    assert curve.at(30) == (pytest.approx(0.65), True)
    assert curve.at(41) == (0.7, False)
    assert Curve(np.array([0.2, 1.0]), np.array([10.0, 20.0])).at(99) == (1.0, True)


def test_compare__reads_the_control_at_the_tokens_of_the_correction() -> None:
    corrected = [Curve(np.array([0.0, 1.0]), np.array([10.0, 16.0]))] * 3
    fresh = [Curve(np.array([0.0, 0.5]), np.array([10.0, 22.0]))] * 3
    control = compare("fresh", corrected, fresh)
    assert control.right == pytest.approx(0.25) and control.tokens == 16 and control.reached
    assert control.gain.value == pytest.approx(0.75)
    assert control.gain.low == pytest.approx(0.75 - 1.75 * (1 - 0.05 ** (1 / 3)))  # all are alike
    shorter = [Curve(np.array([0.0, 0.5]), np.array([10.0, 12.0]))] * 3
    short = compare("fresh", corrected, shorter)
    assert (short.right, short.tokens, short.reached) == (0.5, 12.0, False)
    both = mean(stack([corrected[0], fresh[0]]), np.array([0, 1, 1]))
    assert both.right.tolist() == pytest.approx([0, 2 / 3])
    assert both.tokens.tolist() == pytest.approx([10, 20])


# --- with a model ---


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Use one thread, since two are no faster at this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model(chain_base: Path, chain_args: dict[str, Any]) -> tuple[ThoughtSimulator, list[Prompt]]:
    task = ChainReasoning(**chain_args)
    engine = TransformersEngine(chain_base, dtype=torch.float32)
    limits = ThoughtLimits(40, 10, 10)
    sim = ThoughtSimulator(engine, load_tokenizer(str(chain_base)), task, limits)
    return sim, [sim.prompt(example) for example in task.examples("test")]


def test_correct__accuracy_after_each_round_equals_exact_probabilities(
    model: tuple[ThoughtSimulator, list[Prompt]], chain_base: Path
) -> None:
    sim, prompts = model
    policy = load_policy(str(chain_base), device=torch.device("cpu")).eval()
    q = read_out(
        lambda b: completion_logprobs(
            policy, b.input_ids, b.attention_mask, b.mask, temperature=1.0
        ),
        sim.tokenizer, sim.task, prompts, torch.device("cpu"),
    ).q  # fmt: skip

    # Distribution of the first error, after each round of resets to it.
    horizon = q.shape[1]
    wrong = np.stack([q[:, :h].prod(1) * (1 - q[:, h]) for h in range(horizon)], axis=1)
    expected = [1 - wrong.sum(1).mean()]
    for _ in range(3):
        again = np.zeros_like(wrong)
        for h in range(horizon):
            for later in range(h, horizon):
                again[:, later] += wrong[:, h] * q[:, h:later].prod(1) * (1 - q[:, later])
        wrong = again
        expected.append(1 - wrong.sum(1).mean())
    assert expected[3] > expected[0] + 0.3

    n = 128
    groups = sim.rollout([Prefix(p) for p in prompts], n, np.random.default_rng(0))
    rule = checker_rule(sim.task)
    assert rule is not None
    histories = correct(sim, localize_by_weights(rule.weights), groups, 3, (1,), range(8))
    curves = [
        reset_curve(record([e.failed for e in g], [e.cost for e in g]), t, 3)
        for g, t in zip(groups, histories, strict=True)
    ]
    right = np.mean([curve.right for curve in curves], axis=0)
    assert right == pytest.approx(expected, abs=4 * 0.5 / np.sqrt(8 * n))
    for history in histories:
        for r in history:
            # All right thoughts before the first error are kept, and no wrong ones.
            known = [
                (k, e) for k, e in zip(r["kept"], r["first_error"], strict=True) if e is not None
            ]
            assert known and all(k == e for k, e in known)


def test_correct__problems_are_independent_of_their_batch(
    model: tuple[ThoughtSimulator, list[Prompt]],
) -> None:
    sim, prompts = model
    groups = sim.rollout([Prefix(p) for p in prompts], 6, np.random.default_rng(0))

    def prompted() -> Any:
        options = LocalizationOptions(1.0, 40)
        return localize_by_prompt(PromptedLocalizer(sim, np.random.default_rng(0), options))

    for make in (prompted, lambda: localize_by_weights(random)):
        together = correct(sim, make(), groups, 3, (7, 1), range(8))
        assert sum(len(history) for history in together) > 8
        order = [5, 0, 3]
        apart = correct(sim, make(), [groups[i] for i in order], 3, (7, 1), order)
        assert apart == [together[i] for i in order]
        assert correct(sim, make(), groups[:1], 3, (7, 2), [0]) != together[:1]


def test_summarize_correction__adds_up(
    model: tuple[ThoughtSimulator, list[Prompt]], chain_base: Path
) -> None:
    sim, prompts = model
    groups = sim.rollout([Prefix(p) for p in prompts], 8, np.random.default_rng(0))
    localizer = PromptedLocalizer(sim, np.random.default_rng(0), LocalizationOptions(0.3, 40))
    histories = correct(sim, localize_by_prompt(localizer), groups, 2, (0,), range(8))
    control = correct(sim, localize_by_weights(random), groups, control_rounds(2), (1,), range(8))
    records = [
        {**record([e.failed for e in g], [e.cost for e in g]),
         "correction": {"prompted": prompted, "random": other}}
        for g, prompted, other in zip(groups, histories, control, strict=True)
    ]  # fmt: skip
    summary = summarize_correction(records, "prompted", 2)
    rounds = [[r for history in histories for r in history[i : i + 1]] for i in range(2)]
    failed = sum(e.failed for g in groups for e in g)
    right = 64 - failed
    for number, resets in enumerate(rounds, 1):
        result = summary.rounds[number]
        tried = sum(len(r["chain"]) for r in resets)
        assert tried == failed
        corrected = sum(sum(r["right"]) for r in resets)
        assert result.wrong_to_right == pytest.approx(corrected / failed)
        right, failed = right + corrected, failed - corrected
        assert result.right.value == pytest.approx(right / 64)
        assert result.right.low <= result.right.value <= result.right.high
        assert sum(result.landed.values()) == tried
        unnamed = sum(not named for r in resets for named in r["named"])
        assert result.unnamed == pytest.approx(unnamed / tried)
    assert summary.rounds[2].localizer_tokens == pytest.approx(localizer.cost / 64)
    spent = sum(e.cost for g in groups for e in g) + localizer.cost
    spent += sum(sum(r["tokens"]) for resets in rounds for r in resets)
    assert summary.rounds[2].tokens == pytest.approx(spent / 64)
    assert [c.name for c in summary.controls] == ["fresh", "random"]
    fresh, random_ = summary.controls
    assert len(fresh.curve["right"]) == 8 and len(random_.curve["right"]) == 9
    for other in summary.controls:
        assert other.right == pytest.approx(
            np.interp(other.tokens, *reversed(other.curve.values()))
        )
        assert other.gain.value == pytest.approx(right / 64 - other.right)
        end = other.curve["tokens"][-1]
        assert other.tokens == pytest.approx(min(end, spent / 64))
        assert other.reached == (end >= spent / 64 or other.curve["right"][-1] == 1)
