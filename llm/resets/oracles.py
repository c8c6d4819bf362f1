"""Oracles from a task's step checker: the wrong steps of a solution."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cpi.core.episodes import Episode
from cpi.core.resets import OracleReset
from envs.tabular import FloatArray
from llm.tasks import checked
from llm.tasks.task import Task


class CheckerOracle:
    """Adapter of a task's step checker to `cpi.OracleReset`."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def errors(self, episode: Episode) -> NDArray[np.bool_]:
        """Which thoughts are wrong, shape (n,)."""
        thoughts = [thought.text for thought in episode.steps]
        return checked.errors(self.task, episode.origin.start.example, thoughts)

    def improvement(self, episode: Episode) -> FloatArray:
        """Unavailable: a step checker gives no values."""
        raise ValueError(
            "mask: a step checker marks wrong steps and gives no values; use first_error"
        )


def checker_rule(task: Task) -> OracleReset | None:
    """Reset rule at the first wrong thought; None if the task has no step checker."""
    return OracleReset(CheckerOracle(task), "first_error") if task.has_checker else None


def first_error(task: Task, episode: Episode) -> int | None:
    """Index of the first wrong thought, from 0; None if there is no checker or no error."""
    if not task.has_checker:
        return None
    thoughts = [thought.text for thought in episode.steps]
    wrong = np.flatnonzero(checked.errors(task, episode.origin.start.example, thoughts))
    return int(wrong[0]) if len(wrong) else None
