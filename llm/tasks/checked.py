"""A task's methods, asked: what its code raises or gives wrong becomes a line that names it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llm.common.plugins import users_code
from llm.tasks.data_task import DataTask
from llm.tasks.task import Example, Split, Task
from llm.verifiers import Verification


def examples(task: Task, split: Split) -> list[Example]:
    """The problems of a split.

    Raises
    ------
    ValueError
        If the task fails, or gives something else than examples with prompts.
    """
    name = f"task: {task}.examples({split!r})"
    # What a data set's task raises says itself which file and row it is about.
    own = isinstance(task, DataTask)
    with contextlib.nullcontext() if own else users_code(name, task):
        found = list(task.examples(split))
    for number, example in enumerate(found):
        if not isinstance(example, Example):
            kind = type(example).__name__
            raise ValueError(f"{name}: number {number} is a {kind}, not an llm.tasks.Example")
        if not isinstance(example.prompt, str | list):
            raise ValueError(
                f"{name}: the prompt of {example.id!r} is {example.prompt!r}; give it text, or a "
                "list of chat messages"
            )
    # Numbers of a data set, say, which JSON may not know.
    return [e if isinstance(e.id, str) else e._replace(id=str(e.id)) for e in found]


def reward(task: Task, example: Example, completion: str) -> float:
    """The reward of a completion.

    Raises
    ------
    ValueError
        If the task fails, or gives no finite number.
    """
    name = f"task: {task}.reward of {example.id!r}"
    with users_code(name, task):
        value = float(task.reward(example, completion))
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}, which is not a finite number")
    return value


def verify(
    task: Task, examples: Sequence[Example], completions: Sequence[str]
) -> list[Verification]:
    """The verdicts of a batch of completions.

    Raises
    ------
    ValueError
        If the task fails, or does not give a verdict with a finite reward for each.
    """
    if type(task).verify is Task.verify:  # one by one, so that a message can name the problem
        return [
            Verification(reward(task, e, c)) for e, c in zip(examples, completions, strict=True)
        ]
    name = f"task: {task}.verify"
    with users_code(name, task):
        verdicts = list(task.verify(examples, completions))
    if len(verdicts) != len(completions):
        raise ValueError(
            f"{name} gives {len(verdicts)} verdicts for {len(completions)} completions"
        )
    for example, verdict in zip(examples, verdicts, strict=True):
        if not isinstance(verdict, Verification) or not _is_finite(verdict.reward):
            raise ValueError(
                f"{name} of {example.id!r} is {verdict!r}, not an llm.verifiers.Verification with "
                "a finite reward"
            )
    return verdicts


def _is_finite(value: object) -> bool:
    return isinstance(value, float | int | np.floating) and math.isfinite(value)


def follow_up(task: Task, example: Example, request: str) -> str | None:
    """What the task puts after an attempt to ask for another one, if it has words of its own.

    Raises
    ------
    ValueError
        If the task fails, or gives no text.
    """
    name = f"task: {task}.follow_up of {example.id!r}"
    with users_code(name, task):
        text = task.follow_up(example, request)
    if text is not None and not (isinstance(text, str) and text):
        raise ValueError(f"{name} is {text!r}; give it a text, or None for the usual request")
    return text


def errors(task: Task, example: Example, thoughts: Sequence[str]) -> NDArray[np.bool_]:
    """Which thoughts the task's checker finds wrong, shape (n,).

    Raises
    ------
    ValueError
        If the task fails, or does not say true or false of each thought.
    """
    name = f"task: {task}.errors of {example.id!r}"
    with users_code(name, task):
        flags = np.asarray(task.errors(example, thoughts))
    if flags.shape != (len(thoughts),) or (flags.size and flags.dtype != np.bool_):
        raise ValueError(f"{name} is {flags}, not True or False for each of {len(thoughts)} steps")
    return flags.astype(np.bool_)
