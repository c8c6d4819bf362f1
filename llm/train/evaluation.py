"""Evaluation on held-out problems: pass@k by the unbiased estimator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cpi.core.episodes import Prefix
from llm.common.statistics import pass_at_k
from llm.thoughts.simulator import (
    Prompt,
    ThoughtSimulator,
    is_cut,
    token_ids,
)


def evaluate(
    simulator: ThoughtSimulator, prompts: Sequence[Prompt], samples: int, rng: np.random.Generator
) -> dict[str, float]:
    """pass@1 and pass@`samples` over problems, in one batch.

    Parameters
    ----------
    simulator : ThoughtSimulator
    prompts : sequence of Prompt
    samples : int
        Completions per problem.
    rng : numpy Generator
        With the same generator state in every evaluation, only the policy makes a difference.
    """
    groups = simulator.rollout([Prefix(prompt) for prompt in prompts], samples, rng)
    passed = [sum(not episode.failed for episode in group) for group in groups]
    episodes = [episode for group in groups for episode in group]
    metrics = {
        f"eval/pass@{k}": float(np.mean([pass_at_k(samples, c, k) for c in passed]))
        for k in sorted({1, samples})
    }
    metrics["eval/reward"] = float(np.mean([episode.ret for episode in episodes]))
    lengths = [len(token_ids(episode.steps)) for episode in episodes]
    metrics["eval/completions/mean_length"] = float(np.mean(lengths))
    metrics["eval/completions/clipped_ratio"] = float(np.mean([is_cut(e) for e in episodes]))
    return metrics
