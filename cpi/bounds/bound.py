"""What a bound is: a statement about one policy update, as data.

An `Update` goes from π towards a candidate π', and computes each quantity of a statement when it is
first asked for. A `Bound` has a left side (the truth), a right side (what is guaranteed), and a
hypothesis under which left ≥ right, left ≤ right or left = right. The registry is two tuples of
them, `cpi.bounds.discounted.BOUNDS` and `cpi.bounds.finite.BOUNDS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from cpi.exact.update import Update
from cpi.exact.values import tolerance

Side = Callable[[Update], float]
Sense = Literal[">=", "<=", "="]


def always(update: Update) -> bool:
    """The hypothesis of an unconditional bound."""
    return True


@dataclass(frozen=True)
class Bound:
    """One guarantee: under `hypothesis`, left (the truth) `sense` right (the bound).

    `first_order` is set where the bound reads "gain ≥ first order − penalty". The ratio of the
    whole sides tends to 1 for small steps whatever the constant in the penalty, so for these bounds
    a check also compares the penalty with what the update truly loses of its first-order gain.
    `unit` is that of both sides; rounding is measured in it.
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
        scale = None if self.unit == "reward" else 1.0
        rounding = tolerance(update.mdp, scale) + 64.0 * float(np.finfo(float).eps) * abs(right)
        floor = 1e4 * rounding  # a ratio of numbers near rounding says nothing
        tightness = _ratio(right, left, floor)
        penalty_ratio = float("nan")
        if self.first_order is not None:
            first_order = float(self.first_order(update))
            penalty_ratio = _ratio(first_order - right, first_order - left, floor)
        return Check(self, left, right, slack, rounding, tightness, penalty_ratio)


def _ratio(bound: float, truth: float, floor: float) -> float:
    return bound / truth if truth > floor and bound > 0 else float("nan")


@dataclass(frozen=True)
class Check:
    """A bound on one update.

    `slack` is ≥ 0 where the bound holds, to `rounding`. `tightness` is bound / truth and
    `penalty_ratio` is penalty / true loss; nan where a side is not positive or the truth is tiny.
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
