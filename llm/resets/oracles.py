"""Oracles: where a task's step checker says that a solution goes wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cpi.core.episodes import Episode
from cpi.core.resets import OracleReset
from envs.tabular import FloatArray
from llm.tasks import checked
from llm.tasks.task import Task


class CheckerOracle:
    """A task's step checker, as what `cpi.OracleReset` asks."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def errors(self, episode: Episode) -> NDArray[np.bool_]:
        """Which thoughts are wrong, shape (n,)."""
        thoughts = [thought.text for thought in episode.steps]
        return checked.errors(self.task, episode.origin.start.example, thoughts)

    def improvement(self, episode: Episode) -> FloatArray:
        """Not known: a checker judges steps and has no values."""
        raise ValueError(
            "mask: a step checker knows which steps are wrong, not what they are worth; "
            "use first_error"
        )


def checker_rule(task: Task) -> OracleReset | None:
    """Resets at the first wrong thought, the language world's oracle; None without a checker."""
    return OracleReset(CheckerOracle(task), "first_error") if task.has_checker else None


def first_error(task: Task, episode: Episode) -> int | None:
    """The first wrong thought, from 0; None if the task has no checker or it finds none."""
    if not task.has_checker:
        return None
    thoughts = [thought.text for thought in episode.steps]
    wrong = np.flatnonzero(checked.errors(task, episode.origin.start.example, thoughts))
    return int(wrong[0]) if len(wrong) else None
