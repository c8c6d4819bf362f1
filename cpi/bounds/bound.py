"""Bounds as data: statements about one policy update.

An `Update` goes from π towards a candidate π'. A `Bound` has a left side (the true value), a right
side (the guaranteed value), and a hypothesis under which left ≥ right, left ≤ right or
left = right. The registry consists of two tuples of bounds, `cpi.bounds.discounted.BOUNDS` and
`cpi.bounds.finite.BOUNDS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from cpi.exact.update import Update
from cpi.exact.values import ULPS, probability_rounding

Side = Callable[[Update], float]
Sense = Literal[">=", "<=", "="]


def always(update: Update) -> bool:
    """The hypothesis of an unconditional bound."""
    return True


@dataclass(frozen=True, eq=False)
class Bound:
    """One guarantee: under `hypothesis`, left (the truth) `sense` right (the bound).

    `first_order` is set where the bound reads "gain ≥ first order − penalty". For small steps the
    ratio of the sides tends to 1, whatever the constant in the penalty. A check of such a bound
    therefore also compares the penalty with the first-order gain that the update truly loses.
    Rounding is measured in `unit`, the unit of both sides. `improved_by` names a bound that
    promises more at the same step: no instance attains the constant of this one.
    """

    name: str
    statement: str
    source: str
    sense: Sense
    left: Side = field(repr=False)
    right: Side = field(repr=False)
    hypothesis: Callable[[Update], bool] = field(default=always, repr=False)
    requires: str = ""
    first_order: Side | None = field(default=None, repr=False)
    unit: Literal["reward", "probability"] = "reward"
    improved_by: str = ""

    @property
    def id(self) -> str:
        """The name as a slug: "masked-cpi-step-by-step"."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower().replace("ε", "epsilon")).strip("-")

    def __rich__(self) -> Any:
        from rich.text import Text

        return Text.assemble((self.name, "bold"), "\n", self.statement)

    def check(self, update: Update) -> Check | None:
        """Both sides on one update, or None where the hypothesis does not hold."""
        if not self.hypothesis(update):
            return None
        left, right = float(self.left(update)), float(self.right(update))
        slack = {">=": left - right, "<=": right - left, "=": -abs(left - right)}[self.sense]
        size = update.rounding if self.unit == "reward" else probability_rounding(update.mdp)
        first_order = 0.0 if self.first_order is None else float(self.first_order(update))
        # A right side may be a small difference of first-order gain and penalty.
        rounding = size + ULPS * abs(right) + probability_rounding(update.mdp) * abs(first_order)
        floor = 1e4 * rounding  # ratios of numbers near rounding are noise
        tightness = _ratio(right, left, floor)
        penalty_ratio = float("nan")
        if self.first_order is not None:
            penalty_ratio = _ratio(first_order - right, first_order - left, floor)
        return Check(self, left, right, slack, rounding, tightness, penalty_ratio)


def _ratio(bound: float, truth: float, floor: float) -> float:
    return bound / truth if truth > floor and bound > 0 else float("nan")


@dataclass(frozen=True)
class Check:
    """Result of checking a bound on one update.

    `slack` is ≥ 0 where the bound holds, up to `rounding`. `tightness` is bound / truth and
    `penalty_ratio` is penalty / true loss. Both are nan where a side is not positive or the truth
    is tiny.
    """

    bound: Bound
    left: float
    right: float
    slack: float
    rounding: float
    tightness: float
    penalty_ratio: float

    @property
    def violated(self) -> bool:
        """Whether the slack is negative beyond rounding (a nan side is a violation too)."""
        return not self.slack >= -self.rounding

    @property
    def powerless(self) -> bool:
        """Whether both sides are within rounding, so that no violation would be seen."""
        return max(abs(self.left), abs(self.right)) <= self.rounding
