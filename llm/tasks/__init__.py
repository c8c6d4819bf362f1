"""Tasks by name: what to solve, and how an answer is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llm.common.plugins import import_object
from llm.tasks.chain import ChainReasoning
from llm.tasks.data_task import DataTask
from llm.tasks.declaration import declared, read
from llm.tasks.source import check_files
from llm.tasks.task import Example, Split, Task

__all__ = [
    "ChainReasoning",
    "DataTask",
    "Example",
    "Split",
    "Task",
    "check_task_name",
    "declared",
    "make_task",
]


def check_task_name(name: str, options: Mapping[str, Any]) -> None:
    """Refuse a task that does not exist, or whose files do not; loads neither data nor user code.

    Raises
    ------
    ValueError
        If there is no such task, or its declaration or options make no sense.
    """
    file = _declaration(name)
    if file is not None:
        check_files(read(file, options))
    elif name != "chain" and ":" not in name:
        raise _unknown(name)


def make_task(name: str, **options: Any) -> Task:
    """The task of this name, of this declaration, or of this import path `module:Class`.

    Raises
    ------
    ValueError
        If there is no such task, or it does not take these options.
    """
    file = _declaration(name)
    make: Callable[..., Any]
    if file is not None:
        make = lambda **given: DataTask(read(file, given))  # noqa: E731
    elif name == "chain":
        make = ChainReasoning
    elif ":" in name:
        make = import_object(name, "task")
    else:
        raise _unknown(name)
    try:
        task = make(**options)
    except TypeError as error:
        raise ValueError(f"task: {name} cannot be made with {options}: {error}") from error
    except Exception as error:
        if isinstance(error, ValueError):  # its own refusal, which says what is wrong
            raise
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"task: {name} cannot be made with {options}: {said}") from error
    if not isinstance(task, Task):
        raise ValueError(f"task: {name} gives a {type(task).__name__}, not an llm.tasks.Task")
    if not isinstance(task.delimiter, str):
        raise ValueError(f"task: delimiter of {name}: {task.delimiter!r} is not text")
    if isinstance(task.stop, str) or not all(isinstance(text, str) for text in task.stop):
        raise ValueError(f"task: stop of {name}: {task.stop!r} is not a tuple of texts")
    if not task.delimiter:
        raise ValueError(
            f"task: delimiter of {name}: it is empty; give the text that ends a thought"
        )
    return task


def _declaration(name: str) -> Path | None:
    """The file that declares a task, if it is a data set's."""
    return declared().get(name) or (Path(name) if name.endswith((".yaml", ".yml")) else None)


def _unknown(name: str) -> ValueError:
    known = ", ".join(["chain", *declared()])
    return ValueError(f"task: {name!r} is none of {known}, nor module:Class, nor a .yaml file")
