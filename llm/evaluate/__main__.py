"""`python -m llm.evaluate MODEL_OR_RUN --tasks ...`: evaluate a model on held-out problems.

The evaluation loop is in `llm.evaluate.runner`, self-correction in `llm.evaluate.correction`,
tables and intervals in `llm.evaluate.report`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpi.reporting.json_files import write_json
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
    from llm.evaluate.comparison import Comparison
    from llm.evaluate.options import EvaluateOptions, TaskSpec
    from llm.evaluate.report import EvaluationReport
    from llm.runs.saved_model import SavedModel

PROG = "python -m llm.evaluate"

DESCRIPTION = """\
Evaluate a language model on the test problems of tasks: pass@k by the unbiased estimator, with
bootstrap intervals over problems (an exact bound where all problems are alike), and
self-correction. After an interruption, the same command resumes with the remaining problems."""

EPILOG = """\
examples:
  python -m llm.evaluate runs/chain-srpo-s0                      newest checkpoint, task of the run
  python -m llm.evaluate runs/chain-srpo-s0 --step 0 --greedy
  python -m llm.evaluate runs/chain-srpo-s0 --baseline           against its base model
  python -m llm.evaluate chain-base --tasks chain length=4 chain length=8
  python -m llm.evaluate MODEL --tasks my_tasks:Sums --samples 16 --k 1 16 --engine vllm
  python -m llm.evaluate runs/chain-srpo-s0 --correct 3          self-correction, 3 rounds

--correct K: the localizer picks the first wrong step of a failed completion; by default, it prompts
the model. The thoughts before that step are kept, and one continuation is drawn. This is repeated
for up to K rounds. The verifier decides which attempts failed. Right attempts are left alone, so
accuracy cannot fall; a deployed model would have no verifier. The gain is compared with two
controls at equal tokens, which also stop at the first right attempt: fresh attempts (pass@k), and
resets to random steps. The latter run for 4K rounds, since they spend no tokens on localization.
Tokens are generated ones: localizations count, prompts do not.

Columns: cut, completions that a limit cut off; unjudged, those that could not be verified. Of the
resets of a round: kept, mean share of thoughts kept; none kept, resets to the prompt; no step, no
step named; at 1st error, ±1 and clean prefix, resets to the first wrong step, at most one step from
it, and no later than it.

Files in --output: TASK-greedy.jsonl, TASK-sampled.jsonl and TASK-correct-K-LOCALIZER.jsonl, with
one line per problem; and results.json with results, settings, versions and commit. With --baseline,
the folder baseline has those of the base model, and comparison.json the paired differences.
Exit codes: 0 done, 2 bad input, 130 interrupted."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    prepare(PROG)
    words = underscored(argv, groups=True)
    if "--list" in words:
        from llm.config.names import listing

        print("\n".join(listing(("task", "localizer"))))
        return 0
    full = HELP_ALL in words
    args = make_parser(full).parse_args(["--help"] if full else words)
    folder: Path | None = None

    def evaluate() -> int:
        nonlocal folder
        from llm.runs.saved_model import find_model

        saved = find_model(args.model, args.step)
        specs = read_tasks(args.tasks, saved)
        options = read_options(args, saved)
        folder = Path(args.output).expanduser() if args.output else default_output(saved)
        from llm.evaluate.comparison import base_model
        from llm.evaluate.runner import evaluate_model

        base = base_model(saved) if args.baseline else None
        quiet_transformers()
        out = console()
        with ProblemBars() as progress:
            report = evaluate_model(saved, specs, options, folder, progress)
        write_results(folder / "results.json", report)
        out.print(report)
        if base is not None:
            with ProblemBars() as progress:
                before = evaluate_model(base, specs, options, folder / "baseline", progress)
            comparison = write_comparison(before, report, folder)
            out.print(before, comparison, "", sep="\n")
        out.print(f"Records and results are in {folder}", markup=False)
        return 0

    def interrupted() -> str:
        cure = f"; what is finished is in {folder}, and the same command resumes" if folder else ""
        return f"interrupted{cure}"

    return run_command(PROG, evaluate, interrupted)


def read_tasks(words: Sequence[str] | None, saved: SavedModel) -> list[TaskSpec]:
    """Read tasks from the command line: names, each followed by its arguments.

    Without names, the task of the run is evaluated. The arguments of that task default to the
    run's. See `TaskSpec.with_argument` for their format. The path of a task may have an "=".

    Raises
    ------
    ValueError
        If there is no task, or an argument is invalid or comes before the first task.
    """
    from llm.evaluate.options import TaskSpec

    run_args = {} if saved.config is None else {saved.config.task: saved.config.task_args}
    specs: list[TaskSpec] = []
    for word in list(run_args) if words is None else words:
        is_argument = re.match(r"[^\W\d]\w*(\.[^=]*)?=", word) and not Path(word).is_file()
        if words is None or not is_argument:
            specs.append(TaskSpec(word, dict(run_args.get(word, {})), word))
        elif specs:
            specs[-1] = specs[-1].with_argument(word)
        else:
            raise ValueError(f"tasks: {word!r} is an argument of no task; name the task before it")
    if not specs:
        if not Path(saved.model).exists() and Path(saved.model).parent != Path():
            raise FileNotFoundError(f"{saved.name}: no such run or model")
        raise ValueError(
            f"tasks: none named, and {saved.name} is no run with one; give --tasks with chain, a "
            "data set (gsm8k, math_level5 ...), a YAML file, or your own module:Class"
        )
    return specs


def options_of(given: Mapping[str, Any], saved: SavedModel) -> EvaluateOptions:
    """Options by name, in which `group.name` sets one of a group; others are the run's."""
    from llm.evaluate.options import EvaluateOptions

    values = saved.settings(*GROUPS, "bf16")
    if saved.config is not None and saved.config.needs("localizer"):
        values["localizer"] = saved.config.localizer
    return with_options(EvaluateOptions(**values), given)


def read_options(args: argparse.Namespace, saved: SavedModel) -> EvaluateOptions:
    """Read options from the command line; others are the run's settings or the defaults."""
    from llm.evaluate.options import EvaluateOptions

    return options_of(given_options(args, EvaluateOptions), saved)


def default_output(saved: SavedModel) -> Path:
    """Default folder: one per step in the run's folder, or one named after the model."""
    if saved.step is not None:
        return saved.run / "evaluations" / f"step-{saved.step:06d}"
    return Path("evaluations") / Path(saved.name).name


def write_results(path: Path, report: EvaluationReport) -> None:
    """Write results; keep those of earlier commands whose records exist and are of this model."""
    record = report.to_json()
    new = {result.records for result in report.results}
    try:
        earlier = [
            old
            for old in json.loads(path.read_bytes())["results"]
            if old["records"] not in new
            and old["settings"]["model"] == report.revision
            and (path.parent / old["records"]).is_file()
        ]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        earlier = []  # none, or damaged
    record["results"] += earlier
    write_json(path, record)


def write_comparison(base: EvaluationReport, report: EvaluationReport, folder: Path) -> Comparison:
    """Write the base model's results and the paired differences; returns these."""
    from llm.evaluate.comparison import compare

    write_results(folder / "baseline" / "results.json", base)
    comparison = compare(base, folder / "baseline", report, folder)
    write_json(folder / "comparison.json", comparison.to_json())
    return comparison


#: Groups of options that llm.train has too.
GROUPS = ("sampling", "localization", "vllm")


def make_parser(full: bool = False) -> argparse.ArgumentParser:
    """Argument parser of the command; its help has the options of groups only if `full`."""
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
    add("--list", action="store_true", help="print the names of tasks and localizers, and stop")
    add(
        "--tasks",
        nargs="+",
        metavar="TASK",
        help="names as in --task of llm.train, each followed by its arguments NAME=VALUE or "
        "NAME.KEY=VALUE, such as verifier_args.allow_code=true (default: the run's)",
    )
    add("--samples", type=int, metavar="N", help="sampled completions per problem (default: 8)")
    add(
        "--greedy",
        action="store_true",
        default=None,
        help="also a greedy completion of each problem",
    )
    add(
        "--k",
        type=int,
        nargs="+",
        metavar="K",
        help="values of k for pass@k (default: powers of two)",
    )
    add(
        "--problems",
        type=int,
        metavar="P",
        help="maximum number of problems per task (default: all)",
    )
    add("--correct", type=int, metavar="K", help="rounds of self-correction")
    add(
        "--localizer",
        metavar="NAME",
        help="localizer of self-correction: prompted, step_logprob, surprisal, surprisal_mean, "
        "surprisal_drop, first, random, checker or module:function (default: the run's, or "
        "prompted)",
    )
    add(
        "--baseline",
        action="store_true",
        help="also evaluate the base model of the run, and show the paired difference",
    )
    add(
        "--batch_size",
        type=int,
        metavar="N",
        help="completions per batch; records are written after each batch (default: 256)",
    )
    add(
        "--completions",
        action=argparse.BooleanOptionalAction,
        help="keep the texts in the records (default: yes)",
    )
    add(
        "--output",
        metavar="DIR",
        help="folder of records and results (default: RUN/evaluations/step-N, or "
        "evaluations/MODEL)",
    )
    from llm.engines.options import VLLMOptions
    from llm.resets.options import LocalizationOptions
    from llm.thoughts.options import SamplingOptions

    groups = (SamplingOptions, LocalizationOptions, VLLMOptions)
    add_option_groups(parser, dict(zip(GROUPS, groups, strict=True)), full)
    return parser


if __name__ == "__main__":
    leave(main())
