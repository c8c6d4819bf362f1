"""Exact moments of adaptive plans, by recursion over the groups of a start.

A group is followed by another one only if all its episodes failed. Failures with one common return
have advantages of exactly 0. Of the groups of a start, the last alone therefore contributes to
h = Σ Â φ, and E h and E‖h‖² are sums over the prefixes that groups start from.

Given that a group of G failed, its episodes are independent failures. Each has a reset step k drawn
by the rule, or none. The deepest of m has step k with probability F(k)^m − F(k − 1)^m, where
F(k) = P(step ≤ k, or none).
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from cpi.core.advantages import Scale
from cpi.core.episodes import Episode, Prefix
from cpi.core.plans import GroupPlan
from cpi.core.resets import ResetRule, check_weights
from cpi.tabular.gradient import Paths, enumerate_paths, fresh_moments
from envs.tabular import FloatArray, TabularMDP


class Origin(NamedTuple):
    """Where a group starts: the (state, action) steps kept, and the state that follows them."""

    steps: tuple[tuple[int, int], ...]
    state: int


class Sums(NamedTuple):
    """E h, E‖h‖², expected steps generated and expected episodes of the groups from an origin on.

    h is the sum of Â φ over all these groups.
    """

    mean: FloatArray
    square: float
    steps: float
    episodes: float


class AdaptiveSums:
    """Sums of one start state; see `Sums`."""

    def __init__(
        self,
        mdp: TabularMDP,
        policy: FloatArray,
        plan: GroupPlan,
        rule: ResetRule,
        scale: Scale,
        least_success: float,
    ) -> None:
        self.mdp, self.policy, self.plan, self.rule = mdp, policy, plan, rule
        self.scale, self.least_success = scale, least_success
        self._paths: dict[tuple[int, int], Paths] = {}
        self._own: dict[tuple[int, int, int], tuple[FloatArray, float]] = {}
        self._failures: dict[Origin, tuple[float, Resets]] = {}
        self._sums: dict[tuple[Origin, int], Sums] = {}

    def from_start(self, start: int) -> Sums:
        """Sums of the fresh group of a start state and of its resets."""
        return self._from(Origin((), start), self.plan.fresh, self.plan.retries)

    def _from(self, origin: Origin, size: int, retries: int) -> Sums:
        place = (origin.state, len(origin.steps))
        if place not in self._paths:
            self._paths[place] = enumerate_paths(self.mdp, self.policy, *place)
        paths = self._paths[place]
        if (*place, size) not in self._own:
            self._own[*place, size] = fresh_moments(paths, size, self.scale)
        mean, square = self._own[*place, size]
        steps, episodes = size * paths.mean_length, float(size)
        if retries:
            if origin not in self._failures:
                self._failures[origin] = self._resets(origin, paths)
            failure, resets = self._failures[origin]
            for following, share in _chosen(resets, self.plan, size).items():
                if (following, retries) not in self._sums:
                    sums = self._from(following, self.plan.per_reset, retries - 1)
                    self._sums[following, retries] = sums
                p, later = failure**size * share, self._sums[following, retries]
                mean = mean + p * later.mean
                square += p * later.square
                steps += p * later.steps
                episodes += p * later.episodes
        return Sums(mean, square, steps, episodes)

    def _resets(self, origin: Origin, paths: Paths) -> tuple[float, Resets]:
        """P(failure), and the distribution of a failure's reset."""
        whole = [np.array([*origin.steps, *tail.tolist()]).reshape(-1, 2) for tail in paths.steps]
        returns = np.array([self.mdp.rewards[tuple(steps.T)].sum() for steps in whole])
        failed = np.flatnonzero(returns < self.least_success)
        if len(failed) and np.ptp(paths.rounded[failed]) > 0:
            raise ValueError(
                "exact moments of adaptive plans need failures of equal return, as of problems "
                "that are solved or not"
            )
        failure = float(paths.probability[failed].sum())
        kept = Prefix(origin.steps[0][0] if origin.steps else origin.state, origin.steps)
        episodes = [
            Episode(kept, whole[i], float(returns[i]), True, len(paths.steps[i])) for i in failed
        ]
        weights = check_weights(self.rule.weights(episodes), episodes, type(self.rule).__name__)
        resets: Resets = defaultdict(lambda: defaultdict(float))
        for i, w in zip(failed, weights, strict=True):
            share = float(paths.probability[i]) / failure
            if not w.any():
                resets[NONE][origin] += share
                continue
            w = w / w.max()  # as `pick` does: weights of any size, without overflow
            for k in np.flatnonzero(w).tolist():
                steps = tuple((s, a) for s, a in whole[i][:k].tolist())
                resets[k][Origin(steps, int(whole[i][k, 0]))] += share * w[k] / w.sum()
        return failure, resets


#: Depth of a failure of which the rule accepts no step.
NONE = -1

#: P(reset step, origin) of a failure, by reset step.
Resets = dict[int, dict[Origin, float]]


def _chosen(resets: Resets, plan: GroupPlan, size: int) -> dict[Origin, float]:
    """P(origin of the next group), given that a group of this size failed."""
    localized = min(plan.localized or size, size)
    chosen: dict[Origin, float] = {}
    below = 0.0
    for depth in sorted(resets):
        mass = sum(resets[depth].values())
        chance = (below + mass) ** localized - below**localized
        below += mass
        if depth != NONE:
            chosen |= {origin: chance * p / mass for origin, p in resets[depth].items()}
    return chosen
