"""Registry of tasks, which supply problems and verify their answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

from llm.common.arguments import kinds_of
from llm.common.plugins import import_object
from llm.tasks import reasoning_gym
from llm.tasks.chain import ChainReasoning
from llm.tasks.data_task import DataTask
from llm.tasks.declaration import Declaration, declared, read
from llm.tasks.reasoning_gym import ReasoningGym
from llm.tasks.source import check_files
from llm.tasks.sums import Sums
from llm.tasks.task import Example, Split, Task

__all__ = [
    "ChainReasoning",
    "DataTask",
    "Example",
    "Split",
    "Task",
    "argument_kinds",
    "check_task_name",
    "declared",
    "make_task",
]


#: Tasks in code, by name.
TASKS: dict[str, type[Task]] = {"chain": ChainReasoning, "sums": Sums}

#: Conditions of a declaration that are text.
REGEXES = tuple(
    f"{key}.{test}" for key in ("where", "answer_where") for test in ("matches", "not_matches")
)


def check_task_name(name: str, options: Mapping[str, Any]) -> None:
    """Check that a task and its files exist, without loading data or user code.

    Raises
    ------
    ValueError
        If the name is unknown, a file is missing, or the declaration or options are invalid.
    """
    file = _declaration(name)
    if file is not None:
        check_files(read(file, options))
    elif name.startswith(reasoning_gym.PREFIX):
        reasoning_gym.check_name(name.removeprefix(reasoning_gym.PREFIX))
    elif name not in TASKS and ":" not in name:
        raise _unknown(name)


def argument_kinds(name: str) -> dict[str, Any]:
    """Types of a task's arguments, as far as they are known; imports a user's task."""
    if _declaration(name) is not None:
        return {**get_type_hints(Declaration), **dict.fromkeys(REGEXES, str)}
    if ":" not in name:
        return kinds_of(TASKS.get(name, ChainReasoning))
    if name.startswith(reasoning_gym.PREFIX):
        return reasoning_gym.argument_kinds(name.removeprefix(reasoning_gym.PREFIX))
    try:
        return kinds_of(import_object(name, "task"))
    except ValueError:  # reported when the task is made
        return {}


def make_task(name: str, /, **options: Any) -> Task:
    """Create a task by name, from a YAML declaration, or from an import path `module:Class`.

    `reasoning_gym:NAME` is a data set of reasoning-gym.

    Raises
    ------
    ValueError
        If the name is unknown, or the task does not accept the options.
    """
    file = _declaration(name)
    make: Callable[..., Any]
    if file is not None:
        make = lambda **options: DataTask(read(file, options))  # noqa: E731
    elif name in TASKS:
        make = TASKS[name]
    elif name.startswith(reasoning_gym.PREFIX):
        make = partial(ReasoningGym, name.removeprefix(reasoning_gym.PREFIX))
    elif ":" in name:
        make = import_object(name, "task")
    else:
        raise _unknown(name)
    try:
        task = make(**options)
    except TypeError as error:
        known = f"; its arguments are {', '.join(kinds)}" if (kinds := argument_kinds(name)) else ""
        raise ValueError(f"task: {name} cannot be made with {options}: {error}{known}") from error
    except Exception as error:
        if isinstance(error, ValueError):  # raised by the task itself, with a message for the user
            raise
        cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"task: {name} cannot be made with {options}: {cause}") from error
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
    """File that declares a task; None for a task in code."""
    return declared().get(name) or (Path(name) if name.endswith((".yaml", ".yml")) else None)


def _unknown(name: str) -> ValueError:
    if Path(name).is_file():
        return ValueError(
            f"task: {name} is a file of data; write a YAML file that names it and its fields, "
            f"`path: {name}`, `prompt: question`, `answer: solution`, `test: 100`, and give that"
        )
    known = ", ".join([*TASKS, *declared()])
    return ValueError(
        f"task: {name!r} is none of {known}, nor reasoning_gym:NAME, module:Class or a .yaml file"
    )
