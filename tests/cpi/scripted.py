"""A scripted simulator, a scripted localizer, and statistical tests of samples.

Both record their calls, so that calls can be counted and randomness compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from cpi.core.episodes import Episode, Prefix
from cpi.tabular.simulator import TabularSimulator

#: From a start and kept words to possible continuations: words with blanks, and total return.
Script = Mapping[tuple[Any, ...], Sequence[tuple[str, float]]]


class Call(NamedTuple):
    """One call of a simulator, and its result."""

    prefixes: list[Prefix]
    n: int
    episodes: list[list[Episode]]


class Scripted:
    """A `Simulator` that reads episodes from a script.

    The n episodes of a prefix follow its lines in order, cyclically; with `shuffled`, each follows
    a line drawn uniformly. Steps are words, and the cost of a word is its number of letters, so
    that steps and costs differ. Episodes fail unless they return 1.
    """

    def __init__(self, script: Script, *, shuffled: bool = False) -> None:
        self.script, self.shuffled = script, shuffled
        self.calls: list[Call] = []

    def rollout(
        self, prefixes: Sequence[Prefix], n: int, rng: np.random.Generator
    ) -> list[list[Episode]]:
        uniform = rng.random((len(prefixes), n)) if self.shuffled else None
        episodes = []
        for row, prefix in enumerate(prefixes):
            lines = self.script[(prefix.start, *prefix.steps)]
            order = [sample % len(lines) for sample in range(n)]
            if uniform is not None:
                order = [int(u * len(lines)) for u in uniform[row]]
            episodes.append([self._follow(prefix, *lines[line]) for line in order])
        self.calls.append(Call(list(prefixes), n, episodes))
        return episodes

    @staticmethod
    def _follow(prefix: Prefix, words: str, ret: float) -> Episode:
        suffix = tuple(words.split())
        return Episode(prefix, (*prefix.steps, *suffix), ret, ret < 1, sum(map(len, suffix)))


class ScriptedLocalizer:
    """A `Localizer` that applies a function to each episode, at a cost of `cost_each`."""

    def __init__(self, weigh: Callable[[Episode], Any], cost_each: int = 0) -> None:
        self.weigh, self.cost_each = weigh, cost_each
        self.cost = 0
        self.calls: list[list[Episode]] = []

    def __call__(self, episodes: Sequence[Episode]) -> list[Any]:
        self.calls.append(list(episodes))
        self.cost += self.cost_each * len(episodes)
        return [self.weigh(episode) for episode in episodes]


def at_step(k: int) -> Callable[[Episode], Any]:
    """Weights that keep k steps of every episode; all zeros if there is no step k + 1."""
    return lambda episode: (np.arange(episode.length) == k).astype(float)


class RecordingSimulator:
    """A tabular simulator that records its calls."""

    def __init__(self, simulator: TabularSimulator) -> None:
        self.simulator = simulator
        self.calls: list[Call] = []

    def rollout(
        self, prefixes: Sequence[Prefix], n: int, rng: np.random.Generator
    ) -> list[list[Episode]]:
        episodes = self.simulator.rollout(prefixes, n, rng)
        self.calls.append(Call(list(prefixes), n, episodes))
        return episodes


def assert_same(episode: Episode, other: Episode) -> None:
    """Assert equal start, steps, states, rewards, return and cost."""
    assert episode.origin.start == other.origin.start
    for name in ("steps", "states", "rewards"):
        np.testing.assert_array_equal(getattr(episode, name), getattr(other, name))
    assert (episode.ret, episode.failed, episode.cost) == (other.ret, other.failed, other.cost)


def assert_drawn_from(counts: Any, probabilities: Any, level: float = 1e-3) -> None:
    """Pearson's chi-square test of independent draws into cells of known probability.

    Cells that expect fewer than 5 draws are merged; impossible ones must be empty.
    """
    counts = np.asarray(counts, dtype=float).ravel()
    p = np.asarray(probabilities, dtype=float).ravel()
    assert counts.shape == p.shape and abs(p.sum() - 1) < 1e-9
    assert not counts[p == 0].any(), "an impossible outcome was drawn"
    expected = counts.sum() * p
    rare = (expected < 5) & (p > 0)
    if rare.any():
        counts = np.append(counts[~rare], counts[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    counts, expected = counts[expected > 0], expected[expected > 0]
    assert len(counts) > 1, "nothing to test"
    p_value = stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue
    assert p_value > level, f"chi-square: p = {p_value:.2g}"


def assert_mean(samples: Any, expected: float, errors: float = 4.0) -> None:
    """Assert that a sample mean is within `errors` standard errors of its expectation."""
    samples = np.asarray(samples, dtype=float)
    error = samples.std(ddof=1) / math.sqrt(len(samples))
    assert error > 0, "all samples are equal: nothing to test"
    away = (samples.mean() - expected) / error
    assert abs(away) < errors, f"{samples.mean():.6g} is {away:.2g} errors from {expected:.6g}"
