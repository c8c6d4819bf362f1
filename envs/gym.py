"""Gymnasium environments `resets/…` of the worlds, and tabular MDPs of toy-text environments.

    gym.make("envs.gym:resets/LockChain-v0", length=8)      # the prefix imports this module
    python -m envs.gym                                      # lists the ids
    mdp_from_env("FrozenLake-v1", discount=0.99, env_args={"is_slippery": False})

Environments follow Gymnasium's toy-text convention: `P[s][a]` lists (probability, next state,
reward, terminated), `initial_state_distrib` is ρ, infos hold {"prob": p}. In addition
`reset(options={"state": s})` starts an episode in any state. Rewards are the expected rewards
r(s, a).

The state does not include the step. A finite horizon is therefore a `TimeLimit` wrapper, which
truncates; the unwrapped environment is endless. The limit counts steps from the last reset, also
after a reset to a state that was first visited at a later step.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import WrapperSpec, load_env_creator
from gymnasium.wrappers import NormalizeReward, TimeLimit
from scipy import sparse

from envs.deep_sea import deep_sea
from envs.first_error import first_error_chain
from envs.garnet import garnet
from envs.kl_chain import kl_chain
from envs.lock import lock_chain
from envs.needle import needle
from envs.reasoning import ChainTask, Problem
from envs.tabular import FloatArray, MDPError, TabularMDP, real_array
from envs.tight import tight_cpi, tight_divergence, tight_masked, tight_returns
from envs.tree import tree

#: Stands for any name of an argument.
ANY = "…"

#: One outcome of an action: probability, next state, reward, terminated.
Outcome = tuple[float, int, float, bool]

#: Imported MDPs with more states than this are CSR.
DENSE_STATES = 500

#: Wrappers whose environment is another MDP than that of `P`.
OTHER_MDP = (gym.RewardWrapper, gym.ActionWrapper, NormalizeReward)


class TabularEnv(gym.Env[int, int]):
    """A `TabularMDP` as a toy-text environment.

    Parameters
    ----------
    mdp : TabularMDP
        `terminated` is true when the next state is one of `mdp.terminal`.
    render_mode : {"ansi"}, optional
        Render one line of text per step.

    Raises
    ------
    ValueError
        If `render_mode` is unknown.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012 (as gym.Env declares)

    def __init__(self, mdp: TabularMDP, render_mode: str | None = None) -> None:
        if render_mode not in (None, "ansi"):
            raise ValueError(f"render_mode: {render_mode!r} is not one of 'ansi' and None")
        self.mdp = mdp
        self.render_mode = render_mode
        self.observation_space: spaces.Space[Any] = spaces.Discrete(mdp.num_states)
        self.action_space: spaces.Space[Any] = spaces.Discrete(mdp.num_actions)
        self.initial_state_distrib: FloatArray = mdp.start
        self.s: int | None = None
        self._line = ""

    @cached_property
    def P(self) -> dict[int, dict[int, list[Outcome]]]:
        """Outcomes of positive probability by state and action, computed at first use."""
        mdp = self.mdp
        return {
            s: {a: self._outcomes(s, a) for a in range(mdp.num_actions)}
            for s in range(mdp.num_states)
        }

    def _outcomes(self, state: int, action: int) -> list[Outcome]:
        reward = float(self.mdp.rewards[state, action])
        following, p = self.mdp.successors(state, action)
        ended = self.mdp.terminal[following]
        return [
            (float(p_i), int(s_i), reward, bool(end_i))
            for p_i, s_i, end_i in zip(p, following, ended, strict=True)
        ]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Start an episode in a state drawn from ρ, or in `options={"state": s}`.

        Raises
        ------
        ValueError
            If the state is not one of the MDP's, or `options` has another key.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        if "state" in options:
            state, p = options.pop("state"), 1.0
            if state not in self.observation_space:
                raise ValueError(
                    f"options: state {state!r} is not one of 0 … {self.mdp.num_states - 1}"
                )
            state = int(state)
        else:
            start = self.initial_state_distrib
            state = int(self.np_random.choice(start.size, p=start))
            p = float(start[state])
        if options:
            raise ValueError(
                f"options: {', '.join(map(repr, options))} unknown; the only key is 'state'"
            )
        self.s = state
        self._line = f"state {state}"
        return state, {"prob": p}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Take `action`; a terminal state absorbs and pays nothing, as in toy text.

        Raises
        ------
        gymnasium.error.ResetNeeded, gymnasium.error.InvalidAction
            Before the first `reset`; for an action that is not one of the MDP's.
        """
        if self.s is None:
            raise gym.error.ResetNeeded("call reset() before step()")
        if action not in self.action_space:
            raise gym.error.InvalidAction(
                f"action {action!r} is not one of 0 … {self.mdp.num_actions - 1}"
            )
        outcomes = self._outcomes(self.s, int(action))
        drawn = self.np_random.choice(len(outcomes), p=[outcome[0] for outcome in outcomes])
        p, following, reward, terminated = outcomes[drawn]
        ending = ", terminated" if terminated else ""
        self._line = f"state {self.s}, action {action}: reward {reward:g}, state {following}"
        self._line += ending
        self.s = following
        return following, reward, terminated, False, {"prob": p}

    def render(self) -> str | None:
        """The last transition as a line, or None without a render mode."""
        return self._line if self.render_mode == "ansi" else None


def chain_reasoning(modulus: int, start: int, operations: Sequence[str], verify: str) -> TabularMDP:
    """One problem of the chain-reasoning task, see `envs.reasoning`."""
    task = ChainTask(modulus, tuple(dict.fromkeys(operations)))
    return task.mdp(Problem(start, tuple(operations)), verify)


#: Registered worlds: name → (function, default arguments, which `gym.make` may replace).
WORLDS: dict[str, tuple[Callable[..., TabularMDP], dict[str, Any]]] = {
    "LockChain": (lock_chain, {"length": 20, "num_actions": 4}),
    "KLChain": (kl_chain, {"num_states": 10, "discount": 0.99}),
    "DeepSea": (deep_sea, {"size": 10}),
    "FirstError": (first_error_chain, {"length": 10, "recovery": 0.0}),
    "Tree": (tree, {"depth": 4, "branching": 2, "seed": 0}),
    "Garnet": (
        garnet,
        {"num_states": 20, "num_actions": 3, "branching": 3, "seed": 0, "discount": 0.9},
    ),
    "Needle": (needle, {"p": 0.125, "horizon": 4, "num_actions": 4}),
    "TightCPI": (lambda discount: tight_cpi(discount).mdp, {"discount": 0.9}),
    "TightMasked": (lambda horizon: tight_masked(horizon).mdp, {"horizon": 2}),
    "TightReturns": (lambda: tight_returns().mdp, {}),
    "TightDivergence": (lambda discount: tight_divergence(discount).mdp, {"discount": 0.9}),
    "ChainReasoning": (
        chain_reasoning,
        {"modulus": 10, "start": 3, "operations": ["+4", "*3", "-2"], "verify": "steps"},
    ),
}


#: What makes the MDP, where the table has a function around it.
_TIGHT: dict[str, Callable[..., Any]] = {
    "TightCPI": tight_cpi,
    "TightMasked": tight_masked,
    "TightReturns": tight_returns,
    "TightDivergence": tight_divergence,
}


def worlds() -> dict[str, str]:
    """Id of each environment → what it is, in one line."""
    functions = {world: _TIGHT.get(world, function) for world, (function, _) in WORLDS.items()}
    return {
        f"resets/{world}-v0": (inspect.getdoc(function) or "").splitlines()[0]
        for world, function in functions.items()
    }


def make_world(world: str, render_mode: str | None = None, **kwargs: Any) -> TabularEnv:
    """Make the environment of one of `WORLDS`; the entry point of every registered id."""
    function, _ = WORLDS[world]
    return TabularEnv(function(**kwargs), render_mode)


def limit_to_horizon(env: gym.Env[int, int]) -> gym.Env[int, int]:
    """Truncate at the MDP's horizon, unless `gym.make` sets `max_episode_steps`."""
    horizon = env.unwrapped.mdp.horizon if isinstance(env.unwrapped, TabularEnv) else None
    limited = env.spec is not None and env.spec.max_episode_steps is not None
    return env if limited or horizon is None else TimeLimit(env, horizon)


# The horizon depends on the arguments of gym.make, so it cannot be registered as a number. A
# wrapper is applied after the environment is made and can read it.
_HORIZON = WrapperSpec("TimeLimit", "envs.gym:limit_to_horizon", {})

for _world, (_, _defaults) in WORLDS.items():
    gym.register(
        id=f"resets/{_world}-v0",
        entry_point="envs.gym:make_world",
        kwargs={"world": _world, **_defaults},
        additional_wrappers=(_HORIZON,),
    )


def mdp_from_env(
    env_or_id: str | gym.Env[Any, Any],
    *,
    horizon: int | None = None,
    discount: float | None = None,
    env_args: Mapping[str, Any] | None = None,
) -> TabularMDP:
    """The tabular MDP of an environment with known transitions.

    Repeated successors are added up, and r(s, a) = Σ p·r. A transition that terminates leads to an
    extra state, the last one, which absorbs and pays nothing. Its value is zero, whatever rows the
    original successor has in `P`. Wrappers are not part of `P`: those of rewards and actions are
    refused, others are ignored.

    Parameters
    ----------
    env_or_id : str or gymnasium.Env
        An id, with or without the module that registers it ("resets/Tree-v0",
        "envs.gym:resets/Tree-v0", "FrozenLake-v1"), or an environment, wrapped or not. It must be
        a `TabularEnv`, whose MDP is returned as it is, or have `P` and `initial_state_distrib`,
        as Gymnasium's toy-text environments do.
    horizon, discount : int, float, optional
        Give at most one. By default a `TabularEnv` has its own, and the horizon of another
        environment is its limit of steps, `max_episode_steps`; one of them is needed without.
    env_args : mapping, optional
        Arguments of `gymnasium.make`, where an id is given.

    Returns
    -------
    TabularMDP
        Dense up to 500 states, CSR above.

    Raises
    ------
    ValueError
        If the id or an argument is unknown, the environment has no `P`, a wrapper changes rewards
        or actions, or horizon and discount are missing.
    MDPError
        If `P` is not a transition function; the message names the state and the action.
    """
    if isinstance(env_or_id, str):
        env = _make(env_or_id, dict(env_args or {}))
        if env_args and horizon is None and discount is None:
            horizon = env_args.get("max_episode_steps")
        try:
            return mdp_from_env(env, horizon=horizon, discount=discount)
        finally:
            env.close()
    if env_args:
        raise ValueError("env_args: the environment is already made; give its id instead")
    limit = getattr(getattr(env_or_id, "spec", None), "max_episode_steps", None)
    base: Any = env_or_id
    while isinstance(base, gym.Wrapper):
        if isinstance(base, OTHER_MDP):
            raise ValueError(
                f"{type(base).__name__}: this wrapper changes rewards or actions outside P; give "
                "the environment without it"
            )
        base = base.env
    base = getattr(base, "unwrapped", base)
    if isinstance(base, TabularEnv):
        if horizon is None and discount is None:
            return base.mdp
        return base.mdp.with_time(horizon=horizon, discount=discount)
    spec = getattr(base, "spec", None)
    name = spec.id if spec is not None else type(base).__name__
    if not (hasattr(base, "P") and hasattr(base, "initial_state_distrib")):
        raise ValueError(
            f"{name}: no transitions to read; an environment needs P[s][a], a list of "
            "(probability, next state, reward, terminated), and initial_state_distrib (S,)"
        )
    if getattr(base, "fickle_passenger", False):  # Taxi: step() may change the destination
        raise ValueError(f"{name}: fickle_passenger changes states outside P; make it without")
    if horizon is None and discount is None:
        horizon = limit
    if horizon is None and discount is None:
        raise ValueError(f"{name}: P has no horizon or discount; give horizon (H) or discount (γ)")
    transitions, rewards, start = _read(base.P, base.initial_state_distrib, name)
    return TabularMDP(transitions, rewards, start, horizon, discount, name)


def _make(env_id: str, env_args: dict[str, Any]) -> gym.Env[Any, Any]:
    """`gym.make` whose errors are one line that names the id and the arguments."""
    module, _, bare_id = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        known = _arguments(bare_id)
    except (ImportError, TypeError, gym.error.Error) as error:
        raise ValueError(_failure(env_id, {}, error)) from None
    if known is None:
        similar = difflib.get_close_matches(bare_id, gym.registry, n=3)
        hint = f"; did you mean {' or '.join(similar)}?" if similar else ""
        raise ValueError(f"{env_id}: no such environment{hint}")
    unknown = [name for name in env_args if name not in known and ANY not in known]
    if unknown:
        raise ValueError(f"{env_id}: no argument {', '.join(unknown)}; it takes {', '.join(known)}")
    for name, value in env_args.items():  # every text is true, "no" and "false" included
        if isinstance(known.get(name), bool) and not isinstance(value, bool):
            raise ValueError(f"{env_id}: {name}: {value!r} is neither true nor false")
    try:
        return gym.make(bare_id, **{"disable_env_checker": True, **env_args})
    except Exception as error:  # also of the environment's own code
        raise ValueError(_failure(env_id, env_args, error)) from None


def _failure(env_id: str, env_args: dict[str, Any], error: Exception) -> str:
    """Why an environment cannot be made, in one line."""
    given = ", ".join(f"{name}={value!r}" for name, value in env_args.items())
    reason = str(error).partition("\n")[0].partition(" was raised from the environment creator")[0]
    if isinstance(error, KeyError):
        reason = f"no {reason}"
    return f"{env_id}: cannot be made{f' with {given}' if given else ''} ({reason})"


def _arguments(env_id: str) -> dict[str, Any] | None:
    """Names that `gym.make` takes for an environment, or `ANY`, and their defaults.

    None if the id is unknown.
    """
    if env_id not in gym.registry:
        return None
    spec = gym.registry[env_id]
    world = spec.kwargs.get("world")
    creator: Any = WORLDS[world][0] if world in WORLDS else spec.entry_point
    if isinstance(creator, str):
        creator = load_env_creator(creator)
    own = inspect.signature(creator).parameters.values()
    names = {
        ANY if parameter.kind is parameter.VAR_KEYWORD else parameter.name: parameter.default
        for parameter in own
    }
    return {**names, "max_episode_steps": None, "disable_env_checker": True}


def _read(P: Any, distribution: Any, name: str) -> tuple[Any, FloatArray, FloatArray]:
    """Transitions, rewards (S, A) and start (S,) from a toy-text `P`."""
    num_states = _count(P, f"{name}: the states of P")
    num_actions = _count(P[0], f"{name}: the actions of state 0")
    over = num_states
    rows: list[int] = []
    columns: list[int] = []
    probabilities: list[float] = []
    rewards = np.zeros((num_states + 1, num_actions))
    for s in range(num_states):
        if len(P[s]) != num_actions:
            raise MDPError(f"{name}: state {s} has {len(P[s])} actions, state 0 has {num_actions}")
        _count(P[s], f"{name}: the actions of state {s}")
        for a in range(num_actions):
            for outcome in P[s][a]:
                where = f"{name}: state {s}, action {a}"
                p, following, reward, terminated = _outcome(outcome, where)
                if not 0 <= following < num_states:
                    raise MDPError(f"{where} leads to {following}, not a state")
                rows.append(s * num_actions + a)
                columns.append(over if terminated else int(following))
                probabilities.append(p)
                rewards[s, a] += p * reward
    start, _ = real_array(distribution, f"{name}: initial_state_distrib")
    if over in columns:
        rows += range(over * num_actions, (over + 1) * num_actions)
        columns += [over] * num_actions
        probabilities += [1.0] * num_actions
        start = np.append(start, 0.0)
        num_states += 1
    # COO to CSR adds up the entries of a repeated successor.
    transitions: Any = sparse.coo_array(
        (probabilities, (rows, columns)), shape=(num_states * num_actions, num_states)
    ).tocsr()
    if num_states <= DENSE_STATES:
        transitions = transitions.toarray().reshape(num_states, num_actions, num_states)
    return transitions, rewards[:num_states], start


def _count(numbered: Any, what: str) -> int:
    """Length of a list, or of a dictionary with the keys 0, 1, …, of states or actions."""
    if not hasattr(numbered, "__len__"):
        raise MDPError(f"{what}: {numbered!r} is neither a list nor a dictionary")
    number = len(numbered)
    if number == 0:
        raise MDPError(f"{what}: there are none")
    if isinstance(numbered, dict) and set(numbered) != set(range(number)):
        raise MDPError(f"{what} are not 0 … {number - 1}")
    return number


def _outcome(outcome: Any, where: str) -> Outcome:
    """One entry of `P[s][a]`, checked."""
    try:
        p, following, reward, terminated = outcome
        if int(following) != following:
            raise MDPError(f"{where} leads to {following}, not a state")
        return float(p), int(following), float(reward), bool(terminated)
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, MDPError):
            raise
        raise MDPError(
            f"{where}: {outcome!r} is not (probability, next state, reward, terminated)"
        ) from None


def main() -> int:
    """Print the ids with one line each, and how to make them."""
    about = worlds()
    for env_id, line in about.items():
        print(f"{env_id:{max(map(len, about))}}  {line}")
    print('In Python: gym.make("envs.gym:ID"), or import envs.gym before gym.make("ID")')
    return 0


if __name__ == "__main__":
    sys.exit(main())
