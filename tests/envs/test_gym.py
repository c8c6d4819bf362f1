"""Gymnasium environments and `mdp_from_env`, against values computed without `cpi`."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import (
    NormalizeReward,
    RecordEpisodeStatistics,
    StickyAction,
    TransformReward,
)
from numpy.typing import NDArray
from scipy import stats

from envs.gym import WORLDS, TabularEnv, main, mdp_from_env
from envs.lock import lock_chain
from envs.tabular import MDPError, TabularMDP

NAMES = ["LockChain", "KLChain", "DeepSea", "FirstError", "Tree"]
NAMES += [
    "Garnet",
    "Needle",
    "TightCPI",
    "TightMasked",
    "TightReturns",
    "TightDivergence",
    "ChainReasoning",
]
IDS = [f"resets/{name}-v0" for name in WORLDS]
TOY_TEXT = ["FrozenLake-v1", "CliffWalking-v1", "Taxi-v4"]


def make(env_id: str, **kwargs: Any) -> TabularEnv:
    env = gym.make(env_id, **kwargs).unwrapped
    assert isinstance(env, TabularEnv)
    return env


def small() -> TabularMDP:
    """Three states, of which the last is terminal; every row and the start are random."""
    transitions = [
        [[0.5, 0.2, 0.3], [0.0, 0.9, 0.1]],
        [[0.6, 0.1, 0.3], [0.25, 0.25, 0.5]],
        [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]],
    ]
    rewards = [[1.0, -2.0], [0.5, 0.0], [0.0, 0.0]]
    return TabularMDP(transitions, np.array(rewards), np.array([0.7, 0.3, 0.0]), horizon=4)


class Foreign(gym.Env[int, int]):
    """An environment with transitions and a start distribution only."""

    def __init__(self, P: Any, initial_state_distrib: Any) -> None:
        self.P, self.initial_state_distrib = P, initial_state_distrib


def steps_of(mdp: TabularMDP) -> int:
    """Backward steps after which V is exact, or its error below rounding."""
    if mdp.horizon is not None:
        return mdp.horizon
    assert mdp.discount is not None
    return math.ceil(math.log(1e-16) / math.log(mdp.discount))


def values(mdp: TabularMDP, *, best: bool) -> NDArray[np.float64]:
    """V_0 of the best or of the uniform policy, shape (S,), by backward induction."""
    flat = mdp.transitions.toarray() if mdp.is_sparse else mdp.transitions
    P = flat.reshape(mdp.num_states, mdp.num_actions, mdp.num_states)
    V = np.zeros(mdp.num_states)
    for _ in range(steps_of(mdp)):
        Q = mdp.rewards + (mdp.discount or 1.0) * (P @ V)
        V = Q.max(axis=1) if best else Q.mean(axis=1)
    return V


def uniform_values(P: Any, steps: int, discount: float, *, zero: bool = True) -> list[float]:
    """V of the uniform policy from toy-text lists, with zero bootstrap at termination or not."""
    V = [0.0] * len(P)
    for _ in range(steps):
        V = [
            sum(
                p * (r + discount * (0.0 if ended and zero else V[s2]))
                for outcomes in P[s].values()
                for p, s2, r, ended in outcomes
            )
            / len(P[s])
            for s in range(len(P))
        ]
    return V


def test_worlds__all_are_registered() -> None:
    assert set(NAMES) <= set(WORLDS)
    assert set(IDS) <= set(gym.registry)


@pytest.mark.parametrize("env_id", IDS)
def test_check_env_is_silent(env_id: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(f"envs.gym:{env_id}").unwrapped)


@pytest.mark.parametrize("env_id", IDS)
def test_toy_text_convention(env_id: str) -> None:
    env = make(env_id)
    mdp = env.mdp
    assert sorted(env.P) == list(range(mdp.num_states))
    ends = 0
    for s, actions in env.P.items():
        assert sorted(actions) == list(range(mdp.num_actions))
        for a, outcomes in actions.items():
            assert sum(p for p, *_ in outcomes) == pytest.approx(1.0, abs=1e-12)
            assert all(p > 0 and r == mdp.rewards[s, a] for p, _, r, _ in outcomes)
            assert all(ended == mdp.terminal[s2] for _, s2, _, ended in outcomes)
            ends += sum(ended for *_, ended in outcomes)
    assert env.P is env.P
    assert (ends > 0) == mdp.terminal.any()
    np.testing.assert_array_equal(env.initial_state_distrib, mdp.start)


def test_some_worlds_terminate() -> None:
    assert sum(bool(make(env_id).mdp.terminal.any()) for env_id in IDS) >= 4


def test_step_frequencies_match() -> None:
    """Chi-square against P for every state and action; a wrong P is refused."""
    env = TabularEnv(small())
    env.reset(seed=1)
    tested = 0
    for s in (0, 1):
        for a in (0, 1):
            counts = np.zeros(3)
            for _ in range(1500):
                env.reset(options={"state": s})
                following, _, _, _, info = env.step(a)
                counts[following] += 1
                assert info == {"prob": env.mdp.transitions[s, a, following]}
            p = env.mdp.transitions[s, a]
            assert counts[p == 0].sum() == 0
            kept = p > 0
            assert stats.chisquare(counts[kept], 1500 * p[kept]).pvalue > 1e-4
            wrong = np.roll(p[kept], 1)
            if not np.allclose(wrong, p[kept]):
                assert stats.chisquare(counts[kept], 1500 * wrong).pvalue < 1e-8
                tested += 1
    assert tested == 4


def test_start_frequencies_match() -> None:
    env = TabularEnv(small())
    drawn = [env.reset(seed=7 if i == 0 else None) for i in range(2000)]
    counts = np.bincount([s for s, _ in drawn], minlength=3)
    assert counts[2] == 0
    assert stats.binomtest(int(counts[0]), 2000, 0.7).pvalue > 1e-4
    assert all(info["prob"] == env.mdp.start[s] for s, info in drawn)


def rollout(env: gym.Env[Any, Any], seed: int, steps: int = 40) -> list[Any]:
    env.action_space.seed(seed)
    seen: list[Any] = [env.reset(seed=seed)]
    seen += [env.step(env.action_space.sample()) for _ in range(steps)]
    return seen


def test_same_seed_same_rollout() -> None:
    first, second = (make("resets/Garnet-v0") for _ in range(2))
    assert rollout(first, 3) == rollout(second, 3)
    assert rollout(first, 3) != rollout(second, 4)


def test_a_rollout_is_a_path() -> None:
    """Each step starts where the last one ended, into the terminal state and beyond."""
    env = TabularEnv(small())
    rng = np.random.default_rng(0)
    ended = 0
    for seed in range(20):
        state, _ = env.reset(seed=seed)
        for action in rng.integers(2, size=8):
            outcomes = env.P[state][int(action)]
            state, reward, terminated, truncated, info = env.step(int(action))
            assert (info["prob"], state, reward, terminated) in outcomes
            assert terminated == (state == 2)
            assert not truncated
            ended += terminated
    assert 20 < ended < 160


@pytest.mark.parametrize("env_id", IDS)
def test_reset_to_any_state(env_id: str) -> None:
    env = make(env_id)
    for s in range(env.mdp.num_states):
        assert env.reset(options={"state": np.int64(s)}) == (s, {"prob": 1.0})
        following = env.step(0)[0]
        assert following in [s2 for _, s2, _, _ in env.P[s][0]]


def test_a_terminal_state_stays_and_pays_nothing() -> None:
    env = TabularEnv(small())
    env.reset(options={"state": 2})
    assert env.step(1) == env.step(0) == (2, 0.0, True, False, {"prob": 1.0})


@pytest.mark.parametrize(
    "wrapper",
    [
        lambda env: TransformReward(env, lambda reward: 5 * reward),
        lambda env: StickyAction(env, 0.5),
        NormalizeReward,
    ],
    ids=["reward", "action", "normalized"],
)
@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "resets/Garnet-v0"])
def test_mdp_from_env__wrappers_that_change_the_mdp_are_refused(env_id: str, wrapper: Any) -> None:
    env = gym.make(env_id)
    expected = mdp_from_env(env, discount=0.9)
    kept = mdp_from_env(RecordEpisodeStatistics(env), discount=0.9)
    np.testing.assert_array_equal(kept.rewards, expected.rewards)
    with pytest.raises(ValueError, match=r"^\w+: this wrapper changes rewards or actions"):
        mdp_from_env(RecordEpisodeStatistics(wrapper(env)), discount=0.9)


def test_ansi_line() -> None:
    env = TabularEnv(small(), render_mode="ansi")
    env.reset(options={"state": 1})
    assert env.render() == "state 1"
    env.reset(options={"state": 2})
    env.step(0)
    assert env.render() == "state 2, action 0: reward 0, state 2, terminated"
    assert TabularEnv(small()).render() is None


def truncated_at(env: gym.Env[Any, Any], limit: int) -> int | None:
    env.reset(seed=0)
    for step in range(1, limit + 1):
        if env.step(0)[3]:
            return step
    return None


@pytest.mark.parametrize("env_id", IDS)
def test_finite_horizons_truncate(env_id: str) -> None:
    env = gym.make(f"envs.gym:{env_id}")
    assert truncated_at(env, 200) == make(env_id).mdp.horizon
    assert truncated_at(env.unwrapped, 200) is None
    endless = ("KL", "Garnet", "CPI", "Divergence")
    assert (make(env_id).mdp.horizon is None) == any(word in env_id for word in endless)


def test_the_limit_follows_the_arguments() -> None:
    env = gym.make("envs.gym:resets/LockChain-v0", length=8)
    assert truncated_at(env, 50) == 8
    assert env.spec is not None
    assert truncated_at(gym.make(EnvSpec.from_json(env.spec.to_json())), 50) == 8
    assert truncated_at(gym.make("resets/LockChain-v0", length=8, max_episode_steps=3), 50) == 3
    assert truncated_at(gym.make("resets/LockChain-v0", length=8, max_episode_steps=30), 50) == 30
    registered = EnvSpec.from_json(gym.spec("resets/LockChain-v0").to_json())
    assert truncated_at(gym.make(registered, length=5), 50) == 5


@pytest.mark.parametrize("env_id", IDS)
def test_mdp_from_env__returns_the_mdp_of_a_tabular_env(env_id: str) -> None:
    env = gym.make(env_id)
    assert mdp_from_env(env) is env.unwrapped.mdp  # type: ignore[attr-defined]
    for name in (env_id, f"envs.gym:{env_id}"):
        mdp = mdp_from_env(name, discount=0.5)
        assert (mdp.horizon, mdp.discount) == (None, 0.5)
        np.testing.assert_array_equal(mdp.rewards, make(env_id).mdp.rewards)
        assert abs(mdp.flat - make(env_id).mdp.flat).max() == 0
    assert mdp_from_env(env, horizon=7).horizon == 7


@pytest.mark.parametrize("env_id", IDS)
def test_mdp_from_env__round_trip_through_P(env_id: str) -> None:
    env = make(env_id)
    foreign = Foreign(env.P, env.initial_state_distrib)
    mdp = mdp_from_env(foreign, horizon=env.mdp.horizon, discount=env.mdp.discount)
    assert mdp.name == "Foreign"
    assert mdp.num_states == env.mdp.num_states + bool(env.mdp.terminal.any())
    for best in (False, True):
        before, after = values(env.mdp, best=best), values(mdp, best=best)
        np.testing.assert_allclose(after[: env.mdp.num_states], before, rtol=0, atol=1e-12)
        assert (np.abs(before) > 1e-12).any()
        assert mdp.start @ after == pytest.approx(env.mdp.start @ before, abs=1e-12)


@pytest.mark.parametrize("env_id", TOY_TEXT)
@pytest.mark.parametrize("time", [{"horizon": 40}, {"discount": 0.7}])
def test_toy_text_uniform_value(env_id: str, time: dict[str, Any]) -> None:
    env: Any = gym.make(env_id).unwrapped
    mdp = mdp_from_env(env_id, **time)
    count = len(env.P)
    assert mdp.num_states == count + 1
    assert mdp.terminal[count]
    assert mdp.is_sparse == (env_id == "Taxi-v4")
    V = uniform_values(env.P, steps_of(mdp), time.get("discount", 1.0))
    np.testing.assert_allclose(values(mdp, best=False)[:count], V, rtol=1e-12, atol=1e-10)
    assert values(mdp, best=False)[count] == 0
    np.testing.assert_array_equal(mdp.start[:count], env.initial_state_distrib)
    assert np.abs(V).max() > 1e-3


@pytest.mark.parametrize("env_id", ["CliffWalking-v1", "Taxi-v4"])
def test_mdp_from_env__zero_value_after_termination(env_id: str) -> None:
    """In `P` these two continue after termination; the imported MDP must not."""
    P = gym.make(env_id).unwrapped.P  # type: ignore[attr-defined]
    after = values(mdp_from_env(env_id, horizon=20), best=False)[: len(P)]
    assert np.abs(after - uniform_values(P, 20, 1.0, zero=False)).max() > 0.1


def test_repeated_successors_add_up() -> None:
    mdp = mdp_from_env("FrozenLake-v1", discount=0.9)
    env: Any = gym.make("FrozenLake-v1").unwrapped
    assert [s2 for _, s2, _, _ in env.P[0][0]].count(0) == 2
    assert mdp.transitions[0, 0, 0] == pytest.approx(2 / 3, abs=1e-12)
    assert mdp.rewards[14].max() == pytest.approx(1 / 3, abs=1e-12)


def test_no_extra_state_without_termination() -> None:
    mdp = mdp_from_env(Foreign([[[(1.0, 0, 2.0, False)]]], [1.0]), discount=0.5)
    assert mdp.num_states == 1
    assert values(mdp, best=True)[0] == pytest.approx(4.0)


@pytest.mark.parametrize("state", [-1, 3, 1.5, "0", None])
def test_bad_state(state: Any) -> None:
    with pytest.raises(ValueError, match=r"options: state .* is not one of 0 … 2"):
        TabularEnv(small()).reset(options={"state": state})


def test_unknown_option() -> None:
    with pytest.raises(ValueError, match="options: 'stat' unknown"):
        TabularEnv(small()).reset(options={"stat": 1})


@pytest.mark.parametrize("action", [-1, 2, 0.5, None])
def test_bad_action(action: Any) -> None:
    env = TabularEnv(small())
    env.reset(seed=0)
    with pytest.raises(gym.error.InvalidAction, match=r"action .* is not one of 0 … 1"):
        env.step(action)


def test_step_before_reset() -> None:
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        TabularEnv(small()).step(0)


def test_bad_render_mode() -> None:
    with pytest.raises(ValueError, match="render_mode: 'human'"):
        TabularEnv(small(), render_mode="human")


@pytest.mark.parametrize(
    ("env_id", "hint"),
    [
        ("LockChain-v0", "did you mean resets/LockChain-v0"),
        ("envs.gym:resets/LockChian-v0", "did you mean resets/LockChain-v0"),
        ("Taxi-v3", "did you mean Taxi-v4"),
        ("!", "no such environment"),
        ("no_such_module:Thing-v0", "No module named"),
        ("./file:Thing-v0", "cannot be made"),
    ],
)
def test_unknown_id_is_one_line(env_id: str, hint: str) -> None:
    with pytest.raises(ValueError, match=r"no such environment|cannot be made") as caught:
        mdp_from_env(env_id, discount=0.9)
    message = str(caught.value)
    assert message.startswith(f"{env_id}: ")
    assert hint in message
    assert "\n" not in message


def test_mdp_from_env__environment_without_P_is_refused() -> None:
    with pytest.raises(ValueError, match=r"CartPole-v1: no transitions .* needs P\[s\]\[a\]"):
        mdp_from_env("CartPole-v1", discount=0.9)


def test_mdp_from_env__fickle_passenger_is_refused() -> None:
    with pytest.raises(ValueError, match="fickle_passenger"):
        mdp_from_env(gym.make("Taxi-v4", fickle_passenger=True), discount=0.9)


def test_mdp_from_env__needs_exactly_one_time() -> None:
    with pytest.raises(ValueError, match=r"CliffWalking-v1: .* give horizon \(H\) or discount"):
        mdp_from_env("CliffWalking-v1")
    for env in (gym.make("FrozenLake-v1"), TabularEnv(lock_chain(3))):
        with pytest.raises(MDPError, match="exactly one of horizon and discount"):
            mdp_from_env(env, horizon=3, discount=0.9)


def test_mdp_from_env__the_limit_of_steps_is_the_default_horizon() -> None:
    assert mdp_from_env("FrozenLake-v1").horizon == 100
    assert mdp_from_env("FrozenLake-v1", discount=0.9).horizon is None
    assert mdp_from_env(gym.make("FrozenLake-v1", max_episode_steps=7)).horizon == 7
    limit = {"max_episode_steps": 9}
    for env_id in ("CliffWalking-v1", "resets/Needle-v0"):
        assert mdp_from_env(env_id, env_args=limit).horizon == 9
        assert mdp_from_env(env_id, env_args=limit, horizon=5).horizon == 5


def test_mdp_from_env__arguments_of_the_environment() -> None:
    slippery = mdp_from_env("FrozenLake-v1")
    sure = mdp_from_env("FrozenLake-v1", env_args={"is_slippery": False})
    assert set(np.unique(sure.transitions)) == {0.0, 1.0} < set(np.unique(slippery.transitions))
    assert mdp_from_env("FrozenLake-v1", env_args={"desc": ["SF", "FG"]}).num_states == 5
    assert mdp_from_env("resets/LockChain-v0", env_args={"length": 3}).horizon == 3


@pytest.mark.parametrize(
    ("env_id", "env_args", "message"),
    [
        ("FrozenLake-v1", {"is_slippery": "no"}, "is_slippery: 'no' is neither true nor false"),
        ("FrozenLake-v1", {"is_slipery": False}, "no argument is_slipery; it takes .*is_slippery"),
        ("resets/Tree-v0", {"dept": 3}, "no argument dept; it takes depth, branching, seed"),
        ("FrozenLake-v1", {"map_name": "9x9"}, r"made with map_name='9x9' \(no '9x9'\)$"),
        ("FrozenLake-v1", {"success_rate": "x"}, r"success_rate='x' \(unsupported .* 'str'\)$"),
        ("resets/Needle-v0", {"p": 2}, r"p=2 \(p: 2 is not in"),
    ],
)
def test_mdp_from_env__bad_arguments_are_named(
    env_id: str, env_args: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{env_id}: .*{message}"):
        mdp_from_env(env_id, env_args=env_args)
    with pytest.raises(ValueError, match="env_args: the environment is already made"):
        mdp_from_env(make("resets/Tree-v0"), env_args=env_args)


@pytest.mark.parametrize(
    ("P", "message"),
    [
        ([[[(0.5, 0, 0.0, False)]]], "state 0, action 0: sums to 0.5"),
        ([[[(1.0, 3, 0.0, False)]]], "state 0, action 0 leads to 3"),
        ([[[(1.0, 0.5, 0.0, False)]]], "state 0, action 0 leads to 0.5, not a state"),
        (
            [[[(1.0, math.inf, 0.0, False)]]],
            r"state 0, action 0: \(1.0, inf, 0.0, False\) is not \(",
        ),
        (
            [[[(1.0, 0, 0.0)]]],
            r"state 0, action 0: \(1.0, 0, 0.0\) is not \(probability, next state",
        ),
        ([[[(1.0, 0, "much", False)]]], r"state 0, action 0: .* is not \(probability"),
        ([[[1.0]]], r"state 0, action 0: 1.0 is not \(probability"),
        ([[[(1.0, 0, math.nan, False)]]], "state 0, action 0 is nan"),
        ([[[(1.0, 0, 0.0, False)], []]], "state 0, action 1: sums to 0, not 1; give it an outcome"),
        ({}, "Foreign: the states of P: there are none"),
        ([None], "Foreign: the actions of state 0: None is neither a list nor a dictionary"),
        ([[]], "Foreign: the actions of state 0: there are none"),
        ({0: {1: [(1.0, 0, 0.0, False)]}}, "Foreign: the actions of state 0 are not 0 … 0"),
        (
            {0: {0: [(1.0, 0, 0.0, True)]}, 1: {2: [(1.0, 0, 0.0, True)]}},
            "Foreign: the actions of state 1 are not 0 … 0",
        ),
        ([[[(1.0, 0, 0.0, True)]], []], "state 1 has 0 actions, state 0 has 1"),
        ({1: {0: [(1.0, 1, 0.0, False)]}}, "the states of P are not 0 … 0"),
    ],
)
def test_a_broken_P_is_named(P: Any, message: str) -> None:
    with pytest.raises(MDPError, match=message):
        mdp_from_env(Foreign(P, [1.0, 0.0][: len(P)]), discount=0.9)


@pytest.mark.parametrize(
    ("module", "loads"), [("envs", False), ("envs.reasoning", False), ("envs.gym", True)]
)
def test_imports__only_envs_gym_loads_gymnasium(module: str, loads: bool) -> None:
    code = f"import sys, {module}; print('gymnasium' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(loads)


def test_main__lists_every_id_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0
    *lines, how = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [f"resets/{world}-v0" for world in WORLDS]
    assert all(line.split(maxsplit=1)[1].endswith(".") for line in lines)
    assert 'gym.make("envs.gym:ID")' in how
