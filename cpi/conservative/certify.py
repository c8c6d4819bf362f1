"""`certify`: from sampled resets, a step with a guaranteed gain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from cpi.conservative.black_box import BlackBox
from cpi.conservative.certificate import Certificate
from cpi.conservative.confidence import check_delta
from cpi.conservative.measure import check_class, choose_and_measure, every_step
from cpi.conservative.reset_weights import oracle_resets, random_resets, self_resets, weights_of
from cpi.conservative.resets import Resets, draw_resets
from cpi.exact.policies import PolicyError, check_rows
from cpi.exact.values import evaluate
from envs.checks import check_fractions, check_range, check_whole
from envs.tabular import FloatArray, TabularMDP


def certify(
    task: TabularMDP | BlackBox,
    policy: ArrayLike,
    rule: Callable[..., Any] = random_resets,
    *,
    delta: float = 0.05,
    resets: int = 10_000,
    policy_class: Literal["shared", "per_state"] = "per_state",
    returns: tuple[float, float] | None = None,
    seed: int = 0,
) -> Certificate:
    """A step whose gain is at least its certificate with probability 1 − δ, from resets alone.

    No exact quantity enters: not the occupancy, the values or p_w. Of an MDP they only serve to
    draw the resets quickly, and oracle rules to choose w.

    Parameters
    ----------
    task : TabularMDP or BlackBox
    policy : array (S, A) or (H, S, A)
    rule : function
        Of an MDP, reset weights as in `run_cpi`: a function of the exact `Evaluation`. Of a black
        box, a function of (step, state), or of the state if discounted, with values in [0, 1]. By
        default all states are accepted.
    delta : float
        For several certificates that must hold together, divide δ among them.
    resets : int
        Accepted resets, at least 4. One half chooses the candidate, the other measures it.
    policy_class : {"shared", "per_state"}
        Candidates of `cpi.sampled`.
    returns : (low, high), optional
        Range of the returns from any step on, discounted ones if the task is, if narrower than
        that of the rewards: (0, 1) for a reward of 1 at the end.
    seed : int

    Raises
    ------
    ValueError, cpi.PolicyError
        If an argument is out of range or does not fit the task, no state can be accepted, or a
        black box accepts fewer than 4 resets within its limit of draws.
    """
    resets = check_whole("resets", resets, 4)
    check_class(policy_class)
    check_delta(delta)
    if returns is not None:
        returns = check_range("returns", returns)
    if not isinstance(task, TabularMDP | BlackBox):
        raise ValueError(
            f"task: {task!r} is neither a TabularMDP nor a BlackBox; of an environment, make a "
            "BlackBox(environment, horizon, rewards)"
        )
    rng = np.random.default_rng(seed)
    if isinstance(task, TabularMDP):
        rewards = task.reward_range
        rows, data = _from_mdp(task, policy, rule, resets, rng)
    else:
        rewards = task.rewards
        rows, data = _from_black_box(task, policy, rule, resets, rng)
    evidence = choose_and_measure(data, rows, policy_class, rewards, returns, task.discount)
    return evidence.certificate(delta)


def _from_mdp(
    mdp: TabularMDP,
    policy: ArrayLike,
    rule: Callable[..., Any],
    resets: int,
    rng: np.random.Generator,
) -> tuple[FloatArray, Resets]:
    """The policy (H, S, A), or (1, S, A) if discounted, and resets of an MDP."""
    evaluation = evaluate(mdp, policy)
    weights = weights_of(rule, evaluation, "rule")
    data = draw_resets(evaluation, weights, rng, accepted=resets)
    return every_step(evaluation.policy, mdp.horizon), data


def _from_black_box(
    box: BlackBox,
    policy: ArrayLike,
    rule: Callable[..., Any],
    resets: int,
    rng: np.random.Generator,
) -> tuple[FloatArray, Resets]:
    """The policy (H, S, A), or (1, S, A) if discounted, and resets of a black box."""
    rows = check_rows(policy)
    if rows.ndim not in (2, 3) or (rows.ndim == 3 and len(rows) != box.horizon):
        timed = "" if box.horizon is None else f" or ({box.horizon}, S, A)"
        raise PolicyError(f"policy: shape {rows.shape}, expected (S, A){timed}")
    box.check_policy(rows)
    rows = every_step(rows, box.horizon)
    shape = rows.shape[:2]
    weights = np.ones(shape)
    if rule is not random_resets:
        if not callable(rule) or rule in (oracle_resets, self_resets) or hasattr(rule, "tau"):
            raise ValueError(
                "rule: oracle and self resets need the values of an MDP; give random_resets, or a "
                "function of (step, state), or of the state if discounted"
            )
        places = np.ndindex(shape if box.discount is None else shape[1:])
        values = [rule(*place) for place in places]
        weights = check_fractions("rule", values).reshape(shape)
    if not weights.any():
        raise ValueError("rule: accepts no state at any step")
    data = box.draw_resets(rows, weights, rng, accepted=resets)
    if len(data) < 4:
        raise ValueError(
            f"rule: accepted {len(data)} of {data.drawn:,} draws, fewer than 4; accept more "
            "states, or raise most_draws"
        )
    return rows, data
