"""Certificates at a confidence δ: a step and the gain that sampled resets guarantee.

The masked bounds of `cpi.bounds.finite` factor. With horizon H, rewards in a range of width r, the
accepted fraction p_w, the candidate's mean advantage 𝔸_w over accepted resets, and reset step h,

    gain ≥ H p_w (α 𝔸_w − α² B),    B = the smallest of
        masked      ½ r H(H−1)
        stepwise    ½ r (H(H−1) − E[h(h−1) | accepted])
        returns     (H−1) R, if all returns from any step on lie in a range of width R

Discounted, 1/(1−γ) stands for H, W is the width of the range of returns, R/(1−γ) or as given, and

        B = 2γ W m E[TV | accepted] / (1−γ),    TV = ½‖π' − π‖₁ in a state, m its maximum.

This is Achiam et al. 2017, Cor 1, in its span form. π_new has TV α w TV and a_new = α w a, so that
the penalty is γ α² span(w a) E[w TV]/(1−γ)². From a = Σ (π' − π) Q with all Q in a range of width W
follows |w a| ≤ m W, hence span(w a) ≤ 2 m W. With m = 1 it is at most the masked bound of
`cpi.bounds.discounted_masked`. Returns are cut after K steps (`cpi.conservative.resets.cut_after`),
by which Σ (π' − π) Q moves by at most γ^K m W: this is taken off the lower bound of 𝔸_w.

Only p_w, 𝔸_w, and E[h(h−1)] or E[TV] are unknown. Each gets its own part of δ (`SHARES`), so that
with probability 1 − δ all their bounds hold at once, whichever step and whichever form is then
taken:

    p_w        Clopper & Pearson 1934, from accepted and drawn resets
    𝔸_w        empirical Bernstein (Maurer & Pontil 2009, Thm 4), on resets that did not choose π'
    E[h(h−1)]  empirical Bernstein, on all accepted resets
    E[TV]      empirical Bernstein, on resets that did not choose π'

The bounds are after Samanta et al. 2026, Thm 1; `cpi.bounds.finite` derives the constants.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from cpi.conservative.confidence import acceptance_interval, check_delta, empirical_bernstein
from cpi.reporting.notebook import Printed
from envs.tabular import FloatArray

#: Parts of δ. The gain is quadratic in the bound of 𝔸_w, and the samples of 𝔸_w vary most.
SHARES = {"advantage": 0.5, "p_w": 0.25, "penalty": 0.25}

#: Chance of a certificate after `Certificate.resets_needed` resets.
SURE = 0.9


@dataclass(frozen=True, eq=False)
class Certificate(Printed):
    """A step α towards a candidate whose gain is at least `gain` with probability 1 − δ.

    The step is the masked mixture (1 − α w) π + α w π' (`cpi.mixture`), with the weights w of the
    reset rule. The probability is over the sampled resets.

    Attributes
    ----------
    gain : float
        Certified gain H p (α L − α² B), in units of return, with p and L the lower ends below;
        1/(1−γ) for H if discounted.
    alpha : float
        Step size; min(1, L/(2B)) unless a step was given, and 0 where nothing can be certified.
    delta : float
    advantage, lower : float
        Measured 𝔸_w and its lower bound L at level δ/2.
    p_w : float
        Accepted over drawn resets; of random resets below 1 where episodes end early.
    p_w_interval : (low, high)
        Each end at level δ/4.
    penalty : float
        B, in units of return; the estimated one at level δ/4.
    form : {"masked", "stepwise", "returns"}
        The bound that gives B.
    accepted, drawn, steps : int
        Resets accepted, resets drawn, and environment steps of all.
    resets_needed : int or None
        Accepted resets, half of them to choose with, after which L > 0 in nine of ten repeats, at
        the measured mean and variance; None if the mean is not above 0.
    candidate : array (H, S, A), or (S, A) if discounted
        π'.
    """

    gain: float
    alpha: float
    delta: float
    advantage: float
    lower: float
    p_w: float
    p_w_interval: tuple[float, float]
    penalty: float
    form: str
    accepted: int
    drawn: int
    steps: int
    resets_needed: int | None
    candidate: FloatArray

    def to_json(self) -> dict[str, Any]:
        """Plain data; the candidate as nested lists."""
        record = {field.name: getattr(self, field.name) for field in fields(self)}
        return record | {
            "p_w_interval": list(self.p_w_interval),
            "candidate": self.candidate.tolist(),
        }

    def __rich__(self) -> Any:
        from rich.table import Table

        low, high = self.p_w_interval
        certified = f"at least {self.gain:.4g} with probability {1 - self.delta:g}"
        table = Table("", "certificate")
        table.add_row("gain", certified if self.gain > 0 else "nothing certified")
        table.add_row("step size α", f"{self.alpha:.4g}")
        table.add_row("advantage 𝔸_w", f"{self.advantage:.4g} (at least {self.lower:.4g})")
        table.add_row("accepted fraction p_w", f"{self.p_w:.4g} ({low:.4g} to {high:.4g})")
        table.add_row("penalty B", f"{self.penalty:.4g} ({self.form})")
        table.add_row("resets accepted", f"{self.accepted:,}")
        table.add_row("resets drawn", f"{self.drawn:,}")
        table.add_row("environment steps", f"{self.steps:,}")
        if self.lower <= 0:
            number = self.resets_needed
            needed = "none suffice at a mean ≤ 0" if number is None else f"about {number:,}"
            table.add_row("accepted resets needed", needed)
        return table


@dataclass(frozen=True, eq=False)
class Evidence:
    """What resets say about a candidate, before a confidence is chosen.

    Attributes
    ----------
    candidate : array (H, S, A), or (S, A) if discounted
        π', chosen without the resets behind `samples`.
    samples : array (n,)
        Independent samples with mean 𝔸_w, in an interval of `width`.
    step : array (m,)
        Step h of every accepted reset.
    accepted, drawn, steps, exhausted
        As in `cpi.conservative.resets.Resets`.
    horizon, reward_width, return_width
        H, r and, if known, R; discounted 1/(1−γ), R and W.
    discount : float or None
        γ.
    moved : array (n,)
        TV of π and π' at the resets behind `samples`, at most `most_moved`.
    bias : float
        The mean of the samples is off by at most that.
    """

    candidate: FloatArray
    samples: FloatArray
    width: float
    step: NDArray[np.intp]
    accepted: int
    drawn: int
    steps: int
    exhausted: bool
    horizon: float
    reward_width: float
    return_width: float | None
    discount: float | None
    moved: FloatArray
    most_moved: float
    bias: float

    def certificate(self, delta: float, alpha: float | None = None) -> Certificate:
        """The certificate at δ of the best step, or of the step size `alpha` in [0, 1].

        The gain of a given step is negative where that step is longer than the bounds allow.

        Raises
        ------
        ValueError
            If δ is outside (0, 1).
        """
        check_delta(delta)
        level = {part: delta * share for part, share in SHARES.items()}
        mean = float(self.samples.mean())
        lower = mean - empirical_bernstein(self.samples, self.width, level["advantage"]) - self.bias
        penalty, form = self.penalty(level["penalty"])
        interval = acceptance_interval(
            self.accepted, self.drawn, level["p_w"], exhausted=self.exhausted
        )
        if alpha is None:
            alpha = best_step(lower, penalty)
        # The sign decides which end of p_w is the cautious one.
        per_accepted = self.horizon * (alpha * lower - alpha**2 * penalty) if alpha else 0.0
        return Certificate(
            gain=per_accepted * interval[0 if per_accepted >= 0 else 1],
            alpha=alpha,
            delta=delta,
            advantage=mean,
            lower=lower,
            p_w=self.accepted / self.drawn,
            p_w_interval=interval,
            penalty=penalty,
            form=form,
            accepted=self.accepted,
            drawn=self.drawn,
            steps=self.steps,
            resets_needed=resets_needed(
                mean - self.bias,
                float(self.samples.var(ddof=1)),
                self.width,
                level["advantage"],
            ),
            candidate=self.candidate,
        )

    def penalty(self, delta: float) -> tuple[float, str]:
        """The smallest B that holds at level δ, and the name of its bound."""
        H, r = self.horizon, self.reward_width
        if self.discount is not None:
            assert self.return_width is not None
            radius = empirical_bernstein(self.moved, self.most_moved, delta)
            mean = min(self.most_moved, float(self.moved.mean()) + radius)
            form = "returns" if self.return_width < r * H else "masked"
            return 2 * self.discount * H * self.return_width * self.most_moved * mean, form
        products = self.step * (self.step - 1.0)
        radius = empirical_bernstein(products, (H - 1.0) * (H - 2.0), delta) if H > 2 else 0.0
        forms = {
            "masked": r * H * (H - 1) / 2,
            "stepwise": r * (H * (H - 1) - float(products.mean()) + radius) / 2,
        }
        if self.return_width is not None:
            forms["returns"] = (H - 1) * self.return_width
        form = min(forms, key=lambda name: forms[name])
        return forms[form], form


def best_step(lower: float, penalty: float) -> float:
    """The α in [0, 1] that maximises α L − α² B: L/(2B), and 0 for L ≤ 0."""
    if lower <= 0:
        return 0.0
    return min(1.0, lower / (2 * penalty)) if penalty > 0 else 1.0


def resets_needed(mean: float, variance: float, width: float, delta: float) -> int | None:
    """Accepted resets after which the lower bound of 𝔸_w is above 0 in nine of ten repeats.

    Half of them measure. The mean of n samples falls short of 𝔸_w by z sqrt(V/n) in one of ten
    repeats, and the radius is that of `empirical_bernstein`. With n − 1 for n throughout, sqrt(n−1)
    solves a quadratic equation. None for a mean that is not above 0.
    """
    log = math.log(2 / delta)
    root = math.sqrt(variance) * (math.sqrt(2 * log) + float(ndtri(SURE)))
    linear = 7 * width * log / 3
    if mean <= math.ulp(width):
        return None  # not above 0, up to rounding
    n = ((root + math.sqrt(root**2 + 4 * mean * linear)) / (2 * mean)) ** 2 + 1
    return 2 * math.ceil(n)
