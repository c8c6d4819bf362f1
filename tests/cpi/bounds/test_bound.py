"""The registry as data, `check_bounds` in a notebook, and relations between bounds."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import cpi
import envs
from cpi.bounds import REGISTRY, BoundReport, Update, check_updates, discounted, finite
from cpi.bounds.bound import Bound, Check
from cpi.bounds.check import Row
from cpi.bounds.instances import (
    chain_instances,
    random_instances,
    random_mdp,
    tight_instances,
)
from tests.cpi.worlds import endless_chain

BY_NAME = {bound.name: bound for bound in REGISTRY}


def problem(**time: Any) -> tuple[envs.TabularMDP, Any, Any]:
    mdp = envs.garnet(num_states=6, num_actions=3, branching=3, seed=3, **time)
    policy = cpi.uniform_policy(mdp)
    return mdp, policy, cpi.greedy_policy(cpi.evaluate(mdp, policy).Q)


def test_at_least_14_bounds_with_distinct_names_and_their_data() -> None:
    assert len(REGISTRY) >= 14
    assert len(BY_NAME) == len(REGISTRY)
    for bound in REGISTRY:
        assert bound.statement and bound.source and bound.sense in (">=", "<=", "=")
        # A bound has a hypothesis in code exactly if it is also stated in words.
        unconditional = bound.hypothesis.__name__ == "always"
        assert unconditional == (not bound.requires), bound.name


@pytest.mark.parametrize("time", [{"horizon": 5}, {"discount": 0.9}])
def test_check_bounds_covers_the_kind_of_mdp_and_finds_no_violation(time: Any) -> None:
    report = cpi.check_bounds(*problem(**time))
    expected = finite.BOUNDS if "horizon" in time else discounted.BOUNDS
    assert [row.bound for row in report.rows] == list(expected)
    assert report.violations == 0 and not report.failures
    assert all(row.instances for row in report.rows)
    assert report.rows[0].instances == 8  # steps × reset rules


def test_report_prints_as_a_table_with_a_verdict() -> None:
    text = str(cpi.check_bounds(*problem(horizon=5)))
    words = ("masked CPI", "PSDP", "checks", "violated", "Samanta et al. 2026", "cpi.bounds --list")
    for word in words:
        assert word in text
    assert text.endswith("no violation.")


def test_report__numbers_are_whole_at_80_columns() -> None:
    report = cpi.check_bounds(*problem(discount=0.9))
    report.rows[0].instances, report.rows[0].violations = 1_234_567, 7654
    recorder = Console(width=80, no_color=True)
    with recorder.capture() as capture:
        recorder.print(report)
    printed = capture.get()
    assert "…" not in printed and "1,234,567" in printed and "7654" in printed
    for row in report.rows:
        assert f"{row.min_slack:.1e}" in printed and row.summary in printed


def test_report_to_json__plain_data() -> None:
    rows = json.loads(json.dumps(cpi.check_bounds(*problem(horizon=5)).to_json()))
    for row in rows:
        assert row["violations"] == 0 and row["min_slack"] > -1e-12
        assert {"name", "source", "instances", "tightness", "statement"} <= set(row)


def test_report__rows_by_name() -> None:
    report = cpi.check_bounds(*problem(discount=0.9))
    assert report["CPI"].bound is BY_NAME["CPI"]
    with pytest.raises(KeyError, match="no bound 'CPI-RR'"):
        report["CPI-RR"]


FALSE = Bound("false", "gain ≥ 1 + gain", "nobody", ">=", lambda u: u.gain, lambda u: u.gain + 1)


@pytest.mark.parametrize(
    ("bound", "violated"),
    [
        (FALSE, True),
        (Bound("nan", "", "", ">=", lambda u: float("nan"), lambda u: 0.0), True),
        (Bound("above", "", "", "<=", lambda u: 1.0, lambda u: 0.9), True),
        (Bound("below", "", "", "<=", lambda u: 0.9, lambda u: 1.0), False),
        (Bound("unequal", "", "", "=", lambda u: 1.0, lambda u: 1.0 + 1e-9), True),
        (Bound("unequal too", "", "", "=", lambda u: 1.0 + 1e-9, lambda u: 1.0), True),
        (Bound("equal", "", "", "=", lambda u: 1.0, lambda u: 1.0 + 1e-15), False),
        (Bound("large", "", "", "=", lambda u: 1e6, lambda u: 1e6 + 1e-8), False),  # 10 ulp of 1e6
    ],
)
def test_a_false_statement_is_a_violation(
    bound: Bound, violated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finite, "BOUNDS", (*finite.BOUNDS, bound))
    mdp, policy, candidate = problem(horizon=4)
    update = Update(cpi.evaluate(mdp, policy), candidate, alpha=0.5)
    report = check_updates([("here", update)], (bound,))
    assert report.violations == int(violated)
    assert [label for label, _ in report.failures] == ["here"] * violated
    assert report.verdict().startswith("1 violations" if violated else "All 1 bounds hold")


def test_slack_and_ratios() -> None:
    mdp, policy, candidate = problem(horizon=4)
    update = Update(cpi.evaluate(mdp, policy), candidate)
    check = Bound("x", "", "", ">=", lambda u: 2.0, lambda u: 1.5, first_order=lambda u: 3.0).check(
        update
    )
    assert check is not None
    assert (check.slack, check.tightness, check.penalty_ratio) == (0.5, 0.75, 1.5)
    tiny = made_check(1e-12, 2e-12, 3e-12)  # ratios of rounding are noise
    assert np.isnan(tiny.tightness) and np.isnan(tiny.penalty_ratio)
    check = Bound("y", "", "", "<=", lambda u: 2.0, lambda u: 3.0).check(update)
    assert check is not None
    assert (check.slack, check.tightness) == (1.0, 1.5) and np.isnan(check.penalty_ratio)


def made_check(left: float, right: float, first_order: float | None = None) -> Check:
    """A check of left ≥ right with these sides."""
    mdp, policy, candidate = problem(horizon=4)
    gain = None if first_order is None else lambda u: first_order
    bound = Bound("x", "", "", ">=", lambda u: left, lambda u: right, first_order=gain)
    check = bound.check(Update(cpi.evaluate(mdp, policy), candidate))
    assert check is not None
    return check


def test_row__extremes_over_all_checks() -> None:
    """Smallest slack, largest right side and nearest ratios, in any order of the checks."""
    checks = [
        made_check(2.0, 1.0, 4.0),  # slack 1, ratio ½, penalty 3 of 2 lost
        made_check(1.0, 1.5, 3.0),  # slack −½, violated, penalty 1.5 of 2
        made_check(4.0, 3.6, 6.0),  # slack 0.4, ratio 0.9, penalty 2.4 of 2
        made_check(9.0, -2.0),  # slack 11, without ratios
    ]
    for order in itertools.permutations(checks):
        row = Row(checks[0].bound)
        for check in order:
            row.add(check)
        assert (row.instances, row.violations, row.powerless) == (4, 1, 0)
        assert (row.min_slack, row.max_right) == pytest.approx((-0.5, 3.6))
        assert (row.tightness, row.penalty_ratio) == pytest.approx((0.9, 1.2))
        assert not row.vacuous


def test_report__every_failure_is_listed() -> None:
    mdp, policy, candidate = problem(horizon=4)
    base = cpi.evaluate(mdp, policy)
    at_half = Bound("½", "", "", ">=", lambda u: float(u.alpha != 0.5), lambda u: 1.0)
    always = Bound("all", "", "", ">=", lambda u: 0.0, lambda u: 1.0)
    updates = [(f"α = {a}", Update(base, candidate, a)) for a in (0.1, 0.5, 0.9)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finite, "BOUNDS", (at_half, always))
        report = check_updates(updates, finite.BOUNDS)
    assert [(label, check.bound.name) for label, check in report.failures] == [
        ("α = 0.1", "all"),
        ("α = 0.5", "½"),
        ("α = 0.5", "all"),
        ("α = 0.9", "all"),
    ]
    assert report.violations == 4
    assert report.verdict().startswith("4 violations of 2 of 2 bounds in 6 checks")


def test_report__says_which_checks_have_no_power() -> None:
    """Near γ = 1 two policies that differ by 1e-6 in value differ by less than the rounding."""
    mdp = endless_chain(1 - 1e-12)
    policy = np.tile([0.5, 0.5], (5, 1))
    report = cpi.check_bounds(mdp, policy, np.tile([0.5 - 1e-9, 0.5 + 1e-9], (5, 1)))
    assert report["performance difference"].without_power
    assert "No power in" in report.verdict() and "no power" in str(report)
    near = cpi.check_bounds(mdp.with_time(discount=0.9), policy, np.tile([0.1, 0.9], (5, 1)))
    assert not any(row.without_power for row in near.rows)
    assert near.verdict().endswith("no violation.")


def some_updates() -> Iterator[tuple[str, Update]]:
    return itertools.chain(tight_instances(), chain_instances(), random_instances(5, 15))


SHARPER = [
    ("CPI, span form", "CPI"),
    ("CPO, span form", "CPO"),
    ("CPO", "TRPO, TV form"),
    ("TRPO, TV form", "TRPO, KL form by Pinsker"),
    ("TRPO, KL form by Pinsker", "TRPO, KL form"),
    ("TRPO, KL form of trajectories", "TRPO, KL form by Pinsker"),
    ("safe policy iteration", "safe policy iteration, value form"),
    ("termination, restart form", "termination"),
    ("masked CPI, step by step", "masked CPI"),
    ("masked CPI, ε form", "masked CPI, bounded returns"),
    ("masked CPI, discounted, returns", "masked CPI, discounted"),
    ("masked CPI, discounted, pair form", "masked CPI, discounted, returns"),
    ("masked CPI, discounted, weighted", "masked CPI, discounted, returns"),
    ("masked CPI, discounted, span form", "masked CPI, discounted, weighted"),
    ("localizer, nowhere worse", "localizer"),
    ("coverage, finite", "PSDP"),
]


@pytest.mark.parametrize(("larger", "smaller"), SHARPER)
def test_sharper_bounds_are_sharper(larger: str, smaller: str) -> None:
    compared = 0
    for _, update in some_updates():
        if update.mdp.horizon is None and BY_NAME[larger] in finite.BOUNDS:
            continue
        if update.mdp.horizon is not None and BY_NAME[larger] in discounted.BOUNDS:
            continue
        one, two = BY_NAME[larger].check(update), BY_NAME[smaller].check(update)
        if one is not None and two is not None:
            compared += 1
            assert one.right >= two.right - 1e-9 * max(1.0, abs(two.right))
    assert compared > 20


IMPROVED = [bound for bound in REGISTRY if bound.improved_by]


@pytest.mark.parametrize("bound", IMPROVED, ids=[bound.id for bound in IMPROVED])
def test_improved_by__the_other_bound_promises_more_of_the_same_gain(bound: Bound) -> None:
    better, compared = BY_NAME[bound.improved_by], 0
    for _, update in some_updates():
        if bound not in cpi.bounds.bounds_for(update.mdp):
            continue
        rule = update.improvable.astype(float) if bound.name == "CPI-CARO" else update.weights
        if bound.name in ("CPI step", "CPI-RR"):
            rule = None
        update = dataclasses.replace(update, weights=rule)
        one, two = bound.check(update), better.check(update)
        if one is None or two is None or abs(one.right) <= one.rounding:
            continue
        compared += 1
        assert one.left == pytest.approx(two.left, rel=1e-9, abs=one.rounding)
        assert two.right > one.right or update.mdp.discount == 0
        if bound.first_order is None:
            assert two.right > 1.05 * one.right
    assert compared > 20


@pytest.mark.parametrize("discount", [0.9, 1 - 1e-6, 1 - 1e-9])
def test_kl_form__holds_for_the_smallest_steps(discount: float) -> None:
    """KL is O(α²), of which a sum of logarithms keeps no digit. Values of 0 leave no rounding."""
    rewards = np.array([[1.0, -1.0, -1.0]])
    mdp = envs.TabularMDP(np.eye(1)[[[0, 0, 0]]], rewards, [1.0], discount=discount)
    base = cpi.evaluate(mdp, np.array([[0.5, 0.3, 0.2]]))
    bound = BY_NAME["TRPO, KL form"]
    for alpha in 10.0 ** np.arange(-14, -1):
        update = Update(base, np.array([[0.1, 0.1, 0.8]]), alpha)
        change = update.new.policy - base.policy
        expected = float((change**2 / base.policy).sum()) / 2
        assert update.kl_max == pytest.approx(expected, rel=10 * alpha, abs=0)
        check = bound.check(update)
        assert check is not None and not check.violated


def test_kl_form__drops_and_rare_actions() -> None:
    mdp = envs.TabularMDP(np.eye(1)[[[0, 0, 0]]], np.zeros((1, 3)), [1.0], discount=0.5)
    base = cpi.evaluate(mdp, np.array([[0.5, 0.5 - 5e-324, 5e-324]]))
    moved = Update(base, np.array([[0.25, 0.25, 0.5]]))
    assert moved.kl_max == pytest.approx(np.log(2), rel=1e-14)
    assert Update(base, np.array([[1.0, 0.0, 0.0]])).kl_max == np.inf


def test_precision_recall_and_coverage_agree() -> None:
    checked = 0
    for _, update in random_instances(2, 20):
        if update.tau is not None and update.mdp.horizon and update.recall > 0:
            checked += 1
            expected = update.p * update.recall / update.precision
            assert update.p_w == pytest.approx(expected, rel=1e-12)
    assert checked > 20


def test_random_instances_are_reproducible_and_differ_by_seed() -> None:
    first, again, other = (
        [update.gain for _, update in random_instances(seed, 3)] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_a_longer_run_starts_with_the_shorter_one() -> None:
    short = [label for label, _ in random_instances(0, 2)]
    longer = [label for label, _ in random_instances(0, 3)]
    assert longer[: len(short)] == short


def test_random_instances__every_kind_of_weights_and_restarts() -> None:
    """Random resets, oracle resets, a noisy localizer of two weights, and any weights."""
    kinds = set()
    for _, update in random_instances(0, 10):
        assert update.restart is not None and update.restart.std() > 0
        finite_kind = update.mdp.horizon is not None
        values = 1 if update.weights is None else len(np.unique(update.weights))
        binary = update.weights is not None and set(np.unique(update.weights)) <= {0.0, 1.0}
        kinds.add((finite_kind, update.weights is None, binary, min(values, 3)))
    rules = {(True, False, 1), (False, True, 2), (False, False, 2), (False, False, 3)}
    assert {(time, *rule) for time in (True, False) for rule in rules} <= kinds


def test_random_mdps_have_zeros_and_both_signs() -> None:
    worlds = [random_mdp(np.random.default_rng(seed), finite=True) for seed in range(30)]
    assert all((world.flat == 0).any() for world in worlds[:5])
    assert min(world.reward_range[0] for world in worlds) < 0


def test_restart_distribution_is_used() -> None:
    mdp, policy, candidate = problem(discount=0.8)
    from_start = Update(cpi.evaluate(mdp, policy), candidate)
    from_restart = Update(from_start.base, candidate, restart=np.eye(6)[2])
    bound = BY_NAME["termination"]
    one, two = bound.check(from_start), bound.check(from_restart)
    assert one is not None and two is not None
    assert one.left == two.left and one.right != two.right


BAD = [
    ({"alpha": 1.5}, "alpha: 1.5"),
    ({"alpha": -0.1}, "alpha: -0.1"),
    ({"alpha": float("nan")}, "alpha: nan"),
    ({"tau": -1.0}, "tau: -1.0"),
    ({"tau": float("nan")}, "tau: nan"),
    ({"weights": np.ones(5)}, r"weights: shape \(5,\)"),
    ({"weights": np.full(6, 1.1)}, "weights: must lie"),
    ({"weights": np.full(6, np.nan)}, "weights: must lie"),
    ({"weights": np.ma.masked_array(np.ones(6), [1, 0, 0, 0, 0, 0])}, "weights: .*some are masked"),
    ({"weights": np.ones(6) * 1j}, "weights: .*they are complex"),
    ({"restart": np.ma.masked_array(np.ones(6) / 6, [1, 0, 0, 0, 0, 0])}, "restart: .* masked"),
    ({"alpha": "half"}, "alpha: not an array of real numbers"),
    ({"restart": np.ones(6)}, "restart: sums to 6"),
    ({"restart": np.ones(5) / 5}, r"restart: shape \(5,\)"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
@pytest.mark.parametrize("time", [{"horizon": 3}, {"discount": 0.5}])
def test_check_bounds__bad_arguments_are_named(time: Any, bad: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cpi.check_bounds(*problem(**time), **bad)


def test_check_bounds__bad_candidate_is_named() -> None:
    mdp, policy, candidate = problem(horizon=3)
    with pytest.raises(cpi.PolicyError, match="candidate: step 0, state 2"):
        cpi.check_bounds(mdp, policy, candidate * [[1], [1], [0.5], [1], [1], [1]])


def test_check_bounds__step_bounds_do_not_apply_to_an_optimal_policy() -> None:
    mdp, _, _ = problem(horizon=4)
    best = cpi.optimal(mdp).policy
    report = cpi.check_bounds(mdp, best, best)
    assert report.violations == 0
    assert report["CPI-RR"].instances == 0 and report["masked step"].instances == 0
    used = sum(row.instances > 0 for row in report.rows)
    skipped = len(report.rows) - used
    assert f"All {used} bounds hold in " in report.verdict()
    assert f" checks ({skipped} did not apply): no violation." in report.verdict()


@pytest.mark.parametrize(("excess", "violated"), [(1e-6, False), (0.1, True)])
def test_check__rounding_of_the_first_order_gain(excess: float, violated: bool) -> None:
    """Two terms of 1e8, each with the rounding of an occupancy, leave a right side near 1."""
    mdp = envs.tight_cpi(1 - 1e-8).mdp
    mdp = replace(mdp, rewards=1e-12 * mdp.rewards)
    update = Update(cpi.evaluate(mdp, [0, 0]), np.array([[0.0, 1.0]] * 2))
    bound = Bound(
        "difference",
        "",
        "",
        ">=",
        left=lambda u: 1.0,
        right=lambda u: 1.0 + excess * 1e4,
        first_order=lambda u: 1e8,
    )
    check = bound.check(update)
    assert check is not None and check.violated == violated


@pytest.mark.parametrize("time", [{"horizon": 3}, {"discount": 0.5}], ids=str)
def test_density_ratio__tiny_restart_probabilities(time: Any) -> None:
    """The optimal policy stays in state 0, where episodes restart with probability 1e-310."""
    transitions = np.repeat(np.eye(2)[:, None], 2, axis=1)
    mdp = envs.TabularMDP(transitions, [[1.0, 0.0], [0.0, 0.0]], [1.0, 0.0], **time)
    report = cpi.check_bounds(mdp, [1, 1], [0, 0], restart=[1e-310, 1.0])
    name = "PSDP" if mdp.horizon else "termination"
    assert report.violations == 0 and report[name].instances == 0


@pytest.mark.parametrize("digits", [3, 4, 5, 6, 8, 10, 12])
def test_check_bounds__no_false_violation_near_a_discount_of_1(digits: int) -> None:
    """At α = 1 the span form is an equality of 1, the difference of two terms of 1/(1−γ).

    π walks among unpaid states forever. The candidate is paid 1 once, and the episode is over.
    """
    for seed in range(5):
        rng = np.random.default_rng(seed)
        weights = rng.integers(1, 4, size=(5, 5))
        transitions = np.zeros((6, 2, 6))
        transitions[:5, 0, :5] = weights / weights.sum(axis=1, keepdims=True)
        transitions[:5, 1, 5] = transitions[5, :, 5] = 1.0
        rewards = np.zeros((6, 2))
        rewards[:5, 1] = 1.0
        start = np.append(rng.dirichlet(np.ones(5)), 0.0)
        mdp = envs.TabularMDP(transitions, rewards, start, discount=1 - 10.0**-digits)
        report = cpi.check_bounds(mdp, [0] * 6, [1] * 6, alpha=[1.0, 0.3, 1e-6])
        assert report.violations == 0
        if digits <= 6:  # below, 1 is near rounding
            assert report["CPI, span form"].tightness == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("horizon", [1, 2])
@pytest.mark.parametrize("seed", range(20))
def test_check_bounds__steps_of_1_are_not_above_it(horizon: int, seed: int) -> None:
    """Action 1 gains r at every step left, the most there is: α = 1, or an ulp above it."""
    rng = np.random.default_rng(seed)
    transitions = np.zeros((5, 2, 5))
    transitions[range(4), 0, range(4)] = transitions[:, 1, 4] = transitions[4, 0, 4] = 1.0
    rewards = np.array([[0.0, 1.0]] * 4 + [[1.0, 1.0]]) * rng.random()
    start = np.append(rng.dirichlet(np.ones(4)), 0.0)
    mdp = envs.TabularMDP(transitions, rewards, start, horizon=horizon)
    weights = np.zeros((horizon, 5))
    weights[0] = 1.0
    report = cpi.check_bounds(mdp, [0] * 5, [1] * 5, weights=weights)
    assert report.violations == 0 and report["masked step"].instances == 4


def test_check_bounds__constant_rewards() -> None:
    for time in ({"horizon": 3}, {"discount": 0.9}):
        mdp, policy, candidate = problem(**time)
        flat = envs.TabularMDP(mdp.transitions, np.full((6, 3), 0.7), mdp.start, **time)  # type: ignore[arg-type]
        assert cpi.check_bounds(flat, policy, candidate).violations == 0


def test_row__vacuous_without_a_promised_gain() -> None:
    mdp, policy, candidate = problem(discount=0.99)
    report: BoundReport = cpi.check_bounds(mdp, policy, candidate, alpha=1.0)
    assert report["CPI"].vacuous and report["CPI"].violations == 0
    assert not report["CPI step"].vacuous
    assert "vacuous" in str(report)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("time", [{"horizon": 4}, {"discount": 0.9}])
def test_rounding_is_measured_in_the_unit_of_the_bound(scale: float, time: Any) -> None:
    mdp, policy, candidate = problem(**time)
    scaled = envs.TabularMDP(mdp.transitions, mdp.rewards * scale, mdp.start, **time)
    for target in (candidate, policy):
        assert cpi.check_bounds(scaled, policy, target).violations == 0
    update = Update(cpi.evaluate(scaled, policy), candidate, tau=scale * 1e-3)
    for name in ("occupancy shift", "visit probability"):
        if BY_NAME[name] in cpi.bounds.bounds_for(scaled):
            check = BY_NAME[name].check(update)
            assert check is not None and 1e-15 < check.rounding < 1e-11


def test_check_bounds__unreachable_tau_and_no_step_are_refused() -> None:
    with pytest.raises(ValueError, match="no state has an advantage above 1e"):
        cpi.check_bounds(*problem(horizon=4), tau=1e9)
    with pytest.raises(ValueError, match="alpha: no step size given"):
        cpi.check_bounds(*problem(horizon=4), alpha=[])
    with pytest.raises(ValueError, match="alpha: 0 changes no policy"):
        cpi.check_bounds(*problem(horizon=4), alpha=[0.5, 0])
