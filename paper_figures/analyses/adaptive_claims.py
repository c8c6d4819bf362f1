"""Claims about adaptive resets on seeds that nobody tuned on, with Holm's correction.

The claims, the margin and the families were fixed before any result was read of a regime but
*long*: with a checker, and without one, adaptive resets are ahead of GRPO where success is rare and
not behind elsewhere. Each family answers one question, so each is corrected by itself. The arm
without a checker was chosen later, when the first one, adaptive-any-prompted, had lost in *long*.
It was chosen by two runs of other seeds, and its seeds in *long* are new ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from llm.common.statistics import holm, interval, sign_flip
from llm.compare.report import Records, area

#: What is claimed in each regime. In *six* nothing was tuned or chosen.
CLAIMS: dict[str, Literal["ahead", "not behind"]] = {
    "long": "ahead",
    "few": "ahead",
    "six": "ahead",
    "short": "not behind",
    "middle": "not behind",
}

#: The arms of the two families: with a step checker, and without one.
FAMILIES = ("adaptive-checker", "equal-prompted")

#: Mean success that an arm may lose and is still not behind.
MARGIN = 0.05
#: Family-wise error rate.
LEVEL = 0.05


class Finding(NamedTuple):
    """A claim and its evidence.

    Attributes
    ----------
    arm, regime, claim : str
    gains : tuple of float
        Mean success minus GRPO's, by seed.
    low, high : float
        95 % bootstrap-t interval of their mean, not corrected.
    p, adjusted : float
        One-sided p-value by sign flips, and after Holm's correction.
    """

    arm: str
    regime: str
    claim: str
    gains: tuple[float, ...]
    low: float
    high: float
    p: float
    adjusted: float

    @property
    def verdict(self) -> str:
        """✓ shown; ✗ the interval contradicts the claim; ? neither."""
        if self.adjusted <= LEVEL:
            return "✓"
        return "✗" if self.high < (0.0 if self.claim == "ahead" else -MARGIN) else "?"


def findings(records_by_regime: Mapping[str, Records], arms: Sequence[str]) -> list[Finding]:
    """The claims of some arms, corrected together.

    Raises
    ------
    ValueError
        If an arm has no runs, or a seed that GRPO does not have.
    """
    rows = []
    for arm in arms:
        for regime, claim in CLAIMS.items():
            gains = gains_of(records_by_regime[regime], arm, regime)
            allowed = 0.0 if claim == "ahead" else MARGIN
            rows.append((arm, regime, claim, gains, sign_flip(np.array(gains) + allowed)))
    adjusted = holm([row[-1] for row in rows])
    return [
        Finding(*row[:4], *interval(row[3]), row[4], each)
        for row, each in zip(rows, adjusted, strict=True)
    ]


def gains_of(records: Records, arm: str, regime: str) -> tuple[float, ...]:
    """Mean success of an arm's runs minus GRPO's, by seed."""
    own, base = records.get(arm, {}), records.get("grpo", {})
    if not own or not own.keys() <= base.keys():
        raise ValueError(f"{regime}: {arm} has the seeds {sorted(own)}, grpo {sorted(base)}")
    return tuple(area(own[seed]) - area(base[seed]) for seed in sorted(own))
