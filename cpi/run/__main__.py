"""`python -m cpi.run`: run CPI and policy-gradient methods on your own MDP or environment."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from cpi.conservative.step_sizes import ANYWHERE, DISCOUNTED, FINITE
from cpi.exact.improvement import default_tau
from cpi.problem import (
    FILES,
    REFUSALS,
    Parser,
    add_problem_options,
    load_problem,
    parse,
    print_facts,
    problem_facts,
    versions,
)
from cpi.reporting.json_files import check_writable, write_json
from cpi.reporting.tables import console
from cpi.run.jobs import Job, Methods, Theorem1
from cpi.run.methods import METHODS, RULES
from cpi.run.options import add_run_options, settle

EPILOG = f"""\
examples:
  python -m cpi.run --env FrozenLake-v1 --env_args.is_slippery false --output out
  python -m cpi.run --env resets/LockChain-v0 --env_args.length 6 --samples 4000 --bound none
  python -m cpi.run --mdp mine.npz --policy policy.npy --resets random oracle --step full
  python -m cpi.run --mdp mine.npz --method grpo srpo oracle adaptive --iterations 100 --output out
  python -m cpi.run --env resets/Needle-v0 --theorem1

CPI runs once for each reset rule: random (any visited state), oracle (states with an advantage
above τ), self (a localizer of the given precision and recall). Its advantages are exact, for no
environment step, unless --samples says how many resets estimate them. Policy-gradient methods
sample groups of episodes; oracle and srpo use the oracle and the noisy localizer of cpi.learn.
Oracle and self resets end where π visits no state with an advantage above τ; a smaller --tau goes
on. Policy-gradient methods need an end: on a discounted MDP, add --horizon H.

--output DIR holds run.json, run.png and the last policies, policy-METHOD.npy, which --policy reads.
In run.json an iteration of CPI has J before the step, the true gain of the step (left) and the gain
that its certificate guarantees (right), alpha, p (the coverage p_π(τ)) and p_w (the share of steps
that is accepted: of random resets below 1 where episodes end early, since nothing is accepted after
their end); certified is what sampled resets alone guarantee, in all iterations together with
probability 1 − δ. curve has J, p and environment steps after each number of iterations.

{FILES}\
The exit code is 0 if all was run, 2 if the input was refused, 130 after Ctrl-C, which keeps and
writes what was done until then.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    out = console()  # before the help is printed, whose characters an encoding may lack
    parser = make_parser()
    args = parse(parser, argv)
    if args.list:
        out.print("\n".join(listing()))
        return 0
    started = time.monotonic()
    try:
        settle(args)
        kind = Theorem1 if args.theorem1 else Methods
        if args.output is not None:
            check_writable(args.output / f"{kind.name}.json", "--output")
        base = load_problem(args)
        tau = args.tau if args.tau is not None else default_tau(base)
        facts = problem_facts(base, tau)
        job: Job = kind(args, base, facts)
    except REFUSALS as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted, nothing was run", file=sys.stderr)
        return 130
    print_facts(facts, out)
    refusals, interrupted = work(job)
    record = {
        "problem": facts,
        **job.to_json(),
        "settings": settings(args),
        "versions": versions(),
        "seconds": round(time.monotonic() - started, 2),
        **({"interrupted": True} if interrupted else {}),
    }
    try:
        job.show(out)
        if args.output is not None:
            write(args.output, job, record, out)
    except (OSError, ValueError) as error:  # a full disk; a number that JSON lacks
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    for refusal in refusals:
        print(f"{parser.prog}: {refusal}", file=sys.stderr)
    if interrupted:
        out.print("Interrupted: this is what was done until then.")
        return 130
    return 2 if refusals else 0


def listing() -> list[str]:
    """Lines of `--list`."""
    steps = {"finite horizon": FINITE, "discounted": DISCOUNTED, "both": ANYWHERE}
    return [
        f"--method  {' '.join(METHODS)}",
        f"--resets  {' '.join(RULES)}",
        *(f"--step    {' '.join(rules)} ({where})" for where, rules in steps.items()),
    ]


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = Parser(
        prog="python -m cpi.run",
        description="Run conservative policy iteration with three reset rules, or policy-gradient "
        "methods, on your own MDP or environment; or Theorem 1's experiment.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--list", action="store_true", help="print methods, reset rules and step sizes, and stop"
    )
    add_run_options(parser)
    add_problem_options(parser)
    return parser


def work(job: Job) -> tuple[list[str], bool]:
    """Do the job; returns what could not be done, and whether Ctrl-C ended it."""
    try:
        with console(sys.stderr).status("starting") as status:
            return job.run(status.update), False
    except KeyboardInterrupt:
        return [], True
    except (MemoryError, ArithmeticError) as error:
        return [f"{type(error).__name__}: {error}"], False


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """The options as plain data."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(args).items()
        if name != "list"
    }


def write(folder: Path, job: Job, record: dict[str, Any], out: Console) -> None:
    """Write numbers, figure and policies."""
    write_json(folder / f"{job.name}.json", record)
    job.save(folder)
    if find_spec("matplotlib") is None:
        out.print("No plot: matplotlib is missing; pip install matplotlib")
    else:
        from cpi.run.plot import save

        save(job.draw(), folder / f"{job.name}.png")
    out.print(f"Written to {folder}")


if __name__ == "__main__":
    sys.exit(main())
