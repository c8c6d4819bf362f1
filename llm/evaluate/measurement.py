"""Measurements of an evaluation: tasks, their problems and how they are sampled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from llm.evaluate.options import EvaluateOptions, TaskSpec, slug
from llm.resets.localizers import check_localizer
from llm.runs.saved_model import SavedModel
from llm.tasks import Example, Task, checked, make_task


@dataclass(frozen=True)
class Measurement:
    """A task, its problems and a decoding method.

    Attributes
    ----------
    spec : TaskSpec
    task : Task
    examples : list of Example
        Problems to evaluate.
    of : int
        Number of test problems of the task.
    how : str
        "greedy", "sampled" or "correct-ROUNDS-LOCALIZER"; part of the file name.
    samples : int
        Completions per problem.
    temperature, top_p : float
    correct : int
        Rounds of self-correction.
    notes : tuple of str
        Remarks for the report.
    """

    spec: TaskSpec
    task: Task
    examples: list[Example]
    of: int
    how: str
    samples: int
    temperature: float
    top_p: float
    correct: int = 0
    notes: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """Name of the file of records."""
        return f"{slug(self.spec.label)}-{slug(self.how)}.jsonl"

    @property
    def decoding(self) -> str:
        """Decoding method, as shown in tables."""
        if self.temperature == 0:
            return "greedy"
        return f"T={self.temperature:g}, top-p {self.top_p:g}"


def trained_on(saved: SavedModel) -> tuple[set[str], tuple[str, ...]]:
    """Texts of the training problems of a run, and a note if they cannot be loaded."""
    if saved.config is None:
        return set(), ()
    try:
        task = make_task(saved.config.task, **saved.config.task_args)
        return {_text(example) for example in checked.examples(task, "train")}, ()
    except ValueError as error:
        reason = " ".join(str(error).split())
        return set(), (f"whether it was trained on some of these is not known: {reason}",)


def _text(example: Example) -> str:
    return example.problem or json.dumps(example.prompt)


def measurements(
    saved: SavedModel, specs: Sequence[TaskSpec], options: EvaluateOptions
) -> list[Measurement]:
    """Plan the measurements of an evaluation; training problems are left out.

    Raises
    ------
    ValueError
        If a task cannot be made, has no test problems or does not support the localizer, or if two
        tasks have the same label.
    """
    planned = []
    trained, unknown = trained_on(saved)
    for spec in specs:
        if [slug(other.label) for other in specs].count(slug(spec.label)) > 1:
            raise ValueError(f"tasks: {spec.label} is named twice, or like another; once will do")
        task = make_task(spec.name, **spec.args)
        examples = checked.examples(task, "test")
        if not examples:
            raise ValueError(f"tasks: {spec.label} has no test problems to evaluate on")
        unseen = [example for example in examples if _text(example) not in trained]
        notes = unknown
        if len(unseen) < len(examples):
            seen = len(examples) - len(unseen)
            notes = (f"{seen} of {len(examples)} test problems left out: {saved.name} was "
                     "trained on them",)  # fmt: skip
        if not unseen:
            raise ValueError(
                f"tasks: {saved.name} was trained on all test problems of {spec.label}; give the "
                "arguments of the run, or another task"
            )
        if options.correct:
            check_localizer(options.localizer, task)
        chosen = unseen[: options.problems]
        if options.greedy:
            planned.append(
                Measurement(spec, task, chosen, len(examples), "greedy", 1, 0.0, 1.0, notes=notes)
            )
        if options.samples:
            how = "sampled"
            if options.correct:
                how = f"correct-{options.correct}-{options.localizer}"
            t, top_p = options.sampling.temperature, options.sampling.top_p
            n, rounds = options.samples, options.correct
            planned.append(
                Measurement(spec, task, chosen, len(examples), how, n, t, top_p, rounds, notes)
            )
    return planned
