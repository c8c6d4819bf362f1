"""`python -m llm.localize MODEL_OR_RUN --data FILE ...`: measure localizers on labelled solutions.

Data are read in `llm.localize.data`, verdicts made in `llm.localize.verdicts`, and tables and
intervals in `llm.localize.report`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from cpi.reporting.json_files import check_writable, write_json
from cpi.reporting.options import HELP_ALL, underscored
from cpi.reporting.tables import console
from llm.common.bars import ProblemBars
from llm.common.commands import leave, prepare, quiet_transformers, run_command
from llm.common.option_groups import add_option_groups, read_option_group

if TYPE_CHECKING:
    from llm.localize.data import LabelledSolutions
    from llm.localize.options import LocalizeOptions
    from llm.localize.report import LocalizationReport
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
        from llm.runs.saved_model import find_model

        saved = find_model(args.model, args.step)
        options = read_options(args, saved)
        if args.json:
            check_writable(args.json)
        data = [read_data(path, options.half, options.limit) for path in args.data]
        quiet_transformers()
        with ProblemBars("solutions") as progress:
            report = localize_model(saved, data, options, progress)
        console().print(report)
        if args.json:
            write_json(args.json, report.to_json())
        return 0

    return run_command(PROG, localize)


def localize_model(
    saved: SavedModel,
    data: Sequence[LabelledSolutions],
    options: LocalizeOptions,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> LocalizationReport:
    """Measure localizers of a model on labelled solutions.

    Parameters
    ----------
    saved : SavedModel
        From `llm.runs.saved_model.find_model`.
    data : sequence of LabelledSolutions
        From `llm.localize.data.read_data`.
    options : LocalizeOptions
    progress : function of (data set, finished solutions, all solutions)

    Raises
    ------
    ValueError, OSError, EngineError, llm.runs.checkpoints.CheckpointError
        If an input is invalid or the model cannot be loaded.
    """
    from llm.localize.report import LocalizationReport, summarize, verdict_records
    from llm.localize.verdicts import verdicts
    from llm.models.policy import default_device, load_tokenizer, use_bf16
    from llm.resets.localizers import check_localizer, requests
    from llm.runs.folder import environment
    from llm.runs.sampling_engine import open_engine
    from llm.runs.saved_model import eos_ids
    from llm.thoughts.options import ThoughtLimits
    from llm.thoughts.simulator import ThoughtSimulator

    for each in data:
        for name in options.localizers:
            check_localizer(name, each.task)
    tokenizer, bf16 = load_tokenizer(saved.model), use_bf16(options.bf16, default_device())
    engine = open_engine(saved, options.engine, bf16=bf16, seed=options.seed, vllm=options.vllm)
    results, records = [], []
    try:
        for each in data:
            simulator = ThoughtSimulator(
                engine, tokenizer, each.task, ThoughtLimits(), eos_token_ids=eos_ids(saved.model)
            )

            def report(done: int, each: LabelledSolutions = each) -> None:
                progress(each.name, done, len(each.solutions))

            found = verdicts(each, simulator, options, report)
            for name in options.localizers:
                able = options.may_be_right and requests(name)
                results.append(summarize(each, name, found[name], able))
            records += verdict_records(each, found)
    finally:
        engine.close()
    notes = [f"{each.name}: {note}" for each in data for note in each.notes]
    return LocalizationReport(
        saved.name, saved.step, saved.revision(), results, notes, asdict(options), environment(),
        records,
    )  # fmt: skip


def read_options(args: argparse.Namespace, saved: SavedModel) -> LocalizeOptions:
    """Read options from the command line; others are the run's settings or the defaults."""
    from llm.localize.options import LocalizeOptions

    values: dict[str, Any] = {}
    if (config := saved.config) is not None:
        values = {name: getattr(config, name) for name in (*GROUPS, "bf16")}
    defaults = LocalizeOptions(**values)
    for group in GROUPS:
        values[group] = read_option_group(args, group, getattr(defaults, group))
    names = {f.name for f in fields(LocalizeOptions)} - set(GROUPS)
    values |= {k: v for k, v in vars(args).items() if v is not None and k in names}
    values["localizers"] = tuple(args.localizers or defaults.localizers)
    return LocalizeOptions(**values)


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
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL_OR_RUN",
        help="folder of a training run, folder or hub name of a model, or chain-base",
    )
    add(HELP_ALL, action="store_true", help="also show the options of the groups below")
    add("--step", type=int, metavar="N", help="checkpoint of a run (default: the newest)")
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
    add("--limit", type=int, metavar="N", help="maximum number of solutions per data set")
    add("--seed", type=int, metavar="S", help="seed of all random numbers (default: 0)")
    add("--engine", choices=["transformers", "vllm"], help="engine (default: transformers)")
    add(
        "--bf16",
        action=argparse.BooleanOptionalAction,
        help="compute in bfloat16 (default: as in the run, or if the GPU supports it)",
    )
    add("--batch_size", type=int, metavar="N", help="solutions per batch (default: 32)")
    add("--json", type=Path, metavar="FILE", help="also write results and all verdicts")
    groups = (LocalizationOptions, VLLMOptions)
    add_option_groups(parser, dict(zip(GROUPS, groups, strict=True)), full)
    return parser


if __name__ == "__main__":
    leave(main())
