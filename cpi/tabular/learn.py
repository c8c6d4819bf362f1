"""The algorithms of `cpi.ALGORITHMS` on a table: a plan, a rule, and a softmax policy gradient.

    groups = collect(simulator, starts, plan, rule, rng);   θ ← θ + lr · g(groups)

This is the loop of the language-model trainer on a policy table, with exact J after each update.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cpi.core.advantages import Scale
from cpi.core.collect import Ledger, collect
from cpi.core.plans import ALGORITHMS, GroupPlan, World
from cpi.core.resets import NoisyLocalizer, OracleReset, ResetRule
from cpi.exact.improvement import default_tau
from cpi.exact.optimal import optimal
from cpi.exact.values import Evaluation, evaluate
from cpi.reporting.notebook import Printed, draw_returns
from cpi.tabular.gradient import group_gradient, softmax_policy
from cpi.tabular.simulator import TabularOracle, TabularSimulator
from envs.checks import check_number, check_whole
from envs.tabular import FloatArray, TabularMDP, real_array

#: Quality of the noisy localizer that stands for a model localizing its own errors.
RECALL, FALSE_POSITIVE = 0.8, 0.1


def tabular_world(evaluation: Evaluation) -> World:
    """Oracle and localizer of the tabular world, for the current policy.

    The oracle resets at states with an advantage above half the largest where the policy goes. The
    localizer is the first-error oracle with noise.
    """
    oracle = TabularOracle(evaluation)
    return World(
        OracleReset(oracle, "improvable", default_tau(evaluation) or 0.0),
        NoisyLocalizer(OracleReset(oracle, "first_error"), RECALL, FALSE_POSITIVE),
    )


class Progress(NamedTuple):
    """State after an update: exact J, ‖g‖, and the costs so far."""

    iteration: int
    J: float
    grad_norm: float
    ledger: Ledger


@dataclass(frozen=True, eq=False)
class LearningRun(Printed):
    """Learning curve and final logits θ, shape (S, A); prints as a table."""

    progress: list[Progress]
    theta: FloatArray

    @property
    def note(self) -> str:
        """Why no episode was reset, where resets were planned; else empty."""
        ledger = self.progress[-1].ledger if self.progress else Ledger()
        if ledger.resets_accepted or not ledger.fallbacks:
            return ""
        reason = "no episode was a failure"
        if ledger.resets_drawn:
            reason = f"the reset rule accepted no step of {ledger.resets_drawn:,} failures"
        return f"No episode was reset: {reason}. All groups start afresh, as those of GRPO do."

    def __rich__(self) -> Any:
        from rich.table import Table

        costs = Ledger().to_json()
        table = Table("iteration", "J", "grad_norm", *costs, caption=self.note or None)
        for row in self.progress:
            numbers = (f"{n:,}" for n in row.ledger.to_json().values())
            table.add_row(str(row.iteration), f"{row.J:.4f}", f"{row.grad_norm:.3g}", *numbers)
        return table

    def records(self) -> list[dict[str, Any]]:
        """A row for each update, for `pandas.DataFrame`."""
        return [
            {"iteration": row.iteration, "J": row.J, "grad_norm": row.grad_norm}
            | row.ledger.to_json()
            for row in self.progress
        ]

    def plot(self, axes: Any = None) -> Any:
        """Draw J over updates on matplotlib axes, by default the current ones; returns them."""
        return draw_returns([row.J for row in self.progress], 1, axes)


def learn(
    mdp: TabularMDP,
    algorithm: str = "srpo",
    *,
    theta: FloatArray | None = None,
    plan: GroupPlan | None = None,
    rule: Callable[[Evaluation], ResetRule] | None = None,
    iterations: int = 100,
    starts: int = 16,
    lr: float = 1.0,
    scale: Scale = "group",
    success: float | None = None,
    seed: int = 0,
    on_iteration: Callable[[Progress, Evaluation], None] = lambda row, after: None,
) -> LearningRun:
    """Train a softmax policy.

    If a rule never accepts a step of a failed episode, no episode is reset and the algorithm is
    GRPO with smaller groups. That is a RuntimeWarning.

    Parameters
    ----------
    mdp : TabularMDP
        With a finite horizon.
    algorithm : {"grpo", "rrpo", "srpo", "oracle", "adaptive"}
        A key of `cpi.ALGORITHMS`.
    theta : array (S, A), optional
        Initial logits; zeros (the uniform policy) by default.
    plan, rule : optional
        Override those of the algorithm; `rule` is called for each new policy.
    iterations, starts : int
        Updates, and start states per update (a "batch of prompts").
    lr : float
        Step along g, above 0.
    scale : {"group", "batch", "none"}
        Normalisation of the advantages.
    success : float, optional
        Smallest return of an episode that is not a failure; by default the optimum J*.
    seed : int
    on_iteration : function
        Called after each update with its record and the new policy, evaluated.

    Raises
    ------
    ValueError
        If the algorithm is unknown, a number is out of range, or the MDP is discounted.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm: {algorithm!r} is none of {', '.join(ALGORITHMS)}")
    iterations, starts = check_whole("iterations", iterations), check_whole("starts", starts, 1)
    if not 0 < lr < math.inf:
        raise ValueError(f"lr: {lr} is not a finite number > 0")
    plan = ALGORITHMS[algorithm].plan if plan is None else plan
    if success is None:
        success = float(mdp.start @ np.atleast_2d(optimal(mdp).V)[0])
    check_number("success", success, -math.inf)
    logits = np.zeros(mdp.rewards.shape) if theta is None else theta
    theta, _ = real_array(logits, "theta", ValueError)
    rng = np.random.default_rng(check_whole("seed", seed))
    progress: list[Progress] = []
    ledger = Ledger()
    for number in range(iterations):
        policy = softmax_policy(theta)
        simulator = TabularSimulator(mdp, policy, success=success)
        evaluation = evaluate(mdp, policy)
        reset_rule = None
        if plan.resets:
            reset_rule = (
                ALGORITHMS[algorithm].rule(tabular_world(evaluation))
                if rule is None
                else rule(evaluation)
            )
        groups = collect(simulator, simulator.draw_starts(starts, rng), plan, reset_rule, rng)
        gradient = group_gradient(policy, groups, scale)
        theta = theta + lr * gradient
        ledger = ledger + groups.ledger
        after = evaluate(mdp, softmax_policy(theta))
        norm = float(np.linalg.norm(gradient))
        progress.append(Progress(number + 1, after.J, norm, ledger))
        on_iteration(progress[-1], after)
    run = LearningRun(progress, theta)
    if run.note and ledger.resets_drawn:
        warnings.warn(f"{algorithm}: {run.note}", RuntimeWarning, stacklevel=2)
    return run
