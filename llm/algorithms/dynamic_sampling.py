"""Dynamic sampling: replace prompts whose groups carry no training signal.

Yu et al. (2025), "DAPO: An Open-Source LLM Reinforcement Learning System at Scale",
arXiv:2503.14476, §3.2. The paper samples prompts until the batch is full. Here the number of
rounds is limited. After the last round, prompts without a signal fill the batch, so that every step
has the same number of rows. The ledger counts everything generated.

Replacements are drawn among the prompts that the step did not begin with. They do not change the
order of epochs: the prompts that a step begins with depend on (seed, step) alone, as a resumed run
needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np

from cpi.core.collect import Collection, Group, Ledger

#: Samples groups for some problems; each call draws new ones.
Sample = Callable[[Sequence[int]], Collection]


def sample_with_signal(
    sample: Sample, chosen: Sequence[int], problems: int, rounds: int, rng: np.random.Generator
) -> tuple[Collection, dict[str, float]]:
    """Sample groups, and replace problems without a signal by others.

    Parameters
    ----------
    sample : function
        Maps problems to their groups.
    chosen : sequence of int
        The problems to begin with.
    problems : int
        Number of training problems.
    rounds : int
        Maximum number of replacement rounds; 0 replaces nothing.
    rng : numpy Generator
        Draws the replacements.

    Returns
    -------
    Collection
        As many problems as chosen, those with a signal first. The ledger covers all rounds:
        discarded episodes count as generated, not as trained.
    dict of float
        `dynamic_sampling/prompts` is the number of prompts sampled. `dynamic_sampling/reward` is
        the mean reward over all of them; selection moves the reward of the kept groups towards ½.
    """
    if not rounds:
        return sample(chosen), {}
    replacements = iter(rng.permutation(np.setdiff1d(np.arange(problems), chosen)).tolist())
    pending, ledger, rewards, prompts = list(chosen), Ledger(), list[float](), 0
    with_signal: list[list[Group]] = []
    without_signal: list[list[Group]] = []
    for _ in range(rounds + 1):
        collection = sample(pending)
        ledger, prompts = ledger + collection.ledger, prompts + len(pending)
        rewards += [episode.ret for group in collection for episode in group.episodes]
        for groups in _by_start(collection, len(pending)):
            (with_signal if any(map(has_signal, groups)) else without_signal).append(groups)
        pending = list(islice(replacements, len(chosen) - len(with_signal)))
        if not pending:
            break
    missing = len(chosen) - len(with_signal)
    for groups in without_signal[missing:]:
        for group in groups:
            ledger.trained_episodes -= len(group.episodes)
            ledger.trained_steps -= sum(episode.cost for episode in group.episodes)
    kept = [*with_signal, *without_signal[:missing]]
    groups = [
        dataclasses.replace(group, start=start)
        for start, of_start in enumerate(kept)
        for group in of_start
    ]
    metrics = {
        "dynamic_sampling/prompts": float(prompts),
        "dynamic_sampling/reward": float(np.mean(rewards)),
    }
    return Collection(groups, ledger), metrics


def has_signal(group: Group) -> bool:
    """Whether the returns of a group differ; otherwise all its advantages are 0."""
    return bool((group.returns != group.returns[0]).any())


def _by_start(collection: Collection, starts: int) -> list[list[Group]]:
    groups: list[list[Group]] = [[] for _ in range(starts)]
    for group in collection:
        groups[group.start].append(group)
    return groups
