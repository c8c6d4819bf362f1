"""A problem of the user's on a command line: an MDP or environment, a policy, and their facts."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import scipy
from rich.console import Console

from cpi.exact.improvement import (
    coverage,
    largest_advantage,
    visit_probability,
    visited_improvable,
)
from cpi.exact.optimal import optimal
from cpi.exact.policies import load_policy, uniform_policy
from cpi.exact.values import Evaluation, evaluate
from cpi.reporting.options import underscored
from envs.tabular import TabularMDP

#: Errors of bad user input; their messages are written for the user.
REFUSALS = (ValueError, OSError, MemoryError, ArithmeticError)

FILES = """\
An .npz MDP holds transitions (S, A, S) (or CSR data, indices, indptr of (S·A, S)), rewards (S, A),
start (S,), and horizon or discount. A policy is an .npy of shape (S, A) or (H, S, A), or of actions
(S,) or (H, S); or a .txt or .csv with a line per state: its probabilities, or its action.
"""

ENV_ARGS = "--env_args."


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and that takes options by their whole name."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings
        )

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with 2."""
        self.exit(2, f"{self.prog}: {message}; --help lists the options\n")


def add_problem_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `load_problem` reads."""
    problem = parser.add_argument_group("your own problem")
    add = problem.add_argument
    source = problem.add_mutually_exclusive_group()
    source.add_argument("--mdp", type=Path, metavar="FILE.npz", help="an MDP saved as arrays")
    source.add_argument("--env", metavar="ID", help="a Gymnasium toy-text or resets/… environment")
    add(
        f"{ENV_ARGS}NAME",
        metavar="VALUE",
        help="an argument of the environment, in JSON, or text: is_slippery false, map_name 8x8",
    )
    add("--policy", type=Path, metavar="FILE", help="the policy π (default: uniform)")
    time_kind = problem.add_mutually_exclusive_group()
    time_kind.add_argument("--gamma", type=float, help="discount factor in [0, 1)")
    time_kind.add_argument(
        "--horizon",
        type=whole,
        metavar="H",
        help="steps of an episode (default: the MDP's own, or the environment's limit of steps)",
    )


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parsed options; `env_args` holds those of the form `--env_args.NAME VALUE`.

    The parser itself exits with 2 on bad usage.
    """
    rest: list[str] = []
    env_args: dict[str, Any] = {}
    tokens = iter(underscored(argv))
    for token in tokens:
        if not token.startswith(ENV_ARGS):
            rest.append(token)
            continue
        name, equals, text = token.removeprefix(ENV_ARGS).partition("=")
        value = text if equals else next(tokens, None)
        if not name.isidentifier() or value is None:
            parser.error(
                f"{token}: write {ENV_ARGS}NAME VALUE, such as {ENV_ARGS}is_slippery false"
            )
        if name in env_args:
            parser.error(f"{ENV_ARGS}{name}: given twice")
        env_args[name] = scalar(value)
    args = parser.parse_args(rest)
    if env_args and args.env is None:
        parser.error(f"{ENV_ARGS}{next(iter(env_args))} needs an environment: add --env ID")
    args.env_args = env_args
    return args


def scalar(text: str) -> Any:
    """The value of a JSON text (also True, False, None); any other text is itself."""
    constants = {"true": True, "false": False, "null": None, "none": None}
    if text.lower() in constants:
        return constants[text.lower()]
    try:
        return json.loads(text, parse_constant=str)  # NaN is no JSON
    except ValueError:
        return text


def whole(text: str) -> int:
    """Argument type: a whole number ≥ 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number ≥ 0")
    return int(text)


def load_problem(args: argparse.Namespace) -> Evaluation:
    """The user's MDP and policy, evaluated."""
    if args.mdp is not None:
        mdp = TabularMDP.load(args.mdp, horizon=args.horizon, discount=args.gamma)
    else:
        from envs.gym import mdp_from_env  # gymnasium is imported only where needed

        time = {"horizon": args.horizon, "discount": args.gamma}
        mdp = mdp_from_env(args.env, env_args=args.env_args, **time)
    return evaluate(
        mdp, uniform_policy(mdp) if args.policy is None else load_policy(mdp, args.policy)
    )


def problem_facts(base: Evaluation, tau: float | None) -> dict[str, Any]:
    """Quantities that the bounds depend on, for the header and the JSON."""
    mdp = base.mdp
    low, high = mdp.reward_range
    facts: dict[str, Any] = {
        "problem": repr(mdp),
        "terminal states": int(mdp.terminal.sum()),
        "reward range used by the bounds": [low, high],
        "J(π)": base.J,
        "J*": float(mdp.start @ np.atleast_2d(optimal(mdp).V)[0]),
        "largest advantage": float(base.A.max()),
        "largest advantage where π goes": largest_advantage(base),
    }
    if tau is not None:
        mask = visited_improvable(base, tau)
        facts["τ"] = tau
        facts["p_π(τ)"] = coverage(base, mask)
        facts["visit probability of I_τ"] = visit_probability(base, mask)
    return facts


def print_facts(facts: dict[str, Any], out: Console) -> None:
    """Print a line for each fact; terminal states, which --env may add, are explained."""
    for key, value in facts.items():
        line = f"{key}: {value:.6g}" if isinstance(value, float) else f"{key}: {value}"
        if key == "terminal states" and value:
            line += " (episodes end there, and no reset does; --env adds one to Gymnasium's states)"
        out.print(line)


def versions() -> dict[str, str]:
    """Versions of Python and the numerical libraries."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }
