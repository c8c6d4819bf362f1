"""Calls task methods, validates their results, and names the task in errors."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llm.common.plugins import plugin_errors
from llm.tasks.data_task import DataTask
from llm.tasks.schema import is_message
from llm.tasks.task import Example, Split, Task
from llm.verifiers import Verification


def examples(task: Task, split: Split) -> list[Example]:
    """Return the problems of a split.

    Raises
    ------
    ValueError
        If the task fails, or returns anything but examples with prompts.
    """
    name = f"task: {task}.examples({split!r})"
    # Errors of a DataTask already name the file and row.
    names_source = isinstance(task, DataTask)
    with contextlib.nullcontext() if names_source else plugin_errors(name, task):
        problems = list(task.examples(split))
    for number, example in enumerate(problems):
        if not isinstance(example, Example):
            kind = type(example).__name__
            raise ValueError(f"{name}: number {number} is a {kind}, not an llm.tasks.Example")
        messages = example.prompt if isinstance(example.prompt, list) else []
        if not (isinstance(example.prompt, str) or messages) or not all(map(is_message, messages)):
            raise ValueError(
                f"{name}: the prompt of {example.id!r} is {example.prompt!r}; give it text, or a "
                "list of chat messages"
            )
    # Ids may be numbers of a data set, which are not always JSON types.
    return [e if isinstance(e.id, str) else e._replace(id=str(e.id)) for e in problems]


def reward(task: Task, example: Example, completion: str) -> float:
    """Return the reward of a completion.

    Raises
    ------
    ValueError
        If the task fails, or returns no finite number.
    """
    name = f"task: {task}.reward of {example.id!r}"
    with plugin_errors(name, task):
        value = float(task.reward(example, completion))
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}, which is not a finite number")
    return value


def verify(
    task: Task, examples: Sequence[Example], completions: Sequence[str]
) -> list[Verification]:
    """Verify a batch of completions.

    Raises
    ------
    ValueError
        If the task fails, or does not return one verification with a finite reward for each.
    """
    if type(task).verify is Task.verify:  # one by one, so that errors name the problem
        return [
            Verification(reward(task, e, c)) for e, c in zip(examples, completions, strict=True)
        ]
    name = f"task: {task}.verify"
    with plugin_errors(name, task):
        verifications = list(task.verify(examples, completions))
    if len(verifications) != len(completions):
        raise ValueError(
            f"{name} gives {len(verifications)} verifications for {len(completions)} completions"
        )
    for example, result in zip(examples, verifications, strict=True):
        if not isinstance(result, Verification) or not _is_finite(result.reward):
            raise ValueError(
                f"{name} of {example.id!r} is {result!r}, not an llm.verifiers.Verification with "
                "a finite reward"
            )
    return verifications


def _is_finite(value: object) -> bool:
    return isinstance(value, float | int | np.floating) and math.isfinite(value)


def follow_up(task: Task, example: Example, request: str) -> str | None:
    """Return the task's text that requests another attempt; None for the default request.

    Raises
    ------
    ValueError
        If the task fails, or returns neither a non-empty text nor None.
    """
    name = f"task: {task}.follow_up of {example.id!r}"
    with plugin_errors(name, task):
        text = task.follow_up(example, request)
    if text is not None and not (isinstance(text, str) and text):
        raise ValueError(f"{name} is {text!r}; give it a text, or None for the usual request")
    return text


def errors(task: Task, example: Example, thoughts: Sequence[str]) -> NDArray[np.bool_]:
    """Mark the thoughts that the task's step checker finds wrong, shape (n,).

    Raises
    ------
    ValueError
        If the task fails, or does not return one boolean for each thought.
    """
    name = f"task: {task}.errors of {example.id!r}"
    with plugin_errors(name, task):
        flags = np.asarray(task.errors(example, thoughts))
    if flags.shape != (len(thoughts),) or (flags.size and flags.dtype != np.bool_):
        raise ValueError(f"{name} is {flags}, not True or False for each of {len(thoughts)} steps")
    return flags.astype(np.bool_)
