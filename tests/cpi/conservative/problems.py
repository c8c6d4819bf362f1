"""Problems and helpers that the tests of `cpi.conservative` share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from cpi.conservative.measure import every_step
from cpi.conservative.resets import Resets
from cpi.exact.values import Evaluation, evaluate
from envs import TabularMDP
from tests.cpi.worlds import interior_policy, world


def ending(seed: int) -> TabularMDP:
    """Four steps through five states; the last state is terminal."""
    mdp = world(seed, horizon=4)
    transitions, rewards = np.array(mdp.transitions), np.array(mdp.rewards)
    transitions[4], rewards[4] = np.eye(5)[4], 0.0
    start = np.array([0.4, 0.3, 0.1, 0.1, 0.1])
    ended = replace(mdp, transitions=transitions, rewards=rewards, start=start)
    assert ended.terminal.tolist() == [False] * 4 + [True]
    return ended


ENDING = ending(1)
WEIGHTS = np.random.default_rng(2).uniform(0.1, 0.9, (4, 5))
EVALUATIONS = {
    "time-dependent": evaluate(ENDING, interior_policy(ENDING, 3)),
    "stationary": evaluate(ENDING, interior_policy(ENDING, 3)[0]),
}
each = pytest.mark.parametrize("evaluation", EVALUATIONS.values(), ids=EVALUATIONS)


def accepted_mass(evaluation: Evaluation, weights: Any) -> Any:
    """d^π·w of the states that are not terminal, shape (H, S)."""
    return evaluation.occupancy * weights * ~evaluation.mdp.terminal


def likely(counts: Any, expected: Any) -> bool:
    """Whether a chi-square test accepts these counts at level 1e-3."""
    kept = expected > 0
    assert not counts[~kept].any()
    return bool(chisquare(counts[kept], expected[kept]).pvalue > 1e-3)


def made(step: list[int], state: list[int], action: list[int], ret: list[float]) -> Resets:
    return Resets(np.array(step), np.array(state), np.array(action), np.array(ret), 0, 0)


def rows_of(evaluation: Evaluation) -> Any:
    """The policy, (H, S, A)."""
    assert evaluation.mdp.horizon is not None
    return every_step(evaluation.policy, evaluation.mdp.horizon)
