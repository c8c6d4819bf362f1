r"""Localizers: weights on the thoughts of a failed solution, by where its error may be.

Localizers do not see rewards.

- `prompted`: the model names its first error, in one more generation (the paper's SRPO).
- `surprisal`: the least likely thought under the policy itself; costs no token.
- `random`: equal weights.
- `halving`: half of the steps, then half of the prefix of a group that failed; for adaptive plans.
- `checker`: the first wrong thought by the task's step checker, an oracle.
- `module:function`: a user's function from episodes to one array of weights each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cpi.core.episodes import Episode
from cpi.core.resets import Localizer, halving
from envs.tabular import FloatArray
from llm.common.plugins import import_object, plugin_errors
from llm.resets.oracles import checker_rule
from llm.resets.prompted import PromptedLocalizer
from llm.tasks.task import Task


def surprisal(episodes: Sequence[Episode]) -> list[FloatArray]:
    """Weight 1 on the thought that was least likely under the policy that sampled it."""
    return [
        np.eye(1, e.length, int(np.argmin([thought.logprobs.sum() for thought in e.steps])))[0]
        for e in episodes
    ]


def random(episodes: Sequence[Episode]) -> list[FloatArray]:
    """Weight 1 on every thought."""
    return [np.ones(episode.length) for episode in episodes]


class UsersLocalizer:
    """User-supplied localizer `module:name`; errors name it.

    Raises
    ------
    ValueError
        If it cannot be imported, or is not callable.
    """

    def __init__(self, name: str) -> None:
        self.name, self.function = name, import_object(name, "localizer")
        if not callable(self.function):
            raise ValueError(f"localizer: {name} is a {type(self.function).__name__}, no function")

    @property
    def cost(self) -> int:
        """Tokens generated, if the function counts them in an attribute `cost`."""
        return int(getattr(self.function, "cost", 0))

    def __call__(self, episodes: Sequence[Episode]) -> list[FloatArray]:
        """One array of weights per episode."""
        with plugin_errors(f"localizer: {self.name}", self.function):
            return [np.asarray(w, dtype=np.float64) for w in self.function(episodes)]


def _checker(task: Task, prompted: PromptedLocalizer | None) -> Localizer:
    """The first wrong thought by the task's step checker."""
    rule = checker_rule(task)
    if rule is None:
        raise ValueError(
            f"localizer: checker needs a step checker, and {type(task).__name__} has none; "
            "use prompted, surprisal or random"
        )
    return rule.weights


def _prompted(task: Task, prompted: PromptedLocalizer | None) -> Localizer:
    """The run's prompted localizer."""
    if prompted is None:
        raise ValueError("localizer: prompted needs an engine, and here is none")
    return prompted


class Entry(NamedTuple):
    """A localizer in the table.

    Attributes
    ----------
    make : function
        From the task and the run's prompted localizer to the localizer.
    prompts : bool
        Whether it is the prompted localizer, which generates tokens.
    needs_checker : bool
        Whether the task must have a step checker.
    """

    make: Callable[[Task, PromptedLocalizer | None], Localizer]
    prompts: bool = False
    needs_checker: bool = False


LOCALIZERS: dict[str, Entry] = {
    "prompted": Entry(_prompted, prompts=True),
    "surprisal": Entry(lambda task, prompted: surprisal),
    "random": Entry(lambda task, prompted: random),
    "halving": Entry(lambda task, prompted: halving),
    "checker": Entry(_checker, needs_checker=True),
}


def prompts(name: str) -> bool:
    """Whether the localizer of this name asks the model, in one more generation."""
    return name in LOCALIZERS and LOCALIZERS[name].prompts


def check_name(name: str) -> None:
    """Refuse a name that is neither in `LOCALIZERS` nor an import path.

    Raises
    ------
    ValueError
        The message lists the names.
    """
    if name not in LOCALIZERS and ":" not in name:
        raise ValueError(
            f"localizer: {name!r} is none of {', '.join(LOCALIZERS)}, nor module:function"
        )


def make_localizer(name: str, task: Task, prompted: PromptedLocalizer | None) -> Localizer:
    """Construct a localizer by name.

    Parameters
    ----------
    name : str
        In `LOCALIZERS`, or `module:function`.
    task : Task
    prompted : PromptedLocalizer, optional
        The run's prompted localizer.

    Raises
    ------
    ValueError
        If there is no such localizer, or the task has no step checker for `checker`.
    """
    check_name(name)
    return UsersLocalizer(name) if ":" in name else LOCALIZERS[name].make(task, prompted)


def check_localizer(name: str, task: Task) -> None:
    """Refuse a localizer that cannot be made for a task, before any model is loaded.

    Raises
    ------
    ValueError
        As `make_localizer`.
    """
    if not prompts(name):
        make_localizer(name, task, None)
