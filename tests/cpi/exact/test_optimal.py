"""Optimal values against every deterministic policy, linear programming, and closed forms."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, target
from hypothesis import strategies as st
from scipy import sparse

import envs
from cpi import (
    Evaluation,
    backward_induction,
    deterministic_policy,
    evaluate,
    linear_program,
    optimal,
    policy_iteration,
    tolerance,
)
from cpi.exact.linear import Resolvent
from envs import TabularMDP
from tests.bench.problems import band, grid
from tests.cpi.worlds import (
    DISCOUNTS,
    affine,
    as_csr,
    dense_transitions,
    layered,
    over_layers,
    policy_system,
    relabelled,
    repeatable,
    rounding,
    stopping,
    world,
    worlds,
)

both_times = pytest.mark.parametrize("finite", [True, False], ids=["finite", "discounted"])
LP_TOLERANCE = 1e-6


def deterministic_actions(mdp: TabularMDP) -> Iterator[Any]:
    """The actions of every deterministic policy, (S,) or (H, S)."""
    steps = () if mdp.horizon is None else (mdp.horizon,)
    shape = (*steps, mdp.num_states)
    for actions in itertools.product(range(mdp.num_actions), repeat=int(np.prod(shape))):
        yield np.reshape(actions, shape)


def values_of(mdp: TabularMDP, actions: Any) -> Any:
    """V of a deterministic policy, (S,) or (H, S), from its definition."""
    states = np.arange(mdp.num_states)
    transitions = dense_transitions(mdp)
    if mdp.horizon is None:
        system, rewards = policy_system(mdp, np.eye(mdp.num_actions)[actions])
        return np.linalg.solve(system, rewards)
    V = np.zeros((mdp.horizon + 1, mdp.num_states))
    for h in range(mdp.horizon - 1, -1, -1):
        V[h] = mdp.rewards[states, actions[h]] + transitions[states, actions[h]] @ V[h + 1]
    return V[:-1]


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry per exact evaluation; more than a thousand raise an error."""
    calls: list[int] = []
    solve = Resolvent.solve

    def counted(self: Resolvent, b: Any) -> Any:
        calls.append(len(b))
        assert len(calls) <= 1000, "policy iteration does not end"
        return solve(self, b)

    monkeypatch.setattr(Resolvent, "solve", counted)
    return calls


@both_times
def test_no_deterministic_policy_is_better(finite: bool) -> None:
    @repeatable
    @given(mdp=worlds(finite, states=3, actions=2))
    def search(mdp: TabularMDP) -> None:
        if mdp.horizon is not None:
            mdp = mdp.with_time(horizon=min(mdp.horizon, 2))
        optimum = optimal(mdp)
        best = np.max([values_of(mdp, actions) for actions in deterministic_actions(mdp)], axis=0)
        residual = np.abs(optimum.V - best).max()
        if tolerance(mdp):
            target(residual / tolerance(mdp))
        assert residual <= 2 * tolerance(mdp)

    search()


@both_times
def test_the_optimal_policy_has_the_optimal_values(finite: bool) -> None:
    @repeatable
    @given(mdp=worlds(finite))
    def search(mdp: TabularMDP) -> None:
        optimum = optimal(mdp)
        np.testing.assert_array_equal(optimum.policy.argmax(axis=-1), optimum.actions)
        evaluation = evaluate(mdp, optimum.policy)
        np.testing.assert_allclose(evaluation.V, optimum.V, rtol=0, atol=tolerance(mdp))
        assert evaluation.A.max() <= 2 * tolerance(mdp)

    search()


@pytest.mark.parametrize("csr", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize("discount", DISCOUNTS)
def test_policy_iteration_solves_the_optimality_equation(discount: float, csr: bool) -> None:
    for seed in range(5):
        mdp = world(seed, 40, 4, discount=discount)
        optimum = policy_iteration(as_csr(mdp) if csr else mdp)
        exact = values_of(mdp, optimum.actions)
        np.testing.assert_allclose(optimum.V, exact, rtol=0, atol=tolerance(mdp))
        ahead = np.einsum("sat,t->sa", dense_transitions(mdp), exact)
        best = (mdp.rewards + discount * ahead).max(axis=1)
        np.testing.assert_allclose(best, exact, rtol=0, atol=tolerance(mdp))


@both_times
def test_linear_programming_agrees(finite: bool) -> None:
    @repeatable
    @given(mdp=worlds(finite))
    def search(mdp: TabularMDP) -> None:
        V, _ = linear_program(mdp)
        np.testing.assert_allclose(V, optimal(mdp).V, rtol=1e-9, atol=LP_TOLERANCE)

    search()


@pytest.mark.parametrize("unit", [1e-99, 1e-9, 1e25])
@pytest.mark.parametrize("time", [{"horizon": 4}, {"discount": 0.9}], ids=str)
def test_linear_program__values_scale_with_the_rewards(unit: float, time: Any) -> None:
    """HiGHS has absolute tolerances, and takes 1e20 for infinity."""
    mdp = envs.garnet(6, 3, 3, seed=5, **time)
    scaled = replace(mdp, rewards=unit * mdp.rewards)
    V, measure = linear_program(scaled)
    np.testing.assert_allclose(V / unit, optimal(mdp).V, rtol=0, atol=LP_TOLERANCE)
    np.testing.assert_allclose(measure, linear_program(mdp)[1], rtol=0, atol=LP_TOLERANCE)


@both_times
def test_the_dual_measure_flows_and_earns_the_optimal_values(finite: bool) -> None:
    @repeatable
    @given(mdp=worlds(finite))
    def search(mdp: TabularMDP) -> None:
        V, measure = linear_program(mdp)
        into = np.einsum("...sa,sat->...t", measure, dense_transitions(mdp))
        starts = np.ones(V.shape)
        if mdp.horizon is None:
            starts += (mdp.discount or 0.0) * into
        else:
            starts[1:] += into[:-1]
        scale = measure.sum()
        assert (measure >= -LP_TOLERANCE).all()
        np.testing.assert_allclose(measure.sum(axis=-1), starts, atol=1e-9 * scale)
        assert (measure * mdp.rewards).sum() == pytest.approx(V.sum(), abs=1e-8 * scale)

    search()


@pytest.mark.parametrize("seed", range(4))
def test_the_dual_measure_is_the_occupancy_of_the_optimal_policy(seed: int) -> None:
    mdp = world(seed, discount=0.9)  # rewards without ties: one optimal policy
    _, measure = linear_program(mdp)
    evaluation = evaluate(mdp, policy_iteration(mdp).policy)
    d = evaluation.occupancy_from(np.full(5, 0.2))
    expected = 5 / (1 - 0.9) * d[:, None] * evaluation.policy
    np.testing.assert_allclose(measure, expected, rtol=0, atol=LP_TOLERANCE)


@pytest.mark.parametrize("seed", range(4))
def test_the_dual_measure_of_a_horizon_adds_up_a_start_at_every_step(seed: int) -> None:
    mdp = world(seed, horizon=4)
    _, measure = linear_program(mdp)
    policy = backward_induction(mdp).policy
    expected = np.zeros((4, 5))
    for first in range(4):
        rest = evaluate(mdp.with_time(horizon=4 - first), policy[first:])
        expected[first:] += 5 * (4 - first) * rest.occupancy_from(np.full(5, 0.2))
    np.testing.assert_allclose(measure, expected[..., None] * policy, rtol=0, atol=LP_TOLERANCE)


@pytest.mark.parametrize("discount", DISCOUNTS)
@pytest.mark.parametrize("reward", [0.0, 0.1, -1 / 3])
def test_ties_do_not_make_policy_iteration_cycle(
    reward: float, discount: float, evaluations: list[int]
) -> None:
    for seed in range(5):
        mdp = world(seed, 30, 4, discount=discount)
        tied = replace(mdp, rewards=np.full((30, 4), reward))
        V = policy_iteration(tied).V
        np.testing.assert_allclose(V, reward / (1 - discount), rtol=0, atol=tolerance(tied))
    assert len(evaluations) <= 50
    if reward == 0.0:  # no rounding either
        assert len(evaluations) == 5


@pytest.mark.parametrize("discount", [0.9, 0.999, 1 - 1e-6])
def test_copies_of_an_action_do_not_make_policy_iteration_cycle(
    discount: float, evaluations: list[int]
) -> None:
    # The copies differ by rounding: their rows are the same numbers added in another order.
    rng = np.random.default_rng(0)
    row = rng.dirichlet(np.ones(20), size=20)
    transitions = np.stack([row, row * (1 + 1e-15), row * (1 - 1e-15)], axis=1)
    rewards = np.repeat(rng.uniform(-1, 1, (20, 1)), 3, axis=1)
    mdp = TabularMDP(transitions, rewards, np.full(20, 0.05), discount=discount)
    optimum = policy_iteration(mdp)
    expected = values_of(mdp, np.zeros(20, dtype=int))
    np.testing.assert_allclose(optimum.V, expected, rtol=0, atol=tolerance(mdp))
    assert len(evaluations) <= 10


def test_small_gains_count_beside_large_values() -> None:
    # Each round improves one state by half the last gain, beside 10⁴ states of value 2.
    chain = envs.kl_chain(60, discount=0.5, sparse=True)
    stay = sparse.kron(sparse.eye_array(10_000), np.ones((3, 1)))
    num_states = 10_060
    mdp = TabularMDP(
        sparse.block_diag([stay, chain.transitions], format="csr"),
        np.vstack([np.ones((10_000, 3)), chain.rewards]),
        np.full(num_states, 1 / num_states),
        discount=0.5,
    )
    V = policy_iteration(mdp).V[-60:-1]
    np.testing.assert_allclose(V, 0.5 ** np.arange(58, -1, -1), rtol=0, atol=tolerance(mdp))


@both_times
def test_relabelling_relabels_the_optimal_values(finite: bool) -> None:
    @repeatable
    @given(mdp=worlds(finite), data=st.data())
    def search(mdp: TabularMDP, data: st.DataObject) -> None:
        states = np.array(data.draw(st.permutations(range(mdp.num_states))))
        actions = np.array(data.draw(st.permutations(range(mdp.num_actions))))
        V = optimal(relabelled(mdp, states, actions)).V
        expected = optimal(mdp).V[..., states]
        np.testing.assert_allclose(V, expected, rtol=0, atol=2 * tolerance(mdp))

    search()


@both_times
def test_optimal_values_follow_affine_rewards(finite: bool) -> None:
    @repeatable
    @given(mdp=worlds(finite), factor=st.integers(0, 3), offset=st.integers(-3, 3))
    def search(mdp: TabularMDP, factor: int, offset: int) -> None:
        other = affine(mdp, factor, offset)
        if mdp.horizon is None:
            remaining: Any = 1 / (1 - (mdp.discount or 0.0))
        else:
            remaining = np.arange(mdp.horizon, 0, -1)[:, None]
        expected = factor * optimal(mdp).V + offset * remaining
        margin = factor * tolerance(mdp) + tolerance(other) + abs(offset) * rounding(mdp)
        np.testing.assert_allclose(optimal(other).V, expected, rtol=0, atol=2 * margin)

    search()


@repeatable
@given(mdp=worlds(True, states=3), discount=st.sampled_from([0.25, 0.5, 0.9]))
def test_a_finite_horizon_is_a_discounted_world_in_layers(mdp: TabularMDP, discount: float) -> None:
    assert mdp.horizon is not None
    unrolled = layered(mdp, discount)
    power = discount ** np.arange(mdp.horizon)[:, None]
    np.testing.assert_allclose(
        policy_iteration(unrolled).V,
        over_layers(backward_induction(mdp).V / power, 0),
        rtol=0,
        atol=2 * tolerance(unrolled),
    )


def test_discounting_is_stopping_with_probability_one_minus_gamma() -> None:
    mdp = world(3, discount=0.5)
    V = backward_induction(stopping(mdp, 64)).V[0, :-1]
    np.testing.assert_allclose(policy_iteration(mdp).V, V, rtol=0, atol=2 * tolerance(mdp))


@pytest.mark.parametrize("time", [{"horizon": 1}, {"discount": 0.0}], ids=str)
def test_without_a_future_the_best_reward_is_optimal(time: dict[str, Any]) -> None:
    mdp = world(4, **time)
    optimum = optimal(mdp)
    np.testing.assert_allclose(optimum.V.ravel(), mdp.rewards.max(axis=1), rtol=0, atol=1e-15)
    np.testing.assert_array_equal(optimum.actions.ravel(), mdp.rewards.argmax(axis=1))
    V, measure = linear_program(mdp)
    np.testing.assert_allclose(V, optimum.V, atol=LP_TOLERANCE)
    np.testing.assert_allclose(measure, optimum.policy, atol=LP_TOLERANCE)


def test_solvers__refuse_the_other_kind_of_mdp() -> None:
    with pytest.raises(ValueError, match="backward induction needs a horizon; use policy_iter"):
        backward_induction(world(1, discount=0.5))
    with pytest.raises(ValueError, match="policy iteration needs a discount; use backward_indu"):
        policy_iteration(world(1, horizon=3))


def test_optimal__selects_the_solver() -> None:
    assert optimal(world(1, horizon=3)).V.shape == (3, 5)
    assert optimal(world(1, discount=0.5)).V.shape == (5,)


@both_times
def test_the_first_of_equally_good_actions_is_taken(finite: bool) -> None:
    mdp = world(5, horizon=3) if finite else world(5, discount=0.9)
    tied = replace(mdp, rewards=np.zeros((5, 3)))
    assert not optimal(tied).actions.any()


@pytest.mark.parametrize("num_actions", [3, 9])
@both_times
def test_optimal__copies_of_an_mdp_have_its_optimum(finite: bool, num_actions: int) -> None:
    time: dict[str, Any] = {"horizon": 3} if finite else {"discount": 0.9}
    one = world(7, 30, num_actions, **time)
    one = replace(one, rewards=np.round(one.rewards))  # with ties
    many = TabularMDP(
        sparse.block_diag([one.flat] * 40, format="csr"),
        np.tile(one.rewards, (40, 1)),
        np.tile(one.start, 40) / 40,
        **time,
    )
    ours, theirs = optimal(one), optimal(many)
    np.testing.assert_array_equal(theirs.actions, np.tile(ours.actions, 40))
    np.testing.assert_allclose(theirs.V, np.tile(ours.V, 40), rtol=0, atol=2 * tolerance(one))


def howard(mdp: TabularMDP) -> tuple[Any, Any]:
    """V* and optimal actions by policy iteration on dense systems, one look-ahead a round."""
    actions = np.zeros(mdp.num_states, dtype=int)
    while True:
        V = values_of(mdp, actions)
        Q = mdp.rewards + mdp.discount * np.asarray(mdp.flat @ V).reshape(mdp.rewards.shape)
        better = Q.max(axis=1) > Q[np.arange(mdp.num_states), actions] + tolerance(mdp) / 64
        if not better.any():
            return V, actions
        actions = np.where(better, Q.argmax(axis=1), actions)


def with_ties(mdp: TabularMDP) -> TabularMDP:
    """The same transitions, with rewards 0 and 1 and an exact copy of each action."""
    num_states, num_actions = mdp.rewards.shape
    rows = np.arange(mdp.rewards.size).reshape(num_states, num_actions)
    rows = np.concatenate([rows, rows], axis=1).ravel()
    rewards = np.round(np.tile(mdp.rewards, 2))
    return replace(mdp, transitions=mdp.flat[rows], rewards=rewards)


def large_worlds() -> dict[str, TabularMDP]:
    """MDPs above the size from which policies are improved before the first exact evaluation."""
    chain = envs.kl_chain(400, 0.5, sparse=True)
    order = np.random.default_rng(0).permutation(400)
    rows = (3 * order[:, None] + np.arange(3)).ravel()
    quick = envs.garnet(400, 3, 3, seed=1, discount=0.95, sparse=True)
    return {
        "chain": chain,
        "shuffled chain": replace(
            chain,
            transitions=chain.transitions[rows][:, order],
            rewards=chain.rewards[order],
            start=chain.start[order],
        ),
        "band": band(400),
        "grid": grid(20),
        "sparse": quick,
        "sparse, far": replace(quick, discount=0.999),
        "sparse, near": replace(quick, discount=0.3),
        "sparse, ties": with_ties(quick),
        "one reward": replace(quick, rewards=np.eye(1, 1200, 7).reshape(400, 3)),
        "dense": envs.garnet(400, 3, 200, seed=1, discount=0.95),
        "chain beside random successors": TabularMDP(
            sparse.block_diag([chain.flat, quick.flat], format="csr"),
            np.vstack([10 * chain.rewards, quick.rewards]),
            np.full(800, 1 / 800),
            discount=0.5,
        ),
    }


@pytest.mark.parametrize("name", large_worlds())
def test_policy_iteration__large_worlds_have_the_optimum_of_howards_rounds(name: str) -> None:
    mdp = large_worlds()[name]
    optimum = policy_iteration(mdp)
    expected, _ = howard(mdp)
    np.testing.assert_allclose(optimum.V, expected, rtol=0, atol=tolerance(mdp))
    exact = values_of(mdp, optimum.actions)
    np.testing.assert_allclose(exact, expected, rtol=0, atol=tolerance(mdp))
    V, _ = linear_program(mdp)
    np.testing.assert_allclose(optimum.V, V, rtol=1e-7, atol=LP_TOLERANCE)


@repeatable
@given(mdp=worlds(False), lone=st.booleans())
def test_policy_iteration__small_worlds_side_by_side_make_a_large_one(
    mdp: TabularMDP, lone: bool
) -> None:
    copies = 1 + 320 // mdp.num_states
    rewards = np.tile(mdp.rewards, (copies, 1))
    if lone:  # one copy with rewards: few states to improve
        rewards[mdp.num_states :] = 0
    many = TabularMDP(
        sparse.block_diag([mdp.flat] * copies, format="csr"),
        rewards,
        np.full(len(rewards), 1 / len(rewards)),
        discount=mdp.discount,
    )
    expected = np.tile(optimal(mdp).V, copies)
    if lone:
        expected[mdp.num_states :] = 0
    optimum = policy_iteration(many)
    np.testing.assert_allclose(optimum.V, expected, rtol=0, atol=2 * tolerance(mdp))
    V = evaluate(many, optimum.policy).V
    np.testing.assert_allclose(V, expected, rtol=0, atol=2 * tolerance(mdp))


@pytest.mark.parametrize("discount", [0.5, 0.95, 0.999])
def test_policy_iteration__values_of_fast_mixing_worlds_are_exact_without_evaluations(
    discount: float, evaluations: list[int]
) -> None:
    for mdp in (
        envs.garnet(2000, 4, 3, discount=discount, sparse=True),
        envs.garnet(400, 4, 200, discount=discount),
    ):
        optimum = policy_iteration(mdp)
        Q = mdp.rewards + discount * (mdp.flat @ optimum.V).reshape(mdp.rewards.shape)
        chosen = Q[np.arange(mdp.num_states), optimum.actions]
        rounding = 8 * np.finfo(float).eps * (1 + 2 * optimum.V.max())
        np.testing.assert_allclose(optimum.V, chosen, rtol=0, atol=rounding)
        np.testing.assert_allclose(Q.max(axis=1), chosen, rtol=0, atol=rounding)
    assert not evaluations


def test_policy_iteration__improvements_spread_along_a_chain(evaluations: list[int]) -> None:
    mdp = envs.kl_chain(3000, discount=0.99, sparse=True)
    optimum = policy_iteration(mdp)
    assert len(evaluations) <= 4  # Howard's rounds improve one state each
    expected = 0.99 ** np.arange(2998, -1, -1)
    np.testing.assert_allclose(optimum.V[:-1], expected, rtol=0, atol=tolerance(mdp))
    assert (optimum.actions[:-1][expected > 1e-12] == 2).all()


@pytest.mark.parametrize("length", [1, 5, 20])
def test_lock__optimal_actions(length: int) -> None:
    mdp = envs.lock_chain(length, 3)
    optimum = optimal(mdp)
    assert optimum.V[0, 0] == 1.0
    assert not optimum.actions[np.arange(length), np.arange(length)].any()


@pytest.mark.parametrize("mapping_seed", [None, 0, 7])
@pytest.mark.parametrize("size", [1, 4, 10])
def test_deep_sea__optimum(size: int, mapping_seed: int | None) -> None:
    mdp = envs.deep_sea(size, mapping_seed)
    assert mdp.start @ optimal(mdp).V[0] == pytest.approx(0.99, abs=tolerance(mdp))


@pytest.mark.parametrize(("depth", "branching"), [(1, 1), (4, 2), (3, 3)])
def test_tree__optimum_is_the_largest_leaf(depth: int, branching: int) -> None:
    mdp = envs.tree(depth, branching, seed=2)
    best = envs.tree_leaf_rewards(depth, branching, 2).max()
    assert optimal(mdp).V[0, 0] == best
    assert linear_program(mdp)[0][0, 0] == pytest.approx(best, abs=LP_TOLERANCE)


@pytest.mark.parametrize("num_states", [2, 5, 40])
def test_kl_chain__optimal_policy_goes_right(num_states: int) -> None:
    mdp = envs.kl_chain(num_states, discount=0.9)
    optimum = optimal(mdp)
    distance = np.arange(num_states - 2, -1, -1)
    np.testing.assert_allclose(optimum.V[:-1], 0.9**distance, rtol=0, atol=tolerance(mdp))
    assert optimum.V[-1] == 0.0
    assert (optimum.actions[:-1] == 2).all()


def test_optimum__policy_has_one_row_per_state() -> None:
    mdp = world(6, horizon=3)
    optimum = optimal(mdp)
    np.testing.assert_array_equal(optimum.policy, deterministic_policy(optimum.actions, 3))
    assert Evaluation(mdp, optimum.policy).J == pytest.approx(mdp.start @ optimum.V[0], abs=1e-14)
