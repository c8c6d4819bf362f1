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
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

import envs
from cpi.bounds.theorem1_report import Experiment, Point, Slope, interval, resets_of
from cpi.conservative.measure import every_step, measure
from cpi.conservative.reset_weights import oracle_resets, random_resets, self_resets
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

#: Whether the chosen action is right: (resets, sizes, repeats) → array (repeats, sizes).
Correct = Callable[[Resets, NDArray[np.intp], int], NDArray[np.bool_]]


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
            "resets": _slope(COVERAGES, [resets_of(name, pt) for pt in points], replicates)
        }
        if name in ("rr", "caro"):
            replicates = np.array([pt.certificate_boot for pt in points])
            values = [pt.certificate for pt in points]
            slopes[name]["gain"] = _slope(COVERAGES, values, replicates)
    progress("localizer formula")
    grid, grid_slopes = localizer_grid(rng, repeats, bootstrap)
    setting = {"horizon": HORIZON, "num_actions": NUM_ACTIONS, "tau": TAU, "delta": DELTA}
    return Experiment(COVERAGES, setting, arms, slopes, grid, grid_slopes)


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
    boot = resampled_needs(sizes, table, rng.integers(repeats, size=(bootstrap, repeats)))
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
    return float(_needs(sizes, table.mean(axis=0)[None])[0])


def resampled_needs(
    sizes: NDArray[np.intp], table: NDArray[np.bool_], draws: NDArray[np.intp]
) -> FloatArray:
    """`resets_needed` of redrawn repeats, (B,); `draws` (B, repeats) are rows of the table."""
    counts = np.array([np.bincount(rows, minlength=len(table)) for rows in draws], dtype=float)
    return _needs(sizes, counts @ table / len(table))


def _needs(sizes: NDArray[np.intp], rates: FloatArray) -> FloatArray:
    """Sizes at which success rates (B, K) reach the target, (B,)."""
    near = (rates > 0.5) & (rates < 0.98)
    number = np.maximum(near.sum(axis=1), 1)
    x, y = np.sqrt(sizes), ndtri(np.where(near, rates, 0.5))  # 0.5: a probit of 0
    center = near @ x / number
    from_center = np.where(near, x - center[:, None], 0.0)
    spread = (from_center**2).sum(axis=1)
    slope = (from_center * y).sum(axis=1) / np.where(spread > 0, spread, 1.0)
    # With few repeats or sizes the rate may jump, and no line rises through it.
    low = np.min(rates, axis=1, where=near, initial=1.0)
    high = np.max(rates, axis=1, where=near, initial=0.0)
    rises = (near.sum(axis=1) >= 2) & (high > low) & (slope > 0)
    slope = np.where(rises, slope, 1.0)
    intercept = y.sum(axis=1) / number - slope * center
    needs = ((ndtri(TARGET) - intercept) / slope) ** 2
    for i in np.flatnonzero(~rises):
        needs[i] = np.interp(TARGET, np.maximum.accumulate(rates[i]), sizes)
    return np.asarray(needs)


def _slope(x: Any, y: Any, replicates: FloatArray) -> Slope:
    """Exponent of y ∝ x^slope by least squares on log-log axes, with a bootstrap interval."""
    values = np.column_stack([np.asarray(y), replicates])
    slope, *slopes = np.polyfit(np.log(np.asarray(x)), np.log(values), 1)[0]
    return Slope(float(slope), *interval(np.array(slopes)))
