"""Sampled resets of an MDP: on-policy states, accepted with probability w, and an action each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpi.exact.improvement import check_weights
from cpi.exact.policies import uniform_policy
from cpi.exact.values import Evaluation
from cpi.tabular.simulator import TabularSimulator
from envs.tabular import MAX_HORIZON, FloatArray

#: Largest number of steps that are simulated at once (32 bytes each).
BATCH_STEPS = 10_000_000

#: Mean number of draws up to which numpy draws from the negative binomial distribution.
MOST_DRAWS = 1e17

#: Part of the range of discounted returns that is cut off, times the number of resets.
CUT = 0.1

#: Smallest p_w whose number of draws is a float.
LEAST_ACCEPTED = 1e-290


@dataclass(frozen=True, eq=False)
class Resets:
    """Accepted resets as arrays (n,): step, state, uniform action, return G from there on.

    `drawn` counts all draws, accepted or refused; `steps` counts the environment steps of all.
    `exhausted` says that the draws reached their limit before all resets were accepted. Discounted
    returns are Σ_k γ^k r_k up to a cut, `tail` is γ^K for K steps, and every step is 0.
    """

    step: NDArray[np.intp]
    state: NDArray[np.intp]
    action: NDArray[np.intp]
    ret: FloatArray
    drawn: int
    steps: int
    exhausted: bool = False
    tail: float = 0.0

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

    A draw is a full episode and a uniformly random step of it, accepted with probability w. If the
    MDP is discounted, an episode stops after each step with probability 1 − γ, and the draw is its
    last step: step t with probability (1−γ) γ^t, hence a state of d^π. The outcome is sampled from
    its exact distribution, without simulating the draws: accepted (h, s) follow d · w / p_w, and
    the number of draws is negative binomial. So rare states cost no time. Only the rest of each
    episode is simulated, from a uniformly random action on.

    Parameters
    ----------
    evaluation : Evaluation
        Evaluated policy; its occupancy is used, its values are not.
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
        If no state can be accepted, or γ is so near 1 that returns take over a million steps.
    """
    mdp = evaluation.mdp
    episodes, gamma = mdp, mdp.discount
    if gamma is not None:
        episodes = mdp.with_time(horizon=cut_after(gamma, accepted))
    probe = TabularSimulator(episodes, evaluation.policy, first=uniform_policy(mdp))
    going_on = evaluation.occupancy * ~mdp.terminal
    mass = going_on * check_weights(evaluation, weights)
    p_w = float(mass.sum())
    if p_w < LEAST_ACCEPTED:
        raise ValueError(
            f"resets: p_w = {p_w:g}, so that no state is ever accepted; lower tau, or give the "
            "states that the policy visits a weight"
        )
    drawn = accepted + _refused(accepted, p_w, rng)
    cells = rng.choice(mass.size, size=accepted, p=mass.ravel() / p_w)
    step, state = np.divmod(cells, mdp.num_states)
    action, ret = np.empty(accepted, dtype=np.intp), np.empty(accepted)
    in_all = probe.horizon if gamma is None else 1 / (1 - gamma)
    steps = round(drawn * in_all * float(going_on.sum()))
    batch = max(1, BATCH_STEPS // probe.horizon)
    for part in (slice(at, at + batch) for at in range(0, accepted, batch)):
        tail = probe.walk(state[part], step[part], rng)
        action[part] = np.take_along_axis(tail.actions, step[part, None], axis=1)[:, 0]
        ret[part] = (
            tail.rewards.sum(axis=1)
            if gamma is None
            else tail.rewards @ gamma ** np.arange(probe.horizon)
        )
        steps += int((tail.ends - step[part]).sum())
    cut_off = 0.0 if gamma is None else gamma**probe.horizon
    return Resets(step, state, action, ret, drawn, steps, tail=cut_off)


def cut_after(discount: float, resets: int) -> int:
    """Number of steps K after which a discounted return is cut: γ^K ≤ 1/(10n) for n resets.

    The cut then moves a mean by less than its confidence radius, which is above the range over n.

    Raises
    ------
    ValueError
        If that takes more steps than an episode may have.
    """
    length = 1 if discount == 0 else math.ceil(math.log(CUT / resets) / math.log(discount))
    if length > MAX_HORIZON:
        raise ValueError(
            f"discount: returns at {discount} take {length:,} steps, more than {MAX_HORIZON:,}; "
            "give a smaller one, or a horizon"
        )
    return length


def _refused(accepted: int, p_w: float, rng: np.random.Generator) -> int:
    """Number of draws that are refused until `accepted` are accepted: negative binomial.

    It is Poisson with a Gamma mean. A mean that leaves 64-bit integers is taken for the number
    itself, whose relative spread of 1e-9 no float would show.
    """
    mean = accepted / p_w
    if mean < MOST_DRAWS:  # rounding may leave p_w above 1, where every draw is accepted
        return int(rng.negative_binomial(accepted, min(p_w, 1.0)))
    return int(rng.gamma(accepted) / p_w)
