"""`python -m cpi.bounds`: check the guarantees of conservative policy iteration numerically."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cpi.bounds import (
    REGISTRY,
    Bound,
    BoundReport,
    Update,
    bounds_for,
    discounted,
    discounted_masked,
    finite,
    finite_improvable,
)
from cpi.bounds.check import STEPS, Row, variations
from cpi.bounds.guarantees import Guarantees, guarantees
from cpi.bounds.instances import (
    candidates,
    chain_instances,
    random_instances,
    threshold,
    tight_instances,
)
from cpi.bounds.symbols import legend
from cpi.bounds.theorem1 import theorem1
from cpi.bounds.theorem1_report import Experiment
from cpi.conservative.reset_weights import ResetWeights, oracle_resets, random_resets
from cpi.exact.values import Evaluation
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
    whole,
)
from cpi.reporting.json_files import check_writable, write_json
from cpi.reporting.tables import console

EPILOG = f"""\
examples:
  python -m cpi.bounds                                  every bound, on every kind of instance
  python -m cpi.bounds --list                           the statements, with their hypotheses
  python -m cpi.bounds --env FrozenLake-v1 --gamma 0.99
  python -m cpi.bounds --env resets/LockChain-v0 --tau 0.1
  python -m cpi.bounds --env resets/LockChain-v0 --guarantee
  python -m cpi.bounds --mdp mine.npz --policy policy.npy --horizon 20

{FILES}\
The exit code is 0 if every bound held, 1 if one was violated, 2 if the input was refused, 130 after
Ctrl-C.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    out = console()  # before the help is printed, whose characters an encoding may lack
    parser = make_parser()
    args = parse(parser, argv)
    facts: dict[str, Any] = {}
    promised: dict[str, Guarantees] = {}
    try:
        if args.list:
            out.print(statements(), legend())
            return 0
        if args.json is not None:
            check_writable(args.json)
        if args.mdp is None and args.env is None:
            refuse_problem_options(args)
            report = BoundReport([Row(bound) for bound in REGISTRY])
            updates = suite(args.seed, args.instances, args.tau)
        else:
            if args.instances is not None:
                raise ValueError("--instances counts random MDPs: leave it out with your own")
            base = load_problem(args)
            facts = problem_facts(base, threshold(base, args.tau))
            print_facts(facts, out)
            report = BoundReport([Row(bound) for bound in bounds_for(base.mdp)])
            updates = problem_updates(base, args.seed, args.tau)
            if args.guarantee is not None:
                promised = own_guarantees(base, args)
    except REFUSALS as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted, nothing was checked", file=sys.stderr)
        return 130
    try:
        extra: dict[str, Any] = {"problem": facts} if facts else {}
        for rule, values in promised.items():
            out.print(f"\n{rule} resets", values)
            extra.setdefault("guarantees", {})[rule] = values.to_json()
        return run(args, out, report, updates, extra)
    except (OSError, MemoryError, ArithmeticError) as error:  # a full disk; numbers too large
        print(f"{parser.prog}: {type(error).__name__}: {error}", file=sys.stderr)
        return 2


def run(
    args: argparse.Namespace,
    out: Console,
    report: BoundReport,
    updates: Iterator[tuple[str, Update]],
    extra: dict[str, Any],
) -> int:
    """Run all checks, print and write the results; returns the exit code."""
    started = time.monotonic()
    interrupted = check(report, updates)
    experiment = None
    if args.mdp is None and args.env is None and not interrupted:
        experiment = run_theorem1(args.seed, args.quick)
        interrupted = experiment is None
    record: dict[str, Any] = {
        "checks": report.to_json(),
        "versions": versions(),
        "seed": args.seed,
        "seconds": round(time.monotonic() - started, 2),
        **extra,
        **(experiment.to_json() if experiment else {}),
    }
    out.print(report, legend())
    for label, failed in report.failures[:10]:
        out.print(
            f"violated: {failed.bound.name} on {label}: left {failed.left:.12g}, "
            f"right {failed.right:.12g}",
            style="bold red",
        )
    if experiment:
        out.print(experiment)
    out.print(report.verdict(), style="bold")
    if experiment:
        out.print(experiment.verdict(), style="bold")
    if interrupted:
        record["interrupted"] = True
        out.print("Interrupted: the table holds what was checked until then.")
    if args.json is not None:
        write_json(args.json, record)
        out.print(f"Written to {args.json}")
    if interrupted:
        return 130
    return int(report.violations > 0 or (experiment is not None and not experiment.certified))


def own_guarantees(base: Evaluation, args: argparse.Namespace) -> dict[str, Guarantees]:
    """What is guaranteed of a step with random and, if anything is improvable, oracle resets."""
    tau = threshold(base, args.tau)
    rules: dict[str, ResetWeights] = {"random": random_resets}
    if tau is not None:
        rules["oracle"] = oracle_resets(tau)
    options = {"tau": tau, "delta": 0.05, "resets": args.guarantee, "seed": args.seed}
    return {
        name: guarantees(base.mdp, base.policy, rule, **options) for name, rule in rules.items()
    }


def statements() -> Table:
    """The table of `--list`."""
    table = Table("statement", "requires", "source", "id, and where it is written")
    for bound in REGISTRY:
        row = (bound.requires or "nothing", bound.source, f"{bound.id}\n{place(bound)}")
        table.add_row(bound, *row)
    table.columns[-1].min_width = max(len(place(bound)) for bound in REGISTRY)
    return table


def place(bound: Bound) -> str:
    """File and line of a bound's definition, "cpi/bounds/finite.py:123"; "" if it is elsewhere."""
    for module in (discounted, discounted_masked, finite, finite_improvable):
        lines = Path(str(module.__file__)).read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            if line.strip() == f'name="{bound.name}",':
                return f"{module.__name__.replace('.', '/')}.py:{number}"
    return ""


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = Parser(
        prog="python -m cpi.bounds",
        description="Check the guarantees of conservative policy iteration with resets, "
        "on built-in instances or on your own MDP.",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("--json", type=Path, metavar="FILE", help="also write the results to FILE")
    add("--list", action="store_true", help="print every bound with its hypothesis, and stop")
    add(
        "--quick",
        action="store_true",
        help="20 random MDPs of each kind, 60 repeats of Theorem 1: seconds",
    )
    add(
        "--guarantee",
        type=whole,
        nargs="?",
        const=1000,
        metavar="N",
        help="also print step sizes, certified gains and both sides of the bounds on your problem, "
        "and what N sampled resets certify with probability 0.95 (default 1000)",
    )
    add("--instances", type=whole, metavar="N", help="random MDPs of each kind (default 250)")
    add("--seed", type=whole, default=0, metavar="N", help="seed of the random MDPs (default 0)")
    add(
        "--tau",
        type=float,
        help="threshold τ ≥ 0 (default: half the largest advantage in the states that π visits)",
    )
    add_problem_options(parser)
    return parser


def refuse_problem_options(args: argparse.Namespace) -> None:
    """Check the options of the built-in suite, and set the default of `--instances`."""
    for name in ("policy", "gamma", "horizon", "guarantee"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name} needs a problem of yours: add --mdp FILE.npz or --env ID")
    if args.tau is not None and not 0 <= args.tau < np.inf:
        raise ValueError(f"--tau: {args.tau} is not a number ≥ 0")
    if args.instances is None:
        args.instances = 20 if args.quick else 250


def suite(seed: int, instances: int, tau: float | None) -> Iterator[tuple[str, Update]]:
    """Updates on tight instances, chains and random MDPs, in this order."""
    return itertools.chain(
        tight_instances(), chain_instances(tau), random_instances(seed, instances, tau)
    )


def problem_updates(base: Evaluation, seed: int, tau: float | None) -> Iterator[tuple[str, Update]]:
    """Updates of the user's policy towards greedy, partly greedy and random candidates."""
    for candidate in candidates(base, tau, np.random.default_rng(seed)):
        for update in variations(base, candidate, STEPS, None, threshold(base, tau)):
            yield base.mdp.name, update


def check(report: BoundReport, updates: Iterator[tuple[str, Update]]) -> bool:
    """Add every update to the report; True if Ctrl-C ended it early."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=console(sys.stderr), transient=True)
    try:
        with progress:
            task = progress.add_task("checking", total=None)
            for label, update in updates:
                progress.update(task, advance=1, description=label)
                report.add(label, update)
    except KeyboardInterrupt:
        return True
    return False


def run_theorem1(seed: int, quick: bool) -> Experiment | None:
    """The experiment on Theorem 1; None if Ctrl-C ended it."""
    with console(sys.stderr).status("Theorem 1") as status:
        try:
            return theorem1(seed, repeats=60 if quick else 450, progress=status.update)
        except KeyboardInterrupt:
            return None


if __name__ == "__main__":
    sys.exit(main())
