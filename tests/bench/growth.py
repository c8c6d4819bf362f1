"""Evaluate one MDP in a separate process: `python -m tests.bench.growth FAMILY S` prints JSON.

Seconds are the fastest of three or more evaluations. The time for V includes checks, P_π,
factorisation and solve; the time for d is the additional time. Memory is the peak resident set of
the process, including imports and construction of the MDP. Residuals are relative, in ulps:

    |V − r_π − γ P_π V|∞ / ε (|r_π|∞ + 2 |V|∞),      |d − (1−γ) ρ − γ P_πᵀ d|₁ / ε (2 |d|₁ + 1−γ).
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

from cpi.exact.policies import policy_transitions
from cpi.exact.values import evaluate
from tests.bench.alone import limit
from tests.bench.peak import peak_bytes
from tests.bench.problems import FAMILIES

ENOUGH = 0.5  # seconds after which three repetitions suffice
LIMIT = 60  # seconds, including construction and residuals


def measure(family: str, num_states: int) -> dict[str, Any]:
    """Evaluate one MDP of the family."""
    make, policy_of, _ = FAMILIES[family]
    mdp = make(num_states)
    policy = policy_of(mdp)
    values: list[float] = []
    occupancies: list[float] = []
    started = time.perf_counter()
    while len(values) < 3 or time.perf_counter() - started < ENOUGH:
        before = time.perf_counter()
        evaluation = evaluate(mdp, policy)
        V = evaluation.V
        between = time.perf_counter()
        d = evaluation.occupancy
        values.append(between - before)
        occupancies.append(time.perf_counter() - between)
    peak = peak_bytes()
    assert mdp.discount is not None
    transitions = policy_transitions(mdp, policy)
    rewards = (policy * mdp.rewards).sum(axis=1)
    epsilon = float(np.finfo(float).eps)
    residual_V = np.abs(V - rewards - mdp.discount * (transitions @ V)).max()
    initial = (1 - mdp.discount) * mdp.start
    residual_d = np.abs(d - initial - mdp.discount * (transitions.T @ d)).sum()
    return {
        "family": family,
        "states": num_states,
        "method": evaluation.resolvent.method,
        "seconds_V": min(values),
        "seconds_d": min(occupancies),
        "peak_bytes": peak,
        "residual_V_ulps": residual_V / epsilon / (np.abs(rewards).max() + 2 * np.abs(V).max()),
        "residual_d_ulps": residual_d / epsilon / (2 * d.sum() + 1 - mdp.discount),
    }


if __name__ == "__main__":
    with limit(LIMIT):
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
