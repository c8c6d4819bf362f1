"""Rolled-out episodes against exact values and every enumerated trajectory, with seeds fixed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import envs
from cpi import deterministic_policy, evaluate
from cpi.core.episodes import Episode, Prefix
from cpi.tabular.simulator import SHORT, Rows, TabularSimulator
from envs import TabularMDP
from tests.cpi.scripted import assert_drawn_from, assert_mean, assert_same
from tests.cpi.worlds import (
    as_csr,
    distributions,
    interior_policy,
    repeatable,
    repeated,
    trajectories,
    world,
)

BELOW_ONE = float(np.nextafter(1.0, 0.0))
SMALL = world(3, num_states=3, num_actions=2, horizon=3)
MDP = world(0, horizon=4)
POLICY = interior_policy(MDP, 0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def draws(table: Any, row: int, u: Sequence[float]) -> list[int]:
    """Outcomes of one row for these u."""
    return Rows(table).draw(np.full(len(u), row), np.array(u)).tolist()


def flat(groups: list[list[Episode]]) -> list[Episode]:
    return [episode for group in groups for episode in group]


# Rows


def test_rows__outcome_has_an_interval_of_its_probability() -> None:
    table = np.array([[0.25, 0.5, 0.25], [0.0, 0.5, 0.5]])
    u = [0.0, 0.2499, 0.25, 0.5, 0.7499, 0.75, BELOW_ONE]
    assert draws(table, 0, u) == [0, 0, 1, 1, 1, 2, 2]
    assert draws(table, 1, u) == [1, 1, 1, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("row", "first", "last"),
    [
        ([0, 0, 0.5, 0.5, 0], 2, 3),
        ([0, 1, 0, 0, 0], 1, 1),
        ([0.5, 0, 0, 0.5, 0], 0, 3),
        ([0, 0, 0, 0, 1], 4, 4),
    ],
)
def test_rows__extreme_u_draw_possible_outcomes(row: list[float], first: int, last: int) -> None:
    table = np.array([[0.2] * 5, row, [0.2] * 5])
    for rows in (table, sparse.csr_array(table)):
        assert draws(rows, 1, [0.0, 5e-324, 1e-9, BELOW_ONE]) == [first, first, first, last]


@pytest.mark.parametrize("sparse_table", [False, True])
def test_rows__stored_zeros_are_never_drawn(sparse_table: bool) -> None:
    # The first row sums to less than 1; the gap must not draw the last outcome.
    table: Any = np.array([[0.0, 1.0 - 9e-10, 0.0], [0.5, 0.0, 0.5]])
    if sparse_table:  # with the zeros stored
        parts = table.ravel(), np.tile(np.arange(3), 2), np.array([0, 3, 6])
        table = sparse.csr_array(parts, shape=(2, 3))
        assert table.nnz == 6
    u = np.linspace(0, BELOW_ONE, 101)
    assert set(draws(table, 0, u)) == {1}  # type: ignore[arg-type]
    assert set(draws(table, 1, u)) == {0, 2}  # type: ignore[arg-type]
    if sparse_table:
        assert table.nnz == 6, "the table that was given is left as it was"


@pytest.mark.parametrize("error", [-9e-10, -1e-16, 1e-16, 9e-10])
def test_rows__sums_off_by_rounding_leave_no_gap(error: float) -> None:
    table = np.array([[0.5, 0.5 + error, 0.0], [0.0, 0.5 + error, 0.5], [0.0, 0.0, 1.0]])
    assert draws(table, 0, [0.0, BELOW_ONE, 1 - 1e-12]) == [0, 1, 1]
    assert draws(table, 1, [0.0, BELOW_ONE, 1 - 1e-12]) == [1, 2, 2]
    assert draws(table, 2, [0.0, BELOW_ONE]) == [2, 2]


def test_rows__ten_tenths_do_not_draw_the_outcome_after_them() -> None:
    table = np.full((3, 11), 0.1)
    table[:, 10] = 0.0  # ten times 0.1 is a little less than 1 in binary
    for row in range(3):
        assert draws(table, row, [BELOW_ONE]) == [9]
        assert draws(table, row, [k / 10 + 0.05 for k in range(10)]) == list(range(10))


@pytest.mark.parametrize("num", range(1, 9))
def test_rows__excess_does_not_shift_the_next_row(num: int) -> None:
    # 0.6 and a little more than 0.4 exceed 1 before the last outcome.
    table = np.tile([[0.6, 0.4 + 5e-10, 1e-10, 0.0], [0.0, 0.0, 0.0, 1.0]], (num, 1))
    u = [0.0, 1e-10, 3e-10, 6e-10, BELOW_ONE]
    for row in range(num):
        assert draws(table, 2 * row, u) == [0, 0, 0, 0, 1]
        assert draws(table, 2 * row + 1, u) == [3] * 5


def test_rows__exact_with_a_million_rows() -> None:
    num = 1_000_000
    odds = np.array([[1, 3], [2, 2], [3, 1], [1, 1]]) / [[4], [4], [4], [2]]
    data = np.tile(odds, (num // 4, 1)).ravel()
    # Row r may give r mod 4 or r mod 4 + 1.
    indices = (np.arange(num)[:, None] % 4 + [0, 1]).ravel()
    rows = Rows(sparse.csr_array((data, indices, 2 * np.arange(num + 1)), shape=(num, 5)))
    every = np.arange(num)
    np.testing.assert_array_equal(rows.draw(every, np.zeros(num)), every % 4)
    np.testing.assert_array_equal(rows.draw(every, np.full(num, BELOW_ONE)), every % 4 + 1)
    drawn = rows.draw(every, rng(0).random(num)) - every % 4
    assert set(drawn.tolist()) == {0, 1}
    for kind in range(4):
        assert_drawn_from(np.bincount(drawn[kind::4]), odds[kind])
    last = rows.draw(np.full(40_000, num - 2), rng(1).random(40_000)) - 2
    assert_drawn_from(np.bincount(last), odds[2])


@repeatable
@given(data=st.data(), rows=st.integers(1, 5), outcomes=st.integers(1, 5))
def test_rows__invert_the_distribution_function(
    data: st.DataObject, rows: int, outcomes: int
) -> None:
    table = data.draw(distributions((rows, outcomes)))
    u = data.draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20))
    row = np.array(data.draw(st.lists(st.integers(0, rows - 1), min_size=len(u), max_size=len(u))))
    for r, x, outcome in zip(row, u, Rows(table).draw(row, np.array(u)), strict=True):
        assert table[r, outcome] > 0
        assert table[r, :outcome].sum() - 1e-14 <= x <= table[r, : outcome + 1].sum() + 1e-14


# Episodes against exact values


def test_rollout__trajectory_frequencies_match_probabilities() -> None:
    # Policy, transitions, horizon and independence within an episode, all at once.
    policy = interior_policy(SMALL, 3)
    simulator, generator = TabularSimulator(SMALL, policy), rng(1)
    starts = simulator.draw_starts(60_000, generator)
    walk = simulator.walk(np.array(starts), np.zeros(len(starts), dtype=int), generator)
    assert (walk.ends == 3).all()
    pairs = walk.states * 2 + walk.actions
    counted = Counter(map(tuple, pairs.tolist()))
    exact: Counter[tuple[int, ...]] = Counter()
    for p, steps in trajectories(SMALL, policy):
        exact[tuple(2 * s + a for s, a in steps)] += p  # type: ignore[assignment]
    assert set(counted) <= set(exact)
    assert_drawn_from([counted[key] for key in exact], list(exact.values()))


@pytest.mark.parametrize("stationary", [False, True], ids=["time-dependent", "stationary"])
@pytest.mark.parametrize("as_sparse", [False, True], ids=["dense", "csr"])
def test_states_and_actions_follow_the_occupancy(stationary: bool, as_sparse: bool) -> None:
    mdp = as_csr(MDP) if as_sparse else MDP
    policy = POLICY[1] if stationary else POLICY
    simulator, generator = TabularSimulator(mdp, policy), rng(2)
    prefixes = [Prefix(s) for s in simulator.draw_starts(20_000, generator)]
    episodes = [group[0] for group in simulator.rollout(prefixes, 1, generator)]
    steps = np.array([episode.steps for episode in episodes])
    exact = 4 * evaluate(mdp, policy).occupancy[:, :, None] * repeated(mdp, policy)
    for h in range(4):
        counts = np.zeros(mdp.rewards.shape)
        np.add.at(counts, tuple(steps[:, h].T), 1)
        assert_drawn_from(counts, exact[h])
    assert_mean([episode.ret for episode in episodes], evaluate(mdp, policy).J)


def test_starts_are_drawn_from_the_start_distribution() -> None:
    starts = TabularSimulator(MDP, POLICY).draw_starts(20_000, rng(3))
    assert {type(s) for s in starts} == {int}
    assert_drawn_from(np.bincount(starts, minlength=5), MDP.start)


def resets_at(mdp: TabularMDP, h: int) -> list[Prefix]:
    """A prefix of h made-up steps, each paying 10, to every state."""
    kept = np.zeros((h, 2), dtype=int)
    return [Prefix(0, kept, s, np.full(h, 10.0)) for s in range(mdp.num_states)]


@pytest.mark.parametrize("h", range(4))
def test_resets_to_every_state_return_its_value(h: int) -> None:
    V = evaluate(MDP, POLICY).V
    groups = TabularSimulator(MDP, POLICY).rollout(resets_at(MDP, h), 2000, rng(4 + h))
    for s, episodes in enumerate(groups):
        assert all(e.cost == 4 - h and e.length == 4 for e in episodes)
        assert_mean([e.ret - 10 * h for e in episodes], V[h, s])


@pytest.mark.parametrize("h", range(3))  # at the last step Q is the reward, with no chance in it
@pytest.mark.parametrize("action", range(3))
def test_first_policy__mean_return_is_the_q_value(h: int, action: int) -> None:
    Q = evaluate(MDP, POLICY).Q
    first = np.tile(np.eye(3)[action], (5, 1))
    simulator = TabularSimulator(MDP, POLICY, first=first)
    groups = simulator.rollout(resets_at(MDP, h), 1000, rng(20 + 4 * action + h))
    for s, episodes in enumerate(groups):
        assert {e.steps[h][1] for e in episodes} == {action}
        assert_mean([e.ret - 10 * h for e in episodes], Q[h, s, action])


def test_first_policy__used_for_the_first_step_only() -> None:
    first = interior_policy(MDP, 9)  # depends on the step, as POLICY does
    simulator = TabularSimulator(MDP, POLICY, first=first)
    for h in range(4):
        groups = simulator.rollout(resets_at(MDP, h), 2000, rng(40 + h))
        for s, episodes in enumerate(groups):
            actions = np.array([e.steps[h][1] for e in episodes])
            assert_drawn_from(np.bincount(actions, minlength=3), first[h, s])
        if h < 3:  # one step later the policy is used again
            later = np.array([e.steps[h + 1] for e in flat(groups)])
            for s in np.unique(later[:, 0]):
                actions = later[later[:, 0] == s, 1]
                assert_drawn_from(np.bincount(actions, minlength=3), POLICY[h + 1, s])


# Episodes, exactly


def always(mdp: TabularMDP, *actions: int) -> Any:
    """The policy that takes these actions one after the other in every state."""
    rows = np.repeat(np.array(actions)[:, None], mdp.num_states, axis=1)
    return deterministic_policy(rows, mdp.num_actions)


def only(simulator: TabularSimulator, prefix: Prefix) -> Episode:
    """The single possible episode of a deterministic world."""
    one, *others = simulator.rollout([prefix], 4, rng(0))[0]
    for other in others:
        assert_same(one, other)
    return one


@pytest.mark.parametrize("actions", [(0, 1, 2), (2, 2, 2), (1, 0, 2)])
def test_a_deterministic_tree_is_walked_exactly(actions: tuple[int, ...]) -> None:
    mdp = envs.tree(depth=3, branching=3, seed=5)
    episode = only(TabularSimulator(mdp, always(mdp, *actions)), Prefix(0))
    path, state = [], 0
    for action in actions:
        path.append((state, action))
        state = 3 * state + 1 + action
    leaf = int("".join(map(str, actions)), 3)
    np.testing.assert_array_equal(episode.steps, path)
    np.testing.assert_array_equal(episode.states, [s for s, _ in path])
    assert episode.ret == envs.tree_leaf_rewards(3, 3, 5)[leaf]
    np.testing.assert_array_equal(episode.rewards, [0, 0, episode.ret])
    assert episode.cost == 3 and episode.origin == Prefix(0)


@pytest.mark.parametrize(
    ("actions", "length", "ret"),
    [
        ((1, 0, 0, 0, 0), 1, 0.0),
        ((0, 0, 2, 0, 0), 3, 0.0),
        ((0, 0, 0, 0, 0), 4, 1.0),  # unlocked after four steps, one before the horizon
    ],
)
def test_a_terminal_state_ends_the_episode(
    actions: tuple[int, ...], length: int, ret: float
) -> None:
    mdp = envs.lock_chain(4, 3).with_time(horizon=5)
    simulator = TabularSimulator(mdp, always(mdp, *actions))
    episode = only(simulator, Prefix(0))
    np.testing.assert_array_equal(episode.steps, [(h, actions[h]) for h in range(length)])
    assert (episode.length, episode.cost, episode.ret) == (length, length, ret)
    assert len(episode.rewards) == length and episode.failed == (ret < 1)
    walk = simulator.walk(np.array([0]), np.array([0]), rng(0))
    assert walk.ends.tolist() == [length]
    for array, nothing in ((walk.states, -1), (walk.actions, -1), (walk.rewards, 0)):
        assert (array[0, length:] == nothing).all()


@pytest.mark.parametrize("outcomes", [1, 2, 5, SHORT, SHORT + 1, 40])
def test_rows__comparing_draws_what_searching_draws(
    outcomes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(outcomes)
    table = generator.dirichlet(np.full(outcomes, 0.3), size=30)
    table[generator.random(table.shape) < 0.4] = 0.0
    table[table.sum(axis=1) == 0, 0] = 1.0
    table /= table.sum(axis=1, keepdims=True)
    rows, u = generator.integers(30, size=5000), generator.random(5000)
    u[:60] = np.tile([0.0, np.nextafter(1.0, 0.0)], 30)
    drawn = Rows(table)
    assert drawn.short == (np.count_nonzero(table, axis=1).max() <= SHORT)
    monkeypatch.setattr("cpi.tabular.simulator.SHORT", 0)
    searched = Rows(table)
    assert not searched.short
    np.testing.assert_array_equal(drawn.draw(rows, u), searched.draw(rows, u))


def test_rollout__rounding_of_a_return_is_no_failure() -> None:
    """0.7 + 0.1 is 0.7999999999999999."""
    moves = np.eye(3)[[[1], [2], [2]]]
    mdp = TabularMDP(moves, np.array([[0.7], [0.1], [0.0]]), np.eye(3)[0], horizon=2)
    for success, failed in ((0.8, False), (0.8 + 1e-6, True)):
        simulator = TabularSimulator(mdp, np.ones((3, 1)), success=success)
        ((episode,),) = simulator.rollout([Prefix(0)], 1, np.random.default_rng(0))
        assert episode.ret < 0.8 and episode.failed == failed
