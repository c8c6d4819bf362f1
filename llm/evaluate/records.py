"""Finished problems of an evaluation: a file that a kill at any time leaves usable.

The first line is a header with the settings, each other one a problem. A line is whole or, where a
process was killed, the last one and torn; `Records` drops it, and that problem is done again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm.common.atomic_files import append, write_whole
from llm.config.resume import differences
from llm.thoughts.simulator import Prompt


def prompt_hash(prompt: Prompt) -> str:
    """Of a prompt's token ids."""
    return hashlib.sha256(json.dumps([int(i) for i in prompt.ids]).encode()).hexdigest()[:16]


class EvaluationRecords:
    """The finished problems of one measurement, and the file that they are in.

    Parameters
    ----------
    path : Path
    settings : mapping
        JSON; all that the numbers depend on.
    prompts : sequence of Prompt
        The problems, by number. A record is of a problem with the same id and the same prompt.
    digests : sequence of str
        Of the problems with their answers (`llm.tasks.digest`); a record has the same.
    about : mapping
        JSON that goes into the header of a new file and is not compared.

    Attributes
    ----------
    done : dict of int to record
        By number of the problem.

    Raises
    ------
    ValueError
        If the file is of other settings or problems, or is damaged elsewhere than at its end.
    OSError
        If it cannot be read or written.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        prompts: Sequence[Prompt],
        digests: Sequence[str],
        about: Mapping[str, Any],
    ) -> None:
        self.path, self.prompts, self.digests = path, prompts, digests
        # As JSON gives them back: lists for tuples.
        own = json.loads(json.dumps(settings))
        self.done: dict[int, dict[str, Any]] = {}
        lines = self._whole_lines()
        if not lines:
            write_whole(path, json.dumps({"settings": own, **about}) + "\n")
            return
        if changed := differences(lines[0].get("settings", {}), own):
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise ValueError(
                f"output: {path} was made with other settings ({'; '.join(changed[:3])}{more}); "
                "give the same ones, or another --output"
            )
        for number, record in enumerate(lines[1:], 2):
            self._check(number, record)
            if record["index"] < len(prompts):
                self.done[record["index"]] = record

    @property
    def missing(self) -> list[int]:
        """Numbers of the problems that are not done."""
        return [i for i in range(len(self.prompts)) if i not in self.done]

    def add(self, records: Iterable[dict[str, Any]]) -> None:
        """Keep what has become of some problems."""
        new = list(records)
        append(self.path, "".join(json.dumps(record) + "\n" for record in new))
        self.done.update({record["index"]: record for record in new})

    def in_order(self) -> list[dict[str, Any]]:
        """All of them, by number."""
        return [self.done[i] for i in sorted(self.done)]

    def _whole_lines(self) -> list[dict[str, Any]]:
        """The file's lines, after what is torn at its end is gone from it."""
        if not self.path.exists():
            return []
        # A byte that is no text is part of what was torn, or of what is damaged.
        text = self.path.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            write_whole(self.path, whole)
        found = []
        for number, line in enumerate(whole.split("\n")[:-1], 1):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise self._damaged(number, str(error)) from error
            if not isinstance(record, dict):
                raise self._damaged(number, "not an object")
            found.append(record)
        return found

    def _check(self, number: int, record: Mapping[str, Any]) -> None:
        missing = [name for name in ("index", "id", "prompt", "problem") if name not in record]
        if missing:
            raise self._damaged(number, f"no {missing[0]}")
        index = record["index"]
        if index >= len(self.prompts):
            return
        prompt = self.prompts[index]
        if (record["id"], record["prompt"]) != (prompt.example.id, prompt_hash(prompt)):
            raise ValueError(
                f"output: {self.path}: line {number} is of problem {record['id']!r}, but number "
                f"{index} of the task is now {prompt.example.id!r}, or its prompt has changed; "
                "give another --output"
            )
        if record["problem"] != self.digests[index]:
            raise ValueError(
                f"output: {self.path}: line {number}: the answer of {record['id']!r}, or the way "
                "it is judged, has changed since; give another --output"
            )

    def _damaged(self, number: int, problem: str) -> ValueError:
        cure = "remove the line, and its problem is done again" if number > 1 else "delete the file"
        return ValueError(f"output: {self.path}: line {number} is damaged ({problem}); {cure}")
