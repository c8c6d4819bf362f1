"""Claims about adaptive resets and the predicted order: by hand, and on recorded runs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from llm.common.statistics import interval
from llm.compare.arms import KNOWN_REGIMES, predicted, predicted_speed
from llm.compare.report import Records, area, read_records
from paper_figures import HOME
from paper_figures.analyses.adaptive_claims import CLAIMS, FAMILIES, MARGIN, Finding, findings
from paper_figures.analyses.start_of_training import (
    accuracy,
    order,
    starts,
    tokens_until,
)


def run(success: float, tokens: float = 100.0) -> dict[str, Any]:
    """A run whose success is constant."""
    curve = {"tokens": [0.0, tokens], "success": [success, success]}
    return {"curve": curve, "config": {"token_budget": tokens}}


def records(arm: str, gains: list[float]) -> Records:
    return {
        "grpo": {seed: run(0.5) for seed in range(8, 16)},
        arm: {seed: run(0.5 + gain) for seed, gain in enumerate(gains, start=8)},
    }


def test_findings__by_hand() -> None:
    """Signs decide the p-values: 1/256 if all are ahead, 2/256 if the smallest is behind."""
    arm = FAMILIES[0]
    up = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08]
    one = [-0.01, *up[1:]]
    by_regime = {
        "long": records(arm, up),
        "few": records(arm, one),
        "six": records(arm, [-x for x in up]),
        "short": records(arm, [-x / 4 for x in up]),  # above −0.02
        "middle": records(arm, [-x - MARGIN for x in up]),
    }
    rows = findings(by_regime, [arm])
    assert [row.regime for row in rows] == list(CLAIMS)
    p = [row.p for row in rows]
    assert p == [1 / 256, 2 / 256, 1.0, 1 / 256, 1.0]
    # In order: 5 · 1/256, 4 · 1/256 raised to it, 3 · 2/256, then 1.
    assert [row.adjusted for row in rows] == [5 / 256, 6 / 256, 1.0, 5 / 256, 1.0]
    assert [row.verdict for row in rows] == ["✓", "✓", "✗", "✓", "✗"]
    gains = [area(by_regime["few"][arm][s]) - 0.5 for s in range(8, 16)]
    assert (rows[1].low, rows[1].high) == interval(gains)
    assert rows[1].gains == pytest.approx(one)


def test_findings__correct_all_arms_together() -> None:
    up = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08]
    both: Records = records(FAMILIES[0], up) | records(FAMILIES[1], up)
    (first, *_, last) = findings(dict.fromkeys(CLAIMS, both), FAMILIES)
    assert first.adjusted == last.adjusted == 10 / 256


def test_findings__refuse_other_seeds() -> None:
    short = records(FAMILIES[0], [0.1] * 8)
    more = short["grpo"] | {16: run(0.5)}
    assert len(findings(dict.fromkeys(CLAIMS, short | {"grpo": more}), FAMILIES[:1])) == 5
    del short["grpo"][9]
    with pytest.raises(ValueError, match=r"long: adaptive-checker has the seeds \[8, 9.*grpo \[8"):
        findings(dict.fromkeys(CLAIMS, short), FAMILIES[:1])


def test_finding__undecided_between_level_and_margin() -> None:
    level = Finding("a", "short", "not behind", (), -0.06, -0.01, 0.2, 0.2)
    assert level.verdict == "?"
    assert level._replace(claim="ahead").verdict == "✗"
    assert level._replace(high=-MARGIN - 1e-9).verdict == "✗"


def test_tokens_until__interpolates_the_logarithm() -> None:
    record = {"curve": {"tokens": [0, 100, 200], "success": [0.01, 0.1, 0.4]}}
    assert tokens_until(record, 0.1) == pytest.approx(100)
    assert tokens_until(record, 0.1 * 10**-0.5) == pytest.approx(50)
    assert tokens_until(record, 0.2) == pytest.approx(150)
    assert tokens_until(record, 0.005) == 0
    assert tokens_until(record, 0.5) == float("inf")


def test_accuracy__of_first_readings() -> None:
    runs = [{"curve": {"localize/exact": values}} for values in ([None, 0.5, 0.9], [0.75, 0], [])]
    assert accuracy(runs) == 0.625
    assert accuracy(runs[2:]) is None


def test_order__exact_among_all_orders() -> None:
    predictions, measured = [3.0, 1.0, 2.0, 5.0, 4.0], [2.5, 1.5, 1.0, 9.0, 3.0]

    def tau(values: tuple[float, ...]) -> float:
        pairs = itertools.combinations(range(5), 2)
        return float(
            np.mean(
                [np.sign((values[i] - values[j]) * (measured[i] - measured[j])) for i, j in pairs]
            )
        )

    observed = tau(tuple(predictions))
    p = np.mean([tau(x) >= observed - 1e-12 for x in itertools.permutations(predictions)])
    assert order(predictions, measured) == pytest.approx((observed, p))
    assert order([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == pytest.approx((1.0, 1 / 6))
    # A tie: two of three pairs agree, and one of three arrangements has as many.
    assert order([1.0, 1.0, 2.0], [1.0, 2.0, 3.0]) == pytest.approx((2 / 6**0.5, 1 / 3))


def test_starts__speed_is_the_median_ratio_of_tokens() -> None:
    def until(tokens: float) -> dict[str, Any]:
        curve = {
            "tokens": [0, tokens, 9e9], "success": [0.5**3, 0.6**3, 0.9],
            "localize/exact": [None, 0.9, None],
        }  # fmt: skip
        return {"curve": curve}

    made: Records = {
        "grpo": {s: until(1000) for s in range(3)},
        "adaptive-any-prompted": {s: until(t) for s, t in enumerate((250, 500, 2000))},
        "deepest-checker": {0: until(10)},  # no prediction
    }
    fast, grpo = starts([made], "short")
    assert (grpo.arm, grpo.measured, grpo.predicted) == ("grpo", 1, 1)
    assert (fast.arm, fast.measured) == ("adaptive-any-prompted", pytest.approx(2))
    assert fast.low < 2 < fast.high
    assert fast.worth == predicted(fast.arm, 3, accuracy=0.9)
    assert fast.predicted == predicted_speed(fast.arm, KNOWN_REGIMES["short"], accuracy=0.9)


def test_starts__of_the_recorded_runs_on_long_problems() -> None:
    """Fresh groups drawn again are slowest, resets with a checker are fastest."""
    fresh = read_records(HOME / "results", "long-fresh", ["grpo", *_ARMS])
    rows = starts([fresh], "long")
    assert [row.arm for row in rows] == [_ARMS[0], "grpo", *_ARMS[1:]]
    assert order([r.predicted for r in rows], [r.measured for r in rows]).tau == pytest.approx(1)
    worth = order([r.worth for r in rows], [r.measured for r in rows])
    assert 0 < worth.tau < 1


_ARMS = ("adaptive-checker", "adaptive-any-surprisal", "adaptive-halving", "adaptive-first")
