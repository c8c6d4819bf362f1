"""TabularMDP in memory: refused data and messages, stored arrays, and computed properties.

The test MDP has two actions and three states. State 0 moves on with probability 3/4 under action 0,
state 1 always ends in 2, and state 2 is terminal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from envs import MDPError, TabularMDP

TRANSITIONS = np.array(
    [
        [[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]],
        [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]],
        [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]],
    ]
)
REWARDS = np.array([[0.5, -1.0], [2.0, 0.0], [0.0, 0.0]])
START = np.array([0.5, 0.5, 0.0])


def dense_rows() -> Any:
    return TRANSITIONS.copy()


def csr_rows() -> Any:
    return sparse.csr_array(TRANSITIONS.reshape(6, 3))


both_kinds = pytest.mark.parametrize("rows", [dense_rows, csr_rows], ids=["dense", "csr"])
Rows = Callable[[], Any]


def world(**changes: Any) -> TabularMDP:
    fields: dict[str, Any] = {"transitions": TRANSITIONS, "rewards": REWARDS, "start": START}
    fields["horizon"] = 4
    return TabularMDP(**(fields | changes))


def with_row(state: int, action: int, row: list[float], as_csr: bool) -> Any:
    """The transitions with one row replaced."""
    transitions = TRANSITIONS.copy()
    transitions[state, action] = row
    return sparse.csr_array(transitions.reshape(6, 3)) if as_csr else transitions


# Refused data


@pytest.mark.parametrize("as_csr", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0.0, 0.5, 0.25], r"sums to 0\.75, not 1; divide it by its sum"),
        ([0.5, 0.5, 1e-6], r"sums to 1\.000001, not 1"),
        ([0.0, 0.0, 0.0], "sums to 0, not 1; give it an outcome"),
        ([1.5, -0.5, 0.0], r"entry 1 is negative \(-0\.5\)"),
        ([0.5, np.nan, 0.5], "entry 1 is not finite"),
        ([0.5, 0.5, np.inf], "entry 2 is not finite"),
    ],
)
def test_bad_row_is_named(row: list[float], message: str, as_csr: bool) -> None:
    with pytest.raises(MDPError, match=f"transitions: state 1, action 0: {message}"):
        world(transitions=with_row(1, 0, row, as_csr))
    with pytest.raises(MDPError, match=f"transitions: state 0, action 1: {message}"):
        world(transitions=with_row(0, 1, row, as_csr))


@pytest.mark.parametrize("as_csr", [False, True], ids=["dense", "csr"])
def test_rounding_is_accepted_and_divided_by_its_sum(as_csr: bool) -> None:
    row = [1 / 3, 1 / 3, 1 / 3 + 1e-10]
    mdp = world(transitions=with_row(1, 0, row, as_csr))
    sums = mdp.flat.sum(axis=1)
    np.testing.assert_allclose(sums, 1.0, rtol=0, atol=1e-15)
    rows = mdp.flat.toarray() if as_csr else mdp.flat
    np.testing.assert_allclose(rows[2], np.array(row) / sum(row), rtol=1e-15)
    np.testing.assert_array_equal(rows[0], TRANSITIONS[0, 0])  # exact rows stay as they are
    again = mdp.with_time(discount=0.5)
    assert abs(again.flat - mdp.flat).max() == 0


@pytest.mark.parametrize(
    ("as_csr", "kind"),  # scipy has no sparse float16
    [(False, np.float32), (False, np.float16), (True, np.float32)],
)
def test_coarse_number_types_are_accepted_and_divided_by_their_sum(as_csr: bool, kind: Any) -> None:
    rng = np.random.default_rng(0)
    exact = rng.dirichlet(np.ones(9), size=(9, 2))
    given, start = exact.astype(kind), rng.dirichlet(np.ones(9)).astype(kind)
    assert np.abs(given.astype(float).sum(axis=-1) - 1).max() > 1e-9
    rows = sparse.csr_array(given.reshape(18, 9)) if as_csr else given
    mdp = TabularMDP(rows, np.zeros((9, 2)), start, horizon=3)
    for sums in (mdp.flat.sum(axis=1), mdp.start.sum()):
        np.testing.assert_allclose(sums, 1.0, rtol=0, atol=2e-15)
    if as_csr:
        np.testing.assert_allclose(mdp.flat.toarray(), exact.reshape(18, 9), rtol=1e-6)
    else:
        tolerance = 4 * float(np.finfo(kind).eps)
        np.testing.assert_allclose(mdp.transitions, exact, rtol=tolerance, atol=1e-7)
    broken = np.array(given)
    broken[3, 1] *= kind(0.95)
    with pytest.raises(MDPError, match=r"state 3, action 1: sums to 0\.9"):
        TabularMDP(broken, np.zeros((9, 2)), start, horizon=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": np.zeros(())}, r"rewards: shape \(\), expected \(S, A\)"),
        ({"rewards": np.zeros((3, 2, 2))}, r"rewards: shape \(3, 2, 2\), expected .*\(S, A, S\)"),
        ({"rewards": np.zeros(0)}, r"rewards: shape \(0,\).*S, A ≥ 1"),
        ({"rewards": np.zeros((0, 2))}, r"rewards: shape \(0, 2\).*S, A ≥ 1"),
        ({"rewards": np.zeros((3, 0))}, r"rewards: shape \(3, 0\).*S, A ≥ 1"),
        ({"start": np.ones(2) / 2}, r"start: shape \(2,\), expected \(3,\)"),
        ({"start": START[:, None]}, r"start: shape \(3, 1\), expected \(3,\)"),
        ({"rewards": np.zeros((3, 4))}, r"transitions: shape \(3, 2, 3\), expected \(3, 4, 3\)"),
        (
            {"transitions": TRANSITIONS.reshape(6, 3)},
            r"transitions: shape \(6, 3\), expected \(3, 2, 3\)",
        ),
        (
            {"transitions": sparse.csr_array((3, 6))},
            r"transitions: sparse shape \(3, 6\), expected \(6, 3\)",
        ),
        ({"start": [0.5, 0.25, 0.0]}, r"start: sums to 0\.75, not 1"),
        ({"start": [1.5, -0.5, 0.0]}, r"start: entry 1 is negative \(-0\.5\)"),
        ({"start": [0.5, 0.5, np.nan]}, "start: entry 2 is not finite"),
        (
            {"rewards": [[0, 0], [0, np.nan], [0, 0]]},
            "rewards: state 1, action 1 is nan, not a finite number",
        ),
        ({"rewards": [[0, 0], [0, 0], [-np.inf, 0]]}, "rewards: state 2, action 0 is -inf"),
        ({"horizon": None}, "exactly one of horizon and discount .*None.*None"),
        ({"discount": 0.5}, r"exactly one of horizon and discount .*horizon=4, discount=0\.5"),
        ({"horizon": 0}, "horizon: 0 is not a whole number ≥ 1"),
        ({"horizon": -3}, "horizon: -3 is not a whole number ≥ 1"),
        ({"horizon": 2.5}, r"horizon: 2\.5 is not a whole number ≥ 1"),
        ({"horizon": 10**8}, r"horizon: 100000000 steps are more than 1,000,000, .*a discount"),
        ({"horizon": 10**400}, "horizon: too large a number"),
        ({"horizon": None, "discount": 10**400}, "discount: too large a number"),
        ({"rewards": 8e307 * REWARDS}, r"rewards: the largest is 1\.6e\+308 in size"),
        ({"rewards": 1e200 * REWARDS}, r"rewards: the largest is 2e\+200 in size, not between"),
        ({"rewards": 1e-300 * REWARDS}, r"rewards: the largest is 2e-300 in size, not between"),
        ({"transitions": TRANSITIONS + 0j}, "transitions: .* complex"),
        (
            {"transitions": sparse.csr_array(TRANSITIONS.reshape(6, 3) + 0j)},
            "transitions: .* compl",
        ),
        ({"rewards": REWARDS + 1j}, "rewards: .* complex"),
        ({"start": START + 0j}, "start: .* complex"),
        ({"rewards": np.ma.masked_less(REWARDS, 1)}, "rewards: not an array .* masked"),
        ({"transitions": np.ma.masked_equal(TRANSITIONS, 1)}, "transitions: .* masked"),
        ({"start": np.ma.masked_equal(START, 0)}, "start: .* masked"),
        (
            {"rewards": np.full((3, 2, 3), np.nan)},
            "rewards: state 0, action 0, next state 0 is nan",
        ),
        ({"horizon": None, "discount": 1.0}, "discount: 1.0 .* γ = 1 give horizon=H instead"),
        ({"horizon": None, "discount": -0.1}, r"discount: -0\.1 is not in \[0, 1\)$"),
        ({"horizon": None, "discount": 1.5}, r"discount: 1\.5 is not in \[0, 1\)$"),
        ({"horizon": None, "discount": 1 - 2**-53}, "discount: 0.9999999999999999 is within"),
        ({"horizon": None, "discount": 1 - 9e-14}, "within 1e-13 of 1, .* give a horizon"),
        ({"horizon": None, "discount": np.nan}, r"discount: nan is not in \[0, 1\)"),
    ],
)
def test_bad_field_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MDPError, match=message):
        world(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": [["a", "b"]] * 3}, "rewards"),
        ({"start": ["a", "b", "c"]}, "start"),
        ({"transitions": [[1.0], [0.5, 0.5]]}, "transitions"),
        ({"horizon": np.nan}, "horizon: nan is not a whole number ≥ 1"),
        ({"horizon": np.inf}, "horizon: inf is not a whole number ≥ 1"),
        ({"horizon": "two"}, "horizon"),
        ({"horizon": None, "discount": "half"}, "discount"),
    ],
)
def test_field_that_is_no_number_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MDPError, match=message):
        world(**changes)


@pytest.mark.parametrize("kind", ["csr", "csc"])
@pytest.mark.parametrize("index", [-1, 6, 10**6])
def test_sparse_indices_outside_the_matrix_are_refused(index: int, kind: str) -> None:
    """scipy builds such matrices; products with them read foreign memory."""
    rows: Any = csr_rows().asformat(kind)
    rows.indices[2] = index
    with pytest.raises(MDPError, match="transitions: not a sparse matrix of that shape"):
        world(transitions=rows)
    rows = csr_rows()
    rows.indptr[3] = 100
    with pytest.raises(MDPError, match="transitions: not a sparse matrix of that shape"):
        world(transitions=rows)


def test_an_mdp_error_is_a_value_error() -> None:
    assert issubclass(MDPError, ValueError)


# Stored arrays


@both_kinds
def test_tabular_mdp__immutable(rows: Rows) -> None:
    mdp = world(transitions=rows())
    data = mdp.transitions.data if mdp.is_sparse else mdp.transitions
    for array in (mdp.rewards, mdp.start, data):
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0.5
    with pytest.raises(dataclasses.FrozenInstanceError):
        mdp.horizon = 5  # type: ignore[misc]


@both_kinds
def test_the_callers_arrays_are_copied(rows: Rows) -> None:
    given, rewards, start = rows(), REWARDS.copy(), START.copy()
    mdp = world(transitions=given, rewards=rewards, start=start)
    (given if isinstance(given, np.ndarray) else given.data)[:] = 7.0
    rewards[:], start[:] = 7.0, 7.0
    np.testing.assert_array_equal(mdp.rewards, REWARDS)
    np.testing.assert_array_equal(mdp.start, START)
    flat = mdp.flat.toarray() if mdp.is_sparse else mdp.flat
    np.testing.assert_array_equal(flat, TRANSITIONS.reshape(6, 3))


def test_numbers_become_floats_and_plain_ints() -> None:
    mdp = world(
        transitions=sparse.coo_matrix(TRANSITIONS.reshape(6, 3) > 0.5, dtype=int),
        rewards=[[1, 0], [0, 0], [0, 0]],
        start=[1, 0, 0],
        horizon=np.int64(4),
    )
    assert {mdp.rewards.dtype, mdp.start.dtype, mdp.flat.dtype} == {np.dtype(np.float64)}
    assert type(mdp.horizon) is int
    assert type(world(horizon=None, discount=np.float64(0.5)).discount) is float


def test_duplicate_csr_entries_are_added() -> None:
    once = csr_rows().tocoo()
    halves = sparse.coo_array(
        (
            np.concatenate([once.data, once.data]) / 2,
            (np.tile(once.coords[0], 2), np.tile(once.coords[1], 2)),
        ),
        shape=once.shape,
    )
    mdp = world(transitions=halves)
    assert mdp.flat.nnz == csr_rows().nnz
    states, p = mdp.successors(0, 0)
    assert states.tolist() == [0, 1] and p.tolist() == [0.25, 0.75]


# Computed properties


@both_kinds
def test_shapes_and_flat(rows: Rows) -> None:
    mdp = world(transitions=rows())
    assert (mdp.num_states, mdp.num_actions) == (3, 2)
    assert mdp.flat.shape == (6, 3)
    np.testing.assert_array_equal(mdp.flat @ [1.0, 2.0, 4.0], [1.75, 1.0, 4.0, 4.0, 4.0, 4.0])


@both_kinds
def test_successors(rows: Rows) -> None:
    mdp = world(transitions=rows())
    states, p = mdp.successors(0, 0)
    assert states.tolist() == [0, 1] and p.tolist() == [0.25, 0.75]
    states, p = mdp.successors(1, 1)
    assert states.tolist() == [2] and p.tolist() == [1.0]


@both_kinds
@pytest.mark.parametrize(("state", "action"), [(0, 2), (-1, 0), (3, 0), (1, -1)])
def test_successors__no_such_action(rows: Rows, state: int, action: int) -> None:
    """State 0 has no third action; its row would be the first of state 1."""
    with pytest.raises(IndexError, match=f"no state {state} with action {action}"):
        world(transitions=rows()).successors(state, action)


def test_successors_skip_stored_zeros() -> None:
    plain = csr_rows()
    parts = (np.insert(plain.data, 2, 0.0), np.insert(plain.indices, 2, 2))
    rows = sparse.csr_array((*parts, plain.indptr + (np.arange(7) > 0)), shape=(6, 3))
    assert rows.nnz == plain.nnz + 1
    states, _ = world(transitions=rows).successors(0, 0)
    assert states.tolist() == [0, 1]


@both_kinds
def test_terminal(rows: Rows) -> None:
    assert world(transitions=rows()).terminal.tolist() == [False, False, True]
    paying = REWARDS.copy()
    paying[2, 1] = 0.1
    assert not world(transitions=rows(), rewards=paying).terminal.any()


@both_kinds
def test_terminal_absorbs_under_every_action(rows: Rows) -> None:
    # State 0 stays with probability 1 under action 1 only.
    mdp = world(transitions=rows(), rewards=np.zeros((3, 2)))
    assert mdp.terminal.tolist() == [False, False, True]


@pytest.mark.parametrize("leak", [1e-6, 1e-9, 1e-12])
@both_kinds
def test_a_state_that_is_hardly_ever_left_is_not_terminal(rows: Rows, leak: float) -> None:
    assert world(transitions=rows()).terminal[2]
    as_csr = not isinstance(rows(), np.ndarray)
    almost = with_row(2, 1, [0.0, leak, 1.0 - leak], as_csr)
    assert not world(transitions=almost).terminal.any()


@both_kinds
def test_rewards_of_states_and_of_transitions(rows: Rows) -> None:
    """r(s) under every action; r(s, a, s') weighed by the chance of s'."""
    by_state = world(transitions=rows(), rewards=[3.0, -1.0, 0.0])
    np.testing.assert_array_equal(by_state.rewards, [[3, 3], [-1, -1], [0, 0]])
    by_transition = np.arange(18.0).reshape(3, 2, 3)
    mdp = world(transitions=rows(), rewards=by_transition)
    expected = (TRANSITIONS * by_transition).sum(axis=2)
    np.testing.assert_allclose(mdp.rewards, expected, rtol=1e-15)
    assert mdp.rewards[0, 0] == 0.75 and not mdp.rewards.flags.writeable


def test_reward_range() -> None:
    assert world().reward_range == (-1.0, 2.0)
    assert world().reward_width == 3.0
    assert world(rewards=np.full((3, 2), 5.0)).reward_width == 0.0


@both_kinds
def test_with_time(rows: Rows) -> None:
    mdp = world(transitions=rows(), name="small")
    discounted = mdp.with_time(discount=0.9)
    assert (discounted.horizon, discounted.discount) == (None, 0.9)
    assert (mdp.horizon, mdp.discount) == (4, None)
    assert discounted.name == "small" and discounted.is_sparse == mdp.is_sparse
    np.testing.assert_array_equal(discounted.rewards, mdp.rewards)
    assert discounted.with_time(horizon=2).horizon == 2
    with pytest.raises(MDPError, match="exactly one"):
        mdp.with_time()


def test_repr() -> None:
    assert repr(world(name="small")) == "TabularMDP('small', S=3, A=2, horizon=4, dense)"
    mdp = world(transitions=csr_rows(), horizon=None, discount=0.95)
    assert repr(mdp) == "TabularMDP('mdp', S=3, A=2, discount=0.95, CSR)"
    assert "discount=0.0," in repr(world(horizon=None, discount=0.0))
    assert "discount=0.9999999," in repr(world(horizon=None, discount=0.9999999))
