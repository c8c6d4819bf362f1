"""Solves (I − γP) x = b and its transpose with one factorisation, chosen by the structure of P.

| P                                   | method                                 | exactness        |
|-------------------------------------|----------------------------------------|------------------|
| dense, or sparse with S ≤ 300       | LAPACK LU                              | direct           |
| sparse, narrow band (chains, grids) | LAPACK banded LU                       | direct           |
| … in another order of the states    | the same, in reverse Cuthill–McKee's   | direct           |
| large grids where γ > 0.999         | SuperLU                                | direct           |
| sparse otherwise                    | BiCGSTAB, refined to machine precision | residual checked |
| … where BiCGSTAB stalls             | SuperLU                                | direct           |

Where γ > 1 − 1e-6 every solution is refined with residuals in extended precision (on processors
that have it), and a row of P that sums to 1 but for rounding counts as summing to 1. Otherwise that
rounding, divided by 1 − γ, would be seen: an occupancy would not sum to 1.

Rows of a sparse P that lead only to themselves (absorbing states) are eliminated first. A chain
whose every state leads to one "over" state thus still has a narrow band. ‖(I − γP)⁻¹‖∞ is at most
1/(1−γ), so a residual of a few ulp bounds the error by a few ulp times the same factor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg import lapack
from scipy.sparse import csgraph
from scipy.sparse import linalg as sparse_linalg

from envs.tabular import ROUNDING, FloatArray

DENSE_STATES = 300
#: With fewer states one thread factorises nearly as fast as two. On busy cores, where BLAS threads
#: spin while they wait for each other, it is ten times faster.
THREAD_STATES = 2000
BAND_ENTRIES = 5e7  # 400 MB of band storage
BAND_WIDTH = 64  # to either side; LAPACK's code for wider bands goes to BLAS threads
RESIDUAL_ULPS = 8.0
PLANE_DISCOUNT = 0.999  # up to it, the iteration converges on a grid before the factorisation
COUNTED_STEPS = 200  # enough for the states of a grid to be too many for a band
REFINED_DISCOUNT = 1.0 - 1e-6

#: solve(b, transposed) for a vector b of shape (S,)
Solver = Callable[[FloatArray, bool], FloatArray]


@dataclass(frozen=True)
class Resolvent:
    """(I − γP)⁻¹ as a factorisation: `solve` gives values, `solve_transposed` occupancies."""

    method: str
    solver: Solver

    def solve(self, b: FloatArray) -> FloatArray:
        """x of (I − γP) x = b; b and x of shape (S,)."""
        return self.solver(b, False)

    def solve_transposed(self, b: FloatArray) -> FloatArray:
        """x of (I − γP)ᵀ x = b; b and x of shape (S,)."""
        return self.solver(b, True)


def resolvent(transitions: Any, discount: float, *, overwrite: bool = False) -> Resolvent:
    """Factorise I − γP.

    Parameters
    ----------
    transitions : array (S, S), dense or scipy sparse
        P; rows sum to at most 1.
    discount : float
        γ in [0, 1).
    overwrite : bool
        The factors may take the place of a dense P, which is then lost. A small system is solved
        sooner without a copy.
    """
    if discount <= REFINED_DISCOUNT:
        return _factorised(transitions, discount, overwrite)
    plain = _factorised(transitions, discount, False)
    return Resolvent(plain.method, _refined(plain.solver, transitions, discount))


def _refined(solver: Solver, transitions: Any, discount: float) -> Solver:
    """Iterative refinement, as long as it halves the residual."""
    matrix = transitions.astype(np.longdouble)
    sums = np.asarray(matrix.sum(axis=1)).ravel()
    # 1 − γ + γ (1 − Σ p) leaves a state for good, where 1 − Σ p is 0 or far from rounding.
    diagonal = 1.0 - discount + discount * np.where(np.abs(sums - 1.0) <= ROUNDING, sums, 1.0)
    matrices = matrix, matrix.T

    def refined(b: FloatArray, transposed: bool) -> FloatArray:
        x = solver(b, transposed).astype(np.longdouble)
        last = np.inf
        while True:
            residual = b - diagonal * x + discount * (matrices[transposed] @ x)
            size = float(np.abs(residual).sum())
            if not size < 0.5 * last:
                return x.astype(np.float64)
            x = x + solver(residual.astype(np.float64), transposed)
            last = size

    return refined


def _factorised(transitions: Any, discount: float, overwrite: bool) -> Resolvent:
    """I − γP, by the method of the table above."""
    if not sparse.issparse(transitions):
        return Resolvent("dense LU", _dense(transitions, discount, overwrite))
    given: Any = transitions
    matrix = sparse.csr_array(given, copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    if matrix.shape[0] <= DENSE_STATES:
        return Resolvent("dense LU", _dense(matrix.toarray(), discount, True))
    diagonal = matrix.diagonal()
    entries = np.diff(matrix.indptr)
    alone = (entries == 0) | ((entries == 1) & (diagonal > 0))
    if not alone.any():
        return _sparse(matrix, discount)
    return _without(alone, matrix, diagonal, discount)


def _dense(matrix: FloatArray, discount: float, overwrite: bool) -> Solver:
    # LAPACK itself: on the small systems of bound checks, scipy.linalg's wrappers would cost more
    # than the arithmetic.
    in_place = overwrite and matrix.flags.c_contiguous
    system = matrix if in_place else np.array(matrix, dtype=np.float64, order="C")
    system *= -discount
    system.ravel()[:: len(system) + 1] += 1.0
    # LAPACK is column-major: the transpose of a row-major array is factorised without a copy.
    if len(system) > THREAD_STATES:
        factors, pivots, info = lapack.dgetrf(system.T, overwrite_a=True)
    else:  # the same factors, but OpenBLAS keeps to one thread while there are few right-hand sides
        factors, pivots, _, info = lapack.dgesv(system.T, np.zeros(len(system)), overwrite_a=True)
    _check_factors(info)

    def solver(b: FloatArray, transposed: bool) -> FloatArray:
        x, _ = lapack.dgetrs(factors, pivots, b, trans=int(not transposed))
        return np.asarray(x)

    return solver


def _check_factors(info: int) -> None:
    if info:
        raise ArithmeticError(f"I − γP is singular at row {info}; is some row of P above 1?")


def _without(alone: Any, matrix: Any, diagonal: FloatArray, discount: float) -> Resolvent:
    """Block elimination of the states that lead only to themselves."""
    rest = ~alone
    scale = 1.0 - discount * diagonal[alone]
    if not rest.any():
        return Resolvent("diagonal", lambda b, transposed: b / scale)
    reduced = _sparse(sparse.csr_array(matrix[rest][:, rest]), discount)
    into = discount * sparse.csr_array(matrix[rest][:, alone])

    def solver(b: FloatArray, transposed: bool) -> FloatArray:
        x = np.empty_like(b, dtype=np.float64)
        if transposed:
            x[rest] = reduced.solver(b[rest], True)
            x[alone] = (b[alone] + into.T @ x[rest]) / scale
        else:
            x[alone] = b[alone] / scale
            x[rest] = reduced.solver(b[rest] + into @ x[alone], False)
        return x

    return Resolvent(reduced.method, solver)


def _sparse(matrix: Any, discount: float) -> Resolvent:
    solver = _banded(matrix, discount)
    if solver is None and may_have_a_band(matrix):
        solver = _reordered(matrix, discount)
    if solver is not None:
        return Resolvent("banded LU", solver)
    if discount > PLANE_DISCOUNT and _is_plane(matrix) and _is_plane(_neighbours(matrix)):
        return Resolvent("SuperLU", _superlu(matrix, discount))
    return Resolvent("BiCGSTAB", _krylov(matrix, discount))


def may_have_a_band(matrix: Any) -> bool:
    """Whether some order of the states may give a band of at most `BAND_WIDTH` to either side.

    Such an order puts at most 2ℓ · BAND_WIDTH others within ℓ steps of a state.
    """
    return _reaches_at_most(matrix, COUNTED_STEPS, lambda steps: 1 + 2 * steps * BAND_WIDTH)


def _is_plane(matrix: Any) -> bool:
    """Whether as few states are within ℓ steps as on a grid, diagonal steps included.

    The LU factors of a grid have S log S entries; those of random sparsity fill up.
    """
    return _reaches_at_most(matrix, COUNTED_STEPS // 4, lambda steps: (2 * steps + 1) ** 2)


def _reaches_at_most(matrix: Any, most_steps: int, limit: Callable[[int], int]) -> bool:
    """Whether at most `limit(steps)` states are within that many steps of the middle one.

    They are counted until they are too many: soon, for random sparsity.
    """
    middle = matrix.shape[0] // 2  # of a grid, whose corners have fewer states around them
    seen = np.zeros(matrix.shape[0], dtype=bool)
    seen[middle] = True
    frontier, reached = np.array([middle]), 1
    for steps in range(1, most_steps + 1):
        following = np.unique(matrix[frontier].indices)
        frontier = following[~seen[following]]
        seen[frontier] = True
        reached += len(frontier)
        if reached > limit(steps):
            return False
    return True


def _neighbours(matrix: Any) -> Any:
    """The states one step before or after each state, as CSR."""
    pattern = matrix.astype(bool)
    return sparse.csr_array(pattern + pattern.T)


def _superlu(matrix: Any, discount: float) -> Solver:
    system: Any = sparse.eye_array(matrix.shape[0]) - discount * matrix
    # Each row's diagonal exceeds the sum of the others, so elimination is stable without pivoting.
    factors: Any = sparse_linalg.splu(sparse.csc_array(system), diag_pivot_thresh=0.0)
    return lambda b, transposed: np.asarray(factors.solve(b, trans="T" if transposed else "N"))


def _reordered(matrix: Any, discount: float) -> Solver | None:
    """`_banded` in the reverse Cuthill–McKee order of the states (George 1971)."""
    order = csgraph.reverse_cuthill_mckee(_neighbours(matrix), symmetric_mode=True)
    banded = _banded(sparse.csr_array(matrix[order][:, order]), discount)
    if banded is None:
        return None

    def solver(b: FloatArray, transposed: bool) -> FloatArray:
        x = np.empty_like(b, dtype=np.float64)
        x[order] = banded(b[order], transposed)
        return x

    return solver


def _banded(matrix: Any, discount: float) -> Solver | None:
    """Banded LU; None if the band is too wide."""
    num_states = matrix.shape[0]
    rows = np.repeat(np.arange(num_states, dtype=np.int64), np.diff(matrix.indptr))
    offsets = matrix.indices - rows
    lower = int(max(-offsets.min(initial=0), 0))
    upper = int(max(offsets.max(initial=0), 0))
    entries = num_states * (2 * lower + upper + 1)
    if max(lower, upper) > BAND_WIDTH or entries > BAND_ENTRIES:
        return None
    # LAPACK's band storage with `lower` extra rows for the fill-in of pivoting.
    band = np.zeros((2 * lower + upper + 1, num_states), order="F")
    band[lower + upper - offsets, matrix.indices] = -discount * matrix.data
    band[lower + upper] += 1.0
    factors, pivots, info = lapack.dgbtrf(band, lower, upper, overwrite_ab=True)
    _check_factors(info)

    def solver(b: FloatArray, transposed: bool) -> FloatArray:
        x, _ = lapack.dgbtrs(factors, lower, upper, b, pivots, trans=int(transposed))
        return np.asarray(x)

    return solver


def _krylov(matrix: Any, discount: float) -> Solver:
    system = sparse.csr_array(sparse.eye_array(matrix.shape[0]) - discount * matrix)
    systems = (system, sparse.csr_array(system.T))
    guess = np.random.default_rng(0).standard_normal(matrix.shape[0])
    direct: list[Solver] = []  # made only if BiCGSTAB falls short

    def solver(b: FloatArray, transposed: bool) -> FloatArray:
        x = None if direct else _refined_bicgstab(systems[transposed], b, guess, transposed)
        if x is not None:
            return x
        if not direct:
            direct.append(_superlu(matrix, discount))
        return direct[0](b, transposed)

    return solver


def _refined_bicgstab(
    system: Any, b: FloatArray, guess: FloatArray, transposed: bool
) -> FloatArray | None:
    """Iterative refinement around BiCGSTAB; None if it stalls above a few ulp of residual.

    Each solve starts from a random guess, not from 0, because the first residual is also the shadow
    vector of the iteration. The right-hand side of an occupancy is a bad shadow vector: a uniform
    start is an eigenvector, and a point is orthogonal to its first images, so the iteration breaks
    down. The residual is scaled, because scipy takes any inner product below ε² for a breakdown. It
    also decides whether to continue; scipy's return code does not.
    """
    norm = partial(np.linalg.norm, ord=1 if transposed else np.inf)  # the inverse is ≤ 1/(1−γ)
    x = np.zeros_like(b, dtype=np.float64)
    residual, size, last = b, float(norm(b)), np.inf
    while True:
        ulp = np.finfo(float).eps * float(norm(b) + 2.0 * norm(x))
        if size <= RESIDUAL_ULPS * ulp:
            return x
        if not size < 0.1 * last:  # true of NaN too
            return None
        scale = np.abs(residual).mean()
        step, _ = sparse_linalg.bicgstab(
            system, residual / scale, x0=guess, rtol=1e-8, maxiter=1000
        )
        x = x + scale * step
        residual = b - system @ x
        size, last = float(norm(residual)), size
