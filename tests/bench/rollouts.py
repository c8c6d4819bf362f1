"""Rollouts of one policy in one MDP: vectorised, and by stepping its Gymnasium environment.

Both sample the same policy and record states, actions and rewards. They take turns. The mean return
of each must agree with the exact value, or no time is reported.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

import envs
from cpi.core.episodes import Prefix
from cpi.exact.policies import uniform_policy
from cpi.exact.values import evaluate
from cpi.tabular.simulator import TabularSimulator
from envs.gym import TabularEnv
from envs.tabular import FloatArray, TabularMDP

GARNET = envs.garnet(100, 4, 3, seed=0, horizon=20)
#: Name → MDP and policy. The lock chain has a policy that often succeeds.
WORLDS: dict[str, tuple[TabularMDP, FloatArray]] = {
    "first-error chain, n = 10": (envs.first_error_chain(10), np.full((20, 2), 0.5)),
    "lock chain, n = 20": (envs.lock_chain(20, 4), envs.lock_policy(np.full(20, 0.95), 4)),
    "garnet, S = 100, H = 20": (GARNET, uniform_policy(GARNET)),
}
EPISODES, STEPPED, ROUNDS = 20_000, 400, 5


def rollout_rows() -> list[dict[str, Any]]:
    """Microseconds per environment step of each method, fastest of the rounds."""
    return [measure(name, mdp, policy) for name, (mdp, policy) in WORLDS.items()]


def measure(name: str, mdp: TabularMDP, policy: FloatArray) -> dict[str, Any]:
    """Time both methods on one MDP.

    Raises
    ------
    AssertionError
        If a mean return is off by more than five standard errors.
    """
    exact = evaluate(mdp, policy).J
    simulator = TabularSimulator(mdp, policy)
    fast, slow = [], []
    for turn in range(ROUNDS):
        rng = np.random.default_rng(turn)
        began = time.perf_counter()
        prefixes = [Prefix(s) for s in simulator.draw_starts(EPISODES // 4, rng)]
        episodes = [e for group in simulator.rollout(prefixes, 4, rng) for e in group]
        seconds = time.perf_counter() - began
        fast.append(seconds / sum(episode.cost for episode in episodes))
        check(name, np.array([episode.ret for episode in episodes]), exact)
        began = time.perf_counter()
        returns, steps = stepped(mdp, policy, turn)
        slow.append((time.perf_counter() - began) / steps)
        check(name, returns, exact)
    return {"world": name, "vectorised": 1e6 * min(fast), "gymnasium": 1e6 * min(slow)}


def stepped(mdp: TabularMDP, policy: FloatArray, seed: int) -> tuple[FloatArray, int]:
    """Returns of `STEPPED` episodes in the environment, and their total number of steps."""
    env, rng = TabularEnv(mdp), np.random.default_rng(seed)
    cumulative = np.cumsum(policy, axis=1)
    assert mdp.horizon is not None
    returns, steps = [], 0
    for number in range(STEPPED):
        state, _ = env.reset(seed=seed if number == 0 else None)
        trajectory = []
        for _ in range(mdp.horizon):
            action = int(np.searchsorted(cumulative[state], rng.random()))
            following, reward, terminated, _, _ = env.step(action)
            trajectory.append((state, action, reward))
            state = following
            if terminated:
                break
        steps += len(trajectory)
        returns.append(sum(reward for _, _, reward in trajectory))
    return np.array(returns), steps


def check(name: str, returns: FloatArray, exact: float) -> None:
    """Raise AssertionError unless the mean return agrees with the exact value."""
    error = abs(returns.mean() - exact)
    spread = returns.std() / np.sqrt(len(returns))
    assert error <= 5 * spread + 0.01, f"{name}: mean return {returns.mean():.4f}, not {exact:.4f}"
