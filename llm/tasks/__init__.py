"""Tasks by name: what to solve, and how an answer is judged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm.common.plugins import import_object
from llm.tasks.chain import ChainReasoning
from llm.tasks.data_task import DataTask
from llm.tasks.declaration import declared, read
from llm.tasks.task import Example, Split, Task

__all__ = [
    "TASKS",
    "ChainReasoning",
    "DataTask",
    "Example",
    "Split",
    "Task",
    "declared",
    "make_task",
]

#: Written in Python, by the name that `--task` takes; `declared` are those over data sets.
TASKS: dict[str, Callable[..., Task]] = {"chain": ChainReasoning}


def make_task(name: str, **options: Any) -> Task:
    """The task of this name, of this declaration, or of this import path `module:Class`.

    Raises
    ------
    ValueError
        If there is no such task, or it does not take these options.
    """
    file = declared().get(name) or (Path(name) if name.endswith((".yaml", ".yml")) else None)
    if file is not None:
        make: Callable[..., Any] = lambda **given: DataTask(read(file, given))  # noqa: E731
    elif name in TASKS:
        make = TASKS[name]
    elif ":" in name:
        make = import_object(name, "task")
    else:
        known = ", ".join([*TASKS, *declared()])
        raise ValueError(f"task: {name!r} is none of {known}, nor module:Class, nor a .yaml file")
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
