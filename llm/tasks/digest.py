"""Digests of problems: what changes when a prompt, its answer, or the way to judge it does."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm.tasks.data_task import DataTask
from llm.tasks.task import Example, Task


def digest(task: Task, examples: Sequence[Example]) -> str:
    """Of some problems, in their order; 16 hexadecimal digits."""
    whole = hashlib.sha256()
    judged: Any = None
    if isinstance(task, DataTask):
        declaration = task.declaration
        judged = [declaration.verifier, declaration.verifier_args, declaration.delimiter]
    for example in examples:
        right = task.answer(example) if isinstance(task, DataTask) else example.data
        parts = [example.id, example.prompt, right, judged]
        whole.update(json.dumps(parts, default=_plain, sort_keys=True).encode() + b"\0")
    return whole.hexdigest()[:16]


def code_digest(task: Task) -> str:
    """Of the file that a user's own task is written in; "" of ours."""
    if type(task).__module__.startswith("llm."):
        return ""
    try:
        source = Path(inspect.getfile(type(task))).read_bytes()
    except (OSError, TypeError):  # written in a shell
        return "unknown"
    return hashlib.sha256(source).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """What JSON knows instead of a value; of an unknown kind, its name alone."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if hasattr(value, "tolist"):  # of numpy or torch
        return value.tolist()
    return type(value).__name__
