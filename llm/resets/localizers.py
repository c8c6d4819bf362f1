r"""Localizers: where in a failed solution the error is. They weigh thoughts and see no reward.

- `prompted`: the model is asked, in one more generation (the paper's SRPO).
- `surprisal`: the least likely thought under the policy itself; costs no token.
- `random`: every thought alike.
- `checker`: the first wrong thought by the task's step checker, an oracle.
- `module:function`: the user's own, from episodes to one array of weights each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cpi.core.episodes import Episode
from cpi.core.resets import Localizer
from envs.tabular import FloatArray
from llm.common.plugins import import_object, users_code
from llm.resets.oracles import checker_rule
from llm.resets.prompted import PromptedLocalizer
from llm.tasks.task import Task


def surprisal(episodes: Sequence[Episode]) -> list[FloatArray]:
    """Weight 1 on the thought with the lowest probability under the policy that wrote it."""
    return [
        np.eye(1, e.length, int(np.argmin([thought.logprobs.sum() for thought in e.steps])))[0]
        for e in episodes
    ]


def random(episodes: Sequence[Episode]) -> list[FloatArray]:
    """Weight 1 on every thought."""
    return [np.ones(episode.length) for episode in episodes]


class UsersLocalizer:
    """A user's own localizer `module:name`; what it does wrong is said in its name.

    Raises
    ------
    ValueError
        If there is none.
    """

    def __init__(self, name: str) -> None:
        self.name, self.function = name, import_object(name, "localizer")
        if not callable(self.function):
            raise ValueError(f"localizer: {name} is a {type(self.function).__name__}, no function")

    @property
    def cost(self) -> int:
        """Tokens generated, if it counts them in an attribute of that name."""
        return int(getattr(self.function, "cost", 0))

    def __call__(self, episodes: Sequence[Episode]) -> list[FloatArray]:
        """Its weights."""
        with users_code(f"localizer: {self.name}", self.function):
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
    """The model itself."""
    assert prompted is not None
    return prompted


#: Name → function from the task and the run's prompted localizer to a localizer.
LOCALIZERS: dict[str, Callable[[Task, PromptedLocalizer | None], Localizer]] = {
    "prompted": _prompted,
    "surprisal": lambda task, prompted: surprisal,
    "random": lambda task, prompted: random,
    "checker": _checker,
}


def check_name(name: str) -> None:
    """Refuse what is neither in `LOCALIZERS` nor an import path.

    Raises
    ------
    ValueError
        Lists the names.
    """
    if name not in LOCALIZERS and ":" not in name:
        raise ValueError(
            f"localizer: {name!r} is none of {', '.join(LOCALIZERS)}, nor module:function"
        )


def make_localizer(name: str, task: Task, prompted: PromptedLocalizer | None) -> Localizer:
    """The localizer of this name.

    Parameters
    ----------
    name : str
        In `LOCALIZERS`, or `module:function`.
    task : Task
    prompted : PromptedLocalizer, optional
        What "prompted" means in this run.

    Raises
    ------
    ValueError
        If there is none of this name or path, or the task has no checker for `checker`.
    """
    check_name(name)
    return UsersLocalizer(name) if ":" in name else LOCALIZERS[name](task, prompted)


def check_localizer(name: str, task: Task) -> None:
    """Refuse a localizer that cannot be made for a task, before any model is loaded.

    Raises
    ------
    ValueError
        As `make_localizer`.
    """
    if name != "prompted":
        make_localizer(name, task, None)
