"""Exact values of a language model on chain reasoning.

If the verifier requires every step to be right, an episode succeeds exactly if all its thoughts are
right. So only these probabilities matter:

    q_k = P(the right thought k | problem, right thoughts 1 … k−1)

V is 0 after a wrong step, and Π_{j>k} q_j after k right ones. One teacher-forced pass over the
solution gives every q of a problem at the run's temperature, exact up to rounding.

The probability of a thought is that of its tokens as the tokenizer encodes the text. If the same
text has other encodings (other tokens, or special tokens that decode to nothing), q is a lower
bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from cpi.core.episodes import Episode
from envs.tabular import FloatArray, TabularMDP
from llm.learner.rows import MicroBatch, Row, micro_batches
from llm.resets.oracles import CheckerOracle
from llm.tasks.chain import ChainReasoning
from llm.tasks.task import Task
from llm.thoughts.simulator import Prompt

if TYPE_CHECKING:
    from llm.thoughts.options import SamplingOptions

#: Problems per forward pass.
BATCH = 64


@dataclass(frozen=True, eq=False)
class Readout:
    """Step policy of a model along the solutions of P problems of n steps.

    Attributes
    ----------
    q : array (P, n)
        Probability of the right thought k after right thoughts 1 … k−1.
    """

    q: FloatArray

    @property
    def V(self) -> FloatArray:
        """Values after k = 0 … n right steps, shape (P, n + 1)."""
        ones = np.ones((len(self.q), 1))
        return np.hstack([np.cumprod(self.q[:, ::-1], axis=1)[:, ::-1], ones])

    @property
    def reach(self) -> FloatArray:
        """Probability that the first k = 0 … n−1 steps are right, shape (P, n)."""
        ones = np.ones((len(self.q), 1))
        return np.hstack([ones, np.cumprod(self.q, axis=1)[:, :-1]])

    @property
    def improvement(self) -> FloatArray:
        """max_a A after k = 0 … n−1 right steps, V_{k+1} − V_k; shape (P, n)."""
        return np.diff(self.V, axis=1)

    @property
    def success(self) -> FloatArray:
        """Success probability J of each problem, shape (P,)."""
        return self.V[:, 0]

    def coverage(self, tau: float) -> float:
        """p_π(τ): mean share of the steps of an episode in states with an advantage above τ.

        States after a wrong step have no advantage. The mean is over episodes and problems.
        """
        return float((self.reach * (self.improvement > tau)).mean())


def exact_task(task: Task) -> ChainReasoning:
    """Check that a language model has exact values on a task; returns the task.

    Raises
    ------
    ValueError
        If it is not chain reasoning, or only its answers are verified. Values then depend on all
        texts that the model can generate.
    """
    if not isinstance(task, ChainReasoning):
        raise ValueError(f"task: {type(task).__name__} has no exact values, chain reasoning has")
    if task.verify_mode != "steps":
        raise ValueError(
            f"task_args.verify: {task.verify_mode!r} also rewards lucky answers; exact values need "
            "'steps'"
        )
    return task


def solution_ids(tokenizer: Any, task: ChainReasoning, prompt: Prompt) -> list[list[int]]:
    """Token ids of each thought of the solution."""
    texts = task.solution(prompt.example)
    return [list(tokenizer(text, add_special_tokens=False).input_ids) for text in texts]


def check_sampling(
    sampling: SamplingOptions, tokenizer: Any, task: ChainReasoning, prompts: Sequence[Prompt]
) -> None:
    """Refuse sampling options under which the read-out probabilities are wrong.

    Raises
    ------
    ValueError
        If tokens are sampled from a truncated distribution, or a limit cuts off a solution.
    """
    if sampling.top_p < 1:
        raise ValueError(
            f"sampling.top_p: {sampling.top_p:g} samples from a truncated distribution; exact "
            "values are those of the full one"
        )
    for prompt in prompts:
        lengths = [len(ids) for ids in solution_ids(tokenizer, task, prompt)]
        needs = {
            "max_completion_length": sum(lengths),
            "max_thoughts": len(lengths),
            "max_thought_tokens": max(lengths),
        }
        for name, need in needs.items():
            if getattr(sampling, name) < need:
                raise ValueError(
                    f"sampling.{name}: {getattr(sampling, name)} cuts the solution of "
                    f"{prompt.example.id!r}, which needs {need}; its values are all 0"
                )


@torch.no_grad()
def read_out(
    logprobs: Callable[[MicroBatch], torch.Tensor],
    tokenizer: Any,
    task: Task,
    prompts: Sequence[Prompt],
    device: torch.device,
) -> Readout:
    """Read out the step policy of a model.

    Parameters
    ----------
    logprobs : function of a MicroBatch
        Log-probs of the trained tokens at the run's temperature.
    tokenizer : Transformers tokenizer
    task : Task
        `ChainReasoning` with verify="steps".
    prompts : sequence of P Prompt
    device : torch.device

    Raises
    ------
    ValueError
        If the task has no exact values; see `exact_task`.
    """
    task = exact_task(task)
    rows, lengths = [], []
    for prompt in prompts:
        thoughts = solution_ids(tokenizer, task, prompt)
        ids = np.array([*prompt.ids, *(token for thought in thoughts for token in thought)])
        start = len(prompt.ids)
        rows.append(Row(ids, start, len(ids), np.zeros(len(ids) - start), 0.0))
        lengths.append([len(thought) for thought in thoughts])
    q = np.zeros((len(rows), len(lengths[0])))
    for batch in micro_batches(rows, range(len(rows)), BATCH, device):
        scores = logprobs(batch).double().cpu().numpy()
        ends = np.cumsum([rows[i].trained for i in batch.members])
        for member, end in zip(batch.members, ends, strict=True):
            token_scores = scores[end - rows[member].trained : end]
            starts = np.concatenate([[0], np.cumsum(lengths[member])[:-1]])
            q[member] = np.exp(np.add.reduceat(token_scores, starts))
    return Readout(np.minimum(q, 1.0))


def step_mdp(task: ChainReasoning, prompts: Sequence[Prompt]) -> TabularMDP:
    """P problems as one tabular MDP: each is a block of states, and all start equally often.

    Block p is `ChainTask.mdp` of problem p. No transition leaves a block, so J is the mean over
    problems. With `step_policy`, `cpi.evaluate` gives the exact V, A and p_π of a model, and every
    bound of `cpi.bounds` can be checked on it.
    """
    problems = [task.chain.mdp(prompt.example.data, "steps") for prompt in prompts]
    return TabularMDP(
        sparse.block_diag([mdp.transitions for mdp in problems], format="csr"),
        np.vstack([mdp.rewards for mdp in problems]),
        np.concatenate([mdp.start for mdp in problems]) / len(problems),
        horizon=task.length,
        name=f"chain reasoning, {len(problems)} problems of {task.length} steps",
    )


def step_policy(task: ChainReasoning, prompts: Sequence[Prompt], q: FloatArray) -> FloatArray:
    """Step policy of a model in `step_mdp`, shape (S, M).

    After right steps, the right value has the model's probability. One wrong value has the rest,
    which includes malformed steps. After a wrong step, the policy does not matter and is uniform.

    Parameters
    ----------
    task : ChainReasoning
    prompts : sequence of P Prompt
    q : array (P, n)
        See `Readout`.
    """
    chain, modulus = task.chain, task.chain.modulus
    states = chain.num_states(prompts[0].example.data)
    policy = np.full((len(prompts), states, modulus), 1.0 / modulus)
    for block, prompt, chances in zip(policy, prompts, q, strict=True):
        value = prompt.example.data.start
        for k, right in enumerate(chain.solution(prompt.example.data)):
            row = block[chain.state_index(k, value)]
            row[:] = 0.0
            row[right] = chances[k]
            row[(right + 1) % modulus] = 1.0 - chances[k]
            value = right
    return policy.reshape(-1, modulus)


class ExactOracle(CheckerOracle):
    """Oracle from exact values, with every mask.

    Parameters
    ----------
    task : Task
    readout : Readout
        Read-out of the current policy on `prompts`.
    prompts : sequence of Prompt
        Prompts from which episodes may start.
    """

    def __init__(self, task: Task, readout: Readout, prompts: Sequence[Prompt]) -> None:
        super().__init__(task)
        ids = [prompt.example.id for prompt in prompts]
        self._improvement = dict(zip(ids, readout.improvement, strict=True))

    def improvement(self, episode: Episode) -> FloatArray:
        """max_a A in the state before each thought, shape (n,): 0 after a wrong one."""
        wrong: NDArray[np.bool_] = self.errors(episode)
        clean: NDArray[np.bool_] = np.cumsum(wrong) - wrong == 0
        exact = self._improvement[episode.origin.start.example.id][: episode.length]
        improvement = np.zeros(episode.length)
        improvement[: len(exact)] = exact  # 0 beyond the last step of the problem
        return np.where(clean, improvement, 0.0)
