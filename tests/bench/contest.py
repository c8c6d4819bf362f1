"""The same questions put to each library in turn.

What is timed is each library's public call (of pymdptoolbox's policy evaluation, which has none,
the method that its policy iteration calls), and so includes forming P_π and checking arguments,
but not building each library's own objects. All answers must agree before any clock is read.

Each round asks every contestant, in an order that rotates, so that a busy moment of the machine
falls on all alike. Before a contestant's turn comes a pause, so that no thread of the one before
is still at work, then an untimed call, for the caches. A reading of the clock spans a millisecond
or one call, whichever is longer, and a turn ten milliseconds or one reading: shorter than a slice
that the scheduler gives to other processes, so that the minimum is free of them. The ratios compare
minima, and also medians.
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
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
from scipy import sparse

from cpi.exact.optimal import backward_induction, policy_iteration
from cpi.exact.policies import deterministic_policy
from cpi.exact.values import evaluate, tolerance
from envs import TabularMDP
from envs.tabular import FloatArray
from tests.bench.alone import limit
from tests.bench.problems import (
    BACKWARD,
    BOTH,
    HORIZON,
    ITERATION,
    MIXED,
    PROBLEMS,
    VALUES,
    dense,
    scattered,
)

PAUSE = 0.03  # seconds, longer than OpenBLAS's threads spin where they do
READING = 1e-3  # seconds that the clock runs for at least
TURN = 1e-2  # seconds
LIMIT = 30  # seconds of a call that is made once

#: Answers a question with V, shape (S,), or (H, S) for backward induction.
Answer = Callable[[], FloatArray]


class DisagreementError(Exception):
    """Two libraries answer differently; there is no point in timing them."""


def ours(mdp: TabularMDP) -> dict[str, Answer]:
    """This project."""
    policy = deterministic_policy(_actions(mdp), mdp.num_actions)
    mixed = np.random.default_rng(1).dirichlet(np.ones(mdp.num_actions), size=mdp.num_states)
    finite = mdp.with_time(horizon=HORIZON)

    def both() -> FloatArray:
        evaluation = evaluate(mdp, policy)
        assert evaluation.occupancy.size
        return evaluation.V

    return {
        VALUES: lambda: evaluate(mdp, policy).V,
        MIXED: lambda: evaluate(mdp, mixed).V,
        BOTH: both,
        BACKWARD: lambda: backward_induction(finite).V,
        ITERATION: lambda: policy_iteration(mdp).V,
    }


def quantecon(mdp: TabularMDP) -> dict[str, Answer]:
    """QuantEcon.py, in product form where transitions are dense, else by state-action pairs."""
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
    with warnings.catch_warnings(action="ignore"):  # says that a discount of 1 has its limits
        endless = DiscreteDP(rewards, transitions, mdp.discount, *indices)
        finite = DiscreteDP(rewards, transitions, 1.0, *indices)
    actions = _actions(mdp)
    return {
        VALUES: lambda: endless.evaluate_policy(actions),
        BACKWARD: lambda: induction(finite, HORIZON)[0][:-1],
        # Its default of 250 rounds would end before a long chain is solved.
        ITERATION: lambda: endless.policy_iteration(max_iter=10**6).v,
    }


def pymdptoolbox(mdp: TabularMDP) -> dict[str, Answer]:
    """pymdptoolbox, with one matrix an action."""
    from mdptoolbox.mdp import (  # type: ignore[import-untyped]
        FiniteHorizon,
        PolicyIteration,
    )

    firsts = np.arange(mdp.num_states) * mdp.num_actions
    matrices = [mdp.flat[firsts + a] for a in range(mdp.num_actions)]
    transitions: Any = list(map(sparse.csr_matrix, matrices)) if mdp.is_sparse else matrices
    rewards = np.array(mdp.rewards)
    # Its check of the input refuses honest rounding, and makes an (S, S) array of sparse row sums.
    with mock.patch("mdptoolbox.util.check"), contextlib.redirect_stdout(io.StringIO()):
        solver = PolicyIteration(transitions, rewards, mdp.discount, max_iter=10**6)
        finite = FiniteHorizon(transitions, rewards, 1.0, HORIZON)
    actions = _actions(mdp)

    def values() -> FloatArray:
        solver.policy = actions
        solver._evalPolicyMatrix()
        return np.asarray(solver.V)

    first = np.array(solver.policy)

    def iteration() -> FloatArray:
        fresh = copy.copy(solver)  # microseconds; a second run would start from the first's answer
        fresh.policy, fresh.iter = first.copy(), 0
        fresh.run()
        return np.asarray(fresh.V)

    def backward() -> FloatArray:
        finite.run()
        return finite.V.T[:-1]

    return {VALUES: values, BACKWARD: backward, ITERATION: iteration}


LIBRARIES: dict[str, Callable[[TabularMDP], dict[str, Answer]]] = {
    "ours": ours,
    "quantecon": quantecon,
    "pymdptoolbox": pymdptoolbox,
}


def _actions(mdp: TabularMDP) -> Any:
    return np.random.default_rng(0).integers(0, mdp.num_actions, size=mdp.num_states)


def check_answers(mdp: TabularMDP, answers: dict[str, FloatArray], question: str) -> None:
    """Raise unless all are the same up to rounding; the first is what the others are held to.

    Raises
    ------
    DisagreementError
        Naming question and library.
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
    """Readings, in seconds a call, of about `seconds` and at least three rounds."""
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
    """Seconds a call."""
    started = time.perf_counter()
    for _ in range(calls):
        answer()
    return (time.perf_counter() - started) / calls


def contest(key: str, seconds: float) -> dict[str, dict[str, list[float]]]:
    """Times of the problem `key`: those of each question, by library, that can be repeated.

    Raises
    ------
    DisagreementError
        If two libraries answer differently.
    """
    problem = PROBLEMS[key]
    mdp = problem.make()
    asked = {library: build(mdp) for library, build in LIBRARIES.items()}
    times: dict[str, dict[str, list[float]]] = {}
    for question in (VALUES, BACKWARD, ITERATION):
        answers = {
            library: asked[library][question]
            for library in LIBRARIES
            if (question, library) not in {*problem.once, *problem.never}
        }
        check_answers(mdp, {name: answer() for name, answer in answers.items()}, question)
        if question == VALUES:  # in one race, for the ratios between them
            answers |= {other: asked["ours"][other] for other in (MIXED, BOTH)}
        times[question] = race(answers, seconds)
    for other in (MIXED, BOTH):
        times[other] = {"ours": times[VALUES].pop(other)}
    return times


def once(key: str, question: str, library: str) -> dict[str, float]:
    """Seconds of a single call, in a process that has warmed up on a small problem."""
    mdp = PROBLEMS[key].make()
    small = scattered(20) if mdp.is_sparse else dense(20)
    LIBRARIES[library](small)[question]()  # compiles what numba compiles
    answer = LIBRARIES[library](mdp)[question]
    with limit(LIMIT):
        started = time.perf_counter()
        found = answer()
        seconds = time.perf_counter() - started
    check_answers(mdp, {"ours": ours(mdp)[question](), library: found}, question)
    return {"seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(once(*sys.argv[1:])))
