"""`guarantees`: what the bounds promise of one update, and what it truly gains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cpi.bounds.check import bounds_for
from cpi.conservative.certificate import Certificate
from cpi.conservative.certify import certify
from cpi.conservative.loop import certificate
from cpi.conservative.reset_weights import ResetWeights, random_resets, weights_of
from cpi.conservative.step_sizes import ANYWHERE, DISCOUNTED, FINITE, step_size
from cpi.exact.improvement import coverage
from cpi.exact.policies import check_policy, greedy_policy
from cpi.exact.update import Update
from cpi.exact.values import evaluate
from cpi.reporting.notebook import Printed
from envs.tabular import TabularMDP


@dataclass(frozen=True, eq=False)
class Guarantees(Printed):
    """Values of the bounds for an update with reset weights; prints as tables.

    Attributes
    ----------
    alpha : float
        The step with the largest certificate; 0 where the advantage is not above 0.
    certificate, gain : float
        What the bounds guarantee of that step (right side), and its true gain (left side).
    advantage, p_w : float
        Exact 𝔸_w of the candidate, and the share of visited states that is accepted.
    steps : list of dict
        "step", "alpha", "gain" and "certificate" of each step rule that applies.
    bounds : list of dict
        "bound", "statement", "left" and "right" of each bound on a gain that applies, at `alpha`
        or at the step that it names.
    sampled : Certificate, optional
        Certificate from sampled resets alone; its `resets_needed` says how many it takes.
    """

    alpha: float
    certificate: float
    gain: float
    advantage: float
    p_w: float
    steps: list[dict[str, Any]]
    bounds: list[dict[str, Any]]
    sampled: Certificate | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        sampled = None if self.sampled is None else self.sampled.to_json()
        return {**vars(self), "sampled": sampled}

    def records(self) -> list[dict[str, Any]]:
        """A row for each bound, for `pandas.DataFrame`."""
        return self.bounds

    def __rich__(self) -> Any:
        from rich.console import Group

        from cpi.reporting.tables import table

        steps = table("certified and true gain, by step rule", ["step", "α", "certified", "gain"])
        for row in self.steps:
            numbers = (row["alpha"], row["certificate"], row["gain"])
            steps.add_row(row["step"], *(f"{number:.4g}" for number in numbers))
        bounds = table("bounds on the gain", ["bound", "right: guaranteed", "left: true"])
        for row in self.bounds:
            bounds.add_row(row["bound"], *(f"{row[side]:.4g}" for side in ("right", "left")))
        shown = [f"𝔸_w = {self.advantage:.4g}, p_w = {self.p_w:.4g}", steps, bounds]
        return Group(*shown, *([] if self.sampled is None else [self.sampled]))


def guarantees(
    mdp: TabularMDP,
    policy: ArrayLike,
    rule: ResetWeights = random_resets,
    *,
    candidate: ArrayLike | None = None,
    tau: float | None = None,
    delta: float | None = None,
    resets: int = 10_000,
    seed: int = 0,
) -> Guarantees:
    """Step sizes, certified gains, and both sides of the bounds, from exact values.

    Parameters
    ----------
    mdp : TabularMDP
    policy : array (S, A) or (H, S, A)
    rule : function of an Evaluation
        Reset weights, as in `run_cpi`.
    candidate : array, shape of a policy, optional
        π'; by default the greedy policy.
    tau : float, optional
        Threshold of the bounds on improvable states; by default that of the rule, if any.
    delta : float, optional
        If given, also `certify` from `resets` sampled resets, with `seed`. It chooses its own π'.

    Raises
    ------
    ValueError, cpi.PolicyError
        If an argument is out of range or of the wrong shape, or no visited state is accepted.
    """
    base = evaluate(mdp, policy)
    weights = weights_of(rule, base, "rule")
    if coverage(base, weights) <= 0:
        raise ValueError("rule: accepts no state that the policy visits; a smaller τ accepts more")
    greedy = np.broadcast_to(greedy_policy(base.Q), base.A.shape)
    target = greedy if candidate is None else check_policy(mdp, candidate, what="candidate")
    tau = getattr(rule, "tau", None) if tau is None else tau
    update = Update(base, target, weights=weights, tau=tau)
    rules = dict(ANYWHERE)
    if mdp.horizon is not None:
        rules |= FINITE
    elif (weights == 1).all():
        rules |= DISCOUNTED
    steps: list[dict[str, Any]] = []
    for name in rules:
        alpha = step_size(name, update, update.masked_advantage)
        row = {"step": name, "alpha": alpha, "gain": update.gain_at(alpha, weights)}
        steps.append(row | {"certificate": certificate(update, alpha, update.masked_advantage)})
    best = max(steps, key=lambda row: float(row["certificate"]))
    at_best = Update(base, target, best["alpha"], weights, tau)
    bounds = []
    for bound in bounds_for(mdp):
        check = bound.check(at_best) if bound.sense == ">=" else None
        if check is not None:
            row = {"bound": bound.name, "statement": bound.statement}
            bounds.append(row | {"left": check.left, "right": check.right})
    sampled = None
    if delta is not None:
        sampled = certify(mdp, policy, rule, delta=delta, resets=resets, seed=seed)
    return Guarantees(
        best["alpha"],
        best["certificate"],
        best["gain"],
        update.masked_advantage,
        update.p_w,
        steps,
        bounds,
        sampled,
    )
