"""Predicted and measured order of the arms at the start of training.

The base model gets a step right with q = ½. The start lasts until q = 0.6, that is, until success
is 0.6ⁿ on problems of n steps. The measured *speed* of an arm is the number of tokens that GRPO
needs for it over the number that the arm needs, with the same seed. Theory predicts it twice, both
at q = ½: by the worth of a collection, and by the gain of updates of equal length per token
(`cpi.signal.speed`). Level, quantity and the second prediction were fixed with the runs of *long*.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from llm.compare.arms import KNOWN_REGIMES, THEORY, predicted, predicted_speed
from llm.compare.report import Records

#: Success probability of a step at the end of the start.
END = 0.6


class Start(NamedTuple):
    """Speed of an arm at the start; GRPO's is 1. `low` and `high` are quartiles of the seeds."""

    arm: str
    worth: float
    predicted: float
    measured: float
    low: float
    high: float


class Order(NamedTuple):
    """Kendall's rank correlation, and its exact one-sided p-value among all orders."""

    tau: float
    p: float


def tokens_until(record: dict[str, Any], target: float) -> float:
    """Tokens until success is `target`, its logarithm interpolated; infinite if it never is."""
    tokens, success = (np.array(record["curve"][name]) for name in ("tokens", "success"))
    reached = np.flatnonzero(success >= target)
    if not len(reached):
        return float("inf")
    i = max(reached[0], 1)
    logs = np.log(np.maximum(success[i - 1 : i + 1], 1e-12))
    return float(np.interp(np.log(target), logs, tokens[i - 1 : i + 1]))


def accuracy(records: Iterable[dict[str, Any]]) -> float | None:
    """Share of resets at the first error in the first readings of some runs; None without any."""
    readings = [
        [x for x in record["curve"]["localize/exact"] if x is not None][:1] for record in records
    ]
    first = [x for reading in readings for x in reading]
    return float(np.mean(first)) if first else None


def starts(sources: Sequence[Records], regime: str) -> list[Start]:
    """All arms with a prediction, the fastest first.

    Parameters
    ----------
    sources : sequence of Records
        Runs of the regime; each source has GRPO with the same seeds. Later sources take precedence.
    regime : str
    """
    rows: dict[str, Start] = {"grpo": Start("grpo", 1.0, 1.0, 1.0, 1.0, 1.0)}
    settings = KNOWN_REGIMES[regime]
    for records in sources:
        for arm in (arm for arm in THEORY if arm in records):
            runs, base = records[arm], records["grpo"]
            share = accuracy(runs.values())
            worth = predicted(arm, settings.length, accuracy=share)
            speed = predicted_speed(arm, settings, accuracy=share)
            if worth is None or speed is None:
                continue
            target = END**settings.length
            ratios = [
                _ratio(tokens_until(base[seed], target), tokens_until(runs[seed], target))
                for seed in sorted(runs)
            ]
            low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75], method="hazen")
            rows[arm] = Start(arm, worth, float(speed), float(median), float(low), float(high))
    return sorted(rows.values(), key=lambda row: -row.measured)


def _ratio(base: float, own: float) -> float:
    """Tokens of GRPO over an arm's; 1 if neither arrives, and large if GRPO alone does not."""
    if np.isinf(base) and np.isinf(own):
        return 1.0
    return min(base / own, 1e6)


def order(predictions: Sequence[float], measured: Sequence[float]) -> Order:
    """Whether predictions have the order of the measurements."""
    from scipy.stats import kendalltau, permutation_test

    tau = kendalltau(predictions, measured).statistic
    if len(set(predictions)) == len(predictions) and len(set(measured)) == len(measured):
        exact = kendalltau(predictions, measured, alternative="greater", method="exact")
        return Order(float(tau), float(exact.pvalue))
    # All orders of up to 7 arms, else a sample of them.
    test = permutation_test(
        (predictions,), lambda x: kendalltau(x, measured).statistic, permutation_type="pairings",
        alternative="greater", n_resamples=5040, vectorized=False, rng=np.random.default_rng(0),
    )  # fmt: skip
    return Order(float(tau), float(test.pvalue))
