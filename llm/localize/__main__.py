"""`python -m llm.localize MODEL_OR_RUN --data FILE ...`: measure localizers on labelled solutions.

Data are read in `llm.localize.data`, verdicts made in `llm.localize.verdicts`, the loop is in
`llm.localize.measurement`, and tables and intervals are in `llm.localize.report`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from cpi.reporting.json_files import check_writable, write_json
from cpi.reporting.options import HELP_ALL, underscored
from cpi.reporting.tables import console
from llm.common.bars import ProblemBars
from llm.common.commands import leave, prepare, quiet_transformers, run_command
from llm.common.option_groups import (
    add_model_options,
    add_option_groups,
    given_options,
    with_options,
)

if TYPE_CHECKING:
    from llm.localize.options import LocalizeOptions
    from llm.runs.saved_model import SavedModel

PROG = "python -m llm.localize"

DESCRIPTION = """\
Measure how well localizers find the first wrong step of solutions whose first wrong step is known:
ProcessBench, BIG-Bench Mistake, files of the same form, or the rollouts of a run whose task has a
step checker."""

EPILOG = """\
examples:
  python -m llm.localize MODEL --data processbench_gsm8k.json
  python -m llm.localize MODEL --data a.jsonl b.jsonl --localizer step_logprob surprisal random
  python -m llm.localize MODEL --data a.jsonl --localizer prompted --localization.temperature 0
  python -m llm.localize MODEL --data a.jsonl --localizer prompted --localization.votes 5
  python -m llm.localize MODEL --data a.jsonl --limit 100 --records verdicts.jsonl
  python -m llm.localize MODEL --data a.jsonl --may_be_right --half report --json table.json
  python -m llm.localize RUN --data RUN --localizer my_module:function

Columns: exact, the first wrong step is named; exact − chance, less that of a random step; within 1
and at or before, a step at most one off or no later; drawn, the probability that training, which
draws a step by the localizer's weights, resets there; unusable, verdicts without a step.

A row of a file has problem, steps and label (first wrong step from 0, -1 for none), or input, steps
and mistake_index (likewise, null for none). Localizers of training see failed solutions only, and
always name a step. With --may_be_right, prompted and step_logprob may also answer that no step is
wrong, and are not told that the answer is; F1 is the harmonic mean of the accuracies on wrong and
on right solutions, as in ProcessBench.

Rows are worked through in random order, and Ctrl-C prints the tables of those that are finished.
With --records FILE, the same command then goes on with the others; a larger --limit too.
Exit codes: 0 done, 2 bad input, 130 interrupted."""

#: Groups of options that llm.train has too.
GROUPS = ("localization", "vllm")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    prepare(PROG)
    words = underscored(argv, groups=True)
    full = HELP_ALL in words
    args = make_parser(full).parse_args(["--help"] if full else words)

    def localize() -> int:
        from llm.localize.data import read_data
        from llm.localize.measurement import make_report, measure, open_records
        from llm.runs.saved_model import find_model

        saved = find_model(args.model, args.step)
        options = read_options(args, saved)
        for path, option in ((args.json, "--json"), (args.records, "--records")):
            if path:
                check_writable(path, option)
        data = [read_data(path, options.half, options.limit) for path in args.data]
        quiet_transformers()
        records = open_records(args.records, saved, data, options)
        try:
            with ProblemBars("solutions") as progress:
                measure(saved, data, options, records, progress)
        finally:  # also after Ctrl-C
            report = make_report(saved, data, options, records)
            if report.results:
                console().print(report)
                if args.json:
                    write_json(args.json, report.to_json())
        return 0

    def interrupted() -> str:
        cure = f"; the same command resumes from {args.records}" if args.records else ""
        return f"interrupted{cure}"

    return run_command(PROG, localize, interrupted)


def read_options(args: argparse.Namespace, saved: SavedModel) -> LocalizeOptions:
    """Read options from the command line; others are the run's settings or the defaults."""
    from llm.localize.options import LocalizeOptions

    defaults = LocalizeOptions(**saved.settings(*GROUPS, "bf16"))
    return with_options(defaults, given_options(args, LocalizeOptions))


def make_parser(full: bool = False) -> argparse.ArgumentParser:
    """Argument parser of the command; its help has the options of groups only if `full`."""
    from llm.engines.options import VLLMOptions
    from llm.localize.options import Half, LocalizeOptions
    from llm.resets.localizers import LOCALIZERS
    from llm.resets.options import LocalizationOptions

    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog=PROG,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(parser)
    add = parser.add_argument
    add(HELP_ALL, action="store_true", help="also show the options of the groups below")
    add(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help=".json or .jsonl files of labelled solutions, or folders of runs",
    )
    add(
        "--localizer",
        dest="localizers",
        nargs="+",
        metavar="NAME",
        help=f"{', '.join(LOCALIZERS)} or module:function "
        f"(default: {' '.join(LocalizeOptions().localizers)})",
    )
    add(
        "--may_be_right",
        action="store_true",
        default=None,
        help="let prompted and step_logprob answer that no step is wrong",
    )
    add(
        "--half",
        choices=get_args(Half),
        help="half of the problems, to choose settings on one and report the other (default: all)",
    )
    add(
        "--limit",
        type=int,
        metavar="N",
        help="rows per data set: a random sample with a fixed seed (default: all)",
    )
    add("--batch_size", type=int, metavar="N", help="solutions per batch (default: 16)")
    add(
        "--records",
        type=Path,
        metavar="FILE",
        help=".jsonl file to which each verdict is written; the same command resumes from it",
    )
    add("--json", type=Path, metavar="FILE", help="also write results and all verdicts")
    groups = (LocalizationOptions, VLLMOptions)
    add_option_groups(parser, dict(zip(GROUPS, groups, strict=True)), full)
    return parser


if __name__ == "__main__":
    leave(main())
