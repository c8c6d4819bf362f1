"""Ratios of the costs at which two methods reach a success, bootstrapped over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm.compare.report import Records
from paper_figures.framework.verdicts import paired


def resampled(seeds: int, times: int) -> NDArray[np.int64]:
    """Bootstrap samples of the seeds, shape (times, seeds)."""
    return np.random.default_rng(0).integers(seeds, size=(times, seeds))


def cost(record: Mapping[str, Any], axis: str, target: float) -> float:
    """Tokens or steps until success first reaches the target; infinite if it never does."""
    costs, success = (np.array(record["curve"][name]) for name in (axis, "success"))
    reached = np.flatnonzero(success >= target)
    return float(costs[reached[0]]) if len(reached) else float("inf")


def ratio(
    records: Records, arm: str, axis: str, target: float, resamples: int, over: str = "grpo"
) -> dict[str, float | None]:
    """Median cost of `over` divided by that of `arm`, with bootstrap interval and p-value.

    Above 1, `arm` is faster. 0: `arm` never reaches the target. None, for infinity: `over` never
    reaches it.
    """
    seeds = sorted(records[arm].keys() & records[over].keys())
    base, costs = (
        np.array([cost(records[name][seed], axis, target) for seed in seeds])
        for name in (over, arm)
    )
    # Row 0 is the sample itself. The median of a number and infinity is infinite, as intended.
    samples = np.vstack([np.arange(len(seeds)), resampled(len(seeds), resamples)])
    with np.errstate(invalid="ignore"):
        ratios = np.median(base[samples], axis=1) / np.median(costs[samples], axis=1)
    ratios[np.isnan(ratios)] = 1.0  # neither reaches the target: no difference
    low, high = np.quantile(ratios[1:], [0.025, 0.975], method="inverted_cdf")
    quantities = {"value": ratios[0], "low": low, "high": high}
    finite = {name: float(r) if np.isfinite(r) else None for name, r in quantities.items()}
    return finite | {"p": bootstrap_p(ratios[1:], 1)}


def to_last_value(records: Records, arm: str, rival: str, resamples: int) -> dict[str, Any]:
    """All steps of a rival divided by the steps an arm needs to the rival's last value.

    Computed from mean curves over seeds, as published, with bootstrap interval and p-value. An arm
    that does not reach the value within its budget is censored. Its ratio is then bounded by that
    of all steps of both, and its interval extends to 0. A censored arm is behind only if its last
    value is lower as well. Equally high last values are no evidence.

    Returns
    -------
    dict
        "reached": whether the arm reaches the value. "value": the ratio, or its upper bound if
        censored. "low", "high": the interval. "end": difference of last values, paired by seed.
        "p": the p-value.
    """
    steps, curves = {}, {}
    for name in (arm, rival):
        arm_curves = [run["curve"] for _, run in sorted(records[name].items())]
        steps[name] = np.linspace(0, min(curve["step"][-1] for curve in arm_curves), 400)
        curves[name] = np.array(
            [np.interp(steps[name], c["step"], c["success"]) for c in arm_curves]
        )
    samples = resampled(len(curves[arm]), resamples)
    ratios = np.zeros(len(samples) + 1)
    for i, seeds in enumerate((np.arange(len(curves[arm])), *samples)):
        last = curves[rival][seeds].mean(axis=0)[-1]
        reaching = np.flatnonzero(curves[arm][seeds].mean(axis=0) >= last)
        if len(reaching):
            ratios[i] = steps[rival][-1] / max(steps[arm][reaching[0]], 1)
    upper_bound = float(steps[rival][-1] / steps[arm][-1])
    end = paired(curves[arm][:, -1] - curves[rival][:, -1])
    reached, p = bool(ratios[0]), bootstrap_p(ratios[1:], 1)
    if ratios[0] <= 1 and not ratios.all():
        p = max(p, end["p"] if end["value"] < 0 else 1.0)
    low = float(np.quantile(ratios[1:], 0.025))
    high = float(np.quantile(np.where(ratios[1:] > 0, ratios[1:], upper_bound), 0.975))
    value = float(ratios[0]) if reached else upper_bound
    return {
        "value": value, "low": low, "high": high, "reached": reached, "p": p, "end": end,
    }  # fmt: skip


def bootstrap_p(samples: np.ndarray, level: float) -> float:
    """Two-sided p-value against `level`, from bootstrap samples of a statistic."""
    tails = np.sum(samples <= level), np.sum(samples >= level)
    return float(min(1.0, 2 * (min(tails) + 1) / (len(samples) + 1)))
