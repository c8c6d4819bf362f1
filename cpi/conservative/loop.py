"""Conservative policy iteration with resets, exact or sampled.

    repeat   w     reset weights of the current π         (random | oracle | self)
             π', 𝔸̂_w                                      (a chooser, from resets accepted ∝ w)
             stop if 𝔸̂_w is not clearly above 0            (Kakade & Langford's rule)
             α     from the advantage that can be trusted  (a step rule)
             π  ←  (1 − α w) π + α w π'

Terminal states are never accepted: there is nothing to resample. p_w of random resets is therefore
the share of time before the end. Every iteration records the exact J, p_π and gain beside the
method's own estimates. It also records three costs: accepted resets, all resets drawn, environment
steps.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cpi.conservative.choosers import Choice, Chooser, exact_greedy, reset_share
from cpi.conservative.confidence import check_delta
from cpi.conservative.reset_weights import ResetWeights, random_resets, weights_of
from cpi.conservative.step_sizes import StepRule, masked_penalty, step_size
from cpi.exact.improvement import coverage, switch_free_mass
from cpi.exact.policies import check_policy, mixture
from cpi.exact.update import Update
from cpi.exact.values import Evaluation, evaluate, rounding_of
from cpi.reporting.notebook import Printed, draw_returns
from envs.checks import check_number, check_whole
from envs.tabular import FloatArray, TabularMDP

#: Fields of an `Iteration` that say nothing new if advantages are exact.
SAMPLED = ("lower", "certified", "accepted", "drawn", "steps")


class Iteration(NamedTuple):
    """Record of one update.

    J is the return before the update, `gain` the true change. `p` is the coverage p_π(τ), `p_w` the
    accepted fraction. `advantage` is the chooser's measurement of 𝔸_w, `lower` its lower confidence
    bound. `certificate` is the gain guaranteed by `lower` at the exact p_w. `certified` is the gain
    guaranteed by the sampled resets alone, for all iterations of the run together with probability
    1 − δ; with an exact chooser it is `certificate`. An episode costs all its steps even if only
    one state is used, because language models are sampled that way.
    """

    iteration: int
    J: float
    p: float
    p_w: float
    advantage: float
    lower: float
    alpha: float
    certificate: float
    certified: float
    gain: float
    accepted: int
    drawn: int
    steps: int


@dataclass(frozen=True, eq=False)
class Run(Printed):
    """Iterations, the final policy and its return, the reason to stop; prints as a table.

    The table leaves out the fields `SAMPLED` where no resets were sampled.
    """

    iterations: list[Iteration]
    policy: FloatArray
    J: float
    stopped: str

    def save(self, path: str | Path) -> None:
        """Write the iterations as CSV."""
        with Path(path).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Iteration._fields)
            writer.writerows(self.iterations)

    def __rich__(self) -> Any:
        from rich.table import Table

        exact = not any(row.drawn for row in self.iterations)
        names = [name for name in Iteration._fields if not (exact and name in SAMPLED)]
        table = Table(*names, caption=f"final J = {self.J:.6g}; {self.stopped}")
        for row in self.iterations:
            values = [getattr(row, name) for name in names]
            table.add_row(*(f"{v:,}" if isinstance(v, int) else f"{v:.4g}" for v in values))
        return table

    def records(self) -> list[dict[str, Any]]:
        """A row for each iteration, for `pandas.DataFrame`."""
        return [row._asdict() for row in self.iterations]

    def plot(self, axes: Any = None) -> Any:
        """Draw J over iterations on matplotlib axes, by default the current ones; returns them."""
        return draw_returns([*(row.J for row in self.iterations), self.J], 0, axes)


def run_cpi(
    mdp: TabularMDP,
    policy: FloatArray,
    *,
    resets: ResetWeights = random_resets,
    chooser: Chooser = exact_greedy,
    step: str | StepRule | None = None,
    iterations: int = 50,
    tau: float | None = None,
    epsilon: float = 0.0,
    delta: float = 0.05,
    seed: int = 0,
    on_iteration: Callable[[Iteration, Evaluation], None] = lambda row, after: None,
) -> Run:
    """Conservative policy iteration from `policy`.

    Parameters
    ----------
    mdp : TabularMDP
    policy : array (S, A) or (H, S, A)
    resets : function of an Evaluation
        `random_resets`, `oracle_resets(tau)`, `self_resets(tau, precision, recall)`, or another.
    chooser : Chooser
    step : str or function, optional
        A rule of `cpi.conservative.step_sizes`; by default "certified". "sampled" takes the step,
        and as `lower` the bound, that sampled resets alone certify at the iteration's part of δ.
    iterations : int
    tau : float, optional
        Threshold at which p_π is recorded; by default that of the reset rule, or 0.
    epsilon : float
        Kakade & Langford's stopping rule: stop when the measured advantage is below 2ε/3. The run
        also stops when the lower bound is not above 0, up to rounding.
    delta : float
        All gains `certified` hold together with probability 1 − δ: iteration k = 1, 2, … spends
        6δ/(π²k²), whatever the number of iterations.
    seed : int
    on_iteration : function
        Called after each iteration with its record and the new policy, evaluated.

    Raises
    ------
    ValueError
        If an option is out of range or does not fit the MDP.
    """
    iterations = check_whole("iterations", iterations)
    check_number("epsilon", epsilon)
    check_delta(delta)
    rng = np.random.default_rng(seed)
    threshold = getattr(resets, "tau", 0.0) if tau is None else tau
    asked = "certified" if step is None else step
    evaluation = evaluate(mdp, check_policy(mdp, policy))
    rows: list[Iteration] = []
    stopped = f"all {iterations} iterations done"
    for number in range(iterations):
        weights = weights_of(resets, evaluation, "resets")
        if coverage(evaluation, weights) <= 0:
            tau_of_rule = getattr(resets, "tau", None)
            level = "" if tau_of_rule is None else f" by more than τ = {tau_of_rule:g}"
            stopped = f"no state that π visits is accepted: nothing improvable{level} is left"
            break
        choice = chooser(evaluation, weights, rng)
        part = 6 * delta / (math.pi * (number + 1)) ** 2
        rule = asked
        if asked == "sampled":
            choice, rule = _sampled_step(choice, part, reset_share(evaluation, weights))
        update = Update(evaluation, choice.candidate, weights=weights, tau=threshold)
        if choice.advantage < 2 * epsilon / 3 or choice.lower <= rounding_of(evaluation):
            stopped = f"advantage {choice.advantage:.4g} (at least {choice.lower:.4g}): too small"
            if choice.lower <= 0 and choice.evidence is not None:
                needed = choice.evidence.certificate(part).resets_needed
                if needed is not None:
                    stopped += f"; about {needed:,} accepted resets would certify a gain"
            alpha = 0.0
        else:
            alpha = step_size(rule, update, choice.lower)
            if alpha == 0.0:
                stopped = f"step size 0 for an advantage of at least {choice.lower:.4g}"
        after = evaluate(mdp, mixture(evaluation.policy, choice.candidate, alpha, weights))
        guaranteed = certificate(update, alpha, choice.lower)
        certified = guaranteed
        if choice.evidence is not None:
            certified = choice.evidence.certificate(part, alpha).gain
        rows.append(
            Iteration(
                number,
                evaluation.J,
                update.p,
                update.p_w,
                choice.advantage,
                choice.lower,
                alpha,
                guaranteed,
                certified,
                after.J - evaluation.J,
                choice.accepted,
                choice.drawn,
                choice.steps,
            )
        )
        on_iteration(rows[-1], after)
        if alpha == 0.0:
            break
        evaluation = after
    return Run(rows, evaluation.policy, evaluation.J, stopped)


def _sampled_step(choice: Choice, delta: float, share: float) -> tuple[Choice, StepRule]:
    """The choice with its lower bound at δ, and the step that its resets alone certify."""
    if choice.evidence is None:
        raise ValueError("step: 'sampled' needs a chooser that samples resets")
    best = choice.evidence.certificate(delta)
    return replace(choice, lower=share * best.lower), lambda update, advantage: best.alpha


def certificate(update: Update, alpha: float, advantage: float) -> float:
    """Largest gain of the step α that a bound guarantees if 𝔸_w ≥ `advantage`.

    Finite horizon: the bound step by step or the one for bounded returns, at the exact p_w,
    αH p_w 𝔸_w − α² min(½ r Σ_t E[w_t] (H−t)(H+t−1), H(H−1) p_w R). Discounted: the pair form, the
    span form (K&L's Thm 4.1 at w ≡ 1), Pirotta's bound or CPO's along the mixture. ε, Δ, D and TV
    are exact. The result is negative where the step is longer than any bound allows.
    """
    penalty = masked_penalty(update)
    if update.mdp.horizon is None:
        g, mask = update.gamma, update.w
        span = float(np.ptp(mask * update.a))
        moved = mask * np.abs(update.candidate - update.base.policy).sum(axis=-1)
        before_switch = switch_free_mass(update.base, alpha * mask)
        penalty = min(
            penalty,
            g * span * float((mask * before_switch).sum()) / (1 - g),
            g * float(moved.max()) * span / (2 * (1 - g) ** 2),
        )
    return alpha * update.steps * update.p_w * advantage - alpha**2 * penalty
