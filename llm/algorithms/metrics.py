"""Metrics of a collection, under TRL's names where TRL has them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cpi.core.collect import Collection, Group
from envs.tabular import FloatArray
from llm.learner.rows import Row
from llm.thoughts.simulator import is_cut, token_ids


def collection_metrics(
    collection: Collection, advantages: Sequence[FloatArray], rows: Sequence[Row]
) -> dict[str, float]:
    """Metrics of the episodes sampled in a step.

    `reward` and `completions/*` are over all trained episodes; lengths include the reset prefix.
    `fresh/reward` is the mean reward of rollouts from the prompt. It is over the first group of
    each prompt, if these are fresh; a prompt without failures has a second fresh group. `entropy`
    is the mean surprisal of the sampled tokens, an unbiased estimate of the policy's entropy per
    token. `thoughts/mean` is the number of thoughts per episode; 1 throughout means that no
    delimiter occurs. `reset/position` is the share of the seed episode's thoughts that the reset
    kept. `reset/correction_rate` is the share of continuations that succeed.
    """
    episodes = [episode for group in collection for episode in group.episodes]
    lengths = np.array([len(token_ids(episode.steps)) for episode in episodes])
    spread = [float(np.std(group.returns, ddof=1)) for group in collection]
    surprisals = np.concatenate([row.logprobs for row in rows])
    metrics = {
        "reward": float(np.mean([episode.ret for episode in episodes])),
        "reward_std": float(np.mean(spread)),
        "frac_reward_zero_std": float(np.mean([not a.any() for a in advantages])),
        "completions/mean_length": float(lengths.mean()),
        "completions/min_length": float(lengths.min()),
        "completions/max_length": float(lengths.max()),
        "completions/clipped_ratio": float(np.mean([is_cut(episode) for episode in episodes])),
        "thoughts/mean": float(np.mean([episode.length for episode in episodes])),
        "entropy": float(-surprisals.mean()) if surprisals.size else 0.0,
    }
    resets = [(g, a) for g, a in zip(collection, advantages, strict=True) if g.seed is not None]
    first = {group.start: group for group in reversed(list(collection))}.values()
    if all(group.seed is None for group in first):
        metrics["fresh/reward"] = _mean_reward([e.ret for g in first for e in g.episodes])
    if resets:
        continuations = [episode for group, _ in resets for episode in group.episodes]
        kept = np.array([group.prefix.length for group, _ in resets])
        seed_lengths = np.array(
            [group.seed.length for group, _ in resets if group.seed is not None]
        )
        metrics["reset/reward"] = _mean_reward([episode.ret for episode in continuations])
        metrics["reset/position"] = float((kept / seed_lengths).mean())
        metrics["reset/correction_rate"] = float(np.mean([not e.failed for e in continuations]))
        metrics["reset/empty_prefix_rate"] = float((kept == 0).mean())
        metrics["reset/informative_group_rate"] = float(np.mean([a.any() for _, a in resets]))
        metrics["reset/suffix_tokens"] = float(np.mean([e.cost for e in continuations]))
    return metrics


def adaptive_metrics(collection: Collection) -> dict[str, float]:
    """Metrics of the resets of an adaptive plan.

    `adaptive/prompts` is the share of prompts with resets, and `adaptive/solved` the share of these
    whose last group has a success. `adaptive/rounds` is the number of reset groups per prompt with
    resets, `adaptive/tokens` the share of resets in the tokens generated, without localizations.
    `adaptive/started` is the number of prompts that were rolled out: fewer than all where the plan
    keeps costs equal.
    """
    by_prompt: dict[int, list[Group]] = {}
    for group in collection:
        by_prompt.setdefault(group.start, []).append(group)
    reset = [groups for groups in by_prompt.values() if len(groups) > 1]
    tokens = {"fresh": 0, "reset": 0}
    for group in collection:
        kind = "fresh" if group.seed is None else "reset"
        tokens[kind] += sum(episode.cost for episode in group.episodes)
    metrics = {
        "adaptive/started": float(len(by_prompt)),
        "adaptive/prompts": len(reset) / len(by_prompt),
        "adaptive/tokens": tokens["reset"] / max(sum(tokens.values()), 1),
    }
    if reset:
        solved = [not all(e.failed for e in groups[-1].episodes) for groups in reset]
        metrics["adaptive/solved"] = float(np.mean(solved))
        metrics["adaptive/rounds"] = float(np.mean([len(groups) - 1 for groups in reset]))
    return metrics


def _mean_reward(rewards: Sequence[float]) -> float:
    return float(np.mean(rewards))
