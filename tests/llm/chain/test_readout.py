"""Read-out against brute force, and its tabular MDP against closed forms."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

import cpi
from cpi.exact.values import tolerance
from llm.chain.model import chain_model, chain_tokenizer
from llm.chain.readout import (
    ExactOracle,
    Readout,
    exact_task,
    read_out,
    solution_ids,
    step_mdp,
    step_policy,
)
from llm.learner.rows import MicroBatch
from llm.models.logprobs import completion_logprobs
from llm.pretrain import PretrainConfig, pretrain
from llm.tasks import ChainReasoning
from llm.thoughts.simulator import Prompt, stop_token_ids
from tests.cpi.worlds import repeatable
from tests.llm.resets.test_localizers import episode
from tests.llm.small import Essay, word_tokenizer

TASK = ChainReasoning(modulus=3, operations=["+1", "*2"], length=3, train=4, test=6)


def prompts(task: ChainReasoning) -> list[Prompt]:
    return [Prompt((1,), example) for example in task.examples("test")]


@st.composite
def chances(draw: st.DrawFn, problems: int = 6, steps: int = 3) -> Any:
    """Values q of some problems, including 0 and 1."""
    values = draw(st.lists(st.integers(0, 8), min_size=problems * steps, max_size=problems * steps))
    return np.reshape(values, (problems, steps)) / 8


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Use one thread, since two are no faster at this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- q ---


def half_trained(task: ChainReasoning, tokenizer: Any) -> Any:
    """A tiny model that is often right and gives every other token some probability."""
    model = chain_model(tokenizer, hidden_size=32, layers=1)
    recipe = PretrainConfig(
        modulus=task.chain.modulus, operations=task.chain.operations, steps=60, batch=16,
        lengths=(task.length, task.length), error_rate=0.3, localization=0.0, learning_rate=1e-2,
    )  # fmt: skip
    return pretrain(model, tokenizer, recipe)


def completions(
    model: Any,
    tokenizer: Any,
    task: ChainReasoning,
    prompt: Prompt,
    longest: int,
    temperature: float,
) -> Any:
    """Token ids and probability of every completion that sampling can give."""
    stops = stop_token_ids(tokenizer, task)
    open_prefixes: list[tuple[int, ...]] = [()]
    mass = np.ones(1)
    for length in range(1, longest + 1):
        ids = torch.tensor([[*prompt.ids, *prefix] for prefix in open_prefixes])
        with torch.no_grad():
            logits = torch.cat([model(part).logits[:, -1] for part in ids.split(4096)])
        probabilities = mass[:, None] * (logits / temperature).double().softmax(-1).numpy()
        longer, masses = [], []
        for prefix, row in zip(open_prefixes, probabilities.tolist(), strict=True):
            for token, p in enumerate(row):
                if token in stops or length == longest:
                    yield (*prefix, token), p
                else:
                    longer.append((*prefix, token))
                    masses.append(p)
        open_prefixes, mass = longer, np.array(masses)


@pytest.mark.parametrize(("steps", "room", "temperature"), [(2, 0, 0.7), (1, 1, 1.0)])
def test_success__is_the_probability_of_all_right_completions(
    steps: int, room: int, temperature: float
) -> None:
    task = ChainReasoning(modulus=2, operations=["+1"], length=steps, train=1, test=1)
    tokenizer = chain_tokenizer(task.chain, 2)
    model = half_trained(task, tokenizer)
    (example,) = task.examples("test")
    prompt = Prompt(tuple(tokenizer(example.prompt).input_ids), example)

    def logprobs(batch: MicroBatch) -> torch.Tensor:
        return completion_logprobs(
            model, batch.input_ids, batch.attention_mask, batch.mask, temperature=temperature
        )

    readout = read_out(logprobs, tokenizer, task, [prompt], torch.device("cpu"))
    pieces = [tokenizer.decode([i], skip_special_tokens=True) for i in range(len(tokenizer))]
    longest = 2 * steps + 1 + room  # 2 tokens a step, 3 the last
    total = right = with_special = 0.0
    for ids, p in completions(model, tokenizer, task, prompt, longest, temperature):
        total += p
        text = "".join(pieces[i] for i in ids)
        if "}" in text and task.reward(example, text):
            special = any(i in tokenizer.all_special_ids for i in ids)
            right, with_special = right + p * (not special), with_special + p * special
    assert total == pytest.approx(1.0, abs=1e-5)
    assert readout.success[0] == pytest.approx(right, rel=1e-5)
    assert 0.01 < right < 0.9
    # With room for a special token, which decodes to nothing, q is a lower bound.
    assert (with_special > 1e-5) == bool(room)


def test_solution_ids__have_no_special_tokens() -> None:
    tokenizer = word_tokenizer(["<bos>", "\\boxed{", "}", "\n", *"0123456789"])
    bos = tokenizer.convert_tokens_to_ids("<bos>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )
    assert tokenizer("3").input_ids[0] == bos
    thoughts = solution_ids(tokenizer, TASK, prompts(TASK)[0])
    assert [len(ids) for ids in thoughts] == [2, 2, 3]
    assert all(bos not in ids for ids in thoughts)


def test_exact_task__refuses_tasks_without_exact_values() -> None:
    with pytest.raises(ValueError, match="task: Essay has no exact values"):
        exact_task(Essay())
    with pytest.raises(ValueError, match="'answer' also rewards lucky answers"):
        exact_task(ChainReasoning(length=2, verify="answer", train=1, test=1))


# --- tabular MDP ---


@repeatable
@given(chances())
def test_step_mdp__evaluation_equals_the_closed_form(q: Any) -> None:
    readout, starts = Readout(q), prompts(TASK)
    mdp = step_mdp(TASK, starts)
    base = cpi.evaluate(mdp, step_policy(TASK, starts, q))
    states = TASK.chain.num_states(starts[0].example.data)
    for p, prompt in enumerate(starts):
        problem = prompt.example.data
        values = [problem.start, *TASK.chain.solution(problem)]
        for k in range(TASK.length):
            at = p * states + TASK.chain.state_index(k, values[k])
            assert base.V[k, at] == pytest.approx(readout.V[p, k], abs=1e-12)
            assert base.A[k, at].max() == pytest.approx(readout.improvement[p, k], abs=1e-12)
            reach = base.occupancy[k, at] * TASK.length * len(starts)
            assert reach == pytest.approx(readout.reach[p, k], abs=1e-12)
    for tau in (0.0, 0.1, 0.3):
        mask = cpi.exact.improvement.improvable_mask(base, tau)
        # Only the mask has a tolerance for rounding; no advantage is close enough to tau to matter.
        assert (np.abs(readout.improvement - tau)[readout.improvement != 0] > 1e-9).all()
        assert cpi.coverage(base, mask) == pytest.approx(readout.coverage(tau), abs=1e-12)


@repeatable
@given(chances())
def test_step_mdp__J_is_the_mean_over_problems(q: Any) -> None:
    starts = prompts(TASK)
    together = cpi.evaluate(step_mdp(TASK, starts), step_policy(TASK, starts, q))
    alone = [
        cpi.evaluate(step_mdp(TASK, [start]), step_policy(TASK, [start], row[None]))
        for start, row in zip(starts, q, strict=True)
    ]
    assert together.J == pytest.approx(np.mean([one.J for one in alone]), abs=1e-12)
    assert together.J == pytest.approx(Readout(q).success.mean(), abs=1e-12)
    assert together.J == pytest.approx(
        TASK.length * (together.occupancy * (together.policy * together.mdp.rewards).sum(1)).sum(),
        abs=tolerance(together.mdp),
    )


def test_step_mdp__success_equals_the_sum_over_action_sequences() -> None:
    q = np.random.default_rng(0).random((6, 3))
    starts = prompts(TASK)
    mdp, policy = step_mdp(TASK, starts), step_policy(TASK, starts, q)
    total, paid = 0.0, 0.0
    for start in np.flatnonzero(mdp.start):
        for actions in itertools.product(range(3), repeat=3):
            state, p, ret = int(start), float(mdp.start[start]), 0.0
            for action in actions:
                p *= policy[state, action]
                ret += mdp.rewards[state, action]
                ((state,), _) = mdp.successors(state, action)
            total += p
            paid += p * ret
    assert total == pytest.approx(1.0, abs=1e-12)
    assert paid == pytest.approx(Readout(q).success.mean(), abs=1e-12)


def test_exact_oracle__improvement_before_and_after_an_error() -> None:
    starts = prompts(TASK)
    readout = Readout(np.random.default_rng(0).random((6, 3)))
    oracle = ExactOracle(TASK, readout, starts)
    example = starts[2].example
    right = TASK.solution(example)
    wrong = f"{(TASK.chain.solution(example.data)[1] + 1) % 3}\n"
    best = readout.improvement[2]
    cases = {
        (right[0], right[1], right[2]): best,
        (right[0], wrong, right[2]): [*best[:2], 0.0],  # the state before the error can be improved
        (right[0],): best[:1],
        (wrong, right[1], right[2], "0\n", "0\n"): [best[0], 0, 0, 0, 0],
    }
    for texts, expected in cases.items():
        np.testing.assert_array_equal(oracle.improvement(episode(example, texts)), expected)
