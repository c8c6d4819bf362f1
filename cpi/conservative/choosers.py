"""Policy choosers: a candidate policy and an estimate of its advantage.

The exact chooser uses exact values. The sampled ones use resets only: on-policy states accepted
with probability w. From each, one uniformly random action is taken and π is followed to the end.
`cpi.conservative.measure` says what is made of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cpi.conservative.certificate import Evidence
from cpi.conservative.confidence import check_delta, empirical_bernstein, hoeffding
from cpi.conservative.measure import check_class, choose_and_measure, every_step
from cpi.conservative.resets import draw_resets
from cpi.exact.improvement import coverage, expectation
from cpi.exact.policies import greedy_policy
from cpi.exact.values import Evaluation
from envs.checks import check_whole
from envs.tabular import FloatArray


@dataclass(frozen=True, eq=False)
class Choice:
    """A candidate, its measured advantage 𝔸_w, a lower confidence bound of it, and the costs.

    `evidence` is the measurement behind it, if resets were sampled. Its advantage is a mean over
    resets, of which none is a terminal state; 𝔸_w is `reset_share` of it.
    """

    candidate: FloatArray
    advantage: float
    lower: float
    accepted: int = 0
    drawn: int = 0
    steps: int = 0
    evidence: Evidence | None = None


Chooser = Callable[[Evaluation, FloatArray, np.random.Generator], Choice]


def exact_greedy(evaluation: Evaluation, weights: FloatArray, rng: np.random.Generator) -> Choice:
    """The greedy policy and its exact advantage: the best possible choice."""
    candidate = np.broadcast_to(greedy_policy(evaluation.Q), evaluation.A.shape)
    gains = expectation(evaluation, weights * evaluation.A.max(axis=-1))
    advantage = gains / max(coverage(evaluation, weights), 1e-300)
    return Choice(candidate, advantage, advantage)


def reset_share(evaluation: Evaluation, weights: FloatArray) -> float:
    """Share of the accepted states that are not terminal: resets are drawn from those alone.

    Terminal states have advantage 0, so that 𝔸_w is the mean over resets times this share. It is
    below 1 only for random resets of a discounted MDP with terminal states, whose w is 1 there.
    """
    accepted = coverage(evaluation, weights)
    return coverage(evaluation, weights * ~evaluation.mdp.terminal) / accepted


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
        If `resets` is below 4, δ outside (0, 1), or an option unknown.
    """
    resets = check_whole("resets", resets, 4)  # two to choose with, two to measure
    check_class(policy_class)
    check_delta(delta)
    if bound not in ("bernstein", "hoeffding", "none"):
        raise ValueError(f"bound: {bound!r} is not 'bernstein', 'hoeffding' or 'none'")

    def choose(evaluation: Evaluation, weights: FloatArray, rng: np.random.Generator) -> Choice:
        mdp = evaluation.mdp
        data = draw_resets(evaluation, weights, rng, accepted=resets)
        policy = every_step(evaluation.policy, mdp.horizon)
        evidence = choose_and_measure(
            data, policy, policy_class, mdp.reward_range, discount=mdp.discount
        )
        samples = evidence.samples
        mean = float(samples.mean())
        # A sample is |A| (π' − π) (G − b), with π' − π within ±1 and G − b within ±H r.
        width = 2 * mdp.num_actions * evidence.horizon * mdp.reward_width
        radius = {
            "bernstein": lambda: empirical_bernstein(samples, width, delta) + evidence.bias,
            "hoeffding": lambda: hoeffding(len(samples), width, delta) + evidence.bias,
            "none": lambda: 0.0,
        }[bound]()
        share = reset_share(evaluation, weights)
        return Choice(
            evidence.candidate,
            share * mean,
            share * (mean - radius),
            len(data),
            data.drawn,
            data.steps,
            evidence,
        )

    return choose
