"""Faults in the bounds: one wrong constant each."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

DISCOUNTED = "cpi/bounds/discounted.py"
FINITE = "cpi/bounds/finite.py"

CONSTANTS = (
    Mutant(
        DISCOUNTED,
        "performance difference without 1/(1−γ)",
        "(u.new.occupancy * u.new_advantage).sum()) / (1 - u.gamma)",
        "(u.new.occupancy * u.new_advantage).sum())",
    ),
    Mutant(
        DISCOUNTED,
        "CPI penalty 2ε → 1.9ε",
        "_cpi_penalty(u, 2 * float",
        "_cpi_penalty(u, 1.9 * float",
    ),
    Mutant(
        DISCOUNTED,
        "CPI penalty discounts the wrong step",
        "(1 - g) * (1 - g * (1 - alpha))",
        "(1 - g) * (1 - g * alpha)",
    ),
    Mutant(
        DISCOUNTED,
        "CPI span Δ → 0.95Δ",
        "_cpi_penalty(u, _span(u.a))",
        "_cpi_penalty(u, 0.95 * _span(u.a))",
    ),
    Mutant(DISCOUNTED, "CPI step promises 1/7, not 1/8", "/ (8 * u.r_max)", "/ (7 * u.r_max)"),
    Mutant(
        DISCOUNTED,
        "CPI step normalised twice",
        "(1 - u.gamma) ** 2 * u.advantage / (4",
        "(1 - u.gamma) * u.advantage / (4",
    ),
    Mutant(
        DISCOUNTED,
        "safe policy iteration penalty ½ → 0.45",
        "u.gamma * _distance(u) * _span(u.new_advantage) / (2 *",
        "u.gamma * _distance(u) * _span(u.new_advantage) / (2.2 *",
    ),
    Mutant(
        DISCOUNTED,
        "value form uses D, not D²",
        "_distance(u) ** 2 * float(u.base.Q.max())",
        "_distance(u) * float(u.base.Q.max())",
    ),
    Mutant(
        DISCOUNTED,
        "USPI gain ½ → 0.6",
        "u.advantage**2 / (2 * curvature)",
        "0.6 * u.advantage**2 / curvature",
    ),
    Mutant(DISCOUNTED, "TRPO constant 4 → 3.9", "- 4 * u.gamma * worst", "- 3.9 * u.gamma * worst"),
    Mutant(
        DISCOUNTED,
        "TRPO with TV for TV²",
        "_trpo(u, float(u.tv.max()) ** 2)",
        "_trpo(u, float(u.tv.max()))",
    ),
    Mutant(DISCOUNTED, "KL with its arguments swapped", "np.log(old / new)", "np.log(new / old)"),
    Mutant(
        DISCOUNTED,
        "CPO constant 2 → 1.9",
        "_cpo(u, 2 * float",
        "_cpo(u, 1.9 * float",
    ),
    Mutant(
        DISCOUNTED,
        "CPO span for twice the span",
        "_cpo(u, _span(u.new_advantage))",
        "_cpo(u, 0.5 * _span(u.new_advantage))",
    ),
    Mutant(
        DISCOUNTED,
        "occupancy shift without γ",
        "2 * u.gamma / (1 - u.gamma) * _mean_tv(u)",
        "2 / (1 - u.gamma) * _mean_tv(u)",
    ),
    Mutant(
        DISCOUNTED,
        "termination without 1/(1−γ)",
        "_opt(u) / (1 - u.gamma) * _ratio_to_occupancy(u)",
        "_opt(u) * _ratio_to_occupancy(u)",
    ),
    Mutant(
        DISCOUNTED,
        "restart form with one 1/(1−γ)",
        "_opt(u) / (1 - u.gamma) ** 2",
        "_opt(u) / (1 - u.gamma)",
    ),
    Mutant(
        FINITE,
        "performance difference without H",
        "right=lambda u: u.H * float(",
        "right=lambda u: float(",
    ),
    Mutant(
        FINITE,
        "masked penalty ½ → 0.49",
        "_count(u) * u.r_max / 2,",
        "_count(u) * u.r_max * 0.49,",
    ),
    Mutant(
        FINITE,
        "masked penalty H(H−1) → (H−1)²",
        "u.H * (u.H - 1) * u.p_w",
        "(u.H - 1) ** 2 * u.p_w",
    ),
    Mutant(
        FINITE,
        "step-by-step penalty one step off",
        "(u.H - t) * (u.H + t - 1)",
        "(u.H - t) * (u.H + t - 2)",
    ),
    Mutant(
        FINITE,
        "random-reset penalty ⅓ → 0.32",
        "* (u.H - 1) * u.H * (u.H + 1) / 3",
        "* (u.H - 1) * u.H * (u.H + 1) * 0.32",
    ),
    Mutant(
        FINITE,
        "ε of w·a instead of a",
        "np.where(u.w > 0, u.a, 0.0)",
        "u.w * u.a",
    ),
    Mutant(
        FINITE,
        "returns' width without the lower end",
        "float(u.base.Q.max() - u.base.Q.min())",
        "float(u.base.Q.max() - u.base.Q.mean())",
    ),
    Mutant(
        FINITE,
        "span form of a, not of w·a",
        "np.ptp(u.w * u.a, axis=1)",
        "np.ptp(u.w * u.a, axis=1) * 0.97",
    ),
    Mutant(
        FINITE,
        "masked step's ½ → 0.55",
        "u.masked_advantage**2 / (2 * u.H * u.r_max)",
        "0.55 * u.masked_advantage**2 / (u.H * u.r_max)",
    ),
    Mutant(
        FINITE,
        "bounded-returns step's ¼ → 0.3",
        "u.masked_advantage**2 / (4 * _return_width(u))",
        "0.3 * u.masked_advantage**2 / _return_width(u)",
    ),
    Mutant(
        FINITE,
        "first switch counted at every step",
        "switch_free_mass(u.base, u.alpha * u.w) * u.alpha",
        "switch_free_mass(u.base, 0 * u.w) * u.alpha",
    ),
    Mutant(
        FINITE,
        "oracle step promises H p τ, not the visit probability",
        "_tau(u) * visit_probability(u.base, u.improvable)",
        "_tau(u) * u.H * u.p",
    ),
    Mutant(
        FINITE,
        "CPI-RR promises CARO's gain",
        "(_tau(u) * u.p) ** 2 / (2",
        "_tau(u) ** 2 * u.p / (2",
    ),
    Mutant(
        FINITE,
        "CPI-CARO certificate without p",
        "_tau(u) ** 2 * u.p / (2 * u.H * u.r_max),\n        hypothesis=_good_on_improvable",
        "_tau(u) ** 2 / (2 * u.H * u.r_max),\n        hypothesis=_good_on_improvable",
    ),
    Mutant(
        FINITE,
        "localizer without precision",
        "u.p * u.recall * u.precision * _tau(u)",
        "u.p * u.recall * _tau(u)",
    ),
    Mutant(
        FINITE,
        "visit bound with H − 1",
        "right=lambda u: u.H * u.p,",
        "right=lambda u: (u.H - 1) * u.p,",
    ),
    Mutant(
        FINITE,
        "coverage takes the mean ratio",
        "_stepwise_ratio(u).max() * _stepwise_opt",
        "_stepwise_ratio(u).mean() * _stepwise_opt",
    ),
    Mutant(
        FINITE,
        "PSDP without H",
        "np.asarray(u.H * (u.restarted",
        "np.asarray((u.restarted",
    ),
    Mutant(
        "cpi/bounds/bound.py",
        "violations up to 1 are accepted",
        "return not self.slack >= -self.rounding",
        "return not self.slack >= -1.0 - self.rounding",
    ),
    Mutant(
        "cpi/exact/update.py",
        "recall divided by what was accepted",
        "self.w * self.improvable) / self.p if",
        "self.w * self.improvable) / self.p_w if",
        ("tests/cpi/bounds/test_hand_computed.py",),
    ),
)
