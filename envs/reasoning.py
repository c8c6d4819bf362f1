r"""Chain reasoning: a chain MDP drawn as text, so that a language model's step policy is exact.

A problem is a start value v_0 and operations o_1 … o_n over the values 0 … M−1. Step k writes the
next value v_k. It is right when v_k = o_k(v_{k−1}) mod M, even if v_{k−1} itself is wrong. The last
value is the answer. As text, each step is one line and the answer is boxed:

    prompt      3 +4 *3 -2\n
    solution    7\n1\n\boxed{9}

Every value, every operation, ` `, `\n`, `\boxed{` and `}` can be one token each. The line break is
the step delimiter and the box ends the episode, so one step is one action of `ChainTask.mdp`.

If steps are right with probability q, independently, and the verifier requires every step to be
right, the success probability is qⁿ. A verifier of the answer alone also passes lucky solutions,
whose errors cancel.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from envs.checks import check_whole
from envs.tabular import FloatArray, TabularMDP, real_array

IntArray = NDArray[np.int64]

#: Verifiers: every step right, or only the right answer after n well-formed steps.
VERIFY = ("steps", "answer")

_OPERATION = re.compile(r"([-+*])(0|[1-9][0-9]*)")


@dataclass(frozen=True)
class Problem:
    """A start value and the operations to apply to it, in order.

    Parameters
    ----------
    start : int
        v_0.
    operations : sequence of str
        Such as "+3", "-2", "*3"; step k applies the k-th.

    Raises
    ------
    ValueError
        If `operations` is empty, or `start` is not a whole number ≥ 0.
    """

    start: int
    operations: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "operations", tuple(self.operations))
        if not self.operations:
            raise ValueError("operations: a problem needs at least one")
        if not _is_whole(self.start, 0):
            raise ValueError(f"start: {self.start!r} is not a whole number ≥ 0")

    @property
    def length(self) -> int:
        """Number of steps n of a solution."""
        return len(self.operations)


@dataclass(frozen=True)
class ChainTask:
    """The family of problems over one modulus and one set of operations.

    A *fact* is an operation applied to a value; arrays over facts have shape (O, M).

    Parameters
    ----------
    modulus : int
        M ≥ 2; values are 0 … M−1.
    operations : sequence of str
        The O operations that problems may use: a sign +, - or * and a whole number.

    Raises
    ------
    ValueError
        If the modulus is below 2, or an operation is malformed or listed twice.
    """

    modulus: int = 10
    operations: tuple[str, ...] = ("+3", "-4", "*3")

    def __post_init__(self) -> None:
        object.__setattr__(self, "operations", tuple(self.operations))
        if not _is_whole(self.modulus, 2):
            raise ValueError(f"modulus: {self.modulus!r} is not a whole number ≥ 2")
        if not self.operations:
            raise ValueError("operations: a task needs at least one")
        for operation in self.operations:
            if not isinstance(operation, str) or not _OPERATION.fullmatch(operation):
                raise ValueError(
                    f"operations: {operation!r} is not a sign +, - or * and a whole number, "
                    'such as "+3"'
                )
        if len(set(self.operations)) < len(self.operations):
            raise ValueError(f"operations: one is listed twice in {self.operations}")

    @cached_property
    def results(self) -> IntArray:
        """Right next value of every fact, shape (O, M)."""
        rows = [[self.apply(o, v) for v in range(self.modulus)] for o in self.operations]
        return _frozen(np.array(rows, dtype=np.int64))

    def apply(self, operation: str, value: int) -> int:
        """`operation` applied to `value`, modulo M."""
        sign, number = operation[0], int(operation[1:])
        if sign == "*":
            return value * number % self.modulus
        return (value + number if sign == "+" else value - number) % self.modulus

    def wrong_values(self, seed: int) -> IntArray:
        """One fixed wrong next value per fact, uniform among the M−1 others; shape (O, M)."""
        seed = check_whole("seed", seed)
        shift = np.random.default_rng(seed).integers(1, self.modulus, size=self.results.shape)
        return (self.results + shift) % self.modulus

    def sample(self, rng: np.random.Generator, length: int) -> Problem:
        """A problem of `length` steps, its start and operations uniform and independent."""
        length = check_whole("length", length, 1)
        start = int(rng.integers(self.modulus))
        chosen = rng.integers(len(self.operations), size=length)
        return Problem(start, tuple(self.operations[o] for o in chosen))

    def problems(self, length: int) -> Iterator[Problem]:
        """All M·Oⁿ problems of n = `length` steps."""
        length = check_whole("length", length, 1)
        for start in range(self.modulus):
            for operations in itertools.product(self.operations, repeat=length):
                yield Problem(start, operations)

    def solution(self, problem: Problem) -> list[int]:
        """The n right values; the last is the answer."""
        self._check(problem)
        value, values = problem.start, []
        for operation in problem.operations:
            value = self.apply(operation, value)
            values.append(value)
        return values

    # ------------------------------------------------------------------ as an MDP

    def num_states(self, problem: Problem) -> int:
        """2nM states (k, clean, v), and `over`, the last."""
        return 2 * problem.length * self.modulus + 1

    def state_index(self, k: int, value: int, clean: bool = True) -> int:
        """Index of the state after k steps, the last of which wrote `value`.

        The order is that of an array (n, 2, M), clean states first. All rows but the last of an
        (S, A) policy table are thus an array (n, 2, M, M) over k, not clean, value, next value.
        """
        return (2 * k + (not clean)) * self.modulus + value

    def mdp(self, problem: Problem, verify: str = "steps") -> TabularMDP:
        """The problem as an MDP: an action writes the next value, the verifier pays 1 at the end.

        States (k, v, clean) hold how many steps are written, the last value, and whether all
        steps so far were right; see `state_index`. The flag decides the reward only under
        verify="steps", and is kept under "answer" too, so that policy tables and first-error
        masks fit both.

        Parameters
        ----------
        problem : Problem
            Its length n is the horizon.
        verify : {"steps", "answer"}
            Pay when every step was right, or when the last value is the right answer.

        Returns
        -------
        TabularMDP
            S = 2nM + 1 states in CSR rows, M actions, finite horizon n.

        Raises
        ------
        ValueError
            If the problem is not one of this task, or `verify` is unknown.
        """
        _check_verify(verify)
        answer = self.solution(problem)[-1]
        n, m = problem.length, self.modulus
        k, dirty, value, action = np.indices((n, 2, m, m))
        facts = self._facts(problem)[k, value]
        wrong = dirty.astype(bool) | (action != facts)
        over = self.num_states(problem) - 1
        following = np.where(k < n - 1, (2 * (k + 1) + wrong) * m + action, over)
        pays = ~wrong if verify == "steps" else action == answer
        rewards = np.zeros((over + 1, m))
        rewards[:over] = ((k == n - 1) & pays).reshape(over, m)
        columns = np.concatenate([following.ravel(), np.full(m, over)])
        rows = (np.ones(columns.size), columns, np.arange(columns.size + 1))
        start = np.zeros(over + 1)
        start[self.state_index(0, problem.start)] = 1.0
        name = f"chain reasoning {self.render(problem).strip()} ({verify})"
        return TabularMDP(
            sparse.csr_array(rows, shape=(columns.size, over + 1)), rewards, start, n, name=name
        )

    def noisy_policy(self, problem: Problem, error_rate: ArrayLike, seed: int = 0) -> FloatArray:
        """Step policy of a noisy reasoner: each fact has one wrong value, fixed by `seed`.

        The wrong values (`wrong_values`) are shared by all problems of the task. They differ
        between facts, so that errors cannot be unlearnt as one habit.

        Parameters
        ----------
        problem : Problem
            The problem the policy is for.
        error_rate : float, array (n,) or array (O, M)
            Probability of the wrong value: one for all steps, per step, or per fact.
        seed : int
            Draws the wrong values.

        Returns
        -------
        array (S, A)
            Policy for `mdp(problem)`; the same after right and wrong steps, uniform in `over`.

        Raises
        ------
        ValueError
            If `error_rate` has another shape, or a rate is outside [0, 1].
        """
        facts = self._facts(problem)
        n, m = facts.shape
        rates, _ = real_array(error_rate, "error_rate", ValueError)
        shapes = {(): "one for all", (n,): "per step", self.results.shape: "per fact"}
        if rates.shape not in shapes:
            known = ", ".join(f"{shape} {meaning}" for shape, meaning in shapes.items())
            raise ValueError(f"error_rate: shape {rates.shape}, expected one of {known}")
        if not ((rates >= 0) & (rates <= 1)).all():
            bad = rates[~((rates >= 0) & (rates <= 1))][0]
            raise ValueError(f"error_rate: {bad:g} is not in [0, 1]")
        if rates.ndim == 2:
            rates = rates[self._operation_index(problem)]
        error = np.broadcast_to(rates.reshape(n, -1) if rates.ndim else rates, (n, m))
        wrong = self.wrong_values(seed)[self._operation_index(problem)]
        step, value = np.indices((n, m))
        table = np.zeros((n, m, m))
        table[step, value, facts] = 1.0 - error
        table[step, value, wrong] = error
        policy = np.full((self.num_states(problem), m), 1.0 / m)
        policy[:-1] = np.repeat(table[:, None], 2, axis=1).reshape(-1, m)
        return policy

    # ------------------------------------------------------------------ as text

    def render(self, problem: Problem) -> str:
        """The prompt: the start and the operations on one line."""
        self._check(problem)
        return " ".join([str(problem.start), *problem.operations]) + "\n"

    def render_steps(self, problem: Problem, values: Sequence[int]) -> str:
        """The text of the steps that wrote `values`.

        Fewer than n values give a prefix of the full solution's text.

        Raises
        ------
        ValueError
            If there are more values than steps, or one is not in 0 … M−1.
        """
        if len(values) > problem.length:
            raise ValueError(f"values: {len(values)} for a problem of {problem.length} steps")
        for value in values:
            self._check_value(value, "values")
        return "".join(
            _step_text(int(value), last=k == problem.length) for k, value in enumerate(values, 1)
        )

    def parse_steps(self, problem: Problem, text: str) -> list[int | None]:
        r"""Values written by the steps of a solution, None for a malformed step; at most n.

        Step k < n must be a value and a line break; step n must be boxed. An early box, or a last
        step without a box, is malformed at that step: another continuation from there could still
        be right. Text after step n is ignored.
        """
        lines = re.findall(r"[^\n]*\n|[^\n]+", text)[: problem.length]
        steps, answers = self._step_values
        return [
            answers.get(line.removesuffix("\n")) if k == problem.length else steps.get(line)
            for k, line in enumerate(lines, 1)
        ]

    def first_error(self, problem: Problem, values: Sequence[int | None]) -> int | None:
        """First step, counted from 1, that is not its operation applied to the value before it.

        A malformed step (None), a missing one, and one beyond the n-th count as wrong. None if
        all n steps are right.
        """
        self._check(problem)
        before: int = problem.start
        for k, (operation, value) in enumerate(zip(problem.operations, values, strict=False), 1):
            if value is None or value != self.apply(operation, before):
                return k
            before = value
        if len(values) == problem.length:
            return None
        return min(len(values), problem.length) + 1

    def verify(self, problem: Problem, text: str, verify: str = "steps") -> bool:
        """Whether a solution passes; it does exactly when `mdp(problem, verify)` pays 1 for it.

        Both verifiers require n well-formed steps: a malformed step is not an action of the MDP.

        Raises
        ------
        ValueError
            If the problem is not one of this task, or `verify` is unknown.
        """
        _check_verify(verify)
        values = self.parse_steps(problem, text)
        if verify == "steps":
            return self.first_error(problem, values) is None
        complete = len(values) == problem.length and None not in values
        return complete and values[-1] == self.solution(problem)[-1]

    # ------------------------------------------------------------------ helpers

    @cached_property
    def _step_values(self) -> tuple[dict[str, int], dict[str, int]]:
        """Values by their text as a step, and by their text as the last step."""
        steps = {_step_text(value, last=False): value for value in range(self.modulus)}
        return steps, {_step_text(value, last=True): value for value in range(self.modulus)}

    def _check(self, problem: Problem) -> None:
        self._check_value(problem.start, "start")
        for operation in problem.operations:
            if operation not in self.operations:
                raise ValueError(
                    f"operations: {operation!r} is not one of the task's, {self.operations}"
                )

    def _check_value(self, value: int, where: str) -> None:
        if not 0 <= value < self.modulus:
            raise ValueError(f"{where}: {value} is not in 0 … {self.modulus - 1}")

    def _operation_index(self, problem: Problem) -> list[int]:
        """Position of each step's operation among the task's, length n."""
        self._check(problem)
        return [self.operations.index(operation) for operation in problem.operations]

    def _facts(self, problem: Problem) -> IntArray:
        """Right next value of each step from each value, shape (n, M)."""
        return self.results[self._operation_index(problem)]


def _step_text(value: int, *, last: bool) -> str:
    return f"\\boxed{{{value}}}" if last else f"{value}\n"


def _check_verify(verify: str) -> None:
    if verify not in VERIFY:
        raise ValueError(f"verify: {verify!r} is not one of {', '.join(map(repr, VERIFY))}")


def _is_whole(number: object, least: int) -> bool:
    return isinstance(number, int | np.integer) and bool(number >= least)


def _frozen(array: IntArray) -> IntArray:
    array.flags.writeable = False
    return array
