"""Policy choosers: a candidate policy and an estimate of its advantage.

The exact chooser uses exact values. The sampled ones use resets only: on-policy states accepted
with probability w. From each, one uniformly random action is taken and π is followed to the end.
The first half of the resets chooses the candidate. The second half measures its advantage, so that
the estimate is unbiased:

    𝔸̂_w = mean of |A| (π'(a|s) − π(a|s)) (G − b)

G is the return from the reset on, b the mean return in that state and step in the first half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cpi.conservative.confidence import empirical_bernstein, hoeffding
from cpi.exact.improvement import check_weights, coverage, expectation
from cpi.exact.policies import deterministic_policy, greedy_policy, uniform_policy
from cpi.exact.values import Evaluation
from cpi.tabular.simulator import TabularSimulator
from envs.checks import check_whole
from envs.tabular import FloatArray

#: Largest number of steps that are simulated at once (32 bytes each).
BATCH_STEPS = 10_000_000


@dataclass(frozen=True, eq=False)
class Resets:
    """Accepted resets as arrays (n,): step, state, uniform action, return G from there on.

    `drawn` counts all draws, accepted or refused; `steps` counts the environment steps of all.
    """

    step: NDArray[np.intp]
    state: NDArray[np.intp]
    action: NDArray[np.intp]
    ret: FloatArray
    drawn: int
    steps: int

    def __len__(self) -> int:
        return len(self.ret)

    def part(self, rows: slice) -> Resets:
        """The resets in `rows`, with costs of 0."""
        arrays = (self.step[rows], self.state[rows], self.action[rows], self.ret[rows])
        return Resets(*arrays, 0, 0)


def draw_resets(
    evaluation: Evaluation, weights: FloatArray, rng: np.random.Generator, *, accepted: int
) -> Resets:
    """Draw on-policy states until `accepted` of them are accepted, and probe each.

    A draw is a full episode and a uniformly random step of it, accepted with probability w. The
    outcome is sampled from its exact distribution, without simulating the draws: accepted (h, s)
    follow d · w / p_w, and the number of draws is negative binomial. So rare states cost no time.
    Only the rest of each episode is simulated, from a uniformly random action on.

    Parameters
    ----------
    evaluation : Evaluation
        Evaluated policy of a finite-horizon MDP; its occupancy is used, its values are not.
    weights : array (S,) or (H, S)
        w in [0, 1]; terminal states are never accepted.
    accepted : int
        Number of resets to return.

    Returns
    -------
    Resets
        `steps` counts the simulated steps, and the expected length of each draw.

    Raises
    ------
    ValueError
        If no state can be accepted.
    """
    mdp = evaluation.mdp
    probe = TabularSimulator(mdp, evaluation.policy, first=uniform_policy(mdp))
    going_on = evaluation.occupancy * ~mdp.terminal
    mass = going_on * check_weights(evaluation, weights)
    p_w = float(mass.sum())
    if p_w <= 0:
        raise ValueError(
            "resets: p_w = 0, so that no state is ever accepted; lower tau, or give the states "
            "that the policy visits a weight"
        )
    # Rounding may leave p_w above 1, where every draw is accepted.
    drawn = accepted + int(rng.negative_binomial(accepted, min(p_w, 1.0)))
    cells = rng.choice(mass.size, size=accepted, p=mass.ravel() / p_w)
    step, state = np.divmod(cells, mdp.num_states)
    action, ret = np.empty(accepted, dtype=np.intp), np.empty(accepted)
    steps = round(drawn * probe.horizon * float(going_on.sum()))
    batch = max(1, BATCH_STEPS // probe.horizon)
    for part in (slice(at, at + batch) for at in range(0, accepted, batch)):
        tail = probe.walk(state[part], step[part], rng)
        action[part] = np.take_along_axis(tail.actions, step[part, None], axis=1)[:, 0]
        ret[part] = tail.rewards.sum(axis=1)
        steps += int((tail.ends - step[part]).sum())
    return Resets(step, state, action, ret, drawn, steps)


@dataclass(frozen=True, eq=False)
class Choice:
    """A candidate, its measured advantage 𝔸_w, a lower confidence bound of it, and the costs."""

    candidate: FloatArray
    advantage: float
    lower: float
    accepted: int = 0
    drawn: int = 0
    steps: int = 0


Chooser = Callable[[Evaluation, FloatArray, np.random.Generator], Choice]


def exact_greedy(evaluation: Evaluation, weights: FloatArray, rng: np.random.Generator) -> Choice:
    """The greedy policy and its exact advantage: the best possible choice."""
    candidate = np.broadcast_to(greedy_policy(evaluation.Q), evaluation.A.shape)
    gains = expectation(evaluation, weights * evaluation.A.max(axis=-1))
    advantage = gains / max(coverage(evaluation, weights), 1e-300)
    return Choice(candidate, advantage, advantage)


def sampled(
    resets: int,
    policy_class: Literal["shared", "per_state"],
    *,
    delta: float = 0.05,
    bound: Literal["bernstein", "hoeffding", "none"] = "bernstein",
) -> Chooser:
    """A chooser that uses `resets` accepted resets.

    Parameters
    ----------
    resets : int
        At least 4.
    policy_class : {"shared", "per_state"}
        "shared" plays one action everywhere. "per_state" plays an action for each (h, s) with a
        reset, and π elsewhere.
    delta : float
        The lower bound of the advantage holds with probability 1 − δ.
    bound : {"bernstein", "hoeffding", "none"}
        Confidence bound behind `Choice.lower`; "none" trusts the estimate.

    Raises
    ------
    ValueError
        If `resets` is below 4, or an option is unknown.
    """
    if resets < 4:
        raise ValueError(f"resets: {resets} is below 4, two to choose with and two to measure")
    check_whole("resets", resets)
    if policy_class not in ("shared", "per_state"):
        raise ValueError(f"policy_class: {policy_class!r} is neither 'shared' nor 'per_state'")
    if bound not in ("bernstein", "hoeffding", "none"):
        raise ValueError(f"bound: {bound!r} is not 'bernstein', 'hoeffding' or 'none'")

    def choose(evaluation: Evaluation, weights: FloatArray, rng: np.random.Generator) -> Choice:
        data = draw_resets(evaluation, weights, rng, accepted=resets)
        first_half = data.part(slice(0, resets // 2))
        second_half = data.part(slice(resets // 2, None))
        candidate_from = shared_candidate if policy_class == "shared" else per_state_candidate
        candidate = candidate_from(evaluation, first_half)
        baseline = mean_returns(evaluation, first_half)
        samples = advantage_samples(evaluation, candidate, second_half, baseline)
        mean = float(samples.mean())
        # A sample is |A| (π' − π) (G − b), with π' − π within ±1 and G − b within ±H r.
        mdp = evaluation.mdp
        assert mdp.horizon is not None
        width = 2 * mdp.num_actions * mdp.horizon * mdp.reward_width
        radius = {
            "bernstein": lambda: empirical_bernstein(samples, width, delta),
            "hoeffding": lambda: hoeffding(len(samples), width, delta),
            "none": lambda: 0.0,
        }[bound]()
        return Choice(candidate, mean, mean - radius, len(data), data.drawn, data.steps)

    return choose


def advantage_samples(
    evaluation: Evaluation, candidate: FloatArray, resets: Resets, baseline: FloatArray
) -> FloatArray:
    """|A| (π'(a|s) − π(a|s)) (G − b) of each reset, shape (n,): their mean estimates 𝔸_w.

    The baseline b, shape (H, S), changes no expectation, because π' − π sums to 0 over the actions.
    Mean returns of other resets (`mean_returns`) remove the variance between states.
    """
    shape = evaluation.A.shape
    where = (resets.step, resets.state, resets.action)
    difference = np.broadcast_to(candidate, shape)[where]
    difference = difference - np.broadcast_to(evaluation.policy, shape)[where]
    centred = resets.ret - baseline[resets.step, resets.state]
    return np.asarray(evaluation.mdp.num_actions * difference * centred)


def mean_returns(evaluation: Evaluation, resets: Resets) -> FloatArray:
    """Mean return of the resets at each (h, s), shape (H, S).

    Without a reset at (h, s) it is the middle of the range that the remaining steps can return. Any
    baseline in that range keeps G − b within ±H r.
    """
    mdp = evaluation.mdp
    assert mdp.horizon is not None
    left = mdp.horizon - np.arange(mdp.horizon)
    middle = np.repeat(left * sum(mdp.reward_range) / 2, mdp.num_states)
    shape = evaluation.A.shape[:2]
    cells = np.ravel_multi_index((resets.step, resets.state), shape)
    counts = np.bincount(cells, minlength=shape[0] * shape[1])
    sums = np.bincount(cells, weights=resets.ret, minlength=shape[0] * shape[1])
    means = np.where(counts > 0, sums / np.maximum(counts, 1), middle)
    return np.asarray(means.reshape(shape))


def shared_candidate(evaluation: Evaluation, resets: Resets) -> FloatArray:
    """The policy that plays the action with the largest mean return everywhere."""
    return _constant(evaluation, int(np.argmax(_means(evaluation, resets, None))))


def per_state_candidate(evaluation: Evaluation, resets: Resets) -> FloatArray:
    """The action with the largest mean return at each (h, s); π where there is no reset."""
    mdp = evaluation.mdp
    shape = evaluation.A.shape
    cells = np.ravel_multi_index((resets.step, resets.state), shape[:2])
    means = _means(evaluation, resets, cells).reshape(shape)
    tried = np.isfinite(means).any(axis=-1, keepdims=True)
    best = deterministic_policy(means.argmax(axis=-1), mdp.num_actions)
    return np.where(tried, best, evaluation.policy)


def _constant(evaluation: Evaluation, action: int) -> FloatArray:
    actions = np.full(evaluation.A.shape[:-1], action)
    return deterministic_policy(actions, evaluation.mdp.num_actions)


def _means(evaluation: Evaluation, resets: Resets, cells: NDArray[np.intp] | None) -> FloatArray:
    """Mean return per action (A,), or per cell and action (H·S, A); −∞ without resets."""
    num_actions = evaluation.mdp.num_actions
    num_cells = 1 if cells is None else int(np.prod(evaluation.A.shape[:2]))
    index = resets.action if cells is None else cells * num_actions + resets.action
    size = num_cells * num_actions
    counts = np.bincount(index, minlength=size)
    sums = np.bincount(index, weights=resets.ret, minlength=size)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(counts > 0, sums / counts, -np.inf)
    return means if cells is None else means.reshape(num_cells, num_actions)
