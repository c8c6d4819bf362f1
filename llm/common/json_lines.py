"""JSON Lines files to which a process appends; a killed one leaves a usable file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm.common.atomic_files import write_whole


def complete_lines(path: Path, damaged: Callable[[int, str], Exception]) -> list[dict[str, Any]]:
    """Objects of the complete lines of a file; truncates a partial last line.

    Parameters
    ----------
    path : Path
        Need not exist.
    damaged : function of (line from 1, problem)
        Makes the exception for a complete line that is no object.
    """
    if not path.exists():
        return []
    # Undecodable bytes belong to a partial or a damaged line, which is handled below.
    text = path.read_text(encoding="utf-8", errors="replace")
    complete = text[: text.rfind("\n") + 1]
    if complete != text:
        write_whole(path, complete)
    records = []
    for number, line in enumerate(complete.split("\n")[:-1], 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise damaged(number, str(error)) from error
        if not isinstance(record, dict):
            raise damaged(number, "not an object")
        records.append(record)
    return records
