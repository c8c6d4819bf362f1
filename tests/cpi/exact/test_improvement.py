"""Improvable sets, coverage and visit probability, against enumeration and a worked lock."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, target
from hypothesis import strategies as st

import envs
from cpi import (
    Evaluation,
    PolicyError,
    candidate_advantage,
    coverage,
    deterministic_policy,
    evaluate,
    greedy_policy,
    improvable,
    mixture,
    optimal,
    policy_advantage,
    switch_free_mass,
    tolerance,
    uniform_policy,
    visit_probability,
)
from cpi.bounds import check_bounds
from cpi.exact.improvement import default_tau, visited_improvable
from envs import TabularMDP
from tests.cpi.worlds import (
    as_csr,
    dense_transitions,
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
    trajectories,
    world,
)


def test_coverage__never_above_1() -> None:
    """The occupancy sums to 1 but for rounding; where all is accepted, that would be seen."""
    for seed in range(40):
        for time in ({"horizon": 7}, {"discount": 0.95}):
            mdp = envs.garnet(9, 3, 3, seed=seed).with_time(**time)
            evaluation = evaluate(mdp, uniform_policy(mdp))
            everywhere = np.ones(mdp.num_states)
            assert coverage(evaluation, everywhere) == pytest.approx(1.0, abs=1e-14)
            assert coverage(evaluation, everywhere) <= 1.0
            assert visit_probability(evaluation, everywhere) <= 1.0


both_times = pytest.mark.parametrize("finite", [True, False], ids=["finite", "discounted"])
times = pytest.mark.parametrize("time", [{"horizon": 4}, {"discount": 0.9}], ids=str)


def steps_of(mdp: TabularMDP) -> float:
    """H, or 1/(1−γ)."""
    return mdp.horizon if mdp.horizon is not None else 1 / (1 - (mdp.discount or 0.0))


def subset(data: st.DataObject, shape: tuple[int, ...]) -> Any:
    """Any set of states, as a mask."""
    size = int(np.prod(shape))
    members = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    return np.reshape(np.array(members), shape)


def fractions(data: st.DataObject, shape: tuple[int, ...]) -> Any:
    """Weights in [0, 1], both ends included."""
    size = int(np.prod(shape))
    quarters = data.draw(st.lists(st.integers(0, 4), min_size=size, max_size=size))
    return np.reshape(np.array(quarters) / 4, shape)


def avoids(mdp: TabularMDP, policy: Any, mask: Any) -> float:
    """Pr(the set is never visited), by backward recursion."""
    if mdp.horizon is None:
        assert mdp.discount is not None
        # Off the set: stop with probability 1 − γ, or continue and avoid the set from there.
        system, _ = policy_system(mdp, policy)
        system[mask] = np.eye(mdp.num_states)[mask]
        safe = np.linalg.solve(system, np.where(mask, 0.0, 1 - mdp.discount))
        return float(mdp.start @ safe)
    safe = np.ones(mdp.num_states)
    for h in reversed(range(mdp.horizon)):
        after = safe if h + 1 < mdp.horizon else np.ones(mdp.num_states)
        moves = np.einsum("sa,sat->st", rows_at(policy, h), dense_transitions(mdp))
        safe = np.where(mask[h], 0.0, moves @ after)
    return float(mdp.start @ safe)


@pytest.fixture(scope="module")
def lock() -> Evaluation:
    """The worked lock: 20 steps, right with probability .98, the one at index 5 uniform."""
    success = np.full(20, 0.98)
    success[5] = 0.25
    return evaluate(envs.lock_chain(20, 4), envs.lock_policy(success, 4))


def test_the_worked_lock_visits_one_improvable_state(lock: Evaluation) -> None:
    assert lock.A.max() == pytest.approx(0.5652, abs=5e-5)
    mask = improvable(lock, 0.2826)
    assert np.argwhere(mask & (lock.occupancy > 0)).tolist() == [[5, 5]]


def test_the_worked_lock_is_covered_once_in_22_draws(lock: Evaluation) -> None:
    p = coverage(lock, improvable(lock, 0.2826))
    assert p == pytest.approx(0.0452, abs=5e-5)
    assert p == pytest.approx(0.98**5 / 20, rel=1e-12)
    assert 1 / p == pytest.approx(22.1, abs=0.05)


def test_the_worked_lock_is_visited_as_often_as_its_prefix_is_right(lock: Evaluation) -> None:
    visit = visit_probability(lock, improvable(lock, 0.2826))
    assert visit == pytest.approx(0.98**5, rel=1e-12)


def test_the_full_masked_step_opens_the_worked_lock(lock: Evaluation) -> None:
    mask = improvable(lock, 0.2826).astype(float)
    opened = mixture(lock.policy, greedy_policy(lock.Q), 1.0, mask)
    gain = evaluate(lock.mdp, opened).J - lock.J
    assert gain == pytest.approx(0.511, abs=5e-4)
    assert gain == pytest.approx(0.75 * 0.98**19, rel=1e-12)
    assert gain == pytest.approx(0.98**5 * lock.A.max(), rel=1e-12)  # only one state changed


def test_the_lock_advantage_grows_by_1_over_p_with_the_oracle(lock: Evaluation) -> None:
    greedy = greedy_policy(lock.Q)
    mask = improvable(lock, 0.2826)
    assert policy_advantage(lock, greedy, mask) == pytest.approx(lock.A.max(), rel=1e-12)
    only_there = mixture(lock.policy, greedy, 1.0, mask.astype(float))
    p = coverage(lock, mask)
    assert policy_advantage(lock, only_there) == pytest.approx(p * lock.A.max(), rel=1e-12)


@both_times
def test_the_candidate_advantage_is_the_mean_over_its_actions(finite: bool) -> None:
    @repeatable
    @given(problem=problems(finite), data=st.data())
    def search(problem: tuple[TabularMDP, Any], data: st.DataObject) -> None:
        mdp, policy = problem
        candidate = data.draw(policies(mdp))
        evaluation = evaluate(mdp, policy)
        a = candidate_advantage(evaluation, candidate)
        assert a.shape == evaluation.V.shape
        chances = np.broadcast_to(candidate, evaluation.A.shape)
        for where in np.ndindex(a.shape):
            pairs = zip(chances[where], evaluation.A[where], strict=True)
            assert a[where] == pytest.approx(sum(p * x for p, x in pairs), abs=tolerance(mdp))

    search()


@both_times
def test_coverage__weights_of_1(finite: bool) -> None:
    @repeatable
    @given(problem=problems(finite))
    def search(problem: tuple[TabularMDP, Any]) -> None:
        mdp, policy = problem
        evaluation = evaluate(mdp, policy)
        ones = np.ones(evaluation.V.shape)
        assert coverage(evaluation, ones) == pytest.approx(1.0, abs=rounding(mdp))
        assert coverage(evaluation, 1.0) == pytest.approx(1.0, abs=rounding(mdp))
        assert visit_probability(evaluation, ones) == pytest.approx(1.0, abs=rounding(mdp))

    search()


@both_times
def test_visit_probability__empty_set(finite: bool) -> None:
    mdp = world(1, horizon=3) if finite else world(1, discount=0.9)
    evaluation = evaluate(mdp, interior_policy(mdp, 1))
    nothing = np.zeros(evaluation.V.shape, dtype=bool)
    assert coverage(evaluation, nothing) == 0.0
    assert visit_probability(evaluation, nothing) == 0.0


@both_times
def test_masked_advantage_is_the_mean_over_accepted_states(finite: bool) -> None:
    @repeatable
    @given(problem=problems(finite), data=st.data())
    def search(problem: tuple[TabularMDP, Any], data: st.DataObject) -> None:
        mdp, policy = problem
        evaluation = evaluate(mdp, policy)
        candidate = data.draw(policies(mdp))
        weights = fractions(data, evaluation.V.shape)
        accepted = (evaluation.occupancy * weights).ravel()
        assume(accepted.sum() > 0.01)
        a = candidate_advantage(evaluation, candidate).ravel()
        assert coverage(evaluation, weights) == pytest.approx(accepted.sum(), abs=rounding(mdp))
        mean = float(np.average(a, weights=accepted))
        margin = 100 * tolerance(mdp)
        assert policy_advantage(evaluation, candidate, weights) == pytest.approx(mean, abs=margin)

    search()


@times
def test_the_slope_of_the_masked_mixture(time: dict[str, Any]) -> None:
    for seed in range(4):
        mdp = world(seed, **time)
        policy, candidate = interior_policy(mdp, seed), interior_policy(mdp, seed + 50)
        evaluation = evaluate(mdp, policy)
        weights = np.random.default_rng(seed).uniform(size=evaluation.V.shape)
        h = 1e-5
        up, down = (evaluate(mdp, mixture(policy, candidate, step, weights)).J for step in (h, -h))
        p, advantage = (
            coverage(evaluation, weights),
            policy_advantage(evaluation, candidate, weights),
        )
        assert abs(advantage) > 1e-3
        assert (up - down) / (2 * h) == pytest.approx(steps_of(mdp) * p * advantage, abs=1e-7)


@repeatable
@given(problem=problems(True, states=3, actions=2), data=st.data())
def test_visit_probability_counts_trajectories_that_meet_the_set(
    problem: tuple[TabularMDP, Any], data: st.DataObject
) -> None:
    mdp, policy = problem
    evaluation = evaluate(mdp, policy)
    mask = subset(data, evaluation.V.shape)
    met = sum(
        p
        for p, pairs in trajectories(mdp, policy)
        if any(mask[h, state] for h, (state, _) in enumerate(pairs))
    )
    assert visit_probability(evaluation, mask) == pytest.approx(met, abs=rounding(mdp))


@both_times
def test_visit_probability__complements_avoidance(finite: bool) -> None:
    @repeatable
    @given(problem=problems(finite), data=st.data())
    def search(problem: tuple[TabularMDP, Any], data: st.DataObject) -> None:
        mdp, policy = problem
        evaluation = evaluate(mdp, policy)
        mask = subset(data, evaluation.V.shape)
        visit = visit_probability(evaluation, mask)
        residual = abs(visit + avoids(mdp, policy, mask) - 1)
        target(residual / rounding(mdp))
        assert residual <= rounding(mdp)

    search()


@both_times
def test_visit_probability_lies_between_coverage_and_coverage_times_the_horizon(
    finite: bool,
) -> None:
    @repeatable
    @given(problem=problems(finite), data=st.data())
    def search(problem: tuple[TabularMDP, Any], data: st.DataObject) -> None:
        mdp, policy = problem
        evaluation = evaluate(mdp, policy)
        mask = subset(data, evaluation.V.shape)
        p, visit = coverage(evaluation, mask), visit_probability(evaluation, mask)
        if p > 0:
            target(visit / (p * steps_of(mdp)))
        assert p - rounding(mdp) <= visit <= p * steps_of(mdp) + rounding(mdp)
        assert visit <= 1 + rounding(mdp)

    search()


def test_a_set_met_at_one_step_only_is_visited_h_times_its_coverage() -> None:
    mdp = world(2, horizon=4)
    evaluation = evaluate(mdp, interior_policy(mdp, 2))
    for step in range(4):
        mask = np.zeros((4, 5), dtype=bool)
        mask[step, :2] = True
        expected = 4 * coverage(evaluation, mask)
        assert visit_probability(evaluation, mask) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("discount", [0.0, 0.3, 0.5])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
def test_visit_probability__discounting_is_stopping(discount: float, sparse: bool) -> None:
    for seed in range(5):
        mdp = world(seed, discount=discount)
        policy = interior_policy(mdp, seed)
        mask = np.random.default_rng(seed).random(5) < 0.3
        long = evaluate(stopping(mdp, 64), np.vstack([policy, np.full(3, 1 / 3)]))
        expected = visit_probability(long, np.broadcast_to(np.append(mask, False), (64, 6)))
        ours = evaluate(as_csr(mdp) if sparse else mdp, policy)
        assert visit_probability(ours, mask) == pytest.approx(expected, abs=rounding(mdp))


def test_a_discounted_visit_is_a_sum_over_the_first_time() -> None:
    for seed in range(5):
        mdp = world(seed, discount=0.9)
        policy = interior_policy(mdp, seed)
        mask = np.random.default_rng(seed).random(5) < 0.4
        moves = np.einsum("sa,sat->st", policy, dense_transitions(mdp))
        outside, total = mdp.start, 0.0
        for t in range(400):  # 0.9 ** 400 < 1e−18
            total += 0.9**t * outside[mask].sum()
            outside = np.where(mask, 0.0, outside) @ moves
        visit = visit_probability(evaluate(mdp, policy), mask)
        assert visit == pytest.approx(total, abs=rounding(mdp))


@both_times
def test_without_switches_the_mass_is_the_occupancy(finite: bool) -> None:
    @repeatable
    @given(problem=problems(finite))
    def search(problem: tuple[TabularMDP, Any]) -> None:
        mdp, policy = problem
        evaluation = evaluate(mdp, policy)
        for never in (0.0, np.zeros(evaluation.V.shape)):
            mass = switch_free_mass(evaluation, never)
            expected = steps_of(mdp) * evaluation.occupancy
            margin = 2 * steps_of(mdp) * rounding(mdp)
            np.testing.assert_allclose(mass, expected, rtol=0, atol=margin)

    search()


@times
def test_certain_switches_leave_only_the_start(time: dict[str, Any]) -> None:
    mdp = world(3, **time)
    evaluation = evaluate(mdp, interior_policy(mdp, 3))
    mass = switch_free_mass(evaluation, np.ones(evaluation.V.shape))
    first, later = (mass, 0.0) if mdp.horizon is None else (mass[0], mass[1:])
    np.testing.assert_allclose(first, mdp.start, rtol=0, atol=rounding(mdp))
    assert np.all(later == 0)


@repeatable
@given(problem=problems(True, states=3, actions=2), data=st.data())
def test_switch_free_mass_weighs_trajectories_by_their_chance_not_to_switch(
    problem: tuple[TabularMDP, Any], data: st.DataObject
) -> None:
    mdp, policy = problem
    evaluation = evaluate(mdp, policy)
    switch = fractions(data, evaluation.V.shape)
    expected = np.zeros(switch.shape)
    for p, pairs in trajectories(mdp, policy):
        survived = p
        for h, (state, _) in enumerate(pairs):
            expected[h, state] += survived
            survived *= 1 - switch[h, state]
    np.testing.assert_allclose(
        switch_free_mass(evaluation, switch), expected, rtol=0, atol=rounding(mdp)
    )


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
def test_discounted_switch_free_mass_solves_the_thinned_system(sparse: bool) -> None:
    for seed in range(5):
        mdp = world(seed, 20, discount=0.95)
        policy = interior_policy(mdp, seed)
        switch = np.random.default_rng(seed).uniform(size=20)
        moves = np.einsum("sa,sat->st", policy, dense_transitions(mdp))
        system = np.eye(20) - 0.95 * (moves * (1 - switch)[:, None])
        expected = np.linalg.solve(system.T, mdp.start)
        evaluation = evaluate(as_csr(mdp) if sparse else mdp, policy)
        mass = switch_free_mass(evaluation, switch)
        np.testing.assert_allclose(mass, expected, rtol=0, atol=rounding(mdp))


@repeatable
@given(problem=problems(True, states=3), data=st.data())
def test_layers_turn_switch_free_mass_and_visits_into_discounted_ones(
    problem: tuple[TabularMDP, Any], data: st.DataObject
) -> None:
    mdp, policy = problem
    assert mdp.horizon is not None
    ours = evaluate(mdp, policy)
    switch = fractions(data, ours.V.shape)
    rows = over_layers(repeated(mdp, policy), 1 / mdp.num_actions)
    theirs = evaluate(layered(mdp, 0.5), rows)
    mass = switch_free_mass(theirs, over_layers(switch, 0.0))[:-1].reshape(switch.shape)
    power = 0.5 ** np.arange(mdp.horizon)[:, None]
    expected = power * switch_free_mass(ours, switch)
    np.testing.assert_allclose(mass, expected, rtol=0, atol=rounding(theirs.mdp))


@both_times
def test_relabelling_relabels_improvable_states_and_keeps_the_numbers(finite: bool) -> None:
    @repeatable
    @given(problem=problems(finite), data=st.data())
    def search(problem: tuple[TabularMDP, Any], data: st.DataObject) -> None:
        mdp, policy = problem
        ours = evaluate(mdp, policy)
        best = np.unique(ours.A.max(axis=-1))
        gaps = np.diff(np.append(0.0, best))
        assume(gaps.max() > 0.01)
        tau = float(best[gaps.argmax()] - gaps.max() / 2)  # no advantage is near it
        states = np.array(data.draw(st.permutations(range(mdp.num_states))))
        actions = np.array(data.draw(st.permutations(range(mdp.num_actions))))
        theirs = evaluate(relabelled(mdp, states, actions), policy[..., states[:, None], actions])
        mask, renamed = improvable(ours, tau), improvable(theirs, tau)
        np.testing.assert_array_equal(renamed, mask[..., states])
        for quantity in (coverage, visit_probability):
            expected = pytest.approx(quantity(ours, mask), abs=2 * rounding(mdp))
            assert quantity(theirs, renamed) == expected

    search()


@times
def test_improvable__threshold_is_strict(time: dict[str, Any]) -> None:
    mdp = world(5, **time)
    evaluation = evaluate(mdp, uniform_policy(mdp))
    best = evaluation.A.max(axis=-1)
    tau = float(np.sort(best, axis=None)[best.size // 2])
    mask = improvable(evaluation, tau)
    assert mask.dtype == bool and mask.shape == best.shape
    np.testing.assert_array_equal(mask, best > tau)
    assert not mask[best == tau].any()


def test_every_state_with_a_better_action_is_improvable_at_zero() -> None:
    mdp = world(6, discount=0.9)
    assert improvable(evaluate(mdp, interior_policy(mdp, 6)), 0).all()


@pytest.mark.parametrize("tau", [-1.0, -1e-12, float("nan"), float("-inf")])
def test_improvable__threshold_below_0_is_refused(lock: Evaluation, tau: float) -> None:
    with pytest.raises(ValueError, match=f"tau: {tau} is not a number ≥ 0"):
        improvable(lock, tau)


@pytest.mark.parametrize("tau", [0.6, float("inf")])
def test_an_empty_improvable_set_names_the_largest_advantage(lock: Evaluation, tau: float) -> None:
    with pytest.raises(ValueError, match=rf"no state .* above {tau:g} \(the largest is 0\.5652\)"):
        improvable(lock, tau)


def test_an_optimal_policy_has_no_improvable_state() -> None:
    mdp = envs.tree(3, 2)
    with pytest.raises(ValueError, match=r"no state .* above 0 \(the largest is 0\)"):
        improvable(evaluate(mdp, optimal(mdp).policy), 0.0)


def test_improvable_mask__ignores_rounding() -> None:
    rounded = 0
    for seed in range(10):
        mdp = world(seed, discount=0.99)
        evaluation = evaluate(mdp, optimal(mdp).policy)
        rounded += evaluation.A.max() > 0
        with pytest.raises(ValueError, match="no state has an advantage above 0"):
            improvable(evaluation, 0.0)
    assert rounded > 0


def beside_the_way() -> TabularMDP:
    """State 0 leads to the end; in state 1, which nobody reaches, there is 100 to win."""
    moves = np.eye(3)[[[2, 2], [2, 2], [2, 2]]]
    rewards = np.array([[0.0, 1.0], [0.0, 100.0], [0.0, 0.0]])
    return TabularMDP(moves, rewards, np.eye(3)[0], horizon=2)


@times
def test_default_tau__only_visited_states_count(time: dict[str, Any]) -> None:
    mdp = beside_the_way().with_time(**time)
    evaluation = evaluate(mdp, uniform_policy(mdp))
    tau = default_tau(evaluation)
    assert tau == pytest.approx(0.25)
    assert coverage(evaluation, improvable(evaluation, tau)) > 0
    assert improvable(evaluation, 0.6).any()
    message = (
        r"tau: no state with an advantage above 0\.6 has an occupancy .* \(the largest .* 0\.5\)"
    )
    with pytest.raises(ValueError, match=message):
        visited_improvable(evaluation, 0.6)
    with pytest.raises(ValueError, match=message):
        check_bounds(mdp, uniform_policy(mdp), uniform_policy(mdp), tau=0.6)
    best_where_it_goes = evaluate(mdp, np.array([1, 0, 0]))
    assert default_tau(best_where_it_goes) is None


@pytest.mark.parametrize("bad", [1.2, -0.1, np.nan, np.inf])
@times
def test_weights_outside_0_1_are_refused(time: dict[str, Any], bad: float) -> None:
    mdp = world(7, **time)
    evaluation = evaluate(mdp, uniform_policy(mdp))
    weights = np.full(evaluation.V.shape, 0.5)
    weights[..., 2] = bad
    for function, name in (
        (coverage, "weights"),
        (visit_probability, "mask"),
        (switch_free_mass, "switch"),
    ):
        with pytest.raises(ValueError, match=rf"{name}: must lie in \[0, 1\], found {bad:g}"):
            function(evaluation, weights)
        with pytest.raises(ValueError, match=rf"{name}: shape \(4,\), expected"):
            function(evaluation, np.ones(4))
        half = np.full(evaluation.V.shape, 0.5)
        for no_numbers, reason in (
            (half + 1j, "complex"),
            (np.ma.masked_equal(half, 0.5), "masked"),
        ):
            with pytest.raises(ValueError, match=rf"{name}: not an array of real .*{reason}"):
                function(evaluation, no_numbers)
    with pytest.raises(ValueError, match=r"weights: must lie in \[0, 1\]"):
        policy_advantage(evaluation, uniform_policy(mdp), weights)


@pytest.mark.parametrize("tau", [None, "high", np.ones(2)], ids=str)
def test_improvable__threshold_that_is_no_number_is_refused(lock: Evaluation, tau: Any) -> None:
    with pytest.raises(ValueError, match=r"tau: .* is not a number ≥ 0"):
        improvable(lock, tau)


@times
def test_policy_advantage__zero_weights_are_refused(time: dict[str, Any]) -> None:
    mdp = world(7, **time)
    evaluation = evaluate(mdp, uniform_policy(mdp))
    with pytest.raises(ValueError, match=r"weights: accept no state that the policy visits"):
        policy_advantage(evaluation, uniform_policy(mdp), np.zeros(evaluation.V.shape))


def test_policy_advantage__weights_on_unvisited_states_are_refused(lock: Evaluation) -> None:
    elsewhere = np.zeros((20, 21))
    elsewhere[0, 5] = 1.0  # at step 0 the lock is at its start
    with pytest.raises(ValueError, match=r"weights: accept no state that the policy visits"):
        policy_advantage(lock, lock.policy, elsewhere)


def test_candidate_advantage__invalid_candidate_is_refused(lock: Evaluation) -> None:
    with pytest.raises(PolicyError, match=r"candidate: shape \(3, 4\), expected \(21, 4\) or"):
        candidate_advantage(lock, np.full((3, 4), 0.25))
    broken = deterministic_policy(np.zeros((20, 21), dtype=int), 4)
    broken[3, 7] = 0.5
    with pytest.raises(PolicyError, match="candidate: step 3, state 7 has probabilities"):
        policy_advantage(lock, broken)
