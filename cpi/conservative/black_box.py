"""Resets of an environment that can only be started and stepped.

An episode follows π up to a uniformly random step, and there a uniformly random action is tried.
Discounted, that step is t with probability (1−γ) γ^t, so that its state follows d^π. So no state
has to be saved, copied or set, and any Gymnasium environment with numbered states and actions will
do.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from cpi.conservative.resets import Resets, cut_after
from cpi.exact.policies import PolicyError
from envs.checks import check_probability, check_range, check_whole
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
    horizon : int or None
        H: an episode is stepped at most that often. None if `discount` is given.
    rewards : (low, high)
        Range of every reward; it includes 0 if episodes may end before the horizon.
    most_draws : int
        Limit on the episodes of one call, for rules that accept almost nothing.
    discount : float, optional
        γ in [0, 1) of an endless task, in place of a horizon. Nothing is paid after an episode's
        end, be it the environment's limit of steps.

    Raises
    ------
    ValueError
        If an argument is out of range, or not exactly one of horizon and discount is given.
    """

    environment: Environment
    horizon: int | None
    rewards: tuple[float, float]
    most_draws: int = 1_000_000
    discount: float | None = None

    def __post_init__(self) -> None:
        for name in ("reset", "step"):
            if not callable(getattr(self.environment, name, None)):
                raise ValueError(
                    f"environment: {self.environment!r} has no method {name!r}; give an "
                    "environment, such as gymnasium.make(ID)"
                )
        if (self.horizon is None) == (self.discount is None):
            raise ValueError(
                "give exactly one of horizon and discount "
                f"(got horizon={self.horizon}, discount={self.discount})"
            )
        if self.discount is not None and check_probability("discount", self.discount) == 1:
            raise ValueError("discount: 1 is not in [0, 1); give horizon=H instead")
        for name in ("horizon", "most_draws") if self.discount is None else ("most_draws",):
            object.__setattr__(self, name, check_whole(name, getattr(self, name), 1))
        object.__setattr__(self, "rewards", check_range("rewards", self.rewards))

    def check_policy(self, policy: FloatArray) -> None:
        """Raise PolicyError unless the shape (…, S, A) fits the spaces that are known.

        Gymnasium's discrete spaces state their size as `n`.
        """
        for axis, space in ((-2, "observation_space"), (-1, "action_space")):
            size = getattr(getattr(self.environment, space, None), "n", None)
            if size is not None and policy.shape[axis] != size:
                kind = "states" if axis == -2 else "actions"
                raise PolicyError(
                    f"policy: shape {policy.shape} is for {policy.shape[axis]} {kind}, the "
                    f"environment has {size}"
                )

    @property
    def gamma(self) -> float:
        """γ of a discounted task."""
        assert self.discount is not None
        return self.discount

    def draw_resets(
        self, policy: FloatArray, weights: FloatArray, rng: np.random.Generator, *, accepted: int
    ) -> Resets:
        """Run episodes until `accepted` resets are accepted, or `most_draws` were drawn.

        A draw is an episode of π up to a random step. Its state is accepted with probability w;
        then a uniformly random action is taken, and π is followed to the end, or to the cut of
        discounted returns (`cpi.conservative.resets.cut_after`).

        Parameters
        ----------
        policy : array (H, S, A), or (1, S, A) if discounted
        weights : array (H, S) or (1, S)
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
        cut = 0 if self.horizon is not None else cut_after(self.gamma, accepted)
        probes: list[_Probe] = []
        drawn = steps = 0
        while len(probes) < accepted and drawn < self.most_draws:
            probe, taken = self._draw(cumulative, weights, rng, cut)
            drawn, steps = drawn + 1, steps + taken
            if probe is not None:
                probes.append(probe)
        step, state, action = (np.array([p[k] for p in probes], dtype=np.intp) for k in range(3))
        returns = np.array([probe.ret for probe in probes])
        exhausted, tail = len(probes) < accepted, self.gamma**cut if cut else 0.0
        return Resets(step, state, action, returns, drawn, steps, exhausted, tail)

    def _draw(
        self, cumulative: FloatArray, weights: FloatArray, rng: np.random.Generator, cut: int
    ) -> tuple[_Probe | None, int]:
        """One draw: the reset, if accepted, and the steps taken."""
        if self.horizon is not None:
            target, last, gamma = int(rng.integers(self.horizon)), self.horizon, 1.0
        else:
            gamma = self.gamma
            target = int(rng.geometric(1 - gamma)) - 1
            last = target + cut
        observation, _ = self.environment.reset()
        at, tried, ret, taken = -1, -1, 0.0, 0
        for step in range(last):
            h = 0 if self.horizon is None else step
            state = self._state(observation, cumulative.shape[1])
            if step == target:
                if rng.random() >= weights[h, state]:
                    return None, taken
                at = state
                action = tried = int(rng.integers(cumulative.shape[2]))
            else:
                action = int(np.searchsorted(cumulative[h, state], rng.random(), side="right"))
            observation, reward, terminated, truncated, _ = self.environment.step(action)
            taken += 1
            over = bool(terminated or truncated)
            self._check_reward(float(reward), over and (self.discount is not None or h + 1 < last))
            if at >= 0:
                ret += gamma ** (step - target) * float(reward)
            if over:
                break
        row = 0 if self.horizon is None else target
        return (None if at < 0 else _Probe(row, at, tried, ret)), taken

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
            before = "" if self.horizon is None else f" before the horizon {self.horizon}"
            raise ValueError(
                f"rewards: an episode ended{before}, so the range {low:g} to {high:g} must "
                "include 0"
            )
