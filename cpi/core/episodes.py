"""Episodes and the prefixes they grow from: the one vocabulary of tabular and language worlds.

A step is whatever a world's steps are: (state, action) in a tabular MDP, a thought in a language
model. A *reset* is a rollout from a non-empty prefix; the empty prefix is a fresh start, so one
method, `Simulator.rollout`, serves both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

#: One entry per step: a tuple, a list, or an array with steps along its first axis.
Steps = Sequence[Any] | NDArray[Any]


class Prefix(NamedTuple):
    """A start and the steps kept.

    `start` is a start state or a prompt. `state` is where the next step begins, where start and
    steps do not say (a tabular MDP that moves at random). `rewards` are those of the kept steps;
    left out, they are zeros.
    """

    start: Any
    steps: Steps = ()
    state: Any = None
    rewards: Steps = ()

    @property
    def length(self) -> int:
        """Number of steps kept; 0 is a fresh start."""
        return len(self.steps)


class Episode(NamedTuple):
    """A finished rollout.

    Attributes
    ----------
    origin : Prefix
        The prefix it grew from.
    steps : sequence of n steps
        All of them, those of the origin included.
    ret : float
        Return of all of them.
    failed : bool
        Whether the world counts it as a failure; only failures are reset in RRPO and SRPO.
    cost : int
        Units generated after the origin: environment steps, or tokens.
    states : sequence of n, optional
        The state in which each step was taken, where the steps alone do not determine it.
    rewards : array (n,), optional
        Reward of each step; left out, the whole return comes at the end.
    """

    origin: Prefix
    steps: Steps
    ret: float
    failed: bool
    cost: int
    states: Steps | None = None
    rewards: Steps = ()

    @property
    def length(self) -> int:
        """Number of steps n."""
        return len(self.steps)

    def prefix(self, k: int) -> Prefix:
        """The prefix that keeps the first k steps, 0 ≤ k < n: a reset to just before step k + 1.

        Raises
        ------
        IndexError
            If k is outside that range.
        """
        if not 0 <= k < len(self.steps):
            raise IndexError(f"cannot keep {k} of {len(self.steps)} steps and go on")
        state = None if self.states is None else self.states[k]
        return Prefix(self.origin.start, self.steps[:k], state, self.rewards[:k])


class Simulator(Protocol):
    """The only door to a world."""

    def rollout(
        self, prefixes: Sequence[Prefix], n: int, rng: np.random.Generator
    ) -> list[list[Episode]]:
        """`n` independent episodes from each prefix, in order; all randomness comes from `rng`."""
        ...
