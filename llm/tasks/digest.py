"""Digests of problems, which change with their prompts, answers or verifier."""

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
    """Return the digest of an ordered list of problems, 16 hexadecimal digits."""
    sha = hashlib.sha256()
    verifier: Any = None
    if isinstance(task, DataTask):
        declaration = task.declaration
        verifier = [declaration.verifier, declaration.verifier_args, declaration.delimiter]
        if declaration.reward:
            verifier.append(list(declaration.reward.items()))
    for example in examples:
        answer = task.answer(example) if isinstance(task, DataTask) else example.data
        parts = [example.id, example.prompt, answer, verifier]
        try:
            sha.update(json.dumps(parts, default=_plain, sort_keys=True).encode() + b"\0")
        except RecursionError:
            raise ValueError(f"task: {example.id!r} of {task} is nested too deeply") from None
    return sha.hexdigest()[:16]


def code_digest(task: Task) -> str:
    """Return the digest of the source file of a user's task; "" for a task of this package."""
    if type(task).__module__.startswith("llm."):
        return ""
    try:
        source = Path(inspect.getfile(type(task))).read_bytes()
    except (OSError, TypeError):  # defined in an interactive session
        return "unknown"
    return hashlib.sha256(source).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Convert a value to JSON types; a value of unknown type to the name of the type."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if hasattr(value, "tolist"):  # numpy or torch
        return value.tolist()
    return type(value).__name__
