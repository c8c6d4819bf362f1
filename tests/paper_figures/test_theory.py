"""Figures T2 to T6: recorded data against closed forms, and verdicts from the numbers."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest

import cpi
import envs
from cpi.bounds import REGISTRY, Update
from cpi.conservative.choosers import sampled
from cpi.conservative.loop import run_cpi
from cpi.conservative.reset_weights import oracle_resets, random_resets
from cpi.exact.values import evaluate
from paper_figures import t2_localizer, t3_iterations, t4_tightness, t5_signal, t6_chain
from paper_figures.__main__ import HOME
from paper_figures.framework.figure import (
    Data,
    Figure,
    plain,
    read,
)
from paper_figures.framework.style import look, save


def recorded(figure: Figure) -> Data:
    return copy.deepcopy(read(HOME / "results", figure).data)


def test_t6_lock__hand_computed() -> None:
    lock = recorded(t6_chain.FIGURE)["panels"][0]
    assert lock["coverage"] == pytest.approx(0.0452, abs=5e-5)
    assert max(lock["advantage"]) == pytest.approx(0.5652, abs=5e-5)
    assert lock["tau"] == pytest.approx(0.2826, abs=5e-5)
    assert np.flatnonzero(lock["improvable"]).tolist() == [5]
    assert lock["lands"]["oracle"][5] == pytest.approx(1)


def test_t6_first_errors__geometric_distribution() -> None:
    for panel, q in zip(recorded(t6_chain.FIGURE)["panels"][1:], (0.5, 0.9), strict=True):
        n = len(panel["clean"])
        expected = (1 - q) * q ** np.arange(n) / (1 - q**n)
        assert panel["lands"]["srpo"] == pytest.approx(expected)
        assert panel["advantage"] == pytest.approx((1 - q) * q ** (n - 1 - np.arange(n)))
        assert panel["rates"]["root"] == pytest.approx(q**n)


def test_t6_claims__verdicts_follow_the_numbers() -> None:
    data = recorded(t6_chain.FIGURE)
    assert [claim.verdict for claim in t6_chain.claims(data)] == ["holds"] * 3
    data["panels"][1]["improvable_first_errors"] = 0.9
    data["panels"][0]["visits"] = 0.0
    data["panels"][2]["rates"]["random_reset"] = 0.9
    assert [claim.verdict for claim in t6_chain.claims(data)] == ["does not hold here"] * 3


def test_learning_curve__constant_after_a_run_stops() -> None:
    mdp = envs.lock_chain(3, 2)
    policy = envs.lock_policy([0.5, 0.5, 0.5], 2)
    chooser = sampled(40, "per_state", bound="none")
    run = run_cpi(mdp, policy, resets=random_resets, chooser=chooser, step="full", iterations=9)
    curve = t3_iterations.learning_curve(run)
    spent = sum(row.steps for row in run.iterations)
    assert curve.stopped
    assert curve.spent["steps"][-1] == spent
    J = curve.at("steps", np.array([0, spent - 1, spent, 10 * spent]))
    assert J.tolist() == [run.iterations[0].J, run.iterations[-1].J, run.J, run.J]


def test_learning_curve__nan_beyond_a_truncated_run() -> None:
    mdp = envs.lock_chain(3, 2)
    policy = envs.lock_policy([0.5, 0.5, 0.5], 2)
    chooser = sampled(40, "per_state", bound="none")
    run = run_cpi(mdp, policy, chooser=chooser, step="masked", iterations=2)
    curve = t3_iterations.learning_curve(run)
    assert not curve.stopped
    assert np.isnan(curve.at("iteration", np.array([2, 3]))).tolist() == [False, True]


def test_theorem_resets__inverse_square_of_precision() -> None:
    mdp = envs.needle(0.25, 3, 3)
    base = evaluate(mdp, cpi.uniform_policy(mdp))
    chooser = t3_iterations.theorem_resets(100, 0.5, 0.1)
    for weights, accepted in ((oracle_resets(0.5)(base), 100), (random_resets(base), 1600)):
        assert chooser(base, weights, np.random.default_rng(0)).accepted == accepted


def test_t3_claims__verdicts_follow_the_numbers() -> None:
    data = recorded(t3_iterations.FIGURE)
    before = [claim.verdict for claim in t3_iterations.claims(data)]
    assert before == ["mixed", "mixed", "holds", "holds"]
    assert t3_iterations.claims(data)[1].caveat.startswith(
        "with Theorem 1's step ahead by iterations, behind by resets drawn and environment steps; "
    )
    for axis in data["axes"].values():
        for rules in axis["rows"].values():
            rules["oracle"]["areas"], rules["random"]["areas"] = (
                rules["random"]["areas"],
                rules["oracle"]["areas"],
            )
            rules["self"]["areas"] = [area - 0.1 for area in rules["random"]["areas"]]
            rules["random"]["final"] = [0.0] * data["seeds"]
    after = [claim.verdict for claim in t3_iterations.claims(data)]
    assert after == ["mixed", *["does not hold here"] * 3]
    for axis in data["axes"].values():
        for rules in axis["rows"].values():
            ahead = [area + 0.1 for area in rules["random"]["areas"]]
            rules["self"]["areas"] = rules["oracle"]["areas"] = ahead
    assert [claim.verdict for claim in t3_iterations.claims(data)][:3] == ["holds"] * 3


def test_nearness__one_if_tight_else_at_most_one() -> None:
    tight = envs.tight_masked(2)
    update = Update(evaluate(tight.mdp, tight.policy), tight.candidate, 0.5, tight.weights)
    masked = next(bound for bound in REGISTRY if bound.name == "masked CPI")
    check = masked.check(update)
    assert check is not None
    assert t4_tightness.nearness(check) == pytest.approx(1)
    assert t4_tightness.constant(check) == pytest.approx(1)
    for bound in recorded(t4_tightness.FIGURE)["bounds"]:
        assert bound["best"] <= 1 + 1e-6
        assert bound["quantiles"] == sorted(bound["quantiles"])


def test_t4_claims__violation_fails_the_claim() -> None:
    data = recorded(t4_tightness.FIGURE)
    assert {bound["name"] for bound in data["bounds"]} <= {bound.name for bound in REGISTRY}
    assert t4_tightness.claims(data)[0].verdict == "holds"
    data["bounds"][3]["violations"] = 1
    assert t4_tightness.claims(data)[0].verdict == "does not hold here"


def test_t5_data__match_cpi_signal() -> None:
    data = recorded(t5_signal.FIGURE)
    row = next(row for row in data["rows"] if (row["length"], row["q"]) == (4, 0.5))
    exact = cpi.signal.compare(4, 0.5, {"oracle": (cpi.ALGORITHMS["oracle"].plan, "oracle")})
    assert row["oracle"] == pytest.approx(exact["oracle"])
    ahead = sum(row["oracle"][1] > 1 for row in data["rows"])
    assert data["summary"]["oracle"]["steps"]["ahead"] == ahead


def test_t5_claims__verdicts_follow_the_numbers() -> None:
    data = recorded(t5_signal.FIGURE)
    assert t5_signal.claims(data)[0].verdict == "holds with a caveat"
    data["summary"]["srpo 0.8/0.1"]["steps"]["ahead"] = 0
    assert t5_signal.claims(data)[0].verdict == "does not hold here"
    data["summary"]["srpo 0.8/0.1"]["steps"]["ahead"] = len(data["rows"])
    assert t5_signal.claims(data)[0].verdict == "holds"


def test_t2_claims__verdict_follows_the_slopes() -> None:
    data = recorded(t2_localizer.FIGURE)
    assert t2_localizer.claims(data)[0].verdict == "holds"
    assert all(math.isfinite(row["gain"]) for row in data["grid"])
    assert {each["name"] for each in data["measured"]} == set(t2_localizer.LOCALIZERS)
    data["slopes"]["accepted_by_precision"] |= {"low": -1.2, "high": -1.0}
    assert t2_localizer.claims(data)[0].verdict == "does not hold here"


def test_t2_claims__measured_localizers_follow_their_intervals() -> None:
    data = recorded(t2_localizer.FIGURE)
    for each in data["measured"]:
        ahead = each["name"] == "prompted"
        each["precision"], each["recall"] = (0.5, 0.2) if ahead else (0.1, 0.9)
        for name in ("precision", "recall"):
            each[f"{name}_interval"] = [each[name] - 0.05, each[name] + 0.05]
    assert t2_localizer.claims(data)[1].verdict == "holds"
    data["measured"][0]["precision_interval"] = [0.0, 0.6]  # random, step 0
    claim = t2_localizer.claims(data)[1]
    assert (claim.verdict, claim.caveat) == (
        "holds with a caveat",
        "the intervals overlap at step 0",
    )
    data["measured"][0]["precision"] = 0.6
    assert t2_localizer.claims(data)[1].verdict == "does not hold here"
    data["measured"] = []
    assert len(t2_localizer.claims(data)) == 1


def test_t3_compute__reproducible_and_drawable(tmp_path: Path) -> None:
    small = {**t3_iterations.SETTINGS, "seeds": 2, "iterations": 3, "resets": 40}
    once, again = (t3_iterations.compute(small, print) for _ in range(2))
    assert plain(once) == plain(again)
    with look():
        save(t3_iterations.draw(once), tmp_path / "t3.png")
