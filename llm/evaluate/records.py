"""Records of the finished problems of an evaluation; a killed process leaves a usable file.

The first line is a header with the settings; each other line is one problem. A killed process may
leave a partial last line. `EvaluationRecords` drops it, and that problem is evaluated again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm.common.atomic_files import append, write_whole
from llm.common.json_lines import complete_lines
from llm.config.resume import differences
from llm.thoughts.simulator import Prompt

#: Entries of every record of a problem.
FIELDS = (
    *("index", "id", "prompt", "problem"),
    *("n", "c", "rewards", "failed", "tokens", "cut", "unjudged"),
)


def prompt_hash(prompt: Prompt) -> str:
    """Hash of the token ids of a prompt."""
    return hashlib.sha256(json.dumps([int(i) for i in prompt.ids]).encode()).hexdigest()[:16]


class EvaluationRecords:
    """Finished problems of one measurement, stored in a JSON Lines file.

    Parameters
    ----------
    path : Path
    settings : mapping
        JSON; all settings that the results depend on.
    prompts : sequence of Prompt
        The problems, by number. Id and prompt of a record must match those of its problem.
    digests : sequence of str
        Digest of each problem with its answer (`llm.tasks.digest`), which must match too.
    about : mapping
        JSON that goes into the header of a new file and is not compared.

    Attributes
    ----------
    done : dict of int to record
        Finished records by number of the problem.

    Raises
    ------
    ValueError
        If the file has other settings or problems, or is damaged before its last line.
    OSError
        If the file cannot be read or written.
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
        # A round trip through JSON turns tuples into lists.
        plain = json.loads(json.dumps(settings))
        self.done: dict[int, dict[str, Any]] = {}
        lines = complete_lines(path, self._damaged)
        if not lines:
            write_whole(path, json.dumps({"settings": plain, **about}) + "\n")
            return
        if changed := differences(lines[0].get("settings", {}), plain):
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
        """Numbers of the unfinished problems."""
        return [i for i in range(len(self.prompts)) if i not in self.done]

    def add(self, records: Iterable[dict[str, Any]]) -> None:
        """Append records of finished problems."""
        new = list(records)
        append(self.path, "".join(json.dumps(record) + "\n" for record in new))
        self.done.update({record["index"]: record for record in new})

    def in_order(self) -> list[dict[str, Any]]:
        """All records, by number of the problem."""
        return [self.done[i] for i in sorted(self.done)]

    def _check(self, number: int, record: Mapping[str, Any]) -> None:
        """Raise unless a record is complete and of the current problem."""
        missing = [name for name in FIELDS if name not in record]
        if missing:
            raise self._damaged(number, f"no {missing[0]}")
        index, failed = record["index"], record["failed"]
        if type(index) is not int or index < 0:
            raise self._damaged(number, f"index {index!r}")
        if record["c"] != record["n"] - sum(failed) or record["n"] != len(failed):
            raise self._damaged(number, f"{record['c']} of {record['n']} right do not fit `failed`")
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
                f"output: {self.path}: line {number}: the answer of {record['id']!r}, or its "
                "verifier, has changed since; give another --output"
            )

    def _damaged(self, number: int, problem: str) -> ValueError:
        cure = "delete the line to redo its problem" if number > 1 else "delete the file"
        return ValueError(f"output: {self.path}: line {number} is damaged ({problem}); {cure}")
