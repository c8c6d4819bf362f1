"""Episodes, prefixes and simulators: the vocabulary of tabular and language-model worlds.

A step is a (state, action) pair in a tabular MDP, and a thought in a language model. A *reset* is a
rollout from a non-empty prefix. The empty prefix is a fresh start, so `Simulator.rollout` serves
both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

#: One entry per step: a tuple, a list, or an array with steps along its first axis.
Steps = Sequence[Any] | NDArray[Any]


class Prefix(NamedTuple):
    """A start and the steps kept after it.

    `start` is a start state or a prompt. `state` is the state in which the next step begins; only
    worlds with random transitions need it. `rewards` are those of the kept steps; empty means
    zeros.
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
        The prefix that the rollout continued.
    steps : sequence of n steps
        All steps, including those of the origin.
    ret : float
        Return of all steps.
    failed : bool
        Whether it is a failure; RRPO and SRPO reset only failures.
    cost : int
        Units generated after the origin: environment steps, or tokens.
    states : sequence of n, optional
        The state in which each step was taken, if the steps alone do not determine it.
    rewards : array (n,), optional
        Reward of each step; empty means that the whole return comes at the end.
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
        """The prefix of the first k steps, 0 ≤ k < n: a reset to just before step k + 1.

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
    """Interface of a world: rollouts from prefixes."""

    def rollout(
        self, prefixes: Sequence[Prefix], n: int, rng: np.random.Generator
    ) -> list[list[Episode]]:
        """`n` independent episodes from each prefix, in order; all randomness comes from `rng`."""
        ...
