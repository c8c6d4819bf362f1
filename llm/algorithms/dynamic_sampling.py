"""Dynamic sampling: prompts whose groups say nothing are replaced by others.

Yu et al. (2025), "DAPO: An Open-Source LLM Reinforcement Learning System at Scale",
arXiv:2503.14476, §3.2. There as many prompts are sampled as it takes; here rounds are limited, and
what is lacking after the last is filled with prompts that say nothing, so that a step always has
the same number of rows. Everything generated is in the ledger.

Replacements are drawn for the step alone, among the prompts that it did not begin with, and the
order of epochs goes on as if there had been none: which prompts a step begins with stays a function
of (seed, step), as a resumed run needs, whatever was replaced before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np

from cpi.core.collect import Collection, Group, Ledger

#: Groups for some problems; each call draws new ones.
Sample = Callable[[Sequence[int]], Collection]


def sample_with_signal(
    sample: Sample, chosen: Sequence[int], problems: int, rounds: int, rng: np.random.Generator
) -> tuple[Collection, dict[str, float]]:
    """Groups for as many problems as are chosen, those with a signal first.

    Parameters
    ----------
    sample : function
        From problems to their groups.
    chosen : sequence of int
        The problems to begin with.
    problems : int
        How many there are.
    rounds : int
        Most rounds of replacements; 0 keeps the groups of the chosen problems as they are.
    rng : numpy Generator
        Draws them.

    Returns
    -------
    Collection
        With the ledger of all rounds; what was left out counts as generated, not as trained.
    dict of float
        `dynamic_sampling/prompts`, how many were sampled, and `dynamic_sampling/reward`, the mean
        reward of all their trained episodes: that of the groups kept is nearer to ½ by selection.
    """
    if not rounds:
        return sample(chosen), {}
    rest = iter(rng.permutation(np.setdiff1d(np.arange(problems), chosen)).tolist())
    asked, ledger, rewards, sampled = list(chosen), Ledger(), list[float](), 0
    loud: list[list[Group]] = []
    silent: list[list[Group]] = []
    for _ in range(rounds + 1):
        found = sample(asked)
        ledger, sampled = ledger + found.ledger, sampled + len(asked)
        rewards += [episode.ret for group in found for episode in group.episodes]
        for groups in _by_start(found, len(asked)):
            (loud if any(map(has_signal, groups)) else silent).append(groups)
        asked = list(islice(rest, len(chosen) - len(loud)))
        if not asked:
            break
    lacking = len(chosen) - len(loud)
    for groups in silent[lacking:]:
        for group in groups:
            ledger.trained_episodes -= len(group.episodes)
            ledger.trained_steps -= sum(episode.cost for episode in group.episodes)
    kept = [*loud, *silent[:lacking]]
    groups = [
        dataclasses.replace(group, start=start) for start, here in enumerate(kept) for group in here
    ]
    metrics = {
        "dynamic_sampling/prompts": float(sampled),
        "dynamic_sampling/reward": float(np.mean(rewards)),
    }
    return Collection(groups, ledger), metrics


def has_signal(group: Group) -> bool:
    """Whether its episodes differ in their returns: else all advantages are 0."""
    return bool((group.returns != group.returns[0]).any())


def _by_start(collection: Collection, starts: int) -> list[list[Group]]:
    found: list[list[Group]] = [[] for _ in range(starts)]
    for group in collection:
        found[group.start].append(group)
    return found
