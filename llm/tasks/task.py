"""What a task is: problems, a reward for a completion, and how thoughts are told apart.

A user's own task is a subclass, named on the command line as `--task my_module:MyTask`; where only
the data are new, a declaration does (`llm.tasks.declaration`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm.verifiers import Verification

Split = Literal["train", "test"]

#: Plain text, or chat messages with keys "role" and "content" for the model's chat template.
PromptText = str | list[dict[str, str]]


class Example(NamedTuple):
    """One problem: a name, its prompt, and what the verifier needs to know.

    `problem` is its text without instructions, where the prompt has more; a localizer shows it.
    """

    id: str
    prompt: PromptText
    data: Any = None
    problem: str = ""


class Task:
    r"""Problems and their verifier; subclasses give `examples`, and `reward` or `verify`.

    Attributes
    ----------
    delimiter : str
        A thought ends with the token that completes this text, unless a code fence is open.
    stop : tuple of str
        Texts of single tokens that end an episode, besides EOS.
    success : float
        An episode whose reward is below this has failed, and may be reset.
    has_checker : bool
        Whether `errors` is there.
    """

    delimiter: str = "</thought>"
    stop: tuple[str, ...] = ()
    success: float = 1.0
    has_checker: bool = False

    def __str__(self) -> str:
        """What messages call it."""
        return type(self).__name__

    def examples(self, split: Split) -> Sequence[Example]:
        """The problems to train on ("train"), or those held out ("test")."""
        raise NotImplementedError(f"{type(self).__name__} has no examples(split)")

    def reward(self, example: Example, completion: str) -> float:
        """Reward of a whole completion, usually 0 or 1."""
        raise NotImplementedError(f"{type(self).__name__} has no reward(example, completion)")

    def verify(self, examples: Sequence[Example], completions: Sequence[str]) -> list[Verification]:
        """Judge a batch; for verifiers that gain from one, or that may fail to judge."""
        return [
            Verification(self.reward(example, completion))
            for example, completion in zip(examples, completions, strict=True)
        ]

    def notes(self) -> Sequence[str]:
        """What a user should know about the problems, a line each; empty before `examples`."""
        return ()

    def errors(self, example: Example, thoughts: Sequence[str]) -> NDArray[np.bool_]:
        """Which thoughts are wrong, shape (n,): a step checker. Only where `has_checker`."""
        raise NotImplementedError(f"{type(self).__name__} has no step checker")

    def localization_prompt(self, example: Example, thoughts: Sequence[str]) -> PromptText | None:
        """The request to name the first wrong thought; None for the usual chat request."""
        return None

    def follow_up(self, example: Example, request: str) -> str | None:
        """What asks for another attempt, put right after one; None for `request` as a chat's turn.

        For models that do not chat, and do not know the words of `request`.
        """
        return None
