"""Records of verdicts, one JSON line per solution, from which an interrupted command resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm.common.atomic_files import append, write_whole
from llm.common.json_lines import complete_lines
from llm.config.resume import differences
from llm.localize.data import LabelledSolutions, Solution
from llm.localize.verdicts import Verdict

#: Verdicts on one solution by name of the localizer.
Verdicts = Mapping[str, Verdict]


class VerdictRecords:
    """Verdicts on the finished solutions of some data sets, perhaps also in a file.

    Parameters
    ----------
    path : Path or None
        JSON Lines file. The first line has the settings, each other one a solution.
    settings : mapping
        JSON; all settings that a verdict depends on.
    data : sequence of LabelledSolutions
        Of different names. Lines about other solutions are kept, and not read.

    Attributes
    ----------
    done : dict of str to (dict of int to Verdicts)
        Finished solutions by data set and number.

    Raises
    ------
    ValueError
        If the file has other settings or solutions, or is damaged before its last line.
    OSError
        If the file cannot be read or written.
    """

    def __init__(
        self, path: Path | None, settings: Mapping[str, Any], data: Sequence[LabelledSolutions]
    ) -> None:
        self.path = path
        self.done: dict[str, dict[int, Verdicts]] = {each.name: {} for each in data}
        if len(self.done) < len(data):
            raise ValueError("data: two of the files have the same name; rename one")
        if path is None:
            return
        plain = json.loads(json.dumps(settings))
        lines = complete_lines(path, self._damaged)
        if not lines:
            write_whole(path, json.dumps({"settings": plain}) + "\n")
            return
        if changed := differences(lines[0].get("settings", {}), plain):
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise ValueError(
                f"records: {path} was made with other settings ({'; '.join(changed[:3])}{more}); "
                "give the same ones, or another --records"
            )
        solutions = {(each.name, s.number): s for each in data for s in each.solutions}
        for number, record in enumerate(lines[1:], 2):
            self._read(number, record, solutions)

    def missing(self, data: LabelledSolutions) -> list[Solution]:
        """Unfinished solutions of a data set."""
        return [s for s in data.solutions if s.number not in self.done[data.name]]

    def add(self, name: str, solutions: Sequence[Solution], found: Sequence[Verdicts]) -> None:
        """Append verdicts on finished solutions of the data set of this name."""
        lines = []
        for solution, verdicts in zip(solutions, found, strict=True):
            self.done[name][solution.number] = verdicts
            record = {
                "data": name,
                "number": solution.number,
                "id": solution.id,
                "solution": digest(solution),
                "first_error": solution.first_error,
                "verdicts": {
                    key: [v.weights.tolist(), v.usable, v.tokens] for key, v in verdicts.items()
                },
            }
            lines.append(json.dumps(record) + "\n")
        if self.path is not None:
            append(self.path, "".join(lines))

    def _read(
        self, number: int, record: Mapping[str, Any], solutions: Mapping[tuple[str, int], Solution]
    ) -> None:
        """Add the verdicts of a line, if its solution is among the given ones."""
        try:
            name, row = record["data"], record["number"]
            solution = solutions.get((name, row))
            if solution is None:
                return
            same = record["solution"] == digest(solution)
            self.done[name][row] = {
                key: Verdict(np.array(weights, dtype=float), bool(usable), float(tokens))
                for key, (weights, usable, tokens) in record["verdicts"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._damaged(number, f"{type(error).__name__}: {error}") from error
        if not same:
            raise ValueError(
                f"records: {self.path}: line {number}: row {row + 1} of {name} has changed since; "
                "give another --records"
            )

    def _damaged(self, number: int, problem: str) -> ValueError:
        cure = "delete the line to redo its solution" if number > 1 else "delete the file"
        return ValueError(f"records: {self.path}: line {number} is damaged ({problem}); {cure}")


def digest(solution: Solution) -> str:
    """Digest of problem, steps and label of a solution."""
    content = json.dumps([solution.problem, solution.steps, solution.first_error])
    return hashlib.sha256(content.encode()).hexdigest()[:16]
