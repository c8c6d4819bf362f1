"""Interface of verifiers: functions from answers and completions to verifications."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol


class Verification(NamedTuple):
    """Result of verifying one completion.

    Attributes
    ----------
    reward : float
        Usually 0 or 1.
    failure : str
        Why the completion could not be verified ("timeout", "crash", ...), or "". The reward is
        then 0; count such completions apart from wrong answers.
    parts : tuple of (str, float)
        Rewards that make up `reward`, by name and before weighting; their means are logged.
    """

    reward: float
    failure: str = ""
    parts: tuple[tuple[str, float], ...] = ()


class Verifier(Protocol):
    """Verifies completions against the answers of a data set.

    Two methods are optional. `check_answer(answer)` raises a ValueError for an answer that cannot
    be verified against; it is called once for each row of a data set. `close()` ends the
    verifier's processes.
    """

    def __call__(self, answers: Sequence[Any], completions: Sequence[str]) -> list[Verification]:
        """Return one verification for each completion, in order."""
        ...  # pragma: no cover
