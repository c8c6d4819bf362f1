"""(I − γP)⁻¹ by every method against numpy's dense solve, and by its residual where S is large."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg
from hypothesis import given, target
from hypothesis import strategies as st
from scipy import sparse

import cpi.exact.linear
import envs
from cpi import evaluate, tolerance
from cpi.exact.linear import BAND_WIDTH, DENSE_STATES, resolvent
from tests.cpi.worlds import repeatable

EPS = float(np.finfo(float).eps)
ABOVE = DENSE_STATES + 1


def banded(num_states: int, lower: int, upper: int, seed: int) -> Any:
    """Random P that leads at most `lower` states down and `upper` up; every row sums to 1."""
    rng = np.random.default_rng(seed)
    offsets = range(-lower, upper + 1)
    diagonals = [rng.integers(1, 5, num_states - abs(k)).astype(float) for k in offsets]
    weights = sparse.diags_array(diagonals, offsets=list(offsets), format="csr")
    return sparse.csr_array(sparse.diags_array(1 / weights.sum(axis=1)) @ weights)


def scattered(num_states: int, branching: int, seed: int) -> Any:
    """Random P with `branching` successors anywhere."""
    return envs.garnet(num_states, 1, branching, seed, sparse=True).transitions


def grid(size: int, seed: int) -> Any:
    """Random P on `size` × `size` cells that leads to one of the four neighbours."""
    cells = np.arange(size * size)
    row, column = np.divmod(cells, size)
    low, high = (
        np.maximum(np.stack([row, column]) - 1, 0),
        np.minimum([row + 1, column + 1], size - 1),
    )
    following = [
        high[0] * size + column,
        low[0] * size + column,
        row * size + high[1],
        row * size + low[1],
    ]
    chances = np.random.default_rng(seed).dirichlet(np.ones(4), size * size)
    parts = chances.ravel(), (cells.repeat(4), np.stack(following, axis=1).ravel())
    return sparse.csr_array(sparse.coo_array(parts, shape=(size * size, size * size)))


def loop(num_states: int, seed: int) -> Any:
    """One cycle through all states in random order: the slowest P for a Krylov method."""
    order = np.random.default_rng(seed).permutation(num_states)
    parts = np.ones(num_states), (order, np.roll(order, 1))
    return sparse.csr_array(parts, shape=(num_states, num_states))


def with_rows(matrix: Any, rows: Any, stay: Any) -> Any:
    """P with some rows replaced: they lead only to themselves, with probability `stay`."""
    changed = sparse.lil_array(matrix)
    for row, p in zip(rows, np.broadcast_to(stay, len(rows)), strict=True):
        changed[row, :] = 0
        changed[row, row] = p
    return sparse.csr_array(changed)


def check(matrix: Any, discount: float, method: str, seed: int = 0) -> None:
    """`resolvent` picks `method`, and solves both systems as numpy does."""
    solver = resolvent(matrix, discount)
    assert solver.method == method
    rng = np.random.default_rng(seed)
    dense = matrix.toarray() if sparse.issparse(matrix) else matrix
    system = np.eye(len(dense)) - discount * dense
    for solve, one in ((solver.solve, system), (solver.solve_transposed, system.T)):
        for b in (rng.uniform(-1, 1, len(dense)), np.eye(len(dense))[len(dense) // 3]):
            given_b = b.copy()
            x, expected = solve(b), np.linalg.solve(one, b)
            margin = 64 * EPS * max(np.abs(expected).max(), 1.0) / (1 - discount)
            np.testing.assert_allclose(x, expected, rtol=0, atol=margin)
            np.testing.assert_array_equal(b, given_b)


@pytest.fixture
def factorisations(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Shapes of the matrices that SuperLU factorises."""
    shapes: list[tuple[int, int]] = []
    splu = scipy.sparse.linalg.splu

    def spy(matrix: Any, *args: Any, **kwargs: Any) -> Any:
        shapes.append(matrix.shape)
        return splu(matrix, *args, **kwargs)

    monkeypatch.setattr(scipy.sparse.linalg, "splu", spy)
    return shapes


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.99, 0.999])
@pytest.mark.parametrize("num_states", [1, 2, 17, DENSE_STATES])
def test_small_systems_are_dense(num_states: int, discount: float) -> None:
    matrix = scattered(num_states, min(3, num_states), seed=num_states)
    check(matrix.toarray(), discount, "dense LU")
    check(matrix, discount, "dense LU")


@pytest.mark.parametrize("discount", [0.9, 1 - 1e-9])
@pytest.mark.parametrize("order", ["C", "F"])
def test_resolvent__overwrites_a_dense_matrix_only_if_told(order: Any, discount: float) -> None:
    given = np.array(scattered(30, 3, seed=2).toarray(), order=order)
    kept, b = given.copy(), np.arange(30.0)
    expected = resolvent(given, discount).solve(b)
    np.testing.assert_array_equal(given, kept)
    np.testing.assert_array_equal(resolvent(given, discount, overwrite=True).solve(b), expected)
    whole = resolvent(np.eye(3, k=1, dtype=int), 0.5).solve(np.ones(3))
    np.testing.assert_array_equal(whole, [1.75, 1.5, 1.0])


def test_a_dense_matrix_stays_dense_at_any_size() -> None:
    check(banded(ABOVE, 1, 1, seed=0).toarray(), 0.9, "dense LU")


@pytest.mark.parametrize("threads", [False, True], ids=["one thread", "threads"])
def test_resolvent__large_dense_matrix_uses_threads(
    threads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpi.exact.linear, "THREAD_STATES", 19 if threads else 20)
    check(scattered(20, 3, seed=1).toarray(), 0.9, "dense LU")
    with pytest.raises(ArithmeticError, match=r"I − γP is singular at row 20"):
        resolvent(np.diag(np.append(np.zeros(19), 2.0)), 0.5)


@pytest.mark.parametrize("order", ["C", "F"])
def test_resolvent__dense_matrix_in_any_memory_order(order: Any) -> None:
    matrix = np.array(scattered(20, 3, seed=0).toarray(), order=order)
    given_matrix = matrix.copy()
    check(matrix, 0.9, "dense LU")
    np.testing.assert_array_equal(matrix, given_matrix)


@pytest.mark.parametrize("discount", [0.0, 0.9, 0.999])
@pytest.mark.parametrize(
    ("lower", "upper"), [(1, 1), (0, 1), (1, 0), (0, 4), (5, 0), (2, 7), (9, 1), (60, 3)]
)
def test_narrow_bands_on_either_side(lower: int, upper: int, discount: float) -> None:
    check(banded(ABOVE, lower, upper, seed=lower), discount, "banded LU")


def test_the_transposed_side_is_the_transposed_system() -> None:
    # One-way chain: values flow down from the end, occupancy up from the start.
    matrix = sparse.eye_array(ABOVE, k=1, format="csr")
    solver = resolvent(matrix, 0.5)
    powers = 0.5 ** np.arange(ABOVE)
    np.testing.assert_allclose(solver.solve(np.eye(ABOVE)[-1]), powers[::-1], rtol=1e-12)
    np.testing.assert_allclose(solver.solve_transposed(np.eye(ABOVE)[0]), powers, rtol=1e-12)


@pytest.mark.parametrize("num_states", [DENSE_STATES, ABOVE])
def test_one_state_more_than_dense_allows_is_banded(num_states: int) -> None:
    method = "dense LU" if num_states == DENSE_STATES else "banded LU"
    check(banded(num_states, 1, 2, seed=4), 0.9, method)


@pytest.mark.parametrize(("lower", "upper"), [(BAND_WIDTH, 1), (1, BAND_WIDTH)])
def test_one_diagonal_more_than_a_band_allows_is_iterative(lower: int, upper: int) -> None:
    check(banded(400, lower, upper, seed=4), 0.9, "banded LU")
    wider = (lower + 1, upper) if lower > upper else (lower, upper + 1)
    check(banded(400, *wider, seed=4), 0.9, "BiCGSTAB")


def test_a_band_larger_than_memory_allows_is_iterative(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = banded(400, 2, 3, seed=4)
    monkeypatch.setattr(cpi.exact.linear, "BAND_ENTRIES", 8 * 400)  # 2 + 3 + 1, and 2 for pivoting
    check(matrix, 0.9, "banded LU")
    monkeypatch.setattr(cpi.exact.linear, "BAND_ENTRIES", 8 * 400 - 1)
    check(matrix, 0.9, "BiCGSTAB")


def shuffled(matrix: Any, seed: int) -> Any:
    """The same P with its states in random order."""
    order = np.random.default_rng(seed).permutation(matrix.shape[0])
    return sparse.csr_array(matrix[order][:, order])


@pytest.mark.parametrize("discount", [0.5, 0.999])
def test_a_band_is_found_in_any_order_of_the_states(discount: float) -> None:
    for seed, (lower, upper) in enumerate([(1, 1), (0, 3), (4, 2)]):
        check(shuffled(banded(700, lower, upper, seed), seed), discount, "banded LU")
    check(loop(700, seed=3), discount, "banded LU")
    two = sparse.block_diag([banded(400, 1, 1, 4), loop(350, seed=4)], format="csr")
    check(shuffled(two, 5), discount, "banded LU")
    # No order of a large grid, nor of random successors, has a narrow band.
    assert resolvent(grid(150, seed=6), discount).method == "BiCGSTAB"
    assert resolvent(shuffled(grid(150, seed=6), 7), discount).method == "BiCGSTAB"


def test_a_band_is_found_where_no_state_leads_to_the_last() -> None:
    matrix = shuffled(banded(400, 1, 1, seed=2), 3)
    matrix = sparse.block_array([[matrix, None], [matrix[:1], sparse.csr_array((1, 1))]])
    check(sparse.csr_array(matrix), 0.9, "banded LU")


@pytest.mark.parametrize("mixed", [False, True], ids=["in rows", "shuffled"])
def test_a_large_grid_is_factorised_near_a_discount_of_one(mixed: bool) -> None:
    matrix = shuffled(grid(150, seed=6), 7) if mixed else grid(150, seed=6)
    solver = resolvent(matrix, 0.9999)
    assert solver.method == "SuperLU"
    b = np.random.default_rng(7).uniform(0, 1, 150**2)
    V, d = solver.solve(b), solver.solve_transposed(b)
    assert np.abs(V - 0.9999 * (matrix @ V) - b).max() <= 64 * EPS * V.max()
    assert np.abs(d - 0.9999 * (matrix.T @ d) - b).sum() <= 64 * EPS * d.sum()


def test_random_sparsity_is_never_factorised_because_one_state_reaches_few(
    factorisations: list[tuple[int, int]],
) -> None:
    matrix = sparse.lil_array(scattered(2000, 3, seed=12))
    matrix[1000, :] = 0.0
    matrix[1000, [1000, 1001]] = 0.5
    matrix[1001, :] = 0.0
    matrix[1001, [1000, 1001]] = 0.5
    check(sparse.csr_array(matrix), 0.9995, "BiCGSTAB")
    assert not factorisations


def test_resolvent__a_last_state_that_is_never_entered() -> None:
    """A walk through all states in random order begins there; its column has no entries."""
    order = np.random.default_rng(0).permutation(ABOVE - 1)
    walk = np.concatenate([[ABOVE - 1], order, order[-2:-1]])
    entries = (np.ones(ABOVE), (walk[:-1], walk[1:]))
    check(sparse.csr_array(entries, shape=(ABOVE, ABOVE)), 0.9, "banded LU")


def test_a_shuffled_chain_has_the_solutions_of_the_chain() -> None:
    chain = banded(100_000, 1, 1, seed=8)
    order = np.random.default_rng(8).permutation(100_000)
    b = np.random.default_rng(9).uniform(0, 1, 100_000)
    mixed = resolvent(sparse.csr_array(chain[order][:, order]), 0.99)
    assert mixed.method == "banded LU"
    x, y = mixed.solve(b[order]), mixed.solve_transposed(b[order])
    plain = resolvent(chain, 0.99)
    np.testing.assert_allclose(x, plain.solve(b)[order], rtol=1e-12)
    np.testing.assert_allclose(y, plain.solve_transposed(b)[order], rtol=1e-12)


@pytest.mark.parametrize("stay", [1.0, 0.5, 0.0], ids=["absorbing", "leaking", "ending"])
@pytest.mark.parametrize(
    "alone",
    [[0], [ABOVE - 1], range(0, ABOVE, 3), range(1, ABOVE), [5, 6, 7, 100, 200]],
    ids=["first", "last", "every third", "all but one", "some"],
)
def test_resolvent__absorbing_states(alone: Any, stay: float) -> None:
    check(with_rows(banded(ABOVE, 2, 1, seed=5), list(alone), stay), 0.99, "banded LU")


def test_resolvent__absorbing_states_with_different_probabilities() -> None:
    stay = np.linspace(0, 1, 101)
    matrix = with_rows(scattered(600, 3, seed=6), range(0, 600, 6), stay[:100])
    check(matrix, 0.9, "BiCGSTAB")


@pytest.mark.parametrize("stay", [0.0, 0.3, 1.0])
def test_resolvent__only_absorbing_states_need_no_factorisation(stay: float) -> None:
    check(sparse.csr_array(sparse.diags_array(np.full(ABOVE, stay))), 0.9, "diagonal")
    mixed = np.where(np.arange(ABOVE) % 2, stay, 0.7)
    check(sparse.csr_array(sparse.diags_array(mixed)), 0.999, "diagonal")


def test_rows_may_sum_to_less_than_one() -> None:
    leak = np.random.default_rng(7).uniform(0, 1, ABOVE)
    leaking = sparse.csr_array(sparse.diags_array(leak) @ banded(ABOVE, 1, 3, seed=7))
    check(leaking, 0.99, "banded LU")
    check(leaking.toarray(), 0.99, "dense LU")


@pytest.mark.parametrize("over", [0, 2500, 4999])
def test_resolvent__common_terminal_state_keeps_the_band_narrow(over: int) -> None:
    # Every state may end the episode: a column as tall as the matrix, but for an absorbing state.
    chain = 0.9 * banded(5000, 1, 1, seed=8)
    end = sparse.csr_array((np.full(5000, 0.1), (np.arange(5000), np.full(5000, over))))
    end.resize((5000, 5000))
    matrix = with_rows(chain + end, [over], 1.0)
    solver = resolvent(matrix, 0.9)
    assert solver.method == "banded LU"
    b = np.random.default_rng(8).uniform(-1, 1, 5000)
    x, y = solver.solve(b), solver.solve_transposed(b)
    assert np.abs(x - 0.9 * (matrix @ x) - b).max() <= 64 * EPS * np.abs(x).max()
    assert np.abs(y - 0.9 * (matrix.T @ y) - b).max() <= 64 * EPS * np.abs(y).max()


def test_stored_zeros_are_not_structure() -> None:
    chain = sparse.coo_array(banded(3000, 1, 1, seed=9))
    row, column = chain.coords
    parts = np.append(chain.data, [0, 0]), (np.append(row, [0, 2999]), np.append(column, [2999, 0]))
    matrix = sparse.csr_array(parts, shape=(3000, 3000))
    assert matrix.nnz == chain.nnz + 2
    assert resolvent(matrix, 0.9).method == "banded LU"
    assert matrix.nnz == chain.nnz + 2  # the caller's matrix is not modified


@pytest.mark.parametrize("kind", ["csc", "coo", "dia", "lil"])
def test_resolvent__accepts_every_sparse_format(kind: str) -> None:
    check(banded(ABOVE, 3, 1, seed=10).asformat(kind), 0.9, "banded LU")


def test_repeated_entries_of_a_row_add_up() -> None:
    columns = np.minimum(np.arange(ABOVE) + 1, ABOVE - 1).repeat(2)
    matrix = sparse.csr_array(
        (np.full(2 * ABOVE, 0.5), columns, np.arange(0, 2 * ABOVE + 1, 2)), shape=(ABOVE, ABOVE)
    )
    check(matrix, 0.9, "banded LU")


@pytest.mark.parametrize("discount", [0.0, 0.9, 0.999])
def test_random_sparsity_is_iterative(
    discount: float, factorisations: list[tuple[int, int]]
) -> None:
    check(scattered(600, 4, seed=11), discount, "BiCGSTAB")
    assert not factorisations


def test_random_sparsity_at_three_thousand_states() -> None:
    check(scattered(3000, 3, seed=12), 0.99, "BiCGSTAB")


@pytest.mark.parametrize("discount", [0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("kind", ["two successors", "four successors", "grid"])
def test_worlds_of_ten_thousand_states_need_no_sparse_factorisation(
    kind: str, discount: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A uniform start is an eigenvector of the other system, and a single state is orthogonal to its
    # successors. As shadow vectors, both make BiCGSTAB break down. scipy also takes small numbers
    # for a breakdown. SuperLU would then need up to a minute and two gigabytes.
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("BiCGSTAB gave up")

    monkeypatch.setattr(scipy.sparse.linalg, "splu", refused)
    n = 10_000
    uniform, one = np.full(n, 1 / n), np.eye(1, n)[0]
    for seed in range(2):
        scattering = {"two successors": 2, "four successors": 4}
        matrix = scattered(n, scattering[kind], seed) if kind in scattering else grid(100, seed)
        solver = resolvent(matrix, discount)
        for start in (uniform, one):
            d = solver.solve_transposed(start)
            assert np.abs(d - discount * (matrix.T @ d) - start).sum() <= 64 * EPS * d.sum()
        for b in (np.random.default_rng(seed).uniform(0, 1, n), one):
            V = solver.solve(b)
            assert np.abs(V - discount * (matrix @ V) - b).max() <= 64 * EPS * V.max()


@pytest.mark.parametrize("discount", [0.999, 0.9999])
def test_a_stalling_iteration_is_replaced_by_a_factorisation(
    discount: float, factorisations: list[tuple[int, int]]
) -> None:
    # Information needs 2500 steps around the loop, and an iteration moves it by two. The rare jumps
    # leave no narrow band.
    matrix = sparse.csr_array((1 - 1e-9) * loop(2500, seed=14) + 1e-9 * scattered(2500, 1, seed=1))
    solver = resolvent(matrix, discount)
    b = np.random.default_rng(14).uniform(-1, 1, 2500)
    for solve, one in ((solver.solve, matrix), (solver.solve_transposed, matrix.T)):
        x = solve(b)
        assert np.abs(x - discount * (one @ x) - b).max() <= 64 * EPS * np.abs(x).max()
    assert factorisations == [(2500, 2500)]  # once for both


@pytest.mark.parametrize("answer", [0.0, 1e-9, -1e3, np.nan, np.inf])
def test_resolvent__wrong_bicgstab_result_is_not_accepted(
    answer: float, factorisations: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hopeless(system: Any, b: Any, **_: Any) -> Any:
        return np.full_like(b, answer), 0

    monkeypatch.setattr(scipy.sparse.linalg, "bicgstab", hopeless)
    with np.errstate(invalid="ignore"):
        check(scattered(500, 2, seed=15), 0.9, "BiCGSTAB")
    assert factorisations == [(500, 500)]


def test_a_rough_iteration_is_refined_to_rounding(
    factorisations: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    iterate = scipy.sparse.linalg.bicgstab
    factors = np.random.default_rng(16).uniform(0.99, 1.01, 500)

    def rough(*args: Any, **kwargs: Any) -> Any:
        x, info = iterate(*args, **kwargs)
        return factors * x, info

    monkeypatch.setattr(scipy.sparse.linalg, "bicgstab", rough)
    check(scattered(500, 3, seed=16), 0.9, "BiCGSTAB")
    assert not factorisations


def test_resolvent__solution_of_a_zero_right_side_is_zero() -> None:
    for matrix in (loop(ABOVE, 16), banded(ABOVE, 1, 1, 16), scattered(2000, 3, 16)):
        solver = resolvent(matrix, 0.9)
        nothing = np.zeros(matrix.shape[0])
        np.testing.assert_array_equal(solver.solve(nothing), nothing)
        np.testing.assert_array_equal(solver.solve_transposed(nothing), nothing)


@pytest.mark.parametrize("copies", [1, ABOVE], ids=["dense", "banded"])
def test_a_singular_system_is_refused(copies: int) -> None:
    swap = sparse.block_diag([np.array([[0.0, 2.0], [2.0, 0.0]])] * copies, format="csr")
    with pytest.raises(ArithmeticError, match=r"I − γP is singular at row 2; is some row of P"):
        resolvent(swap, 0.5)


@repeatable
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 12),
    alone=st.integers(0, 4),
    discount=st.sampled_from([0.0, 0.5, 0.9, 0.99]),
)
def test_values_and_occupancies_are_adjoint(
    seed: int, size: int, alone: int, discount: float
) -> None:
    num_states = ABOVE + size
    matrix = banded(num_states, size % 3, 1 + size % 2, seed)
    rng = np.random.default_rng(seed)
    matrix = with_rows(matrix, rng.integers(0, num_states, alone), rng.integers(0, 2, alone))
    solver = resolvent(matrix, discount)
    r, d = rng.uniform(-1, 1, num_states), rng.dirichlet(np.ones(num_states))
    gap = abs(d @ solver.solve(r) - solver.solve_transposed(d) @ r)
    margin = 64 * EPS / (1 - discount) ** 2
    target(gap / margin)
    assert gap <= margin


def run(script: str) -> Any:
    """Output of a script that runs in its own process, to measure its peak memory."""
    command = [sys.executable, "-W", "error", "-c", script]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return json.loads(out.stdout)


CHAIN = """
import json
import numpy as np
import cpi, envs
from tests.bench.peak import peak_bytes

mdp = envs.kl_chain(10**6, discount=0.999, sparse=True)
policy = np.tile([0.2, 0.1, 0.7], (mdp.num_states, 1))
evaluation = cpi.evaluate(mdp, policy)
V, d = evaluation.V, evaluation.occupancy
met = cpi.visit_probability(evaluation, np.arange(mdp.num_states) >= 1000)
# The chain, by hand: left with .3, right with .7, the last state absorbs.
left, right = np.append(V[:1], V[:-1]), np.append(V[1:], V[-1:])
expected = 0.999 * (0.3 * left + 0.7 * right)
expected[-2] += 0.7
expected[-1] = 0.999 * V[-1]
into = np.append(0.0, 0.7 * d[:-1]) + np.append(0.3 * d[1:], 0.0)
into[0] += 0.3 * d[0]
into[-2] -= 0.3 * d[-1]
into[-1] += d[-1]
flow = 0.001 * mdp.start + 0.999 * into
print(json.dumps({
    "method": evaluation.resolvent.method,
    "values": float(np.abs(V - expected).max()),
    "occupancy": float(np.abs(d - flow).sum()),
    "total": float(d.sum()),
    "met": met,
    "bytes": peak_bytes(),
}))
"""


@pytest.mark.slow
def test_a_chain_of_a_million_states_fits_in_four_gigabytes() -> None:
    result = run(CHAIN)
    assert result["method"] == "banded LU"
    assert result["values"] <= 64 * EPS and result["occupancy"] <= 64 * EPS
    assert result["total"] == pytest.approx(1.0, abs=1e-11)
    # To be met, the walk must go 1000 to the right: each step up multiplies by the same root.
    root = (1 - np.sqrt(1 - 4 * 0.999**2 * 0.21)) / (2 * 0.999 * 0.3)
    assert np.log(result["met"]) == pytest.approx(1000 * np.log(root), abs=0.5)
    assert result["bytes"] < 4e9


RANDOM = """
import json
import numpy as np
import cpi, envs
from tests.bench.peak import peak_bytes

mdp = envs.garnet(10**4, 3, 4, seed=1, discount=0.99, sparse=True)
evaluation = cpi.evaluate(mdp, cpi.random_policy(mdp, np.random.default_rng(1)))
V, d = evaluation.V, evaluation.occupancy_from(np.eye(10**4)[0])
moves = cpi.policy_transitions(mdp, evaluation.policy)
rewards = (evaluation.policy * mdp.rewards).sum(axis=1)
flow = 0.01 * np.eye(10**4)[0] + 0.99 * (moves.T @ d)
print(json.dumps({
    "method": evaluation.resolvent.method,
    "values": float(np.abs(V - rewards - 0.99 * (moves @ V)).max()) / float(V.max()),
    "occupancy": float(np.abs(d - flow).sum()),
    "bytes": peak_bytes(),
}))
"""


@pytest.mark.slow
def test_ten_thousand_states_of_random_sparsity_fit_in_a_gigabyte() -> None:
    result = run(RANDOM)
    assert result["method"] == "BiCGSTAB"
    assert result["values"] <= 64 * EPS and result["occupancy"] <= 64 * EPS
    assert result["bytes"] < 1e9


def test_resolvent__relative_precision_on_a_long_chain() -> None:
    # Always right: V(s) = γ^(distance − 1), to relative precision in every state.
    mdp = envs.kl_chain(1000, discount=0.99, sparse=True)
    V = evaluate(mdp, np.tile([0.0, 0.0, 1.0], (1000, 1))).V
    expected = np.append(0.99 ** np.arange(998, -1, -1), 0.0)
    np.testing.assert_allclose(V, expected, rtol=1e-12, atol=0)
    assert np.abs(V - expected).max() <= tolerance(mdp)
