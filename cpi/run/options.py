"""Options of `python -m cpi.run`: their defaults, and where each has an effect."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from cpi.conservative.step_sizes import ANYWHERE, DISCOUNTED, FINITE
from cpi.problem import whole
from cpi.run.methods import CPI, METHODS, RULES

#: Where options have an effect → option → its default.
DEFAULTS: dict[str, dict[str, Any]] = {
    "a run": {"method": [CPI], "iterations": 50},
    "--method cpi": {"resets": None, "samples": None, "step": None, "epsilon": 0.0},
    "--resets self": {"precision": 0.8, "recall": 0.8},
    "--method grpo, rrpo, srpo, oracle or adaptive": {"starts": 16, "lr": 1.0},
    "--samples N": {"bound": "bernstein"},
    "--samples N or --theorem1": {"policy_class": "per_state", "delta": 0.05},
    "--theorem1": {"repeats": 30, "max_resets": 100_000},
}


def settle(args: argparse.Namespace) -> None:
    """Check options and set their defaults.

    Raises
    ------
    ValueError
        If there is no problem, an option is out of range, or it has no effect beside the others.
    """
    if args.mdp is None and args.env is None:
        raise ValueError(
            "no problem: add --mdp FILE.npz or --env ID (Theorem 1 on the needle: cpi.bounds)"
        )
    method = args.method or [CPI]
    cpi = not args.theorem1 and CPI in method
    active = {
        "a run": not args.theorem1,
        "--method cpi": cpi,
        "--resets self": cpi and "self" in (args.resets or RULES),
        "--method grpo, rrpo, srpo, oracle or adaptive": not args.theorem1 and set(method) != {CPI},
        "--samples N": cpi and args.samples is not None,
        "--samples N or --theorem1": args.theorem1 or (cpi and args.samples is not None),
        "--theorem1": args.theorem1,
    }
    for where, options in DEFAULTS.items():
        for name, default in options.items():
            if getattr(args, name) is None:
                setattr(args, name, default)
            elif not active[where]:
                raise ValueError(f"--{name} has no effect here: it belongs to {where}")
    if args.tau is not None and not 0 <= args.tau < np.inf:
        raise ValueError(f"--tau: {args.tau} is not a number ≥ 0")
    if args.step == "sampled" and args.samples is None:
        raise ValueError("--step: sampled is certified by resets; add --samples N")
    if not 0 < args.delta < 1:
        raise ValueError(f"--delta: {args.delta} is not in (0, 1)")
    for name, least in (("repeats", 2), ("max_resets", 8), ("samples", 4)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            raise ValueError(f"--{name}: {getattr(args, name)} is below {least}")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of runs and of Theorem 1's experiment."""
    add = parser.add_argument
    add("--method", nargs="+", choices=METHODS, metavar="METHOD", help=_help(*METHODS, default=CPI))
    add("--output", type=Path, metavar="DIR", help="write numbers, plot and policies to DIR")
    add("--iterations", type=whole, metavar="N", help="most iterations of each method (default 50)")
    add("--seed", type=whole, default=0, metavar="N", help="seed of all sampling (default 0)")
    add(
        "--tau",
        type=float,
        help="threshold τ ≥ 0 (default: half the largest advantage that π meets)",
    )
    group = parser.add_argument_group("CPI")
    add = group.add_argument
    add("--resets", nargs="+", choices=RULES, metavar="RULE", help=_help(*RULES, default="all"))
    add("--precision", type=float, help="of self resets, in (0, 1] (default 0.8)")
    add("--recall", type=float, help="of self resets, in (0, 1] (default 0.8)")
    steps = [*FINITE, *DISCOUNTED, *ANYWHERE, "sampled"]
    add("--step", choices=steps, metavar="RULE", help=_help(*steps, default="certified, or kl"))
    add("--epsilon", type=float, help="stop at an advantage below 2ε/3 (default 0)")
    add("--samples", type=whole, metavar="N", help="accepted resets per iteration (default: exact)")
    group = parser.add_argument_group("policy gradient")
    add = group.add_argument
    add("--starts", type=whole, metavar="N", help="start states per update (default 16)")
    add("--lr", type=float, help="step along the gradient, above 0 (default 1)")
    group = parser.add_argument_group("sampled advantages")
    add = group.add_argument
    add(
        "--policy_class",
        choices=["per_state", "shared"],
        help="an action per state (default), or one for all",
    )
    add(
        "--bound",
        choices=["bernstein", "hoeffding", "none"],
        help="behind the step with --samples; none trusts the estimate (default bernstein)",
    )
    add("--delta", type=float, help="a bound fails with probability δ at most (default 0.05)")
    group = parser.add_argument_group("Theorem 1")
    add = group.add_argument
    add(
        "--theorem1",
        action="store_true",
        help="in place of a run: resets with which random and oracle resets certify an improvement",
    )
    add("--repeats", type=whole, metavar="N", help="independent choices per size (default 30)")
    add("--max_resets", type=whole, metavar="N", help="largest size that is tried (default 100000)")


def _help(*names: str, default: str) -> str:
    return f"{', '.join(names)} (default {default})"
