"""What an evaluation measures: a task, how it is sampled, and its problems."""

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
    """A task, its problems, and a way to decode."""

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
        """Of its records."""
        return f"{slug(self.spec.label)}-{slug(self.how)}.jsonl"

    @property
    def decoding(self) -> str:
        """For people."""
        if self.temperature == 0:
            return "greedy"
        return f"T={self.temperature:g}, top-p {self.top_p:g}"


def trained_on(saved: SavedModel) -> tuple[set[str], tuple[str, ...]]:
    """Texts of the problems that a run was trained on, and a note if they cannot be had."""
    if saved.config is None:
        return set(), ()
    try:
        task = make_task(saved.config.task, **saved.config.task_args)
        return {_text(example) for example in checked.examples(task, "train")}, ()
    except ValueError as error:
        why = " ".join(str(error).split())
        return set(), (f"whether it was trained on some of these is not known: {why}",)


def _text(example: Example) -> str:
    return example.problem or json.dumps(example.prompt)


def measurements(
    saved: SavedModel, specs: Sequence[TaskSpec], options: EvaluateOptions
) -> list[Measurement]:
    """All that is to be measured; never on problems that a run was trained on.

    Raises
    ------
    ValueError
        If a task cannot be made, has no test problems, cannot be corrected as is wanted, or two
        would be one in tables and files.
    """
    found = []
    trained, unknown = trained_on(saved)
    for spec in specs:
        if [slug(other.label) for other in specs].count(slug(spec.label)) > 1:
            raise ValueError(f"tasks: {spec.label} is named twice, or like another; once will do")
        task = make_task(spec.name, **spec.args)
        everything = checked.examples(task, "test")
        if not everything:
            raise ValueError(f"tasks: {spec.label} has no test problems to evaluate on")
        unseen = [example for example in everything if _text(example) not in trained]
        notes = unknown
        if len(unseen) < len(everything):
            seen = len(everything) - len(unseen)
            notes = (f"{seen} of {len(everything)} test problems left out: {saved.name} was "
                     "trained on them",)  # fmt: skip
        if not unseen:
            raise ValueError(
                f"tasks: {saved.name} was trained on all test problems of {spec.label}; give the "
                "arguments of the run, or another task"
            )
        if options.correct:
            check_localizer(options.localizer, task)
        part = unseen[: options.problems]
        if options.greedy:
            found.append(
                Measurement(spec, task, part, len(everything), "greedy", 1, 0.0, 1.0, notes=notes)
            )
        if options.samples:
            how = "sampled"
            if options.correct:
                how = f"correct-{options.correct}-{options.localizer}"
            t, top_p = options.sampling.temperature, options.sampling.top_p
            n, rounds = options.samples, options.correct
            found.append(
                Measurement(spec, task, part, len(everything), how, n, t, top_p, rounds, notes)
            )
    return found
