"""What a verifier is: a function from answers and completions to verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol


class Verification(NamedTuple):
    """The judgement of one completion.

    Attributes
    ----------
    reward : float
        Usually 0 or 1.
    failure : str
        Why no verdict could be had ("timeout", "crash", ...), or "". The reward is then 0, but a
        wrong answer it is not: count the two apart.
    """

    reward: float
    failure: str = ""


class Verifier(Protocol):
    """Judges completions against the answers of a data set.

    It may also have `check_answer(answer)`, which raises a ValueError for an answer of a kind that
    it cannot judge and is called once a row when a data set is loaded, and `close()`, which ends
    the processes it holds.
    """

    def __call__(self, answers: Sequence[Any], completions: Sequence[str]) -> list[Verification]:
        """One verdict a completion, in the order given."""
        ...  # pragma: no cover
