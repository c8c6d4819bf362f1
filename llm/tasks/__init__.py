"""Tasks by name: what to solve, and how an answer is judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llm.imports import import_object
from llm.tasks.chain import ChainReasoning
from llm.tasks.task import Example, Split, Task

__all__ = ["TASKS", "ChainReasoning", "Example", "Split", "Task", "make_task"]

#: By the name that `--task` takes.
TASKS: dict[str, Callable[..., Task]] = {"chain": ChainReasoning}


def make_task(name: str, **options: Any) -> Task:
    """The task of this name, or of this import path `module:Class`.

    Raises
    ------
    ValueError
        If there is no such task, or it does not take these options.
    """
    if name not in TASKS and ":" not in name:
        raise ValueError(f"task: {name!r} is none of {', '.join(TASKS)}, nor module:Class")
    make = TASKS[name] if name in TASKS else import_object(name, "task")
    try:
        task = make(**options)
    except TypeError as error:
        raise ValueError(f"task: {name} cannot be made with {options}: {error}") from error
    except Exception as error:
        if isinstance(error, ValueError):  # its own refusal, which says what is wrong
            raise
        kind = type(error).__name__
        raise ValueError(f"task: {name} cannot be made with {options}: {kind}: {error}") from error
    if not isinstance(task, Task):
        raise ValueError(f"task: {name} gives a {type(task).__name__}, not an llm.tasks.Task")
    if not isinstance(task.delimiter, str):
        raise ValueError(f"task: delimiter of {name}: {task.delimiter!r} is not text")
    if isinstance(task.stop, str) or not all(isinstance(text, str) for text in task.stop):
        raise ValueError(f"task: stop of {name}: {task.stop!r} is not a tuple of texts")
    return task
