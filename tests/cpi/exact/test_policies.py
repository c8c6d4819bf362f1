"""Policies as arrays: valid and invalid ones, mixtures, files, and P_π."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import envs
from cpi import (
    PolicyError,
    check_policy,
    deterministic_policy,
    greedy_policy,
    load_policy,
    mixture,
    policy_transitions,
    random_policy,
    uniform_policy,
)
from envs import MDPError, TabularMDP
from tests.cpi.worlds import as_csr, dense_transitions, policies, repeatable, world, worlds

FINITE = world(1, horizon=4)
DISCOUNTED = world(1, discount=0.9)
both = pytest.mark.parametrize("mdp", [FINITE, DISCOUNTED], ids=["finite", "discounted"])


@both
def test_a_policy_is_returned_as_floats(mdp: TabularMDP) -> None:
    checked = check_policy(mdp, [[1, 0, 0]] * 5)
    assert checked.dtype == np.float64
    np.testing.assert_array_equal(checked, np.tile([1.0, 0.0, 0.0], (5, 1)))


def test_a_horizon_allows_rows_for_every_step() -> None:
    policy = random_policy(FINITE, np.random.default_rng(0), time_dependent=True)
    assert policy.shape == (4, 5, 3)
    np.testing.assert_array_equal(check_policy(FINITE, policy), policy)


@pytest.mark.parametrize(
    "shape", [(5,), (3, 5), (5, 4), (6, 3), (3, 5, 3), (5, 5, 3), (1, 4, 5, 3), ()]
)
def test_a_policy_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    expected = r"policy: shape .*, expected \(5, 3\) or \(4, 5, 3\) for TabularMDP\('mdp', S=5"
    with pytest.raises(PolicyError, match=expected):
        check_policy(FINITE, np.ones(shape))


def test_check_policy__time_dependence_needs_a_horizon() -> None:
    with pytest.raises(PolicyError, match=r"policy: shape \(4, 5, 3\), expected \(5, 3\) for"):
        check_policy(DISCOUNTED, np.full((4, 5, 3), 1 / 3))


ROWS = [
    [0.5, 0.5, 0.1],
    [0.0, 0.0, 0.0],
    [1.5, -0.5, 0.0],
    [0.5, 0.5, 1e-8],
    [1.0, 1e-3, -1e-3],
    [np.nan, 0.5, 0.5],
    [np.inf, 0.0, 0.0],
    [np.inf, -np.inf, 1.0],
]


@both
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_row_that_is_no_distribution_is_named(mdp: TabularMDP, row: list[float]) -> None:
    policy = uniform_policy(mdp)
    policy[3] = row
    with pytest.raises(PolicyError, match=r"policy: state 3 has probabilities \[.* which are not"):
        check_policy(mdp, policy)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_row_that_is_no_distribution_is_named_with_its_step(row: list[float]) -> None:
    policy = np.full((4, 5, 3), 1 / 3)
    policy[2, 1] = row
    with pytest.raises(PolicyError, match="candidate: step 2, state 1 has probabilities"):
        check_policy(FINITE, policy, what="candidate")


def test_the_first_bad_row_is_named() -> None:
    policy = uniform_policy(FINITE)
    policy[[2, 4]] = 0.5
    with pytest.raises(PolicyError, match=r"state 2 has probabilities \[0\.5 0\.5 0\.5\]"):
        check_policy(FINITE, policy)


def test_check_policy__accepts_rounding() -> None:
    policy = uniform_policy(FINITE)
    policy[0] += 1e-12
    check_policy(FINITE, policy)


def test_a_policy_error_is_a_value_error() -> None:
    assert issubclass(PolicyError, ValueError)


@both
def test_uniform_and_random_policies_are_policies(mdp: TabularMDP) -> None:
    np.testing.assert_array_equal(uniform_policy(mdp), np.full((5, 3), 1 / 3))
    check_policy(mdp, uniform_policy(mdp))
    for seed in range(3):
        policy = random_policy(mdp, np.random.default_rng(seed))
        assert policy.shape == (5, 3)
        check_policy(mdp, policy)


def test_a_random_policy_repeats_with_its_generator() -> None:
    first, again, other = (random_policy(FINITE, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_random_policy__stationary_without_a_horizon() -> None:
    policy = random_policy(DISCOUNTED, np.random.default_rng(0), time_dependent=True)
    assert policy.shape == (5, 3)


def test_a_deterministic_policy_takes_its_actions() -> None:
    policy = deterministic_policy(np.array([[2, 0], [1, 1]]), 3)
    expected = [[[0, 0, 1], [1, 0, 0]], [[0, 1, 0], [0, 1, 0]]]
    np.testing.assert_array_equal(policy, expected)
    assert policy.dtype == np.float64


def test_a_greedy_policy_takes_the_best_action_and_the_first_of_ties() -> None:
    Q = np.array([[0.0, 1.0, 0.5], [2.0, 2.0, 2.0], [-1.0, -3.0, -1.0], [0.0, 7.0, 7.0]])
    expected = deterministic_policy(np.array([1, 0, 0, 1]), 3)
    np.testing.assert_array_equal(greedy_policy(Q), expected)
    np.testing.assert_array_equal(greedy_policy(np.stack([Q, -Q]))[0], expected)


def test_a_mixture_is_computed_by_hand() -> None:
    old, new = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.0, 1.0], [1.0, 0.0]])
    np.testing.assert_allclose(mixture(old, new, 0.25), [[0.75, 0.25], [0.625, 0.375]])
    masked = mixture(old, new, 0.5, np.array([0.5, 0.0]))
    np.testing.assert_allclose(masked, [[0.75, 0.25], [0.5, 0.5]])


@repeatable
@given(mdp=worlds(True), data=st.data(), alpha=st.sampled_from([0.0, 0.25, 1.0]))
def test_a_masked_mixture_moves_each_state_by_its_weight(
    mdp: TabularMDP, data: st.DataObject, alpha: float
) -> None:
    assert mdp.horizon is not None
    old, new = data.draw(policies(mdp)), data.draw(policies(mdp))
    seed = data.draw(st.integers(0, 100))
    weights = np.random.default_rng(seed).integers(0, 3, (mdp.horizon, mdp.num_states)) / 2
    mixed = check_policy(mdp, mixture(old, new, alpha, weights))
    shape = (mdp.horizon, *mdp.rewards.shape)
    before, after = np.broadcast_to(old, shape), np.broadcast_to(new, shape)
    for h, s in np.ndindex(weights.shape):
        expected = before[h, s] + alpha * weights[h, s] * (after[h, s] - before[h, s])
        np.testing.assert_allclose(mixed[h, s], expected, rtol=0, atol=1e-15)


@both
def test_mixtures_begin_at_the_policy_and_end_at_the_candidate(mdp: TabularMDP) -> None:
    old, new = (random_policy(mdp, np.random.default_rng(seed)) for seed in (0, 1))
    np.testing.assert_array_equal(mixture(old, new, 0.0), old)
    np.testing.assert_array_equal(mixture(old, new, 1.0), new)
    np.testing.assert_array_equal(mixture(old, new, 1.0, np.zeros(5)), old)


@repeatable
@given(mdp=worlds(False), data=st.data())
def test_policy_transitions_average_over_actions(mdp: TabularMDP, data: st.DataObject) -> None:
    policy = data.draw(policies(mdp))
    expected = np.einsum("sa,sat->st", policy, dense_transitions(mdp))
    moves = policy_transitions(mdp, policy)
    assert moves.shape == (mdp.num_states, mdp.num_states)
    moves = moves.toarray() if mdp.is_sparse else moves
    np.testing.assert_allclose(moves, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
def test_transitions_of_a_deterministic_policy_are_rows_of_the_world(sparse: bool) -> None:
    mdp = as_csr(DISCOUNTED) if sparse else DISCOUNTED
    actions = np.array([2, 0, 1, 1, 2])
    moves = policy_transitions(mdp, deterministic_policy(actions, 3))
    moves = moves.toarray() if sparse else moves
    np.testing.assert_array_equal(moves, dense_transitions(mdp)[np.arange(5), actions])


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
def test_policy_transitions__one_stochastic_row(sparse: bool) -> None:
    mdp = as_csr(DISCOUNTED) if sparse else DISCOUNTED
    policy = deterministic_policy(np.array([2, 0, 1, 1, 2]), 3)
    policy[3] = [0.25, 0.5, 0.25]
    moves = policy_transitions(mdp, policy)
    moves = moves.toarray() if sparse else moves
    expected = np.einsum("sa,sat->st", policy, dense_transitions(mdp))
    np.testing.assert_allclose(moves, expected, rtol=0, atol=1e-15)


def test_transitions_are_as_sparse_as_the_world() -> None:
    stochastic, sure = uniform_policy(DISCOUNTED), deterministic_policy(np.arange(5) % 3, 3)
    for policy in (stochastic, sure):
        assert isinstance(policy_transitions(DISCOUNTED, policy), np.ndarray)
        assert policy_transitions(as_csr(DISCOUNTED), policy).format == "csr"


@pytest.mark.parametrize("steps", [(), (4,)], ids=["stationary", "by step"])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_policy_is_read_from_a_file(tmp_path: Path, suffix: str, steps: tuple[int, ...]) -> None:
    policy = np.random.default_rng(0).dirichlet(np.ones(3), size=(*steps, 5))
    path = tmp_path / f"policy{suffix}"
    if suffix == ".npy":
        np.save(path, policy)
    else:
        np.savez(path, policy=policy, note=np.arange(3))
    for given_path in (path, str(path)):
        np.testing.assert_array_equal(load_policy(FINITE, given_path), policy)


def test_an_array_by_another_name_is_not_taken_for_the_policy(tmp_path: Path) -> None:
    path = tmp_path / "theirs.npz"
    np.savez(path, pi=uniform_policy(FINITE), Q=np.zeros((5, 3)))
    with pytest.raises(PolicyError, match=r"theirs\.npz: no array named policy \(found pi, Q\)"):
        load_policy(FINITE, path)


def test_load_policy__empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.npz"
    np.savez(path)
    with pytest.raises(PolicyError, match=r"empty\.npz: no array named policy \(found nothing\)"):
        load_policy(FINITE, path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.npy: no such file"):
        load_policy(FINITE, tmp_path / "absent.npy")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_pickles_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"pickled{suffix}"
    pickled = np.array([{}], dtype=object)
    if suffix == ".npy":
        np.save(path, pickled)
    else:
        np.savez(path, policy=pickled)
    with pytest.raises(MDPError, match=r"pickled\.np[yz]: not a readable .*allow_pickle=False"):
        load_policy(FINITE, path)


@pytest.mark.parametrize("content", [b"", b"0.5,0.5\n", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_not_numpys_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.npy"
    path.write_bytes(content)
    with pytest.raises(MDPError, match=r"other\.npy: not a readable"):
        load_policy(FINITE, path)


def test_a_bad_row_in_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.npy"
    policy = np.full((4, 5, 3), 1 / 3)
    policy[1, 2] = [1, 1, 0]
    np.save(path, policy)
    with pytest.raises(PolicyError, match=r"bad\.npy: policy: step 1, state 2 has probabilities"):
        load_policy(FINITE, path)


def test_a_file_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wide.npy"
    np.save(path, np.full((5, 4), 0.25))
    with pytest.raises(PolicyError, match=r"wide\.npy: policy: shape \(5, 4\), expected \(5, 3\)"):
        load_policy(FINITE, path)


def test_load_policy__text_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "words.npy"
    np.save(path, np.full((5, 3), "left"))
    with pytest.raises(PolicyError, match=r"words\.npy: policy"):
        load_policy(FINITE, path)


@pytest.mark.parametrize(
    "rows", [[[0.5, 0.5], [1.0]], [["a", "b", "c"]] * 5], ids=["ragged", "words"]
)
def test_check_policy__non_numeric_array_is_refused(rows: Any) -> None:
    with pytest.raises(PolicyError, match="policy"):
        check_policy(FINITE, rows)


@pytest.mark.parametrize("steps", [(), (6,)], ids=["stationary", "by step"])
def test_load_policy__row_of_the_added_terminal_state_may_be_missing(
    tmp_path: Path, steps: tuple[int, ...]
) -> None:
    mdp = envs.lock_chain(6, 3)  # 7 states, the last of them "over"
    policy = np.random.default_rng(1).dirichlet(np.ones(3), size=(*steps, 6))
    path = tmp_path / "theirs.npy"
    np.save(path, policy)
    loaded = load_policy(mdp, path)
    np.testing.assert_array_equal(loaded[..., :-1, :], policy)
    np.testing.assert_array_equal(loaded[..., -1, :], np.full((*steps, 3), 1 / 3))


def test_load_policy__row_of_another_state_may_not_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "short.npy"
    np.save(path, np.full((4, 3), 1 / 3))
    with pytest.raises(PolicyError, match=r"short\.npy: policy: shape \(4, 3\), expected \(5, 3\)"):
        load_policy(FINITE, path)
