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
    evaluate,
    greedy_policy,
    load_policy,
    mixture,
    policy_transitions,
    random_policy,
    uniform_policy,
)
from envs import MDPError, TabularMDP
from envs.gym import TabularEnv
from tests.cpi.worlds import as_csr, dense_transitions, policies, repeatable, world, worlds

FINITE = world(1, horizon=4)
DISCOUNTED = world(1, discount=0.9)
both = pytest.mark.parametrize("mdp", [FINITE, DISCOUNTED], ids=["finite", "discounted"])


@both
def test_check_policy__copies_and_freezes(mdp: TabularMDP) -> None:
    given = uniform_policy(mdp)
    checked = check_policy(mdp, given)
    given[0] = [1.0, 0.0, 0.0]
    np.testing.assert_array_equal(checked, uniform_policy(mdp))
    assert not checked.flags.writeable and given.flags.writeable


@both
@pytest.mark.parametrize("decimals", [10, 12])
def test_check_policy__rounded_rows_are_divided_by_their_sum(
    mdp: TabularMDP, decimals: int
) -> None:
    exact = random_policy(mdp, np.random.default_rng(decimals))
    given = np.round(exact, decimals)
    given[0] = np.round([1 / 3] * 3, decimals)
    checked = check_policy(mdp, given)
    np.testing.assert_allclose(checked.sum(axis=-1), 1.0, rtol=0, atol=1e-15)
    np.testing.assert_allclose(checked, given, rtol=0, atol=10.0**-decimals)
    np.testing.assert_array_equal(check_policy(mdp, checked), checked)


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_check_policy__coarse_number_types(kind: Any) -> None:
    policy = np.random.default_rng(0).dirichlet(np.ones(3), size=(4, 5))
    given = policy.astype(kind)
    assert np.abs(given.astype(float).sum(axis=-1) - 1).max() > 1e-9
    checked = check_policy(FINITE, given)
    assert checked.dtype == np.float64
    np.testing.assert_allclose(checked.sum(axis=-1), 1.0, rtol=0, atol=1e-15)
    np.testing.assert_allclose(checked, policy, atol=2 * float(np.finfo(kind).eps))
    given[1, 2] *= kind(0.97)
    with pytest.raises(PolicyError, match=r"step 1, state 2 .* \(they sum to 0\.97.*divide them"):
        check_policy(FINITE, given)


def test_check_policy__actions() -> None:
    actions = np.array([2, 0, 1, 1, 2])
    rows = np.eye(3)[actions]
    for policy in (actions, actions.tolist(), actions.astype(np.uint8)):
        np.testing.assert_array_equal(check_policy(DISCOUNTED, policy), rows)
    by_step = np.stack([actions, actions[::-1], actions, actions])
    np.testing.assert_array_equal(check_policy(FINITE, by_step), np.eye(3)[by_step])
    np.testing.assert_array_equal(check_policy(FINITE, actions), rows)
    for wrong in (-1, 3):
        message = rf"policy: step 2, state 4 has action {wrong}, not a whole number in 0 … 2"
        by_step[2, 4] = wrong
        with pytest.raises(PolicyError, match=message):
            check_policy(FINITE, by_step)
    with pytest.raises(PolicyError, match=r"policy: shape \(5,\), expected"):
        check_policy(FINITE, actions.astype(float))


def test_check_policy__an_array_of_rows_is_no_array_of_actions() -> None:
    """Two steps, two states, two actions: whole numbers may be read as both."""
    mdp = world(1, 2, 2, horizon=2)
    np.testing.assert_array_equal(check_policy(mdp, [[1, 0], [0, 1]]), np.eye(2))


def test_check_policy__masked_numbers_are_refused() -> None:
    """The mask would be lost, and the numbers under it taken for the policy."""
    policy = np.ma.masked_array(uniform_policy(FINITE), mask=False)
    np.testing.assert_array_equal(check_policy(FINITE, policy), uniform_policy(FINITE))
    policy[0, 0] = np.ma.masked
    with pytest.raises(PolicyError, match=r"policy: not an array of real numbers .*masked"):
        check_policy(FINITE, policy)


def test_check_policy__complex_numbers_are_refused() -> None:
    with pytest.raises(PolicyError, match=r"policy: not an array of real numbers .*complex"):
        check_policy(FINITE, uniform_policy(FINITE) + 0j)


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


@pytest.mark.parametrize("action", [-1, 3, 0.5, np.nan])
def test_deterministic_policy__unknown_action_is_refused(action: float) -> None:
    message = rf"actions: state 1 has action {action}, not a whole number in 0 … 2"
    with pytest.raises(PolicyError, match=message):
        deterministic_policy(np.array([0, action]), 3)  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match=rf"actions: step 1, state 0 has action {action}"):
        deterministic_policy(np.array([[0, 1], [action, 1]]), 3)  # type: ignore[arg-type]


def test_check_mdp__an_environment_is_refused() -> None:
    env: Any = TabularEnv(envs.needle(0.5))
    for call in (uniform_policy, lambda mdp: evaluate(mdp, np.ones((3, 2)) / 2)):
        with pytest.raises(ValueError, match=r"is no TabularMDP; envs.gym.mdp_from_env\(env\)"):
            call(env)


def test_greedy_policy__values_of_states_are_refused() -> None:
    with pytest.raises(PolicyError, match=r"Q: shape \(4,\), expected .* give evaluation\.Q"):
        greedy_policy(np.arange(4.0))


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


@pytest.mark.parametrize("value", [2.0, 1 + 1e-9, -0.6, np.nan])
def test_mixture__step_size_outside_0_1_is_refused(value: float) -> None:
    old, new = uniform_policy(FINITE), deterministic_policy(np.zeros(5, dtype=int), 3)
    with pytest.raises(ValueError, match=rf"alpha: {value} is not in \[0, 1\]"):
        mixture(old, new, value)
    with pytest.raises(ValueError, match=rf"weights: must lie in \[0, 1\], found {value:g}"):
        mixture(old, new, 0.1, np.array([0, 1, value, 0, 1]))
    np.testing.assert_allclose(mixture(old, new, -0.3)[0], [0.1 / 3 * 4, 1.3 / 3, 1.3 / 3])


def test_mixture__candidate_of_another_shape_is_refused() -> None:
    """Such as actions, which numpy would broadcast where S = A."""
    policy = np.full((3, 3), 1 / 3)
    for candidate in (np.array([0, 1, 2]), np.ones((1, 3)), np.eye(4)[:, :3]):
        with pytest.raises(PolicyError, match=r"candidate: rows of shape .* have \(3, 3\)"):
            mixture(policy, candidate, 0.5)


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


@pytest.mark.parametrize("row", [[0.25, 0.5, 0.25], [1e-6, 1 - 1e-6, 0.0], [0.0, 1.0, 1e-10]])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "csr"])
def test_policy_transitions__one_stochastic_row(sparse: bool, row: list[float]) -> None:
    """Also one that is nearly deterministic."""
    mdp = as_csr(DISCOUNTED) if sparse else DISCOUNTED
    policy = deterministic_policy(np.array([2, 0, 1, 1, 2]), 3)
    policy[3] = np.array(row) / sum(row)
    moves = policy_transitions(mdp, policy)
    moves = moves.toarray() if sparse else moves
    expected = np.einsum("sa,sat->st", policy, dense_transitions(mdp))
    np.testing.assert_allclose(moves, expected, rtol=0, atol=1e-15)


def test_policy_transitions__rows_that_do_not_sum_to_1_are_refused() -> None:
    with pytest.raises(PolicyError, match=r"state 0 .* \(they sum to 1\.4\)"):
        policy_transitions(DISCOUNTED, 1.4 * uniform_policy(DISCOUNTED))


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


@pytest.mark.parametrize("name", ["policy.txt", "policy.csv"])
def test_load_policy__text(tmp_path: Path, name: str) -> None:
    policy = np.random.default_rng(0).dirichlet(np.ones(3), size=5)
    path = tmp_path / name
    np.savetxt(path, policy, delimiter="," if name.endswith("csv") else " ", fmt="%.10f")
    np.testing.assert_allclose(load_policy(FINITE, path), policy, atol=1e-10)
    path.write_text(path.read_text(), encoding="utf-8-sig")  # as spreadsheets save it
    np.testing.assert_allclose(load_policy(FINITE, path), policy, atol=1e-10)
    path.write_text("2\n0\n\n1\n1\n2\n")
    np.testing.assert_array_equal(load_policy(FINITE, path), np.eye(3)[[2, 0, 1, 1, 2]])
    for text, message in (
        ("left\n" * 5, "not a table of numbers"),
        ("1 0 0\n1 0\n", "not a table of numbers"),
        ("", r"shape \(0,\), expected"),
        ("0.5\n" * 5, r"shape \(5, 1\), expected"),
        ("3\n" * 5, "state 0 has action 3"),
        ("1e30\n" * 5, r"shape \(5, 1\), expected"),
        ("0.6 0.6 0\n" * 5, "state 0 has probabilities"),
    ):
        path.write_text(text)
        with pytest.raises(PolicyError, match=rf"{name}: policy: {message}"):
            load_policy(FINITE, path)


@pytest.mark.parametrize("steps", [(), (6,)], ids=["stationary", "by step"])
def test_load_policy__actions(tmp_path: Path, steps: tuple[int, ...]) -> None:
    """Also without the terminal state that `mdp_from_env` adds."""
    mdp = envs.lock_chain(6, 3)
    actions = np.random.default_rng(0).integers(3, size=(*steps, 7))
    path = tmp_path / "actions.npy"
    np.save(path, actions)
    np.testing.assert_array_equal(load_policy(mdp, path), np.eye(3)[actions])
    np.save(path, actions[..., :6])
    loaded = load_policy(mdp, path)
    np.testing.assert_array_equal(loaded[..., :6, :], np.eye(3)[actions[..., :6]])
    assert loaded.shape == (*steps, 7, 3)


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
