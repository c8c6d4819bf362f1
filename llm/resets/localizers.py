r"""Localizers: weights on the thoughts of a failed solution, by where its error may be.

Localizers do not see rewards.

- `prompted`: the model names its first error, in one more generation (the paper's SRPO).
- `step_logprob`: the probability of each step's number as the reply; generates no token.
- `surprisal`: the least likely thought under the policy itself; costs no token.
- `surprisal_mean`: the thought of the lowest log-prob per token; costs no token.
- `surprisal_drop`: the largest drop of it from the preceding thought; costs no token.
- `random`: equal weights.
- `first`: the first thought, so that a reset is a fresh rollout; the control of adaptive plans.
- `halving`: half of the steps, then half of the prefix of a group that failed; for adaptive plans.
- `checker`: the first wrong thought by the task's step checker, an oracle.
- `module:function`: a user's function from episodes to one array of weights each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cpi.core.episodes import Episode
from cpi.core.resets import Localizer, first_step, halving
from envs.tabular import FloatArray
from llm.common.plugins import import_object, plugin_errors
from llm.resets.oracles import checker_rule
from llm.resets.prompted import PromptedLocalizer
from llm.resets.step_logprob import StepLogprobLocalizer
from llm.tasks.task import Task


def surprisal(episodes: Sequence[Episode]) -> list[FloatArray]:
    """Weight 1 on the thought that was least likely under the policy that sampled it."""
    return [
        np.eye(1, e.length, int(np.argmin([thought.logprobs.sum() for thought in e.steps])))[0]
        for e in episodes
    ]


def surprisal_mean(episodes: Sequence[Episode]) -> list[FloatArray]:
    """Weight 1 on the thought with the lowest mean log-prob of a token."""
    return [np.eye(1, e.length, int(np.argmin(_mean_logprobs(e))))[0] for e in episodes]


def surprisal_drop(episodes: Sequence[Episode]) -> list[FloatArray]:
    """Weight 1 on the thought whose mean log-prob falls most from that of the one before.

    The first thought has none before it, so it is chosen only if it is the only one.
    """
    weights = []
    for episode in episodes:
        changes = np.diff(_mean_logprobs(episode))
        at = int(np.argmin(changes)) + 1 if len(changes) else 0
        weights.append(np.eye(1, episode.length, at)[0])
    return weights


def _mean_logprobs(episode: Episode) -> FloatArray:
    """Mean log-prob of the tokens of each thought, shape (n,)."""
    return np.array([thought.logprobs.mean() for thought in episode.steps])


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


def _prompted(task: Task, prompted: PromptedLocalizer | None) -> PromptedLocalizer:
    """The run's prompted localizer."""
    if prompted is None:
        raise ValueError("localizer: prompted needs an engine, and here is none")
    return prompted


def _step_logprob(task: Task, prompted: PromptedLocalizer | None) -> Localizer:
    """Probabilities of the steps' numbers as replies to the prompted localizer's request."""
    return StepLogprobLocalizer(_prompted(task, prompted))


class Entry(NamedTuple):
    """A localizer in the table.

    Attributes
    ----------
    make : function
        From the task and the run's prompted localizer to the localizer.
    prompts : bool
        Whether it is the prompted localizer, which generates tokens.
    requests : bool
        Whether it sends the model the prompted localizer's request.
    needs_checker : bool
        Whether the task must have a step checker.
    logprobs : bool
        Whether it reads the log-probs of the tokens of thoughts.
    """

    make: Callable[[Task, PromptedLocalizer | None], Localizer]
    prompts: bool = False
    requests: bool = False
    needs_checker: bool = False
    logprobs: bool = False


LOCALIZERS: dict[str, Entry] = {
    "prompted": Entry(_prompted, prompts=True, requests=True),
    "step_logprob": Entry(_step_logprob, requests=True),
    "surprisal": Entry(lambda task, prompted: surprisal, logprobs=True),
    "surprisal_mean": Entry(lambda task, prompted: surprisal_mean, logprobs=True),
    "surprisal_drop": Entry(lambda task, prompted: surprisal_drop, logprobs=True),
    "first": Entry(lambda task, prompted: first_step),
    "random": Entry(lambda task, prompted: random),
    "halving": Entry(lambda task, prompted: halving),
    "checker": Entry(_checker, needs_checker=True),
}


def prompts(name: str) -> bool:
    """Whether the localizer of this name asks the model, in one more generation."""
    return name in LOCALIZERS and LOCALIZERS[name].prompts


def requests(name: str) -> bool:
    """Whether the localizer of this name sends the model the prompted localizer's request."""
    return name in LOCALIZERS and LOCALIZERS[name].requests


def reads_logprobs(name: str) -> bool:
    """Whether the localizer of this name may read log-probs; a user's may."""
    return name not in LOCALIZERS or LOCALIZERS[name].logprobs


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
    if not requests(name):
        make_localizer(name, task, None)
