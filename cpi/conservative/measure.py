"""Candidates and their advantages, from sampled resets.

The first half of the resets chooses the candidate. The second half measures its advantage, so that
the estimate is unbiased:

    𝔸̂_w = mean of |A| (π'(a|s) − π(a|s)) (G − b)

G is the return from the reset on, discounted if the MDP is, b the mean return in that state and
step in the first half.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cpi.conservative.certificate import Evidence
from cpi.conservative.resets import Resets
from cpi.exact.policies import deterministic_policy
from envs.tabular import FloatArray

#: Rounding of a return, relative to the largest.
ROUNDING = 1e-9


def check_class(policy_class: str) -> None:
    """Raise ValueError unless it is one of the two classes of candidates."""
    if policy_class not in ("shared", "per_state"):
        raise ValueError(f"policy_class: {policy_class!r} is neither 'shared' nor 'per_state'")


def every_step(policy: FloatArray, horizon: int | None) -> FloatArray:
    """A policy (S, A) or (H, S, A) as (H, S, A); as (1, S, A) without a horizon."""
    return np.broadcast_to(policy, (horizon or 1, *policy.shape[-2:]))


def choose_and_measure(
    data: Resets,
    policy: FloatArray,
    policy_class: str,
    rewards: tuple[float, float],
    returns: tuple[float, float] | None = None,
    discount: float | None = None,
) -> Evidence:
    """The candidate of the first half of the resets, measured on the second half (`measure`)."""
    candidate_from = shared_candidate if policy_class == "shared" else per_state_candidate
    candidate = candidate_from(policy, data.part(slice(0, len(data) // 2)))
    return measure(data, policy, candidate, rewards, returns, discount)


def measure(
    data: Resets,
    policy: FloatArray,
    candidate: FloatArray,
    rewards: tuple[float, float],
    returns: tuple[float, float] | None = None,
    discount: float | None = None,
) -> Evidence:
    """Measure a candidate on the second half of the resets; the first half gives the baseline.

    Parameters
    ----------
    data : Resets
    policy, candidate : array (H, S, A), or (1, S, A) if discounted
        The candidate may depend on the first half of the resets, not on the second.
    rewards : (low, high)
        Range of the rewards.
    returns : (low, high), optional
        Range of the returns from any step on, if it is narrower than that of H rewards.
    discount : float, optional
        γ of a discounted problem.

    Raises
    ------
    ValueError
        If a return is outside its range.
    """
    horizon, num_states, _ = policy.shape
    width = None if returns is None else returns[1] - returns[0]
    if discount is None:
        ranges = return_ranges(horizon, rewards, returns)
    else:
        ranges, width = discounted_range(discount, data.tail, rewards, returns)
    slack = ROUNDING * np.abs(ranges).max()
    off = (data.ret < ranges[data.step, 0] - slack) | (data.ret > ranges[data.step, 1] + slack)
    if off.any():
        raise ValueError(
            f"returns: {data.ret[off][0]:g} from step {data.step[off][0]} on is outside the range "
            f"that rewards {rewards} and returns {returns} give"
        )
    half = len(data) // 2
    baseline = mean_returns(data.part(slice(0, half)), num_states, ranges)
    measuring = data.part(slice(half, None))
    samples = advantage_samples(policy, candidate, measuring, baseline)
    moved = 0.5 * np.abs(candidate - policy).sum(axis=-1)
    most = float(moved.max())
    return Evidence(
        candidate=candidate if discount is None else candidate[0],
        samples=samples,
        width=sample_width(policy, candidate, baseline, ranges),
        step=data.step,
        accepted=len(data),
        drawn=data.drawn,
        steps=data.steps,
        exhausted=data.exhausted,
        horizon=horizon if discount is None else 1 / (1 - discount),
        reward_width=rewards[1] - rewards[0],
        return_width=width,
        discount=discount,
        moved=moved[measuring.step, measuring.state],
        most_moved=most,
        bias=0.0 if width is None else data.tail * width * most,
    )


def return_ranges(
    horizon: int, rewards: tuple[float, float], returns: tuple[float, float] | None = None
) -> FloatArray:
    """Lowest and highest return from each step to the end, shape (H, 2).

    `rewards` is the range of one reward, `returns` that of a return from any step on, if known.
    """
    ranges = np.multiply.outer(np.arange(horizon, 0, -1.0), rewards).astype(np.float64)
    if returns is None:
        return ranges
    narrow = np.maximum(ranges[:, 0], returns[0]), np.minimum(ranges[:, 1], returns[1])
    return np.stack(narrow, axis=1)


def discounted_range(
    discount: float,
    tail: float,
    rewards: tuple[float, float],
    returns: tuple[float, float] | None = None,
) -> tuple[FloatArray, float]:
    """Range of the returns up to the cut, shape (1, 2), and the width of that of whole returns.

    G up to the cut is G − γ^K G', where G' is a return too, and is made of rewards.
    """
    low, high = np.divide(rewards, 1 - discount)
    first, last = (1 - tail) * low, (1 - tail) * high
    if returns is not None:
        low, high = max(low, returns[0]), min(high, returns[1])
        first, last = max(first, low - tail * high), min(last, high - tail * low)
    return np.array([[first, last]]), float(high - low)


def advantage_samples(
    policy: FloatArray, candidate: FloatArray, resets: Resets, baseline: FloatArray
) -> FloatArray:
    """|A| (π'(a|s) − π(a|s)) (G − b) of each reset, shape (n,): their mean estimates 𝔸_w.

    The baseline b, shape (H, S), changes no expectation, because π' − π sums to 0 over the actions.
    Mean returns of other resets (`mean_returns`) remove the variance between states. π and π' have
    shape (S, A) or (H, S, A).
    """
    num_actions = policy.shape[-1]
    shape = (*baseline.shape, num_actions)
    where = (resets.step, resets.state, resets.action)
    difference = np.broadcast_to(candidate, shape)[where]
    difference = difference - np.broadcast_to(policy, shape)[where]
    centred = resets.ret - baseline[resets.step, resets.state]
    return np.asarray(num_actions * difference * centred)


def sample_width(
    policy: FloatArray, candidate: FloatArray, baseline: FloatArray, ranges: FloatArray
) -> float:
    """Width of the interval that holds every `advantage_samples`; `ranges` has shape (H, 2).

    At most 2|A|Hr. It is about half of that for baselines in the middle of their range.
    """
    difference = candidate - policy
    centred = ranges[:, None, :] - baseline[..., None]
    ends = policy.shape[-1] * difference[..., None] * centred[:, :, None, :]
    return float(np.ptp(ends))


def mean_returns(resets: Resets, num_states: int, ranges: FloatArray) -> FloatArray:
    """Mean return of the resets at each (h, s), shape (H, S).

    Without a reset at (h, s) it is the middle of the range of returns, `ranges` (H, 2). Any
    baseline in that range keeps G − b within ±H r.
    """
    shape = len(ranges), num_states
    middle = np.repeat(ranges.sum(axis=1) / 2, num_states)
    cells = np.ravel_multi_index((resets.step, resets.state), shape)
    counts = np.bincount(cells, minlength=middle.size)
    sums = np.bincount(cells, weights=resets.ret, minlength=middle.size)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), middle)
    return np.asarray(means.reshape(shape))


def shared_candidate(policy: FloatArray, resets: Resets) -> FloatArray:
    """The policy that plays the action with the largest mean return everywhere; π is (H, S, A)."""
    means = _means(resets.action, resets.ret, policy.shape[-1])
    return deterministic_policy(np.full(policy.shape[:2], means.argmax()), policy.shape[-1])


def per_state_candidate(policy: FloatArray, resets: Resets) -> FloatArray:
    """The action with the largest mean return at each (h, s); π (H, S, A) without a reset there."""
    place = resets.step, resets.state, resets.action
    cells = np.ravel_multi_index(place, policy.shape)
    means = _means(cells, resets.ret, policy.size).reshape(policy.shape)
    tried = np.isfinite(means).any(axis=-1, keepdims=True)
    best = deterministic_policy(means.argmax(axis=-1), policy.shape[-1])
    return np.where(tried, best, policy)


def _means(index: NDArray[np.intp], returns: FloatArray, size: int) -> FloatArray:
    """Mean return of each index, shape (size,); −∞ without one."""
    counts = np.bincount(index, minlength=size)
    sums = np.bincount(index, weights=returns, minlength=size)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(counts > 0, sums / counts, -np.inf))
