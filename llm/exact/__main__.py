"""`python -m llm.exact RUN`: what theory says of a training run, beside what happened.

Chain reasoning is a chain MDP, so the step policy of each checkpoint can be read out
(`llm.chain.readout`), and what `cpi` computes of it is exact: J, V, A, p_π(τ), certificates. What
training gained from one checkpoint to the next is told in three ways (`llm.exact.gains`):
predicted, by the first-order gain at the old occupancy and the interval that theory guarantees;
exact; and measured, by sampled completions. Those also tell where the run's localizer would reset.

Reading out and sampling are both in float32, whatever the run computed in.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cpi.reporting.json_files import check_writable, write_json
from cpi.reporting.tables import console
from llm.common.commands import prepare, run_command
from llm.runs.checkpoint_folders import checkpoints_of

PROG = "python -m llm.exact"

#: Completions of each problem.
SAMPLES = 32


EPILOG = """\
examples:
  python -m llm.exact runs/chain-srpo-s0
  python -m llm.exact runs/chain-srpo-s0 --tau 0.1 --samples 256 --json exact.json

The run must be on chain reasoning with verify="steps", and have kept its checkpoints:
  python -m llm.train --config chain --model MODEL --save_steps 5 --save_total_limit 99

improvement since the checkpoint before, π → π':
  exact      J(π') − J(π), from the probabilities of right steps
  predicted  L = H·E[a] over the states that π visits, a = E_π' A^π the advantage of π', and the
             interval L ± Σ_h span(a_h)·min(1, Σ_{t<h} E TV(π'_t, π_t)), which no pair of policies
             leaves (Kakade & Langford 2002, Lemma 6.1); it does not look at where π' goes
  measured   difference of sampled success rates, problems fixed, the same random numbers for both;
             Clopper-Pearson intervals, all of them right at once with probability 95 %

resets, from failed episodes among the samples:
  precision  share of the localizer's weight that lies on improvable steps (advantage above τ)
  recall     weight on improvable steps over their frequency p_π(τ), failed episode or not
  hits       share of its resets that are at the first wrong step
  no step    share of the replies of a prompted model that name no step: all weigh 1 then
  certified  gain p·t·q·τ²/(2H) that one conservative step from here is sure of, with recall t and
             precision q: 1 and p for random resets, 1 and 1 for an oracle that knows I_τ. Training
             takes other, larger steps; `gained` is what the next ones made of it

The exit code is 0; 1 if an exact improvement lies outside the predicted interval, which would be a
mistake in theory or code; 2 for bad input.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    prepare(PROG)
    args = make_parser().parse_args(argv)
    return run_command(PROG, lambda: _exact(args), lambda: "interrupted, nothing is written")


def _exact(args: argparse.Namespace) -> int:
    """Compute and print the report; returns the exit code."""
    from rich.progress import Progress

    if args.json is not None:
        check_writable(args.json)
    checkpoints_of(args.run)  # before anything large is loaded
    from llm.exact.bridge import exact_bridge

    err = console(sys.stderr)
    bars = Progress(console=err, transient=True, disable=not err.is_terminal)
    bar = bars.add_task("loading", total=1.0)

    def show(share: float, what: str) -> None:
        if bars.disable and what != bars.tasks[0].description:
            err.print(what)  # a bar needs a terminal
        bars.update(bar, completed=share, description=what)

    with bars:
        report = exact_bridge(args.run, args.tau, args.samples, args.problems, show)
    out = console()
    out.print(report)
    out.print(report.verdict(), style="bold")
    if args.json is not None:
        write_json(args.json, report.to_json())
        out.print(f"Written to {args.json}", markup=False)
    return int(report.violations > 0)


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="The exact bridge: exact values of every checkpoint of a chain-reasoning run, "
        "and\nwhat training gained from each to the next: predicted, exact, measured.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a run's folder")
    add(
        "--tau",
        type=float,
        metavar="T",
        help="threshold of improvable states (default: half the largest advantage that the first "
        "checkpoint meets)",
    )
    add(
        "--samples",
        type=int,
        default=SAMPLES,
        metavar="N",
        help=f"completions of each problem at each checkpoint (default: {SAMPLES})",
    )
    add("--problems", type=int, metavar="P", help="held-out problems (default: the run's)")
    add("--json", type=Path, metavar="FILE", help="also write everything to FILE")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
