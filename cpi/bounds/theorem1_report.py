"""Results of the experiment on Theorem 1: as tables, as plain data, in a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cpi.reporting.notebook import Printed
from envs.tabular import FloatArray

#: Arm of the Theorem 1 experiment → its label, and the exponent of p that theory predicts.
PREDICTED = {
    "rr": ("random resets, one action for all states", -2),
    "rr_per_state": ("random resets, an action per state", -1),
    "caro": ("oracle resets, accepted", 0),
    "caro_total": ("oracle resets, refused draws included", -1),
}


@dataclass(frozen=True)
class Slope:
    """A fitted exponent with its 95 % interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """Plain data."""
        return {"value": self.value, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return f"{self.value:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


@dataclass(frozen=True)
class Point:
    """Measurements of one reset rule at one coverage.

    `certificate` is the plug-in and `gain` the true gain of its step; `certified` is the gain at δ
    and `certified_gain` the true gain of that step.
    Arrays named `…_boot` hold the bootstrap replicates of a number.
    """

    accepted: float
    drawn: float
    advantage: float
    p_w: float
    certificate: float
    gain: float
    certified: float
    certified_gain: float
    accepted_boot: FloatArray
    certificate_boot: FloatArray


@dataclass(frozen=True)
class Experiment(Printed):
    """Every arm over the coverages `p`, and the localizer grid; prints as tables.

    `setting` holds horizon, num_actions, tau and delta.
    """

    p: tuple[float, ...]
    setting: dict[str, float]
    arms: dict[str, list[Point]]
    slopes: dict[str, dict[str, Slope]]
    localizer: list[dict[str, float]]
    localizer_slopes: dict[str, Slope]

    @property
    def certified(self) -> bool:
        """Whether every true gain is at least its certificate, plug-in and at δ."""
        points = [*self.arms["rr"], *self.arms["caro"]]
        pairs = [(point.gain, point.certificate) for point in points]
        pairs += [(point.certified_gain, point.certified) for point in points]
        for row in self.localizer:
            pairs.append((row["true_gain"], row["gain"]))
            pairs.append((row["true_gain_at_delta"], row["gain_at_delta"]))
        return all(gain >= certified for gain, certified in pairs)

    def to_json(self) -> dict[str, Any]:
        """The keys "theorem1" and "localizer" of the command's JSON."""
        theorem1: dict[str, Any] = {"p": list(self.p), "setting": self.setting}
        for name, points in self.arms.items():
            arm: dict[str, Any] = {"resets": [resets_of(name, point) for point in points]}
            replicates = [resets_of(name, pt) / pt.accepted * pt.accepted_boot for pt in points]
            arm["resets_interval"] = [interval(values) for values in replicates]
            if name in ("rr", "caro"):
                arm["gain"] = [point.certificate for point in points]
                arm["gain_interval"] = [interval(point.certificate_boot) for point in points]
                arm["true_gain"] = [point.gain for point in points]
                arm["gain_at_delta"] = [point.certified for point in points]
                arm["true_gain_at_delta"] = [point.certified_gain for point in points]
                arm["advantage"] = [point.advantage for point in points]
            for quantity, slope in self.slopes[name].items():
                arm[f"{quantity}_slope"] = slope.value
                arm[f"{quantity}_slope_interval"] = [slope.low, slope.high]
            theorem1[name] = arm
        slopes = {name: slope.to_json() for name, slope in self.localizer_slopes.items()}
        return {
            "theorem1": theorem1,
            "localizer": self.localizer,
            "localizer_slopes": slopes,
        }

    def verdict(self) -> str:
        """The result in one sentence."""
        rr, caro, total = (self.slopes[arm]["resets"] for arm in ("rr", "caro", "caro_total"))
        gains = self.slopes["rr"]["gain"], self.slopes["caro"]["gain"]
        held = "every step gained" if self.certified else "NOT every step gained"
        return (
            f"Theorem 1, measured: resets needed ∝ p^{rr} at random and p^{caro} with the oracle "
            f"(p^{total} with its refused draws), certified gain ∝ p^{gains[0]} and p^{gains[1]}; "
            f"{held} at least what was certified."
        )

    def __rich__(self) -> Any:
        from rich.console import Group

        from cpi.reporting.tables import table

        headings = ["", *(f"p = {p:g}" for p in self.p), "slope", "theory"]
        needed = table("resets needed for a 90 %-correct choice, against coverage p", headings)
        gains = table("certified gain of one step, against coverage p (true gain below)", headings)
        for labelled in (needed, gains):
            labelled.columns[0].justify, labelled.columns[0].min_width = "left", 11
        for arm, (label, exponent) in PREDICTED.items():
            values = self.to_json()["theorem1"][arm]["resets"]
            cells = (f"{value:,.0f}" for value in values)
            needed.add_row(label, *cells, str(self.slopes[arm]["resets"]), f"{exponent:+d}")
        for arm, label, exponent in (("rr", "random resets", 2), ("caro", "oracle resets", 1)):
            cells = (f"{pt.certificate:.2g}\n{pt.gain:.2g}" for pt in self.arms[arm])
            gains.add_row(label, *cells, str(self.slopes[arm]["gain"]), f"{exponent:+d}")
            cells = (f"{pt.certified:.2g}\n{pt.certified_gain:.2g}" for pt in self.arms[arm])
            gains.add_row(f"with probability {1 - self.setting['delta']:g}", *cells, "", "")
        sure = f"with probability {1 - self.setting['delta']:g}"
        headings = ["precision", "recall", "accepted", "drawn", "𝔸_w", "certified", "true gain"]
        title = "self resets by precision and recall: measured, and the formula below"
        grid = table(title, [*headings, sure])
        for row in self.localizer:
            grid.add_row(
                f"{row['precision']:g}",
                f"{row['recall']:g}",
                f"{row['resets']:,.0f}",
                f"{row['drawn']:,.0f}",
                f"{row['advantage']:.3f}\n{row['predicted_advantage']:.3f}",
                f"{row['gain']:.2g}\n{row['predicted_gain']:.2g}",
                f"{row['true_gain']:.2g}",
                f"{row['gain_at_delta']:.2g}\n{row['true_gain_at_delta']:.2g}",
            )
        return Group(needed, gains, grid)


def resets_of(arm: str, point: Point) -> float:
    """The costs that an arm counts: accepted resets, or all drawn."""
    return point.drawn if arm == "caro_total" else point.accepted


def interval(replicates: FloatArray) -> list[float]:
    """95 % interval: percentiles of the bootstrap replicates."""
    return [float(end) for end in np.percentile(replicates, [2.5, 97.5])]
