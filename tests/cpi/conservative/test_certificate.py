"""Certificates from evidence: formulas by hand, exact bounds, invariances, resets needed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import envs
from cpi.conservative.certificate import Evidence, best_step, resets_needed
from cpi.conservative.confidence import acceptance_interval, empirical_bernstein
from cpi.conservative.measure import measure, sample_width
from cpi.conservative.resets import Resets, draw_resets
from cpi.exact.improvement import policy_advantage
from cpi.exact.policies import greedy_policy, uniform_policy
from cpi.exact.update import Update
from cpi.exact.values import evaluate
from cpi.reporting.json_files import write_json
from tests.cpi.conservative.problems import EVALUATIONS, WEIGHTS, rows_of
from tests.cpi.worlds import repeatable

#: Half the samples are 0.5 and half are 1.5: mean 1, variance 0.25 n/(n−1).
SAMPLES = np.tile([0.5, 1.5], 2000)


def evidence(**changes: Any) -> Evidence:
    fields: dict[str, Any] = {
        "candidate": np.zeros((5, 2, 2)),
        "samples": SAMPLES,
        "width": 4.0,
        "step": np.tile([0, 4], 4000),
        "accepted": 8000,
        "drawn": 20_000,
        "steps": 90_000,
        "exhausted": False,
        "horizon": 5,
        "reward_width": 2.0,
        "return_width": None,
        "discount": None,
        "moved": np.tile([0.25, 0.75], 2000),
        "most_moved": 0.8,
        "bias": 0.0,
    }
    return Evidence(**(fields | changes))


def test_certificate__by_hand() -> None:
    """H = 5, r = 2; h(h−1) is 0 or 12, so E[(H−h)(H+h−1)] = 20 − 6."""
    found = evidence().certificate(0.08)
    lower = 1 - empirical_bernstein(SAMPLES, 4.0, 0.04)
    B = 20 - 6 + empirical_bernstein(np.tile([0.0, 12.0], 4000), 12.0, 0.02)
    low, high = acceptance_interval(8000, 20_000, 0.02)
    assert found.form == "stepwise" and found.penalty == pytest.approx(B) and 14 < B < 15
    assert (found.advantage, found.lower) == pytest.approx((1.0, lower)) and 0.9 < lower < 1
    assert found.p_w == 0.4 and found.p_w_interval == (low, high) and 0.39 < low < 0.4 < high < 0.41
    assert found.alpha == pytest.approx(lower / (2 * B))
    assert found.gain == pytest.approx(5 * low * lower**2 / (4 * B))
    assert (found.accepted, found.drawn, found.steps, found.delta) == (8000, 20_000, 90_000, 0.08)


def test_certificate__takes_the_smallest_penalty() -> None:
    few = evidence(step=np.array([0, 4, 0, 4]), accepted=4, drawn=4)
    assert (few.penalty(0.1)) == (20.0, "masked")
    assert evidence(return_width=3.0).penalty(0.1) == (12.0, "returns")
    assert evidence(return_width=6.0).penalty(0.1)[1] == "stepwise"
    # At H = 2 every reset disturbs as much, and nothing is estimated.
    assert evidence(horizon=2, step=np.tile([0, 1], 4000)).penalty(0.1)[0] == 2.0
    assert evidence(horizon=1, step=np.zeros(8000, dtype=int)).penalty(0.1)[0] == 0.0


def test_certificate__discounted_by_hand() -> None:
    """1/(1−γ) = 5: B = 2 γ W m E[TV] 5, and the cut of the returns is off the lower bound."""
    found = evidence(discount=0.8, horizon=5.0, return_width=10.0, bias=0.01).certificate(0.08)
    lower = 0.99 - empirical_bernstein(SAMPLES, 4.0, 0.04)
    tv = 0.5 + empirical_bernstein(np.tile([0.25, 0.75], 2000), 0.8, 0.02)
    low, _ = acceptance_interval(8000, 20_000, 0.02)
    assert found.form == "masked" and found.lower == pytest.approx(lower)
    assert found.penalty == pytest.approx(2 * 0.8 * 5 * 10 * 0.8 * tv) and 0.5 < tv < 0.53
    assert found.gain == pytest.approx(5 * low * lower**2 / (4 * found.penalty))
    fewer = evidence(discount=0.8, horizon=5.0, return_width=4.0, moved=np.full(9, 0.8))
    assert fewer.penalty(0.1) == (pytest.approx(2 * 0.8 * 5 * 4 * 0.8 * 0.8), "returns")


@pytest.mark.parametrize("discount", [0.1, 0.5, 0.9])
def test_certificate__discounted_penalty_is_attained_by_small_steps(discount: float) -> None:
    """On `tight_masked`, which moves all mass and has a = ±W, no smaller constant is one."""
    case = envs.tight_masked(2)
    mdp = case.mdp.with_time(discount=discount)
    base = evaluate(mdp, case.policy)
    resets = draw_resets(base, np.ones(3), np.random.default_rng(0), accepted=40)
    rows = (case.policy[None], case.candidate[None])
    found = measure(resets, *rows, mdp.reward_range, discount=discount)
    update = Update(base, case.candidate, 1e-4)
    penalty, _ = found.penalty(0.1)
    lost = 1e-4 * (update.d * update.a).sum() / (1 - discount) - update.gain
    assert 1e-8 * penalty / (1 - discount) == pytest.approx(lost, rel=4e-4 / (1 - discount))
    assert lost <= 1e-8 * penalty / (1 - discount) * (1 + 1e-6)


def test_certificate__discounted_penalty_is_attained_by_policies_that_overlap() -> None:
    """Half the mass moves, m = E[TV] = ½: a quarter of the penalty is enough, and not less."""
    case = envs.tight_divergence(0.5)
    update = Update(evaluate(case.mdp, case.policy), case.candidate, 1e-4)
    lost = 1e-4 * (update.d * update.a).sum() * 2 - update.gain
    moved = evidence(
        discount=0.5, horizon=2.0, return_width=1.0, moved=np.full(9, 0.5), most_moved=0.5
    )
    assert update.return_width == pytest.approx(1.0)
    assert 1e-8 * moved.penalty(0.1)[0] * 2 == pytest.approx(lost, rel=1e-3)


def test_certificate__of_a_given_step() -> None:
    best = evidence().certificate(0.05)
    assert evidence().certificate(0.05, best.alpha).gain == best.gain
    for factor in (0.9, 1.1):
        assert 0 < evidence().certificate(0.05, factor * best.alpha).gain < best.gain
    # Far too long a step may lose that much wherever it is accepted: at the upper end of p_w.
    long = evidence().certificate(0.05, 1.0)
    _, high = long.p_w_interval
    assert long.gain == pytest.approx(5 * high * (long.lower - long.penalty)) and long.gain < 0
    assert evidence().certificate(0.05, 0.0).gain == 0.0


def test_certificate__nothing_without_a_positive_lower_bound() -> None:
    found = evidence(samples=SAMPLES - 1.0).certificate(0.05)
    assert found.alpha == found.gain == 0.0 and found.lower < 0
    assert found.resets_needed is None and "none suffice" in str(found)
    some = evidence(samples=SAMPLES[:20]).certificate(0.05)
    assert some.alpha == some.gain == 0.0 and some.resets_needed is not None
    assert "nothing certified" in str(some) and f"about {some.resets_needed:,}" in str(some)


def test_best_step__is_the_maximiser_in_the_unit_interval() -> None:
    assert best_step(0.5, 2.0) == 0.125
    assert best_step(8.0, 2.0) == 1.0
    assert best_step(0.5, 0.0) == 1.0  # H = 1: nothing is disturbed
    assert best_step(0.0, 0.0) == best_step(-1.0, 2.0) == 0.0


@pytest.mark.parametrize("delta", [0.0, 1.0, math.nan])
def test_certificate__level_outside_0_1_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match=rf"delta: {delta} is not in \(0, 1\)"):
        evidence().certificate(delta)


def test_certificate__prints_and_is_json(tmp_path: Path) -> None:
    found = evidence().certificate(0.05)
    printed = str(found)
    for text in (f"at least {found.gain:.4g} with probability 0.95", f"{found.alpha:.4g}"):
        assert text in printed
    assert "(stepwise)" in printed and "8,000" in printed and "needed" not in printed
    write_json(tmp_path / "certificate.json", found.to_json())
    record = json.loads((tmp_path / "certificate.json").read_text())
    assert record["gain"] == found.gain and record["form"] == "stepwise"
    assert record["p_w_interval"] == list(found.p_w_interval)
    assert np.shape(record["candidate"]) == (5, 2, 2)


# Against exact values.


@pytest.mark.parametrize("name", EVALUATIONS)
def test_certificate__tends_to_the_exact_one(name: str) -> None:
    """With very many resets, what is certified is what exact p_w, 𝔸_w and penalty certify."""
    base = EVALUATIONS[name]
    weights = WEIGHTS * ~base.mdp.terminal
    candidate = np.broadcast_to(greedy_policy(base.Q), base.A.shape)
    resets = draw_resets(base, weights, np.random.default_rng(0), accepted=400_000)
    found = measure(resets, rows_of(base), candidate, base.mdp.reward_range).certificate(0.05)
    update = Update(base, candidate, weights=weights)
    advantage = policy_advantage(base, candidate, weights)
    per_reset = base.mdp.reward_width * update.disturbance / (2 * 4 * update.p_w)
    assert found.form == "stepwise"
    assert found.penalty == pytest.approx(per_reset, rel=0.01) and found.penalty > per_reset
    exact = 4 * update.p_w * advantage**2 / (4 * per_reset)
    assert 0.9 * exact < found.gain < exact < update.gain_at(found.alpha, weights)


def test_sample_width__holds_every_sample_and_is_attained() -> None:
    """One step, |A| = 2, π uniform: ±½ · 2 (G − b), with b = ¼ of rewards in [0, 1]."""
    policy = np.full((1, 1, 2), 0.5)
    candidate = np.array([[[1.0, 0.0]]])
    width = sample_width(policy, candidate, np.array([[0.25]]), np.array([[0.0, 1.0]]))
    assert width == pytest.approx(1.5)  # from −¾, action 1 with G = 1, to ¾, action 0 with G = 1
    assert sample_width(policy, policy, np.array([[0.25]]), np.array([[0.0, 1.0]])) == 0.0


@given(seed=st.integers(0, 10_000))
@repeatable
def test_sample_width__at_most_that_of_the_theorem(seed: int) -> None:
    rng = np.random.default_rng(seed)
    H, S, A = rng.integers(1, 5, 3)
    policy, candidate = rng.dirichlet(np.full(A, 0.3), (2, H, S))
    ranges = np.arange(H, 0, -1.0)[:, None] * np.array([-0.5, 1.0])
    baseline = ranges[:, :1] + rng.random((H, S)) * np.ptp(ranges, axis=1)[:, None]
    width = sample_width(policy, candidate, baseline, ranges)
    assert 0 <= width <= 2 * A * H * 1.5 + 1e-9
    h, s, a = rng.integers(0, (H, S, A), (50, 3)).T
    G = ranges[h, 0] + rng.integers(0, 2, 50) * (ranges[h, 1] - ranges[h, 0])
    samples = A * (candidate - policy)[h, s, a] * (G - baseline[h, s])
    assert np.ptp(samples) <= width + 1e-9


# Invariances.


def some_resets(rng: np.random.Generator, n: int = 60) -> Resets:
    step, state, action = rng.integers(0, (3, 4, 2), (n, 3)).T
    return Resets(step, state, action, rng.random(n) * (3 - step), 150, 400)


@given(seed=st.integers(0, 10_000), factor=st.sampled_from([0.1, 7.0]), offset=st.integers(-9, 9))
@repeatable
def test_certificate__unchanged_by_the_unit_and_the_zero_of_rewards(
    seed: int, factor: float, offset: int
) -> None:
    rng = np.random.default_rng(seed)
    data = some_resets(rng)
    policy = rng.dirichlet(np.ones(2), (3, 4))
    candidate = rng.dirichlet(np.full(2, 0.2), (3, 4))
    found = measure(data, policy, candidate, (0.0, 1.0)).certificate(0.9)
    moved = replace(data, ret=factor * data.ret + factor * offset * (3 - data.step))
    rewards = factor * offset, factor * (offset + 1)
    other = measure(moved, policy, candidate, rewards).certificate(0.9)
    for name in ("gain", "advantage", "lower", "penalty"):
        assert getattr(other, name) == pytest.approx(factor * getattr(found, name), abs=1e-9)
    assert other.alpha == pytest.approx(found.alpha, abs=1e-9)
    assert other.form == found.form
    if found.resets_needed is not None and found.resets_needed < 1e6:
        assert other.resets_needed == pytest.approx(found.resets_needed, abs=2)


@given(seed=st.integers(0, 10_000))
@repeatable
def test_certificate__unchanged_by_the_names_of_states_and_actions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = some_resets(rng)
    policy, candidate = rng.dirichlet(np.ones(2), (2, 3, 4))
    states, actions = rng.permutation(4), rng.permutation(2)
    renamed = replace(data, state=np.argsort(states)[data.state])
    renamed = replace(renamed, action=np.argsort(actions)[data.action])
    one = measure(data, policy, candidate, (0.0, 1.0)).certificate(0.5)
    pick = np.ix_(range(3), states, actions)
    two = measure(renamed, policy[pick], candidate[pick], (0.0, 1.0)).certificate(0.5)
    for name in ("gain", "alpha", "advantage", "lower", "penalty", "p_w"):
        assert getattr(two, name) == pytest.approx(getattr(one, name), abs=1e-12)


# Resets needed.


def test_resets_needed__solves_its_equation() -> None:
    """mean = (z + sqrt(2 ln(2/δ))) sqrt(V/(n−1)) + 7 w ln(2/δ) / (3(n−1))."""
    total = resets_needed(0.3, 0.8, 5.0, 0.02)
    assert total is not None and total % 2 == 0
    log, z = math.log(100), 1.2815515655446004

    def short(n: float) -> float:
        return (z + math.sqrt(2 * log)) * math.sqrt(0.8 / (n - 1)) + 35 * log / (3 * (n - 1)) - 0.3

    assert short(total / 2) <= 0 < short(total / 2 - 1)
    assert resets_needed(0.0, 0.8, 5.0, 0.02) is None
    assert resets_needed(-0.1, 0.8, 5.0, 0.02) is None
    assert resets_needed(1e-200, 0.8, 5.0, 0.02) is None  # rounding of samples


def test_resets_needed__certifies_in_nine_of_ten_repeats() -> None:
    mdp = envs.needle(0.5, horizon=2, num_actions=2)
    base = evaluate(mdp, uniform_policy(mdp))
    candidate = np.broadcast_to(greedy_policy(base.Q), base.A.shape)
    rng = np.random.default_rng(0)

    def found(accepted: int) -> Any:
        resets = draw_resets(base, np.ones((2, 3)), rng, accepted=accepted)
        return measure(resets, rows_of(base), candidate, mdp.reward_range).certificate(0.1)

    needed = found(100_000).resets_needed
    assert needed < 2000
    certified = np.mean([found(needed).lower > 0 for _ in range(200)])
    assert 0.8 < certified < 0.98
    assert np.mean([found(needed // 2).lower > 0 for _ in range(100)]) < 0.5
