"""`python -m llm.evaluate MODEL_OR_RUN --tasks ...`: how good a model is on held-out problems.

The evaluation loop is in `llm.evaluate.runner`, self-correction in `llm.evaluate.correction`,
tables and intervals in `llm.evaluate.report`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from cpi.reporting.json_files import write_json
from cpi.reporting.tables import console
from llm.common.commands import prepare, quiet_transformers, run_command

if TYPE_CHECKING:
    from llm.evaluate.options import EvaluateOptions, TaskSpec
    from llm.evaluate.report import EvaluationReport
    from llm.runs.saved_model import SavedModel

PROG = "python -m llm.evaluate"

DESCRIPTION = """\
Evaluate a language model on the test problems of tasks: pass@k by the unbiased estimator, with
bootstrap intervals over problems, and self-correction. Interrupt it at any time, and the same
command goes on with the problems that are left."""

EPILOG = """\
examples:
  python -m llm.evaluate runs/chain-srpo-s0                      its newest checkpoint, its own task
  python -m llm.evaluate runs/chain-srpo-s0 --step 0 --greedy
  python -m llm.evaluate chain-base --tasks chain length=4 chain length=8
  python -m llm.evaluate MODEL --tasks my_tasks:Sums --samples 16 --k 1 16 --engine vllm
  python -m llm.evaluate runs/chain-srpo-s0 --correct 3          self-correction, 3 rounds

--correct K: a failed completion is given to the localizer (by default the model is asked for its
first wrong step), the thoughts before that step are kept, one continuation is drawn; up to K times.
Which attempts fail is the verifier's word, the only bit of it that is used: right answers are left
alone, so accuracy cannot fall, and a deployed model would have to find that out by itself. What it
gains is therefore held against what the same tokens buy otherwise, under the same stopping rule:
fresh attempts (pass@k) and resets to random steps, which are rolled out for 4K rounds since they
cost no localization. Tokens are generated ones, localizations included, prompts not.

files, in --output: TASK-greedy.jsonl, TASK-sampled.jsonl, TASK-correct-K-LOCALIZER.jsonl
with a line a problem, results.json with the numbers, settings, versions and commit.
Exit codes: 0 done, 2 bad input, 130 interrupted."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    prepare(PROG)
    args = make_parser().parse_args(argv)
    folder: Path | None = None

    def evaluate() -> int:
        nonlocal folder
        from llm.runs.saved_model import find_model

        saved = find_model(args.model, args.step)
        specs = read_tasks(args.tasks, saved)
        options = read_options(args, saved)
        folder = Path(args.output).expanduser() if args.output else default_output(saved)
        from llm.evaluate.runner import evaluate_model

        quiet_transformers()
        with Progress() as progress:
            report = evaluate_model(saved, specs, options, folder, progress)
        write_results(folder / "results.json", report)
        out = console()
        out.print(report)
        out.print(f"Records and results are in {folder}", markup=False)
        return 0

    def interrupted() -> str:
        kept = f"; what is finished is in {folder}, and the same command goes on" if folder else ""
        return f"interrupted{kept}"

    return run_command(PROG, evaluate, interrupted)


class Progress:
    """A bar for each measurement on a terminal, a line a batch elsewhere."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self.console = console(sys.stderr)
        self.bars = Bars(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
            TextColumn("problems"), TimeRemainingColumn(), console=self.console,
            disable=not self.console.is_terminal,
        )  # fmt: skip
        self.known: dict[str, Any] = {}

    def __enter__(self) -> Progress:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show how many problems are done."""
        if self.bars.disable:
            self.console.print(f"{what}: {done} of {total} problems", markup=False)
            return
        if what not in self.known:
            self.known[what] = self.bars.add_task(what, total=total)
        self.bars.update(self.known[what], completed=done)


def read_tasks(words: Sequence[str] | None, saved: SavedModel) -> list[TaskSpec]:
    """Tasks from a command line: names, each followed by its arguments (`TaskSpec.with_argument`).

    A run's own task has the run's arguments, as far as none are given; it is what is evaluated if
    no task is named.

    Raises
    ------
    ValueError
        If there is none, an argument stands before the first, or is wrong.
    """
    from llm.evaluate.options import TaskSpec

    own = {} if saved.config is None else {saved.config.task: saved.config.task_args}
    specs: list[TaskSpec] = []
    for word in list(own) if words is None else words:
        if "=" not in word:
            specs.append(TaskSpec(word, dict(own.get(word, {})), word))
        elif specs:
            specs[-1] = specs[-1].with_argument(word)
        else:
            raise ValueError(f"tasks: {word!r} is an argument of no task; name the task before it")
    if not specs:
        if not Path(saved.model).exists() and Path(saved.model).parent != Path():
            raise FileNotFoundError(f"{saved.name}: no run and no model is there")
        raise ValueError(
            "tasks: none named; give --tasks chain, a data set's (gsm8k, math_level5 ...), a YAML "
            "file, or module:Class of your own"
        )
    return specs


def read_options(args: argparse.Namespace, saved: SavedModel) -> EvaluateOptions:
    """Options of a command line, those not given from the run's settings or the defaults."""
    from llm.evaluate.options import EvaluateOptions

    own: dict[str, Any] = {}
    if (config := saved.config) is not None:
        own = {name: getattr(config, name) for name in (*GROUPS, "bf16")}
    given = {name: value for name, value in vars(args).items() if value is not None}
    defaults = EvaluateOptions(**own)
    for group in GROUPS:
        changes = {
            name.removeprefix(f"{group}."): value
            for name, value in given.items()
            if name.startswith(f"{group}.")
        }
        own[group] = dataclasses.replace(getattr(defaults, group), **changes)
    plain = {f.name for f in dataclasses.fields(EvaluateOptions)} - set(GROUPS)
    own |= {name: value for name, value in given.items() if name in plain}
    return EvaluateOptions(**{**own, "k": tuple(own.get("k", ()))})


def default_output(saved: SavedModel) -> Path:
    """A folder of the run, one for each step; or one of the model's name."""
    if saved.step is not None:
        return saved.run / "evaluations" / f"step-{saved.step:06d}"
    return Path("evaluations") / Path(saved.name).name


def write_results(path: Path, report: EvaluationReport) -> None:
    """Write results, beside those of earlier commands whose records are still of this model."""
    record = report.to_json()
    try:
        before = json.loads(path.read_bytes())["results"]
    except (OSError, ValueError, KeyError, TypeError):
        before = []
    new = {result.records for result in report.results}
    record["results"] += [
        old
        for old in before
        if old["records"] not in new
        and old["settings"]["model"] == report.revision
        and (path.parent / old["records"]).is_file()
    ]
    write_json(path, record)


#: Groups of options, as in llm.train.
GROUPS = ("sampling", "localization", "vllm")


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL_OR_RUN",
        help="a training run's folder, a model's folder or hub name, or chain-base",
    )
    add("--step", type=int, metavar="N", help="a run's checkpoint (default: the newest)")
    add(
        "--tasks",
        nargs="+",
        metavar="TASK",
        help="names as --task of llm.train takes them, each followed by its arguments NAME=VALUE "
        "or NAME.KEY=VALUE, as verifier_args.allow_code=true (default: the run's)",
    )
    add("--samples", type=int, metavar="N", help="sampled completions of each problem (default: 8)")
    add("--greedy", action="store_true", default=None, help="also a greedy completion of each")
    add("--k", type=int, nargs="+", metavar="K", help="of pass@k (default: powers of two)")
    add("--problems", type=int, metavar="P", help="at most so many of each task (default: all)")
    add("--correct", type=int, metavar="K", help="rounds of self-correction")
    add(
        "--localizer",
        metavar="NAME",
        help="where it resets: prompted (default), surprisal, random, checker or module:function",
    )
    add("--seed", type=int, metavar="S", help="of all random numbers (default: 0)")
    add("--engine", choices=["transformers", "vllm"], help="what samples (default: transformers)")
    add(
        "--bf16",
        action=argparse.BooleanOptionalAction,
        help="compute in bfloat16 (default: as the run, or where a GPU has it)",
    )
    add(
        "--batch_size",
        type=int,
        metavar="N",
        help="completions between two times that results are written (default: 256)",
    )
    add(
        "--completions",
        action=argparse.BooleanOptionalAction,
        help="keep the texts in the records (default: yes)",
    )
    add(
        "--output",
        metavar="DIR",
        help="for records and results (default: RUN/evaluations/step-N, or evaluations/MODEL)",
    )
    _add_groups(parser)
    return parser


def _add_groups(parser: argparse.ArgumentParser) -> None:
    """Options of sampling, localization and vllm, from the dataclasses that llm.train reads."""
    from docstring_parser import DocstringStyle, parse

    from llm.engines.options import VLLMOptions
    from llm.resets.options import LocalizationOptions
    from llm.thoughts.options import SamplingOptions

    for group, options in zip(
        GROUPS, (SamplingOptions, LocalizationOptions, VLLMOptions), strict=True
    ):
        help_text = parse(options.__doc__ or "", DocstringStyle.NUMPYDOC)
        about = {p.arg_name: " ".join((p.description or "").split()) for p in help_text.params}
        section = parser.add_argument_group(
            f"{group} (default: the run's, or as llm.train)", help_text.short_description
        )
        hints = get_type_hints(options)
        for f in dataclasses.fields(options):
            name = f"--{group}.{f.name}"
            if hints[f.name] in (bool, bool | None):
                section.add_argument(name, action="store_true", default=None, help=about[f.name])
                continue
            kind = float if hints[f.name] is float else int
            default = "" if f.default is None else f" (default: {f.default})"
            section.add_argument(
                name, type=kind, metavar="X" if kind is float else "N",
                help=about[f.name].rstrip(".") + default,
            )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
