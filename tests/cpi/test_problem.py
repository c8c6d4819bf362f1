"""Options of a user's own problem, shared by commands."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from cpi.problem import add_problem_options, load_problem, parse, scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("false", False),
        ("True", True),
        ("None", None),
        ("null", None),
        ("3", 3),
        ("-1e-3", -0.001),
        ("8x8", "8x8"),
        ('"3"', "3"),
        ('["SF", "FG"]', ["SF", "FG"]),
        ("[+4", "[+4"),
        ("", ""),
        ("NaN", "NaN"),
    ],
)
def test_scalar(text: str, value: Any) -> None:
    result = scalar(text)
    assert result == value and type(result) is type(value)


def test_parse__arguments_of_the_environment_among_other_options() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_problem_options(parser)
    argv = ["--env_args.length", "-3", "--env", "resets/LockChain-v0", "--env_args.num_actions=2"]
    args = parse(parser, [*argv, "--horizon", "2"])
    assert args.env_args == {"length": -3, "num_actions": 2}
    with pytest.raises(ValueError, match="length: -3 is not a whole number"):
        load_problem(args)
    args = parse(parser, [*argv, "--gamma", "0.5"])
    args.env_args["length"] = 2
    mdp = load_problem(args).mdp
    assert (mdp.num_states, mdp.num_actions, mdp.discount) == (3, 2, 0.5)
