"""`llm.train_model` trains from Python; `llm.Run` is what it returns, or a folder opened again.

`llm.train` is the package of the command, so the function has another name, as `evaluate_model`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from llm.common.progress import Reporter
from llm.distributed.processes import job, losing_others, on_main_process, rank
from llm.runs.folder import open_run
from llm.runs.saved_model import SavedModel, find_model
from llm.train.given import available, read, saved_again
from llm.train.session import run_training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from llm.evaluate.comparison import Comparison
    from llm.evaluate.report import EvaluationReport
    from llm.export.__main__ import Exported
    from llm.tasks.rewarded import Reward


def train_model(
    model: Any = None,
    task: Any = None,
    algorithm: Any = None,
    *,
    tokenizer: Any = None,
    localizer: Any = None,
    reward: Reward | None = None,
    **settings: Any,
) -> Run:
    """Train a language model, as `python -m llm.train` does, and return its run.

    Parameters
    ----------
    model : str, Path or Transformers model
        A loaded model is not changed: it is saved to the run's folder, where training starts from.
    task : str, Path, Task or class
        As `--task`; or an `llm.Task`.
    algorithm : str or class
    tokenizer : Transformers tokenizer, optional
        That of a loaded model.
    localizer : str or function, optional
        As `--localizer`; or a function from failed episodes to weights of their thoughts.
    reward : function, optional
        `reward(example, completion)` in place of the task's; 1 and more is a success. The answer
        of a data set's problem is `example.data`.
    **settings
        Fields of `llm.TrainConfig`; a section is a dictionary, `sampling={"temperature": 1.0}`.
        `config` names presets or files, which these win over.

    Raises
    ------
    ValueError, OSError
        If a setting is invalid, or the run cannot be made.
    llm.common.errors.ReportedError
        If the run cannot continue; what is saved can be resumed with `resume="auto"`.

    Notes
    -----
    Ctrl-C, or a notebook's stop button, finishes the step and saves. A task, localizer or reward
    from a module is named by its import path. One without, such as a notebook's function, is only
    in this process: the returned run can use it, the commands cannot.
    """
    given = read(model, task, algorithm, localizer, reward, settings)
    config, is_object = given.config, not isinstance(model, str | Path | None)

    def prepare() -> None:
        if open_run(config) is None and is_object:
            saved_again(config, model, tokenizer)

    with losing_others(), job(), available(given.objects):
        on_main_process(prepare)
        reporter = Reporter(config.steps, None if rank() == 0 else Console(quiet=True))
        with reporter:
            trainer = run_training(config, reporter)
        if not trainer.finished:
            reporter.message(f"stopped after step {trainer.step}; resume='auto' goes on")
    if given.objects:
        names = ", ".join(given.objects)
        reporter.message(f"{names}: given as objects, so only this Run evaluates and exports it")
    return Run(config.folder, given.objects)


class Run:
    """A training run and its folder.

    Parameters
    ----------
    folder : str or Path
    objects : mapping of str to object, optional
        Objects that `llm.train_model` was given.
    """

    def __init__(self, folder: str | Path, objects: Mapping[str, Any] | None = None) -> None:
        self.folder, self.objects = Path(folder), dict(objects or {})

    def __repr__(self) -> str:
        """The folder, and the last step with its success."""
        last = self.metrics[-1] if self.metrics else {}
        done = [f"{name} {last[name]:.3g}" for name in ("step", "reward") if name in last]
        return f"Run({str(self.folder)!r}{''.join(f', {text}' for text in done)})"

    @property
    def metrics(self) -> list[dict[str, float]]:
        """Metrics of each step, as `pandas.DataFrame` takes them; the reference lists the names."""
        path = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def saved(self, step: int | None = None) -> SavedModel:
        """The checkpoint of a step, by default the newest."""
        return find_model(str(self.folder), step)

    def show(
        self, step: int | None = None, *, group: Sequence[int] | None = None, kind: str = "all",
        limit: int = 3,
    ) -> None:  # fmt: skip
        """Print rollout trees of a step, by default the last."""
        from llm.show.__main__ import choose_steps, find_files, show_trees

        args = argparse.Namespace(
            run=self.folder, step=None if step is None else [step], group=group, kind=kind,
            limit=limit,
        )  # fmt: skip
        files = find_files(self.folder)
        show_trees(args, choose_steps(args, files, [max(files)]))

    def evaluate(
        self, step: int | None = None, tasks: Sequence[str] | None = None, **options: Any
    ) -> EvaluationReport:
        """Evaluate a checkpoint on held-out problems, as `python -m llm.evaluate` does.

        Parameters
        ----------
        step : int, optional
        tasks : sequence of str, optional
            By default the run's.
        **options
            Fields of `EvaluateOptions`.
        """
        from llm.evaluate import __main__ as command
        from llm.evaluate.runner import evaluate_model

        with available(self.objects):
            saved = self.saved(step)
            folder = command.default_output(saved)
            report = evaluate_model(
                saved, command.read_tasks(tasks, saved), command.options_of(options, saved), folder
            )
        command.write_results(folder / "results.json", report)
        return report

    def compare(
        self, step: int | None = None, tasks: Sequence[str] | None = None, **options: Any
    ) -> Comparison:
        """Compare a checkpoint with the run's base model, as `llm.evaluate --baseline` does.

        Parameters and options are those of `evaluate`.
        """
        from llm.evaluate import __main__ as command
        from llm.evaluate.comparison import base_model
        from llm.evaluate.runner import evaluate_model

        report = self.evaluate(step, tasks, **options)
        with available(self.objects):
            saved = self.saved(step)
            folder = command.default_output(saved)
            specs, chosen = command.read_tasks(tasks, saved), command.options_of(options, saved)
            before = evaluate_model(base_model(saved), specs, chosen, folder / "baseline")
        return command.write_comparison(before, report, folder)

    def export(
        self, out: str | Path | None = None, *, step: int | None = None, adapter: bool = False,
        dtype: str | None = None, force: bool = False,
    ) -> Exported:  # fmt: skip
        """Export a checkpoint as a Hugging Face model, as `python -m llm.export` does."""
        from llm.export.__main__ import check_run, default_out, export

        saved = self.saved(step)
        check_run(saved, adapter)
        target = default_out(saved, adapter) if out is None else Path(out).expanduser()
        with available(self.objects):
            return export(saved, target, adapter=adapter, dtype=dtype, force=force)

    def plot(self) -> Figure:
        """Learning curves over generated tokens."""
        from matplotlib.figure import Figure

        from llm.show.curves import draw_curves, panels_of

        rows = {self.folder.name: self.metrics}
        shown = max(1, len(panels_of(rows)))
        figure = Figure(figsize=(3.2 * shown, 2.8), layout="constrained")
        axes = figure.subplots(1, shown, squeeze=False)[0]
        draw_curves(axes, rows, [("C0", "-"), ("C1", "--")])
        return figure
