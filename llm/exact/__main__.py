"""`python -m llm.exact RUN`: compares a training run with exact theory.

Chain reasoning is a chain MDP, so the step policy of each checkpoint can be read out
(`llm.chain.readout`). From it, `cpi` computes exact values: J, V, A, p_π(τ) and certificates. The
improvement from one checkpoint to the next is reported in three ways (`llm.exact.gains`). It is
predicted from the first-order gain at the old occupancy, with an interval that theory guarantees.
It is computed exactly. And it is measured on sampled completions, which also show where the
localizer of the run would reset.

Read-out and sampling use float32, whatever the run used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cpi.reporting.json_files import check_writable, write_json
from cpi.reporting.options import underscored
from cpi.reporting.tables import console
from llm.common.commands import leave, prepare, quiet_transformers, run_command
from llm.runs.checkpoint_folders import checkpoints_of

PROG = "python -m llm.exact"

#: Completions per problem.
SAMPLES = 32


EPILOG = """\
examples:
  python -m llm.exact runs/chain-srpo-s0
  python -m llm.exact runs/chain-srpo-s0 --tau 0.1 --samples 256 --json exact.json

The run must be on chain reasoning with verify="steps", and have kept its checkpoints:
  python -m llm.train --config chain --model MODEL --save_steps 5 --save_total_limit 99

improvement since the previous checkpoint, π → π':
  exact      J(π') − J(π), from the probabilities of right steps
  predicted  L = H·E[a] over the states that π visits, where a = E_π' A^π is the advantage of π'.
             The interval L ± Σ_h span(a_h)·min(1, Σ_{t<h} E TV(π'_t, π_t)) holds for every pair of
             policies (Kakade & Langford 2002, Lemma 6.1). It does not use the states that π' visits
  measured   difference of sampled success rates, on the same problems with the same random numbers.
             Clopper-Pearson intervals, jointly of level 95 %

resets, from failed episodes among the samples:
  precision  share of the localizer's weight on improvable steps (advantage above τ)
  recall     weight on improvable steps over their frequency p_π(τ) in all episodes
  hits       share of resets at the first wrong step
  no step    share of the replies of a prompted model that name no step; all steps then weigh 1
  certified  guaranteed gain p·t·q·τ²/(2H) of one conservative step from this checkpoint, with
             recall t and precision q. Random resets have t = 1, q = p; an oracle of I_τ has
             t = q = 1. Training takes other, larger steps; `gained next` is their gain

Exit codes: 0 done; 1 if an exact improvement lies outside the predicted interval, which would be an
error in theory or code; 2 bad input.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    prepare(PROG)
    args = make_parser().parse_args(underscored(argv))
    return run_command(PROG, lambda: _exact(args), lambda: "interrupted, nothing is written")


def _exact(args: argparse.Namespace) -> int:
    """Compute and print the report; returns the exit code."""
    from rich.progress import Progress

    if args.json is not None:
        check_writable(args.json)
    checkpoints_of(args.run)  # reports a bad folder before the slow imports
    quiet_transformers()
    from llm.exact.bridge import exact_bridge

    err = console(sys.stderr)
    bars = Progress(console=err, transient=True, disable=not err.is_terminal)
    bar = bars.add_task("loading", total=1.0)

    def show(share: float, phase: str) -> None:
        if bars.disable and phase != bars.tasks[0].description:
            err.print(phase)  # a bar needs a terminal
        bars.update(bar, completed=share, description=phase)

    with bars:
        report = exact_bridge(args.run, args.tau, args.samples, args.problems, show)
    out = console()
    out.print(report)
    out.print(report.conclusion(), style="bold")
    if args.json is not None:
        write_json(args.json, report.to_json())
        out.print(f"Written to {args.json}", markup=False)
    return int(report.violations > 0)


def make_parser() -> argparse.ArgumentParser:
    """Argument parser of the command."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog=PROG,
        description="Exact values of every checkpoint of a chain-reasoning run, and the improvement"
        "\nfrom each checkpoint to the next: predicted, exact and measured.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="folder of a training run")
    add(
        "--tau",
        type=float,
        metavar="T",
        help="threshold of improvable states (default: half the largest advantage in the states "
        "that the first checkpoint visits)",
    )
    add(
        "--samples",
        type=int,
        default=SAMPLES,
        metavar="N",
        help=f"completions per problem and checkpoint (default: {SAMPLES})",
    )
    add("--problems", type=int, metavar="P", help="held-out problems (default: the run's)")
    add("--json", type=Path, metavar="FILE", help="also write the report to FILE")
    return parser


if __name__ == "__main__":
    leave(main())
