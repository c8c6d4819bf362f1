"""Resets of an environment that can only be started and stepped.

An episode follows π up to a uniformly random step, and there a uniformly random action is tried. So
no state has to be saved, copied or set, and any Gymnasium environment with numbered states and
actions will do.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from cpi.conservative.resets import Resets
from envs.checks import check_range, check_whole
from envs.tabular import FloatArray

#: Rounding of a reward, relative to the ends of its range.
ROUNDING = 1e-9


class Environment(Protocol):
    """Interface of Gymnasium's environments, as far as it is used."""

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode: its state, and an info that is ignored."""
        ...

    def step(self, action: int) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Next state, reward, terminated, truncated, and an info that is ignored."""
        ...


class _Probe(NamedTuple):
    step: int
    state: int
    action: int
    ret: float


@dataclass(frozen=True, eq=False)
class BlackBox:
    """An environment, and what must be known of it.

    Parameters
    ----------
    environment : Environment
        Numbered states and actions. An episode may end before the horizon; nothing is paid then.
    horizon : int
        H: an episode is stepped at most that often.
    rewards : (low, high)
        Range of every reward; it includes 0 if episodes may end before the horizon.
    most_draws : int
        Limit on the episodes of one call, for rules that accept almost nothing.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    environment: Environment
    horizon: int
    rewards: tuple[float, float]
    most_draws: int = 1_000_000

    def __post_init__(self) -> None:
        for name in ("horizon", "most_draws"):
            object.__setattr__(self, name, check_whole(name, getattr(self, name), 1))
        object.__setattr__(self, "rewards", check_range("rewards", self.rewards))

    def draw_resets(
        self, policy: FloatArray, weights: FloatArray, rng: np.random.Generator, *, accepted: int
    ) -> Resets:
        """Run episodes until `accepted` resets are accepted, or `most_draws` were drawn.

        A draw is an episode of π up to a uniformly random step. Its state is accepted with
        probability w; then a uniformly random action is taken, and π is followed to the end.

        Parameters
        ----------
        policy : array (H, S, A)
        weights : array (H, S)
            w in [0, 1].
        accepted : int

        Returns
        -------
        Resets
            `steps` counts the steps taken.

        Raises
        ------
        ValueError
            If the environment leaves the ranges that were declared.
        """
        cumulative = policy.cumsum(axis=-1)
        cumulative[..., -1] = 1.0  # no gap from rounding
        self.environment.reset(seed=int(rng.integers(2**31)))
        probes: list[_Probe] = []
        drawn = steps = 0
        while len(probes) < accepted and drawn < self.most_draws:
            probe, taken = self._draw(cumulative, weights, rng)
            drawn, steps = drawn + 1, steps + taken
            if probe is not None:
                probes.append(probe)
        step, state, action = (np.array([p[k] for p in probes], dtype=np.intp) for k in range(3))
        returns = np.array([probe.ret for probe in probes])
        return Resets(step, state, action, returns, drawn, steps, len(probes) < accepted)

    def _draw(
        self, cumulative: FloatArray, weights: FloatArray, rng: np.random.Generator
    ) -> tuple[_Probe | None, int]:
        """One draw: the reset, if accepted, and the steps taken."""
        target = int(rng.integers(self.horizon))
        observation, _ = self.environment.reset()
        at, tried, ret, taken = -1, -1, 0.0, 0
        for h in range(self.horizon):
            state = self._state(observation, cumulative.shape[1])
            if h == target:
                if rng.random() >= weights[h, state]:
                    return None, taken
                at = state
                action = tried = int(rng.integers(cumulative.shape[2]))
            else:
                action = int(np.searchsorted(cumulative[h, state], rng.random(), side="right"))
            observation, reward, terminated, truncated, _ = self.environment.step(action)
            taken += 1
            over = bool(terminated or truncated)
            self._check_reward(float(reward), over and h + 1 < self.horizon)
            if h >= target:
                ret += float(reward)
            if over:
                break
        return (None if at < 0 else _Probe(target, at, tried, ret)), taken

    def _state(self, observation: Any, num_states: int) -> int:
        try:
            state = operator.index(observation)
        except TypeError:
            state = -1
        if not 0 <= state < num_states:
            raise ValueError(
                f"environment: state {observation!r} is not in 0 … {num_states - 1}, the policy's"
            )
        return state

    def _check_reward(self, reward: float, early: bool) -> None:
        """Raise ValueError if a reward, or the 0 after an early end, is outside the range."""
        low, high = self.rewards
        slack = ROUNDING * max(abs(low), abs(high))
        if not low - slack <= reward <= high + slack:
            raise ValueError(f"rewards: {reward:g} is outside the range {low:g} to {high:g}")
        if early and not low <= 0 <= high:
            raise ValueError(
                f"rewards: an episode ended before the horizon {self.horizon}, so the range "
                f"{low:g} to {high:g} must include 0"
            )
