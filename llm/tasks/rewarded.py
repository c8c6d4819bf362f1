"""A task whose answers a user's function rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from llm.common.plugins import plugin_errors
from llm.tasks.data_task import DataTask
from llm.tasks.task import Example, PromptText, Split, Task

Reward = Callable[[Example, str], float]


class RewardedTask(Task):
    """The problems of a task, with a reward of one's own.

    Parameters
    ----------
    task : Task
    reward : function
        From a problem and a completion to a number; 1 and more is a success. `data` of a problem
        from a file is its answer.
    """

    def __init__(self, task: Task, reward: Reward) -> None:
        self.task, self.function = task, reward
        self.delimiter, self.stop = task.delimiter, task.stop
        self.has_checker = task.has_checker

    def __str__(self) -> str:
        return str(self.task)

    def examples(self, split: Split) -> Sequence[Example]:
        """See `Task`."""
        return self.task.examples(split)

    def reward(self, example: Example, completion: str) -> float:
        """Return the function's value."""
        if isinstance(self.task, DataTask):  # its data are the place of a row
            example = example._replace(data=self.task.answer(example))
        with plugin_errors(f"reward of {example.id!r}", self.function):
            return float(self.function(example, completion))

    def reference(self, example: Example) -> str:
        """See `Task`."""
        return self.task.reference(example)

    def notes(self) -> Sequence[str]:
        """See `Task`."""
        return self.task.notes()

    def errors(self, example: Example, thoughts: Sequence[str]) -> NDArray[np.bool_]:
        """See `Task`."""
        return self.task.errors(example, thoughts)

    def localization_prompt(self, example: Example, thoughts: Sequence[str]) -> PromptText | None:
        """See `Task`."""
        return self.task.localization_prompt(example, thoughts)

    def follow_up(self, example: Example, request: str) -> str | None:
        """See `Task`."""
        return self.task.follow_up(example, request)
