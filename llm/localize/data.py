"""Solutions whose first wrong step is known: by people's labels, or by a task's step checker.

Files have a row per solution, in the form of one of two data sets:

- ProcessBench (Zheng et al. 2024): `problem`, `steps`, and `label`, the first wrong step from 0,
  or −1 if no step is wrong;
- BIG-Bench Mistake (Tyen et al. 2024): `input`, `steps`, and `mistake_index`, likewise, or null.

The folder of a run gives its recorded rollouts, if its task has a step checker.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llm.localize.options import Half
from llm.runs.rollout_records import Record, read_rollouts, rollout_files
from llm.runs.saved_model import run_config
from llm.tasks import Example, Task, checked, make_task

#: Columns of the problem and of the label, and the label of a solution without a wrong step.
FORMS: tuple[tuple[str, str, int | None], ...] = (
    ("problem", "label", -1),
    ("input", "mistake_index", None),
)


class Solution(NamedTuple):
    """A solution, divided into steps.

    Attributes
    ----------
    id : str
    number : int
        Position in the data set, from 0.
    example : Example
    steps : list of str
    first_error : int or None
        First wrong step, from 0; None if no step is wrong.
    """

    id: str
    number: int
    example: Example
    steps: list[str]
    first_error: int | None

    @property
    def problem(self) -> str:
        """Text of the problem; solutions of one problem are not independent."""
        return self.example.problem or json.dumps(self.example.prompt)


class LabelledSolutions(NamedTuple):
    """A data set.

    Attributes
    ----------
    name : str
    task : Task
        Phrases the request of the prompted localizer.
    separator : str
        Follows every step but the last.
    solutions : list of Solution
    notes : list of str
        Remarks for the report.
    available : int
        Solutions from which these were drawn.
    """

    name: str
    task: Task
    separator: str
    solutions: list[Solution]
    notes: list[str]
    available: int


def read_data(path: Path, half: Half = "all", limit: int | None = None) -> LabelledSolutions:
    """Read a file of labelled solutions, or the rollouts of a run.

    With a limit, the solutions are a random sample with a fixed seed, as files may be sorted by
    label. A smaller limit gives a part of it.

    Raises
    ------
    ValueError, OSError
        If it cannot be read, or a row is wrong; the message names the file and row.
    """
    data = _read_run(path) if path.is_dir() else _read_file(path)
    chosen = [s for s in data.solutions if half in ("all", half_of(s.problem))]
    available = len(chosen)
    first = sorted(chosen, key=lambda s: (_digest(f"{s.number} {s.problem}"), s.number))[:limit]
    chosen = sorted(first, key=lambda s: s.number)
    if not chosen:
        part = "" if half == "all" else f" in the half {half!r}"
        raise ValueError(f"data: {path} has no solution{part}")
    return data._replace(solutions=chosen, available=available)


def half_of(problem: str) -> Half:
    """The half that a problem belongs to; depends on its text alone."""
    return "report" if _digest(problem)[0] % 2 else "tune"


def _digest(text: str) -> bytes:
    """Digest of a text up to white space."""
    return hashlib.sha256(" ".join(text.split()).encode(errors="surrogatepass")).digest()


def _read_file(path: Path) -> LabelledSolutions:
    solutions = []
    for number, (place, row) in enumerate(_rows(path)):
        try:
            solutions.append(_solution(number, row))
        except ValueError as error:
            raise ValueError(f"data: {place}: {error}") from None
    return LabelledSolutions(path.stem, Task(), "\n\n", solutions, [], len(solutions))


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a JSON or JSON Lines file, each with its place."""
    if path.suffix not in (".json", ".jsonl", ".ndjson"):
        raise ValueError(f"data: {path} is neither .json nor .jsonl, nor the folder of a run")
    # A file with "\n" alone as the end of lines: others may be part of a text.
    text = path.read_bytes().decode("utf-8", errors="replace")
    if path.suffix == ".json":
        rows = _parse(str(path), text)
        if not isinstance(rows, list):
            raise ValueError(f"data: {path} is no list of rows; give JSON Lines, or a list")
        yield from ((f"{path}, row {number}", row) for number, row in enumerate(rows, 1))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{path}:{number}", _parse(f"{path}:{number}", line)


def _parse(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"data: {place} is not JSON: {error}") from None


def _solution(number: int, row: Any) -> Solution:
    """The solution of a row; errors do not name the row."""
    columns = list(row) if isinstance(row, dict) else []
    form = next((f for f in FORMS if {f[0], f[1], "steps"} <= set(columns)), None)
    if form is None:
        names = ", ".join(map(str, columns)) if columns else f"a {type(row).__name__}"
        raise ValueError(
            f"unknown form ({names}); a row needs problem, steps and label, or input, steps and "
            "mistake_index"
        )
    problem_name, label_name, right = form
    problem, steps, label = row[problem_name], row["steps"], row[label_name]
    if not isinstance(problem, str) or not problem.strip():
        raise ValueError(f"{problem_name} is no text")
    if not isinstance(steps, list) or not steps:
        raise ValueError("steps is empty, or no list; a solution needs at least one step")
    for k, step in enumerate(steps):
        if not isinstance(step, str) or not step.strip():
            raise ValueError(f"step {k} is blank, or no text")
    is_step = isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(steps)
    if not is_step and label != right:
        end = len(steps) - 1
        raise ValueError(
            f"{label_name} {json.dumps(label)} is no step of the {len(steps)}, 0 … {end}, nor "
            f"{json.dumps(right)} for none"
        )
    name = str(row.get("id", number + 1))
    return Solution(
        name, number, Example(name, problem, problem=problem), steps, label if is_step else None
    )


def _read_run(folder: Path) -> LabelledSolutions:
    """The recorded rollouts of a run, labelled by the step checker of its task."""
    config = run_config(folder)
    task = make_task(config.task, **config.task_args)
    if not task.has_checker:
        raise ValueError(
            f"data: {folder}: its task, {task}, has no step checker, so that no wrong step is "
            "known; give a file with labels"
        )
    examples = {example.id: example for example in checked.examples(task, "train")}
    seen: set[tuple[str, ...]] = set()
    solutions: list[Solution] = []
    unknown = 0
    for file in rollout_files(folder).values():
        for record in read_rollouts(file):
            if record["id"] not in examples:
                raise ValueError(f"data: {file}: {record['id']!r} is no problem of {task}")
            example = examples[record["id"]]
            for steps, reward in _episodes(record):
                if (record["id"], *steps) in seen:
                    continue
                seen.add((record["id"], *steps))
                wrong = np.flatnonzero(checked.errors(task, example, steps))
                if not len(wrong) and reward < task.success:
                    unknown += 1
                    continue
                first = int(wrong[0]) if len(wrong) else None
                solutions.append(Solution(example.id, len(solutions), example, steps, first))
    notes = [f"{unknown} failed rollouts without a wrong step are left out"] if unknown else []
    return LabelledSolutions(folder.name, task, "", solutions, notes, len(solutions))


def _episodes(record: Record) -> Iterator[tuple[list[str], float]]:
    """Thoughts and reward of each complete episode of a group."""
    for continuation in record["continuations"]:
        if continuation["end"] != "open":
            yield [*record["prefix"], *continuation["thoughts"]], continuation["reward"]
