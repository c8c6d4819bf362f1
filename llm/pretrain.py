"""A base model for chain reasoning: supervised on the traces of a reasoner with known errors.

The reasoner of `ChainTask.noisy_policy` gets each fact (an operation on a value) wrong with a known
rate, always in the same wrong way, so that no single habit mends all errors. Part of the texts are
wrong solutions followed by `?` and the number of their first wrong step: to localize is a skill of
the base model, as it is of an instruct model, and no ground truth enters reinforcement learning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from envs.reasoning import ChainTask, Problem
from llm.logprobs import completion_logprobs
from llm.tasks.chain import QUESTION, ChainReasoning


def trace(
    chain: ChainTask,
    problem: Problem,
    error_rate: float,
    wrong: np.ndarray,
    rng: np.random.Generator,
) -> list[int]:
    """Values that the noisy reasoner writes: each fact wrong with `error_rate`, as `wrong` says."""
    values, value = [], problem.start
    for operation in problem.operations:
        fact = chain.operations.index(operation), value
        value = int(wrong[fact] if rng.random() < error_rate else chain.results[fact])
        values.append(value)
    return values


def sample_text(
    task: ChainReasoning,
    error_rate: float,
    wrong: np.ndarray,
    localization: float,
    rng: np.random.Generator,
) -> tuple[str, str]:
    """A prompt and the text to learn: a trace, or the first wrong step of one."""
    chain = task.chain
    problem = chain.sample(rng, task.length)
    values = trace(chain, problem, error_rate, wrong, rng)
    solution = chain.render_steps(problem, values)
    first = chain.first_error(problem, values)
    if first is None or rng.random() >= localization:
        return chain.render(problem), solution
    return chain.render(problem) + solution + "\n" + QUESTION, f"\\boxed{{{first}}}"


def pretrain(
    model: Any,
    tokenizer: Any,
    task: ChainReasoning,
    *,
    error_rate: float = 0.5,
    localization: float = 0.3,
    steps: int = 600,
    batch: int = 64,
    learning_rate: float = 3e-3,
    seed: int = 0,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Any:
    """Train `model` on texts of the noisy reasoner; returns it.

    Parameters
    ----------
    model, tokenizer
        Of `llm.chain_model`.
    task : ChainReasoning
        Its modulus, operations and length; problems are drawn afresh, held-out ones included.
    error_rate : float
        Share of the times that a fact comes out wrong.
    localization : float
        Share of the wrong traces that are turned into a localization.
    steps, batch : int
    learning_rate : float
        Its highest; it rises over a twentieth of the steps and falls to 0 along a cosine.
    seed : int
        Of the texts, and (seed) of the wrong values.
    progress : function of (step, loss)
    """
    rng = np.random.default_rng(seed)
    wrong = task.chain.wrong_values(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps, pct_start=0.05
    )
    model.train()
    for step in range(1, steps + 1):
        texts = [sample_text(task, error_rate, wrong, localization, rng) for _ in range(batch)]
        loss = -completion_logprobs(model, *_pad(tokenizer, texts)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress(step, loss.item())
    return model.eval()


def _pad(
    tokenizer: Any, texts: list[tuple[str, str]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, attention mask and mask of what is to be learnt, each (B, T)."""
    pairs = [(tokenizer(a).input_ids, tokenizer(b).input_ids) for a, b in texts]
    longest = max(len(a) + len(b) for a, b in pairs)
    ids = torch.zeros((len(pairs), longest), dtype=torch.long)
    present, mask = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for row, (a, b) in enumerate(pairs):
        ids[row, : len(a) + len(b)] = torch.tensor([*a, *b])
        present[row, : len(a) + len(b)] = 1
        mask[row, len(a) : len(a) + len(b)] = True
    return ids, present, mask
