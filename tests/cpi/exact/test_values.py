"""Values, occupancies and returns against identities, enumeration and closed forms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, target
from hypothesis import strategies as st

from cpi import (
    candidate_advantage,
    evaluate,
    mixture,
    tolerance,
    uniform_policy,
)
from cpi.bounds import Update, check_bounds
from cpi.exact.improvement import expectation
from cpi.exact.policies import greedy_policy
from cpi.exact.values import rounding_of
from envs import TabularMDP
from tests.cpi.worlds import (
    DISCOUNTS,
    affine,
    as_csr,
    dense_transitions,
    endless_chain,
    interior_policy,
    layered,
    over_layers,
    policies,
    policy_system,
    problems,
    relabelled,
    repeatable,
    repeated,
    rounding,
    rows_at,
    stopping,
    total_reward,
    trajectories,
    world,
    worlds,
)

both_times = pytest.mark.parametrize("finite", [True, False], ids=["finite", "discounted"])


def ahead(mdp: TabularMDP, values: Any) -> Any:
    """Expected next value of every (s, a), by one sum over indices."""
    return np.einsum("sat,t->sa", dense_transitions(mdp), values)


def bellman_residual(mdp: TabularMDP, policy: Any) -> float:
    """Largest violation of Q = r + γ P V and of V = Σ π Q."""
    evaluation = evaluate(mdp, policy)
    V, Q = evaluation.V, evaluation.Q
    averages = np.abs((policy * Q).sum(axis=-1) - V).max()
    if mdp.horizon is None:
        expected = mdp.rewards + mdp.discount * ahead(mdp, V)
        return max(averages, np.abs(Q - expected).max())
    later = [*V[1:], np.zeros(mdp.num_states)]
    expected = np.stack([mdp.rewards + ahead(mdp, following) for following in later])
    return max(averages, np.abs(Q - expected).max())


@both_times
def test_bellman_equations_hold_at_rounding(finite: bool) -> None:
    @repeatable
    @given(problem=problems(finite))
    def search(problem: tuple[TabularMDP, Any]) -> None:
        mdp, policy = problem
        residual = bellman_residual(mdp, policy)
        if tolerance(mdp):
            target(residual / tolerance(mdp))
        assert residual <= tolerance(mdp)

    search()


@both_times
def test_occupancy_is_a_distribution_that_obeys_the_flow_equations(finite: bool) -> None:
    @repeatable
    @given(problem=problems(finite))
    def search(problem: tuple[TabularMDP, Any]) -> None:
        mdp, policy = problem
        d = evaluate(mdp, policy).occupancy
        assert (d >= 0).all()
        assert d.sum() == pytest.approx(1.0, abs=rounding(mdp))
        if mdp.horizon is None:
            assert mdp.discount is not None
            into = np.einsum("s,sa,sat->t", d, policy, dense_transitions(mdp))
            expected = (1 - mdp.discount) * mdp.start + mdp.discount * into
        else:
            moves = zip(d[:-1], repeated(mdp, policy), strict=False)
            into = [np.einsum("s,sa,sat->t", *x, dense_transitions(mdp)) for x in moves]
            expected = np.stack([mdp.start / mdp.horizon, *into])
        residual = np.abs(d - expected).max()
        target(residual / rounding(mdp))
        assert residual <= rounding(mdp)

    search()


@both_times
def test_the_policy_has_no_advantage_over_itself(finite: bool) -> None:
    @repeatable
    @given(problem=problems(finite))
    def search(problem: tuple[TabularMDP, Any]) -> None:
        mdp, policy = problem
        mean = (policy * evaluate(mdp, policy).A).sum(axis=-1)
        assert np.abs(mean).max() <= tolerance(mdp)

    search()


@both_times
def test_J_is_the_occupancy_times_the_rewards(finite: bool) -> None:
    @repeatable
    @given(problem=problems(finite))
    def search(problem: tuple[TabularMDP, Any]) -> None:
        mdp, policy = problem
        evaluation = evaluate(mdp, policy)
        rewards = (policy * mdp.rewards).sum(axis=-1)
        mean = float((evaluation.occupancy * rewards).sum())
        steps = mdp.horizon if mdp.horizon is not None else 1 / (1 - (mdp.discount or 0.0))
        residual = abs(evaluation.J - steps * mean)
        if tolerance(mdp):
            target(residual / tolerance(mdp))
        assert residual <= tolerance(mdp)

    search()


@repeatable
@given(problem=problems(True, states=3, actions=2))
def test_J_is_the_mean_reward_of_all_trajectories(problem: tuple[TabularMDP, Any]) -> None:
    mdp, policy = problem
    paths = list(trajectories(mdp, policy))
    assert sum(p for p, _ in paths) == pytest.approx(1.0, abs=rounding(mdp))
    mean = sum(p * total_reward(mdp, pairs) for p, pairs in paths)
    assert evaluate(mdp, policy).J == pytest.approx(mean, abs=tolerance(mdp))


@repeatable
@given(problem=problems(True, states=2, actions=2))
def test_V_is_the_mean_reward_of_all_trajectories_from_there(
    problem: tuple[TabularMDP, Any],
) -> None:
    mdp, policy = problem
    V = evaluate(mdp, policy).V
    for step, state in np.ndindex(V.shape):
        paths = trajectories(mdp, policy, step=step, state=state)
        mean = sum(p * total_reward(mdp, pairs) for p, pairs in paths)
        assert V[step, state] == pytest.approx(mean, abs=tolerance(mdp))


@repeatable
@given(problem=problems(True, states=3, actions=2))
def test_occupancy_counts_the_visits_of_all_trajectories(problem: tuple[TabularMDP, Any]) -> None:
    mdp, policy = problem
    d = evaluate(mdp, policy).occupancy
    visits = np.zeros(d.shape)
    for p, pairs in trajectories(mdp, policy):
        for step, (state, _) in enumerate(pairs):
            visits[step, state] += p / len(pairs)
    np.testing.assert_allclose(d, visits, rtol=0, atol=rounding(mdp))


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize("discount", DISCOUNTS)
def test_discounted_values_and_occupancy_solve_the_dense_system(
    discount: float, sparse: bool
) -> None:
    for seed in range(5):
        mdp = world(seed, 30, 3, discount=discount)
        policy = interior_policy(mdp, seed)
        system, rewards = policy_system(mdp, policy)
        evaluation = evaluate(as_csr(mdp) if sparse else mdp, policy)
        V = np.linalg.solve(system, rewards)
        d = (1 - discount) * np.linalg.solve(system.T, mdp.start)
        np.testing.assert_allclose(evaluation.V, V, rtol=0, atol=tolerance(mdp))
        np.testing.assert_allclose(evaluation.occupancy, d, rtol=0, atol=rounding(mdp))
        assert evaluation.J == pytest.approx(mdp.start @ V, abs=tolerance(mdp))


def test_without_a_future_values_are_rewards() -> None:
    mdp = world(3, discount=0.0)
    policy = interior_policy(mdp, 3)
    evaluation = evaluate(mdp, policy)
    np.testing.assert_array_equal(evaluation.Q, mdp.rewards)
    mean = (policy * mdp.rewards).sum(axis=1)
    np.testing.assert_allclose(evaluation.V, mean, rtol=0, atol=tolerance(mdp))
    np.testing.assert_array_equal(evaluation.occupancy, mdp.start)


def test_with_one_step_values_are_rewards() -> None:
    mdp = world(4, horizon=1)
    policy = interior_policy(mdp, 4)
    evaluation = evaluate(mdp, policy)
    assert evaluation.V.shape == (1, 5) and evaluation.Q.shape == (1, 5, 3)
    np.testing.assert_array_equal(evaluation.Q[0], mdp.rewards)
    mean = (policy[0] * mdp.rewards).sum(axis=1)
    np.testing.assert_allclose(evaluation.V[0], mean, rtol=0, atol=tolerance(mdp))
    np.testing.assert_array_equal(evaluation.occupancy[0], mdp.start)


@both_times
def test_relabelling_states_and_actions_relabels_every_quantity(finite: bool) -> None:
    @repeatable
    @given(problem=problems(finite), data=st.data())
    def search(problem: tuple[TabularMDP, Any], data: st.DataObject) -> None:
        mdp, policy = problem
        states = np.array(data.draw(st.permutations(range(mdp.num_states))))
        actions = np.array(data.draw(st.permutations(range(mdp.num_actions))))
        ours = evaluate(mdp, policy)
        theirs = evaluate(relabelled(mdp, states, actions), policy[..., states[:, None], actions])
        close = {"rtol": 0, "atol": 2 * tolerance(mdp)}
        np.testing.assert_allclose(theirs.V, ours.V[..., states], **close)
        np.testing.assert_allclose(theirs.Q, ours.Q[..., states[:, None], actions], **close)
        np.testing.assert_allclose(theirs.A, ours.A[..., states[:, None], actions], **close)
        np.testing.assert_allclose(
            theirs.occupancy, ours.occupancy[..., states], rtol=0, atol=2 * rounding(mdp)
        )
        assert theirs.J == pytest.approx(ours.J, abs=2 * tolerance(mdp))

    search()


@both_times
def test_values_follow_affine_rewards(finite: bool) -> None:
    @repeatable
    @given(problem=problems(finite), factor=st.integers(-3, 3), offset=st.integers(-3, 3))
    def search(problem: tuple[TabularMDP, Any], factor: int, offset: int) -> None:
        mdp, policy = problem
        other = affine(mdp, factor, offset)
        ours, theirs = evaluate(mdp, policy), evaluate(other, policy)
        if mdp.horizon is None:
            remaining: Any = 1 / (1 - (mdp.discount or 0.0))
            first = remaining
        else:
            remaining = np.arange(mdp.horizon, 0, -1)[:, None]
            first = mdp.horizon
        margin = abs(factor) * tolerance(mdp) + tolerance(other) + abs(offset) * rounding(mdp)
        close = {"rtol": 0, "atol": margin}
        np.testing.assert_allclose(theirs.V, factor * ours.V + offset * remaining, **close)
        np.testing.assert_allclose(
            theirs.Q, factor * ours.Q + offset * np.expand_dims(remaining, -1), **close
        )
        np.testing.assert_allclose(theirs.A, factor * ours.A, **close)
        assert theirs.J == pytest.approx(factor * ours.J + offset * first, abs=margin)
        np.testing.assert_array_equal(theirs.occupancy, ours.occupancy)

    search()


@both_times
def test_csr_transitions_give_what_dense_ones_give(finite: bool) -> None:
    @repeatable
    @given(problem=problems(finite))
    def search(problem: tuple[TabularMDP, Any]) -> None:
        mdp, policy = problem
        dense = replace(mdp, transitions=dense_transitions(mdp))
        ours, theirs = evaluate(dense, policy), evaluate(as_csr(dense), policy)
        for name in ("V", "Q", "A", "J"):
            np.testing.assert_allclose(
                getattr(ours, name), getattr(theirs, name), rtol=0, atol=tolerance(mdp)
            )
        np.testing.assert_allclose(ours.occupancy, theirs.occupancy, rtol=0, atol=rounding(mdp))

    search()


@repeatable
@given(mdp=worlds(True), data=st.data())
def test_a_stationary_policy_is_the_same_policy_at_every_step(
    mdp: TabularMDP, data: st.DataObject
) -> None:
    policy = rows_at(data.draw(policies(mdp)), 0)
    once, always = evaluate(mdp, policy), evaluate(mdp, repeated(mdp, policy))
    for name in ("V", "Q", "A", "J"):
        np.testing.assert_allclose(
            getattr(once, name), getattr(always, name), rtol=0, atol=tolerance(mdp)
        )
    np.testing.assert_allclose(once.occupancy, always.occupancy, rtol=0, atol=rounding(mdp))


@repeatable
@given(problem=problems(True, states=3), discount=st.sampled_from([0.25, 0.5, 0.9]))
def test_a_finite_horizon_is_a_discounted_world_in_layers(
    problem: tuple[TabularMDP, Any], discount: float
) -> None:
    mdp, policy = problem
    assert mdp.horizon is not None
    unrolled = layered(mdp, discount)
    rows = over_layers(repeated(mdp, policy), 1 / mdp.num_actions)
    ours, theirs = evaluate(mdp, policy), evaluate(unrolled, rows)
    close = {"rtol": 0, "atol": tolerance(unrolled)}
    power = discount ** np.arange(mdp.horizon)[:, None]
    np.testing.assert_allclose(theirs.V, over_layers(ours.V / power, 0), **close)
    np.testing.assert_allclose(theirs.Q, over_layers(ours.Q / power[..., None], 0), **close)
    assert theirs.J == pytest.approx(ours.J, abs=tolerance(unrolled))
    d = (1 - discount) * mdp.horizon * power * ours.occupancy
    np.testing.assert_allclose(
        theirs.occupancy, over_layers(d, discount**mdp.horizon), rtol=0, atol=rounding(unrolled)
    )


@pytest.mark.parametrize("discount", [0.0, 0.3, 0.5])
def test_discounting_is_stopping_with_probability_one_minus_gamma(discount: float) -> None:
    mdp = world(6, discount=discount)
    policy = interior_policy(mdp, 6)
    long = stopping(mdp, 64)  # 0.5 ** 64 is below any rounding
    ours = evaluate(mdp, policy)
    theirs = evaluate(long, np.vstack([policy, np.full(3, 1 / 3)]))
    np.testing.assert_allclose(theirs.V[0, :-1], ours.V, rtol=0, atol=tolerance(mdp))
    np.testing.assert_allclose(theirs.Q[0, :-1], ours.Q, rtol=0, atol=tolerance(mdp))
    visits = 64 * theirs.occupancy[:, :-1].sum(axis=0)
    np.testing.assert_allclose((1 - discount) * visits, ours.occupancy, rtol=0, atol=rounding(mdp))


@pytest.mark.parametrize("time", [{"horizon": 4}, {"discount": 0.9}], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_the_policy_gradient_is_the_slope_of_J(seed: int, time: dict[str, Any]) -> None:
    mdp = world(seed, **time)
    policy, candidate = interior_policy(mdp, seed), interior_policy(mdp, seed + 100)
    h = 1e-5  # interior policies stay policies for ± this
    slope = (
        evaluate(mdp, mixture(policy, candidate, h)).J
        - evaluate(mdp, mixture(policy, candidate, -h)).J
    ) / (2 * h)
    evaluation = evaluate(mdp, policy)
    mean = expectation(evaluation, candidate_advantage(evaluation, candidate))
    steps = 4 if mdp.discount is None else 1 / (1 - mdp.discount)
    assert abs(slope) > 1e-2
    assert slope == pytest.approx(steps * mean, abs=1e-7)


@both_times
def test_the_performance_difference_is_the_candidate_visiting_its_advantages(finite: bool) -> None:
    @repeatable
    @given(mdp=worlds(finite), data=st.data())
    def search(mdp: TabularMDP, data: st.DataObject) -> None:
        old, new = data.draw(policies(mdp)), data.draw(policies(mdp))
        before, after = evaluate(mdp, old), evaluate(mdp, new)
        steps = mdp.horizon if mdp.horizon is not None else 1 / (1 - (mdp.discount or 0.0))
        change = steps * expectation(after, candidate_advantage(before, new))
        residual = abs(after.J - before.J - change)
        if tolerance(mdp):
            target(residual / tolerance(mdp))
        assert residual <= 2 * tolerance(mdp)

    search()


@pytest.mark.parametrize("time", [{"horizon": 3}, {"discount": 0.9}], ids=str)
def test_occupancy_from_other_starts_mixes_as_the_starts_do(time: dict[str, Any]) -> None:
    mdp = world(7, **time)
    evaluation = evaluate(mdp, interior_policy(mdp, 7))
    corners = np.stack([evaluation.occupancy_from(e) for e in np.eye(5)])
    mixed = np.tensordot(mdp.start, corners, axes=1)
    np.testing.assert_allclose(evaluation.occupancy, mixed, rtol=0, atol=rounding(mdp))
    moved = evaluate(replace(mdp, start=np.eye(5)[2]), evaluation.policy)
    np.testing.assert_allclose(moved.occupancy, corners[2], rtol=0, atol=rounding(mdp))


# Copies.

QUANTITIES = ("V", "Q", "A", "occupancy")
each_time = pytest.mark.parametrize("time", [{"horizon": 3}, {"discount": 0.9}], ids=str)


@each_time
def test_evaluate__the_callers_array_may_change(time: dict[str, Any]) -> None:
    mdp = world(1, **time)
    policy = interior_policy(mdp, 1)
    expected, ours = evaluate(mdp, policy.copy()), evaluate(mdp, policy)
    assert ours.J == expected.J
    policy[...] = np.eye(3)[0]
    for name in QUANTITIES:
        np.testing.assert_array_equal(getattr(ours, name), getattr(expected, name))


@each_time
def test_evaluation__quantities_are_read_only(time: dict[str, Any]) -> None:
    mdp = world(1, **time)
    for order in (QUANTITIES, QUANTITIES[::-1]):  # V and Q may be computed together
        evaluation = evaluate(mdp, interior_policy(mdp, 1))
        for name in ("policy", *order):
            with pytest.raises(ValueError, match="read-only"):
                getattr(evaluation, name)[...] = 0.0
    best = Update(evaluation, evaluation.policy).best  # shared by all updates of the MDP
    for array in (best.V, best.policy):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


@each_time
def test_update__the_callers_arrays_may_change(time: dict[str, Any]) -> None:
    mdp = world(2, **time)
    base = evaluate(mdp, interior_policy(mdp, 2))
    candidate = np.array(np.broadcast_to(greedy_policy(base.Q), base.A.shape))
    weights, restart = np.full(base.V.shape, 0.5), np.full(5, 0.2)
    given = (base, candidate, 0.7, weights, 0.01, restart)
    expected = Update(base, candidate.copy(), 0.7, weights.copy(), 0.01, restart.copy())
    ours = Update(*given)
    assert ours.new.J == expected.new.J
    candidate[...], weights[...], restart[...] = np.eye(3)[0], 1.0, np.eye(5)[0]
    for name in ("a", "w", "new_advantage", "restarted"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(expected, name))


# Rounded policies, and discounts near 1.


@each_time
def test_bounds_hold_for_policies_of_ten_decimals_and_of_float32(time: dict[str, Any]) -> None:
    off = []
    for seed in range(10):
        mdp = world(seed, **time)
        exact = np.random.default_rng(seed).dirichlet(np.ones(3), size=(2, *mdp.start.shape))
        for policy, candidate in (np.round(exact, 10), exact.astype(np.float32)):
            off.append(np.abs(policy.astype(float).sum(axis=1) - 1).max())
            assert check_bounds(mdp, policy, candidate).violations == 0
    assert np.median(off) > 5e-11
    single = replace(mdp, transitions=dense_transitions(mdp).astype(np.float32))
    assert check_bounds(single, exact[0], exact[1]).violations == 0


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize("leave", [1e-7, 1e-9, 1e-12])
def test_occupancy_sums_to_1_near_discount_1(leave: float, sparse: bool) -> None:
    """Without an end, all rounding of P is seen 1 / (1 − γ) times."""
    for seed in range(4):
        mdp = world(seed, 6, discount=1 - leave)
        mdp = replace(mdp, rewards=np.ones((6, 3)))
        evaluation = evaluate(as_csr(mdp) if sparse else mdp, interior_policy(mdp, seed))
        assert evaluation.occupancy.sum() == pytest.approx(1.0, abs=1e-6)
        assert evaluation.J * (1 - mdp.discount) == pytest.approx(1.0, abs=1e-6)  # type: ignore[operator]


@pytest.mark.parametrize("leave", [1e-7, 1e-9])
def test_rounding__follows_the_values_near_discount_1(leave: float) -> None:
    """An episode that pays 1 in all has values up to 1, however long it may last."""
    mdp = endless_chain(1 - leave)
    evaluation = evaluate(mdp, uniform_policy(mdp))
    assert evaluation.J == pytest.approx(1.0, abs=1e-3)
    ulps = 64 * np.finfo(float).eps
    assert rounding_of(evaluation) == pytest.approx(ulps / leave, rel=1e-3)
    report = check_bounds(mdp, uniform_policy(mdp), np.tile([0.9, 0.1], (5, 1)))
    # Every policy is paid in the end: what it may lose is in proportion to 1 − γ.
    assert report.violations == 0 and report["termination"].without_power == (leave < 1e-8)
    paid_forever = evaluate(replace(mdp, rewards=np.ones((5, 2))), uniform_policy(mdp))
    expected = pytest.approx(ulps / leave**2, rel=1e-3)
    assert rounding_of(paid_forever, evaluation) == tolerance(paid_forever.mdp) == expected
