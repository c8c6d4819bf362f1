"""Interface of tasks: problems, rewards of completions, and the delimiter of thoughts.

Your own task is a subclass of `Task`, given as `--task my_module:MyTask`. A declaration suffices if
only the data are new (`llm.tasks.declaration`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm.verifiers import Verification

Split = Literal["train", "test"]

#: Plain text, or chat messages with keys "role" and "content" for the model's chat template.
PromptText = str | list[dict[str, str]]


class Example(NamedTuple):
    """One problem.

    Attributes
    ----------
    id : str
    prompt : str or list of dict
    data : object
        Data for the verifier, such as the answer.
    problem : str
        Text without instructions, if the prompt has instructions; shown to a localizer.
    """

    id: str
    prompt: PromptText
    data: Any = None
    problem: str = ""


class Task:
    r"""Problems and their verifier; subclasses define `examples`, and `reward` or `verify`.

    Attributes
    ----------
    delimiter : str
        A thought ends with the token that completes this text outside code fences.
    stop : tuple of str
        Texts of single tokens that end an episode, besides EOS.
    success : float
        Minimum reward of a success; episodes below it have failed and may be reset.
    has_checker : bool
        Whether `errors` is implemented.
    chat_template_kwargs : mapping
        Variables of the model's chat template, such as `enable_thinking`.
    """

    delimiter: str = "</thought>"
    stop: tuple[str, ...] = ()
    success: float = 1.0
    has_checker: bool = False
    chat_template_kwargs: Mapping[str, Any] = MappingProxyType({})

    def __str__(self) -> str:
        """Name of the task in messages."""
        return type(self).__name__

    def examples(self, split: Split) -> Sequence[Example]:
        """Return the problems for training ("train"), or the held-out problems ("test")."""
        raise NotImplementedError(f"{type(self).__name__} has no examples(split)")

    def reward(self, example: Example, completion: str) -> float:
        """Return the reward of a complete completion, usually 0 or 1."""
        raise NotImplementedError(f"{type(self).__name__} has no reward(example, completion)")

    def verify(self, examples: Sequence[Example], completions: Sequence[str]) -> list[Verification]:
        """Verify a batch of completions; override to verify in parallel or to report failures."""
        return [
            Verification(self.reward(example, completion))
            for example, completion in zip(examples, completions, strict=True)
        ]

    def reference(self, example: Example) -> str:
        """Return the right answer for people to read; "" if there is none in short."""
        return str(example.data) if isinstance(example.data, str | int | float) else ""

    def notes(self) -> Sequence[str]:
        """Return notes on the problems for the user, one line each; empty before `examples`."""
        return ()

    def errors(self, example: Example, thoughts: Sequence[str]) -> NDArray[np.bool_]:
        """Step checker: mark the wrong thoughts, shape (n,). Requires `has_checker`."""
        raise NotImplementedError(f"{type(self).__name__} has no step checker")

    def localization_prompt(self, example: Example, thoughts: Sequence[str]) -> PromptText | None:
        """Return the request for the first wrong thought; None for the default chat request."""
        return None

    def follow_up(self, example: Example, request: str) -> str | None:
        """Return text that requests another attempt; None to send `request` as a chat message.

        The text directly follows the previous attempt. It is for models without a chat template,
        which cannot read `request`.
        """
        return None
