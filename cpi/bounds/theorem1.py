"""Experiment on Theorem 1 of Samanta et al. 2026: resets needed and gain certified.

On `envs.needle` H, |A| and τ are fixed, and the coverage p of the improvable set varies. The
experiment simulates two quantities under random (RR) and oracle (CARO) resets:

- *resets needed*: the number of accepted resets at which 90 % of repeats choose the right action.
  Each reset tries one uniformly random action; the action with the best mean return is chosen.
  The *shared* class plays one action everywhere, the *per-state* class one at each (h, s). CARO's
  total also counts refused draws.
- *certified gain*: p_w 𝔸̂_w²/(2Hr) from the measured 𝔸̂_w and p_w, beside the true gain of the step.
  This is a plug-in: it takes estimates for the truth. Beside it stands the gain certified with
  probability 1 − δ (`cpi.conservative.certificate`), each number by itself, with its true gain.
  That one takes the best step of all bounds, so it may be the larger of the two.

For the shared class the theorem predicts p⁻² (RR) and p⁰ (CARO) resets, and gains of p² and p¹.
Blind rejection accepts one of 1/p draws, so CARO's total is p⁻¹. A per-state class needs only p⁻¹
random resets.

The localizer formula is measured on a grid of precision q and recall t. It predicts
accepted ∝ 1/q², draws ∝ 1/(p t q), and the gain p t q a²/(2Hr). Slopes are fitted on log-log axes;
95 % intervals are bootstrapped over repeats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

import envs
from cpi.conservative.loop import oracle_resets, random_resets, self_resets
from cpi.conservative.measure import every_step, measure
from cpi.conservative.resets import Resets, draw_resets
from cpi.conservative.step_sizes import masked_step, step_size
from cpi.exact.policies import deterministic_policy, uniform_policy
from cpi.exact.update import Update
from cpi.exact.values import Evaluation, evaluate
from envs.checks import check_whole
from envs.needle import NEEDLE
from envs.tabular import FloatArray

COVERAGES = (0.4, 0.2, 0.1, 0.05, 0.025)
HORIZON, NUM_ACTIONS, TAU = 3, 3, 0.5
TARGET = 0.9
DELTA = 0.05
BLOCKS = 50
PRECISIONS, RECALLS, GRID_COVERAGE = (0.2, 0.4, 0.7, 1.0), (0.25, 0.5, 1.0), 0.125

#: Arm of the Theorem 1 experiment → its label, and the exponent of p that theory predicts.
PREDICTED = {
    "rr": ("random resets, one action for all states", -2),
    "rr_per_state": ("random resets, an action per state", -1),
    "caro": ("oracle resets, accepted", 0),
    "caro_total": ("oracle resets, refused draws included", -1),
}

#: Whether the chosen action is right: (resets, sizes, repeats) → array (repeats, sizes).
Correct = Callable[[Resets, NDArray[np.intp], int], NDArray[np.bool_]]


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
class Experiment:
    """Every arm over the coverages `p`, and the localizer grid; prints as tables."""

    p: tuple[float, ...]
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
        theorem1: dict[str, Any] = {"p": list(self.p)}
        theorem1["setting"] = {
            "horizon": HORIZON,
            "num_actions": NUM_ACTIONS,
            "tau": TAU,
            "delta": DELTA,
        }
        for name, points in self.arms.items():
            arm: dict[str, Any] = {"resets": [_resets(name, point) for point in points]}
            replicates = [_resets(name, pt) / pt.accepted * pt.accepted_boot for pt in points]
            arm["resets_interval"] = [_interval(values) for values in replicates]
            if name in ("rr", "caro"):
                arm["gain"] = [point.certificate for point in points]
                arm["gain_interval"] = [_interval(point.certificate_boot) for point in points]
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
        from rich.table import Table

        needed = Table(title="resets needed for a 90 %-correct choice, against coverage p")
        gains = Table(title="certified gain of one step, against coverage p (true gain below)")
        for table in (needed, gains):
            table.add_column("")
            for p in self.p:
                table.add_column(f"p = {p:g}", justify="right")
            for heading in ("slope", "theory"):
                table.add_column(heading, justify="right")
        for arm, (label, exponent) in PREDICTED.items():
            values = self.to_json()["theorem1"][arm]["resets"]
            cells = (f"{value:,.0f}" for value in values)
            needed.add_row(label, *cells, str(self.slopes[arm]["resets"]), f"{exponent:+d}")
        for arm, label, exponent in (("rr", "random resets", 2), ("caro", "oracle resets", 1)):
            cells = (f"{pt.certificate:.2g}\n{pt.gain:.2g}" for pt in self.arms[arm])
            gains.add_row(label, *cells, str(self.slopes[arm]["gain"]), f"{exponent:+d}")
            cells = (f"{pt.certified:.2g}\n{pt.certified_gain:.2g}" for pt in self.arms[arm])
            gains.add_row(f"  with probability {1 - DELTA:g}", *cells, "", "")
        grid = Table(title="self resets by precision and recall: measured, and the formula below")
        for heading in (
            "precision",
            "recall",
            "accepted",
            "drawn",
            "𝔸_w",
            "certified",
            "true gain",
            f"with probability {1 - DELTA:g}",
        ):
            grid.add_column(heading, justify="right")
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


def _resets(arm: str, point: Point) -> float:
    return point.drawn if arm == "caro_total" else point.accepted


def _interval(replicates: FloatArray) -> list[float]:
    """95 % interval: percentiles of the bootstrap replicates."""
    return [float(end) for end in np.percentile(replicates, [2.5, 97.5])]


def theorem1(
    seed: int = 0,
    repeats: int = 450,
    bootstrap: int = 400,
    progress: Callable[[str], None] = lambda message: None,
) -> Experiment:
    """Run the experiment.

    Parameters
    ----------
    seed : int
    repeats : int
        Independent choices behind each number of resets.
    bootstrap : int
        Replicates behind each interval.
    progress : function of a str
        Called with a status message before each part.

    Raises
    ------
    ValueError
        If a number is no whole number, or too small.
    """
    repeats, bootstrap = check_whole("repeats", repeats, 1), check_whole("bootstrap", bootstrap, 1)
    rng = np.random.default_rng([check_whole("seed", seed), 1])
    arms: dict[str, list[Point]] = {"rr": [], "caro": [], "caro_total": [], "rr_per_state": []}
    for p in COVERAGES:
        progress(f"Theorem 1 at p = {p}")
        base = _base(p)
        rr, caro = random_resets(base), oracle_resets(TAU)(base)
        # More resets for small advantages: the relative error grows fourfold over the range of p.
        measure = int((2e5 + 2e3 / p**2) * repeats / 450)
        arms["rr"].append(_point(base, rr, shared_correct, repeats, measure, bootstrap, rng))
        arms["rr_per_state"].append(_point(base, rr, per_state_correct, repeats, 0, bootstrap, rng))
        arms["caro"].append(_point(base, caro, shared_correct, repeats, 10_000, bootstrap, rng))
    arms["caro_total"] = arms["caro"]
    slopes: dict[str, dict[str, Slope]] = {}
    for name, points in arms.items():
        total = [point.drawn / point.accepted if name == "caro_total" else 1.0 for point in points]
        replicates = np.array([pt.accepted_boot * t for pt, t in zip(points, total, strict=True)])
        slopes[name] = {
            "resets": _slope(COVERAGES, [_resets(name, pt) for pt in points], replicates)
        }
        if name in ("rr", "caro"):
            replicates = np.array([pt.certificate_boot for pt in points])
            values = [pt.certificate for pt in points]
            slopes[name]["gain"] = _slope(COVERAGES, values, replicates)
    progress("localizer formula")
    grid, grid_slopes = localizer_grid(rng, repeats, bootstrap)
    return Experiment(COVERAGES, arms, slopes, grid, grid_slopes)


def localizer_grid(
    rng: np.random.Generator, repeats: int, bootstrap: int
) -> tuple[list[dict[str, float]], dict[str, Slope]]:
    """Measured and predicted costs and gains of self resets over precision q and recall t."""
    base = _base(GRID_COVERAGE)
    best = float(base.A.max())
    rows, points = [], []
    for q in PRECISIONS:
        for t in RECALLS:
            weights = self_resets(TAU, q, t)(base)
            point = _point(base, weights, shared_correct, repeats, 80 * repeats, bootstrap, rng)
            points.append(point)
            formula = GRID_COVERAGE * t * q * best**2 / (2 * HORIZON * base.mdp.reward_width)
            rows.append(
                {
                    "precision": q,
                    "recall": t,
                    "p_w": point.p_w,
                    "advantage": point.advantage,
                    "predicted_advantage": q * best,
                    "resets": point.accepted,
                    "drawn": point.drawn,
                    "gain": point.certificate,
                    "predicted_gain": formula,
                    "true_gain": point.gain,
                    "gain_at_delta": point.certified,
                    "true_gain_at_delta": point.certified_gain,
                }
            )
    precision = [row["precision"] for row in rows]
    product = [row["precision"] * row["recall"] for row in rows]
    accepted = np.array([point.accepted_boot for point in points])
    gains = np.array([point.certificate_boot for point in points])
    drawn = accepted * np.array([[pt.drawn / pt.accepted] for pt in points])
    return rows, {
        "accepted_by_precision": _slope(precision, [pt.accepted for pt in points], accepted),
        "drawn_by_precision_times_recall": _slope(product, [pt.drawn for pt in points], drawn),
        "gain_by_precision_times_recall": _slope(product, [pt.certificate for pt in points], gains),
    }


def _base(p: float) -> Evaluation:
    mdp = envs.needle(p, HORIZON, NUM_ACTIONS)
    return evaluate(mdp, uniform_policy(mdp))


def _point(
    base: Evaluation,
    weights: FloatArray,
    correct: Correct,
    repeats: int,
    num_measured: int,
    bootstrap: int,
    rng: np.random.Generator,
) -> Point:
    """Resets needed for the choice, and the gain certified from `num_measured` further resets."""
    sizes, table, drawn_each = _success(base, weights, correct, repeats, rng)
    accepted = resets_needed(sizes, table)
    boot = np.array(
        [resets_needed(sizes, table[rng.integers(repeats, size=repeats)]) for _ in range(bootstrap)]
    )
    if not num_measured:
        undefined = np.full(bootstrap, np.nan)
        nan = float("nan")
        return Point(accepted, accepted * drawn_each, nan, nan, nan, nan, nan, nan, boot, undefined)
    data = draw_resets(base, weights, rng, accepted=num_measured)
    right = deterministic_policy(np.zeros(base.A.shape[:2], dtype=np.intp), NUM_ACTIONS)
    policy = every_step(base.policy, HORIZON)
    evidence = measure(data, policy, right, base.mdp.reward_range)
    samples = evidence.samples
    blocks = np.array([block.mean() for block in np.array_split(samples, BLOCKS)])
    p_w = len(data) / data.drawn
    update = Update(base, right, weights=weights, tau=TAU)
    advantage = float(samples.mean())
    alpha = step_size(masked_step, update, advantage)
    at_delta = evidence.certificate(DELTA)

    def certified(measured: FloatArray) -> FloatArray:
        return p_w * measured**2 / (2 * HORIZON * base.mdp.reward_width)

    resampled = blocks[rng.integers(BLOCKS, size=(bootstrap, BLOCKS))].mean(axis=1)
    return Point(
        accepted,
        accepted * drawn_each,
        advantage,
        p_w,
        float(certified(np.asarray(advantage))),
        update.gain_at(alpha, weights),
        at_delta.gain,
        update.gain_at(at_delta.alpha, weights),
        boot,
        certified(resampled),
    )


def shared_correct(resets: Resets, sizes: NDArray[np.intp], repeats: int) -> NDArray[np.bool_]:
    """Whether action 0 has the best mean return after each number of resets, (repeats, sizes)."""
    means = _running_means(resets, sizes, repeats, np.ones(len(resets), dtype=bool))
    return _right_is_best(means)


def per_state_correct(resets: Resets, sizes: NDArray[np.intp], repeats: int) -> NDArray[np.bool_]:
    """Whether action 0 has the best mean return at the needle at every step, (repeats, sizes)."""
    right = np.ones((repeats, len(sizes)), dtype=bool)
    for h in range(HORIZON):
        at_needle = (resets.state == NEEDLE) & (resets.step == h)
        means = _running_means(resets, sizes, repeats, at_needle)
        right &= _right_is_best(means) & np.isfinite(means).all(axis=0)
    return right


def _right_is_best(means: FloatArray) -> NDArray[np.bool_]:
    """Whether action 0 is strictly the best; a tie does not count."""
    return np.asarray(means[0] > means[1:].max(axis=0))


def _running_means(
    resets: Resets, sizes: NDArray[np.intp], repeats: int, member: NDArray[np.bool_]
) -> FloatArray:
    """Mean return per action over the first n resets of each repeat, (|A|, repeats, sizes)."""
    means = []
    for action in range(NUM_ACTIONS):
        chosen = member & (resets.action == action)
        counts = np.cumsum(chosen.reshape(repeats, -1), axis=1)[:, sizes - 1]
        sums = np.cumsum((chosen * resets.ret).reshape(repeats, -1), axis=1)[:, sizes - 1]
        means.append(np.where(counts > 0, sums / np.maximum(counts, 1), -np.inf))
    return np.array(means)


def _success(
    base: Evaluation,
    weights: FloatArray,
    correct: Correct,
    repeats: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.intp], NDArray[np.bool_], float]:
    """Choices of many repeats over a range of sizes (numbers of accepted resets).

    Returns
    -------
    sizes : array (K,)
        The largest is one at which nearly every repeat is right.
    table : array (repeats, K)
        Whether each repeat is right at each size.
    drawn_each : float
        Draws per accepted reset.
    """
    largest, pilots = 16, min(100, repeats)
    while True:  # a few pilot repeats find the largest size
        pilot = draw_resets(base, weights, rng, accepted=largest * pilots)
        if correct(pilot, np.array([largest]), pilots).mean() >= 0.95:
            break
        largest = largest * 3 // 2
    data = draw_resets(base, weights, rng, accepted=largest * repeats)
    sizes = np.unique(np.geomspace(max(largest / 32, 4), largest, 40).astype(np.intp))
    return sizes, correct(data, sizes, repeats), data.drawn / len(data)


def resets_needed(sizes: NDArray[np.intp], table: NDArray[np.bool_]) -> float:
    """Number of resets at which 90 % of choices are right, from a line through success rates.

    In standard errors, two means of n noisy returns differ by a multiple of √n. The probit of the
    success rate is therefore close to a line in √n. One line through all rates between 50 and 98 %
    is much less noisy than the rates next to 90 %.

    Parameters
    ----------
    sizes : array (K,)
    table : array (repeats, K)
        Whether each repeat was right after each number of resets.
    """
    rates = table.mean(axis=0)
    near = (rates > 0.5) & (rates < 0.98)
    if near.sum() < 2 or np.ptp(rates[near]) == 0:  # few repeats or sizes: the rate jumps
        return float(np.interp(TARGET, np.maximum.accumulate(rates), sizes))
    slope, intercept = np.polyfit(np.sqrt(sizes[near]), ndtri(rates[near]), 1)
    if slope <= 0:
        return float(np.interp(TARGET, np.maximum.accumulate(rates), sizes))
    return float(((ndtri(TARGET) - intercept) / slope) ** 2)


def _slope(x: Any, y: Any, replicates: FloatArray) -> Slope:
    """Exponent of y ∝ x^slope by least squares on log-log axes, with a bootstrap interval."""
    log_x = np.log(np.asarray(x))

    def fit(values: FloatArray) -> float:
        return float(np.polyfit(log_x, np.log(values), 1)[0])

    low, high = _interval(np.array([fit(column) for column in replicates.T]))
    return Slope(fit(np.asarray(y)), low, high)
