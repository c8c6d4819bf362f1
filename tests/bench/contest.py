"""Time the same questions for each library in turn.

The timed call is each library's public one. pymdptoolbox has none for policy evaluation; there it
is the method that its policy iteration calls. The time includes forming P_π and checking arguments,
but not building the library's objects. All answers must agree before anything is timed.

Each round calls every library, in rotating order, so that load on the machine affects all equally.
A turn starts with a pause, in which threads of the previous library finish, and an untimed call,
which fills the caches. A reading spans one millisecond or one call, whichever is longer. A turn
spans ten milliseconds or one reading. That is shorter than a scheduler slice, so the minimum is
free of other processes. Ratios compare medians, and also minima.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
from scipy import sparse

from cpi.exact.optimal import backward_induction, policy_iteration
from cpi.exact.values import evaluate, tolerance
from envs import TabularMDP
from envs.tabular import FloatArray
from tests.bench.alone import limit
from tests.bench.problems import (
    BACKWARD,
    BOTH,
    HORIZON,
    OPTIMUM,
    PROBLEMS,
    VALUES,
    dense,
    scattered,
)

PAUSE = 0.03  # seconds; longer than OpenBLAS threads spin
READING = 1e-3  # seconds, least duration of a reading
TURN = 1e-2  # seconds, least duration of a turn
LIMIT = 30  # seconds, limit of a single call
EPSILON = 1e-9  # largest error of optimal values

#: Computes V, shape (S,), or (H, S) for backward induction.
Answer = Callable[[], FloatArray]


class DisagreementError(Exception):
    """Two libraries give different answers."""


def ours(mdp: TabularMDP) -> dict[tuple[str, str], Answer]:
    """Calls of this project, by question and contestant."""
    actions = _actions(mdp)
    finite = mdp.with_time(horizon=HORIZON)

    def both() -> FloatArray:
        evaluation = evaluate(mdp, actions)
        return np.stack([evaluation.V, evaluation.occupancy])

    answers: dict[str, Answer] = {
        VALUES: lambda: evaluate(mdp, actions).V,
        BOTH: both,
        BACKWARD: lambda: backward_induction(finite).V,
        OPTIMUM: lambda: policy_iteration(mdp).V,
    }
    return {(question, "ours"): answer for question, answer in answers.items()}


def quantecon(mdp: TabularMDP) -> dict[tuple[str, str], Answer]:
    """Calls of QuantEcon.py: product form for dense transitions, else state-action pairs.

    It has no occupancy: d is its solver on its matrix, transposed.
    """
    from quantecon.markov import DiscreteDP  # type: ignore[import-untyped]
    from quantecon.markov import backward_induction as induction

    num_states, num_actions = mdp.rewards.shape
    rewards, transitions = np.array(mdp.rewards), mdp.transitions
    indices: tuple[Any, ...] = ()
    if mdp.is_sparse:
        rewards, transitions = rewards.ravel(), sparse.csr_matrix(transitions)
        indices = (
            np.repeat(np.arange(num_states), num_actions),
            np.tile(np.arange(num_actions), num_states),
        )
    with warnings.catch_warnings(action="ignore"):  # the warning on a discount of 1
        endless = DiscreteDP(rewards, transitions, mdp.discount, *indices)
        finite = DiscreteDP(rewards, transitions, 1.0, *indices)
    actions = _actions(mdp)

    def both() -> FloatArray:
        _, moves = endless.RQ_sigma(actions)
        system = (endless._I - endless.beta * moves).T
        d = endless._lineq_solve(system, (1 - endless.beta) * mdp.start)
        return np.stack([endless.evaluate_policy(actions), d])

    # Its default of 250 iterations is too few for a long chain.
    stop = {"epsilon": min(tolerance(mdp), EPSILON), "max_iter": 10**6}

    def optimum(method: str) -> Answer:
        return lambda: endless.solve(method, **stop).v

    return {
        (VALUES, "quantecon"): lambda: endless.evaluate_policy(actions),
        (BOTH, "quantecon"): both,
        (BACKWARD, "quantecon"): lambda: induction(finite, HORIZON)[0][:-1],
        (OPTIMUM, "quantecon"): optimum("policy_iteration"),
        (OPTIMUM, "quantecon MPI"): optimum("modified_policy_iteration"),
        (OPTIMUM, "quantecon VI"): optimum("value_iteration"),
    }


def pymdptoolbox(mdp: TabularMDP) -> dict[tuple[str, str], Answer]:
    """Calls of pymdptoolbox, with one matrix per action.

    Its d is numpy's solution of the transposed system, as its V is of the system. Its modified
    policy iteration stops on a span, with values off by a constant, and so does not compete.
    """
    from mdptoolbox.mdp import (  # type: ignore[import-untyped]
        FiniteHorizon,
        PolicyIteration,
    )

    firsts = np.arange(mdp.num_states) * mdp.num_actions
    matrices = [mdp.flat[firsts + a] for a in range(mdp.num_actions)]
    transitions: Any = list(map(sparse.csr_matrix, matrices)) if mdp.is_sparse else matrices
    rewards = np.array(mdp.rewards)
    # Its input check rejects rounding errors and makes a dense (S, S) array of sparse row sums.
    with mock.patch("mdptoolbox.util.check"), contextlib.redirect_stdout(io.StringIO()):
        solver = PolicyIteration(transitions, rewards, mdp.discount, max_iter=10**6)
        finite = FiniteHorizon(transitions, rewards, 1.0, HORIZON)
    actions = _actions(mdp)

    def values() -> FloatArray:
        solver.policy = actions
        solver._evalPolicyMatrix()
        return np.asarray(solver.V)

    def both() -> FloatArray:
        V = values()
        moves, _ = solver._computePpolicyPRpolicy()
        system = np.eye(mdp.num_states) - solver.discount * moves
        return np.stack([V, np.linalg.solve(system.T, (1 - solver.discount) * mdp.start)])

    first = np.array(solver.policy)

    def optimum() -> FloatArray:
        # microseconds; a second run of solver would start from its result
        fresh = copy.copy(solver)
        fresh.policy, fresh.iter = first.copy(), 0
        fresh.run()
        return np.asarray(fresh.V)

    def backward() -> FloatArray:
        finite.run()
        return finite.V.T[:-1]

    answers: dict[str, Answer] = {VALUES: values, BOTH: both, BACKWARD: backward, OPTIMUM: optimum}
    return {(question, "pymdptoolbox"): answer for question, answer in answers.items()}


LIBRARIES: tuple[Callable[[TabularMDP], dict[tuple[str, str], Answer]], ...] = (
    ours,
    quantecon,
    pymdptoolbox,
)


def calls_of(mdp: TabularMDP) -> dict[tuple[str, str], Answer]:
    """Calls of all libraries, by question and contestant."""
    return {key: call for library in LIBRARIES for key, call in library(mdp).items()}


def _actions(mdp: TabularMDP) -> Any:
    return np.random.default_rng(0).integers(0, mdp.num_actions, size=mdp.num_states)


def check_answers(mdp: TabularMDP, answers: dict[str, FloatArray], question: str) -> None:
    """Compare all answers with the first one, up to rounding.

    Raises
    ------
    DisagreementError
        If two answers differ; names question and library.
    """
    timed = mdp.with_time(horizon=HORIZON) if question == BACKWARD else mdp
    expected = next(iter(answers.values()))
    for library, answer in answers.items():
        gap = float(np.abs(answer - expected).max())
        if not gap <= tolerance(timed):
            raise DisagreementError(
                f"{mdp.name}, {question}: {library} differs from {next(iter(answers))} by {gap:.2g}"
            )


def race(answers: dict[str, Answer], seconds: float) -> dict[str, list[float]]:
    """Readings in seconds per call, over about `seconds` and at least three rounds."""
    calls = {}
    for name, answer in answers.items():
        started = time.perf_counter()
        answer()
        calls[name] = math.ceil(READING / (time.perf_counter() - started))
    times: dict[str, list[float]] = {name: [] for name in answers}
    order = deque(answers)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline or len(times[order[0]]) < 3:
        for name in order:
            time.sleep(PAUSE)
            answers[name]()
            turn_ends = time.monotonic() + TURN
            times[name].append(reading(answers[name], calls[name]))
            while time.monotonic() < turn_ends:
                times[name].append(reading(answers[name], calls[name]))
        order.rotate()
    return times


def reading(answer: Answer, calls: int) -> float:
    """Mean seconds per call, over `calls` calls."""
    started = time.perf_counter()
    for _ in range(calls):
        answer()
    return (time.perf_counter() - started) / calls


def contest(key: str, seconds: float) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """Each question on the problem `key` with readings of its repeatable calls, by contestant.

    Raises
    ------
    DisagreementError
        If two libraries give different answers.
    """
    problem = PROBLEMS[key]
    mdp = problem.make()
    calls = calls_of(mdp)
    for question in problem.questions:
        answers = {
            contestant: call
            for (asked, contestant), call in calls.items()
            if asked == question and (question, contestant) not in problem.once | problem.never
        }
        check_answers(mdp, {name: answer() for name, answer in answers.items()}, question)
        yield question, race(answers, seconds)


def once(key: str, question: str, contestant: str) -> dict[str, float]:
    """Seconds of a single call, after a warm-up on a small problem."""
    mdp = PROBLEMS[key].make()
    small = scattered(20) if mdp.is_sparse else dense(20)
    calls_of(small)[question, contestant]()  # triggers numba compilation
    calls = calls_of(mdp)
    with limit(LIMIT):
        started = time.perf_counter()
        values = calls[question, contestant]()
        seconds = time.perf_counter() - started
    check_answers(mdp, {"ours": calls[question, "ours"](), contestant: values}, question)
    return {"seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(once(*sys.argv[1:])))
