"""How much faster a method comes to a success than another: ratios, with a bootstrap over seeds."""

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
    at, success = (np.array(record["curve"][name]) for name in (axis, "success"))
    there = np.flatnonzero(success >= target)
    return float(at[there[0]]) if len(there) else float("inf")


def ratio(
    records: Records, arm: str, axis: str, target: float, resamples: int, over: str = "grpo"
) -> dict[str, float | None]:
    """Another arm's median cost over an arm's, with interval and p of a bootstrap over seeds.

    Above 1 the arm is faster, 0 is one that never arrives, and None infinity: the other never does.
    """
    seeds = sorted(records[arm].keys() & records[over].keys())
    base, own = (
        np.array([cost(records[name][seed], axis, target) for seed in seeds])
        for name in (over, arm)
    )
    # First the seeds themselves. A median of a number and infinity is infinite, as it should be.
    drawn = np.vstack([np.arange(len(seeds)), resampled(len(seeds), resamples)])
    with np.errstate(invalid="ignore"):
        ratios = np.median(base[drawn], axis=1) / np.median(own[drawn], axis=1)
    ratios[np.isnan(ratios)] = 1.0  # neither arrives: no difference
    low, high = np.quantile(ratios[1:], [0.025, 0.975], method="inverted_cdf")
    found = {"value": ratios[0], "low": low, "high": high}
    told = {name: float(r) if np.isfinite(r) else None for name, r in found.items()}
    return told | {"p": bootstrap_p(ratios[1:], 1)}


def to_last_value(records: Records, arm: str, rival: str, resamples: int) -> dict[str, Any]:
    """All steps of a rival over those that an arm takes to the rival's last value.

    Of mean curves over seeds, as is published; with interval and p of a bootstrap over seeds. An
    arm that does not come so far within its budget is censored: the ratio is at most that
    of all steps of both, and its interval goes down to 0. It is behind only if it ends lower, too:
    not coming up to an end as high as its own says nothing.

    Returns
    -------
    dict
        "reached"; "value", the bound if it is not reached; "low" and "high"; "end", the difference
        of last values, paired by seed; "p".
    """
    steps, curves = {}, {}
    for name in (arm, rival):
        own = [run["curve"] for _, run in sorted(records[name].items())]
        steps[name] = np.linspace(0, min(curve["step"][-1] for curve in own), 400)
        curves[name] = np.array([np.interp(steps[name], c["step"], c["success"]) for c in own])
    drawn = resampled(len(curves[arm]), resamples)
    ratios = np.zeros(len(drawn) + 1)
    for i, seeds in enumerate((np.arange(len(curves[arm])), *drawn)):
        last = curves[rival][seeds].mean(axis=0)[-1]
        there = np.flatnonzero(curves[arm][seeds].mean(axis=0) >= last)
        if len(there):
            ratios[i] = steps[rival][-1] / max(steps[arm][there[0]], 1)
    most = float(steps[rival][-1] / steps[arm][-1])
    end = paired(curves[arm][:, -1] - curves[rival][:, -1])
    reached, p = bool(ratios[0]), bootstrap_p(ratios[1:], 1)
    if ratios[0] <= 1 and not ratios.all():
        p = max(p, end["p"] if end["value"] < 0 else 1.0)
    low = float(np.quantile(ratios[1:], 0.025))
    high = float(np.quantile(np.where(ratios[1:] > 0, ratios[1:], most), 0.975))
    value = float(ratios[0]) if reached else most
    return {
        "value": value, "low": low, "high": high, "reached": reached, "p": p, "end": end,
    }  # fmt: skip


def bootstrap_p(drawn: np.ndarray, level: float) -> float:
    """Two-sided p-value from bootstrap samples of a statistic: what of them is not beyond level."""
    tails = np.sum(drawn <= level), np.sum(drawn >= level)
    return float(min(1.0, 2 * (min(tails) + 1) / (len(drawn) + 1)))
