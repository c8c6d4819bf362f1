"""Several rewards of one completion, added up with weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from llm.verifiers.verifier import Verification, Verifier

#: Ends with one answer as the instructions of tasks ask for it.
_STATES_ANSWER = r".*(\\boxed\{[^\n]+\}|<answer>[^\n]+</answer>|Answer: [^\n]+)[\s.$]*"


class Format:
    r"""Reward 1 for a completion that a regular expression matches as a whole.

    Parameters
    ----------
    pattern : str
        By default the completion must end with `\boxed{…}`, `<answer>…</answer>` or `Answer: …`.

    Raises
    ------
    ValueError
        If the pattern is no regular expression.
    """

    def __init__(self, pattern: str = _STATES_ANSWER) -> None:
        try:
            self.pattern = re.compile(pattern, re.DOTALL)
        except (re.error, TypeError) as error:
            raise ValueError(f"format: {pattern!r} is not a regular expression: {error}") from None

    def __call__(self, answers: Sequence[Any], completions: Sequence[str]) -> list[Verification]:
        """Return one verification for each completion."""
        return [
            Verification(float(self.pattern.fullmatch(text) is not None)) for text in completions
        ]


class Weighted:
    """Weighted sum of rewards; the first one's verifier decides which answers are valid.

    Parameters
    ----------
    verifiers : mapping of str to (weight, Verifier)
    """

    def __init__(self, verifiers: Mapping[str, tuple[float, Verifier]]) -> None:
        self.verifiers = dict(verifiers)

    def check_answer(self, answer: Any) -> None:
        """Raise a ValueError for an answer that the first verifier does not take."""
        _, first = next(iter(self.verifiers.values()))
        check = getattr(first, "check_answer", None)
        if check is not None:
            check(answer)

    def __call__(self, answers: Sequence[Any], completions: Sequence[str]) -> list[Verification]:
        """Return one verification for each completion, with the rewards before weighting."""
        columns = [verify(answers, completions) for _, verify in self.verifiers.values()]
        weights = [weight for weight, _ in self.verifiers.values()]
        return [
            Verification(
                sum(w * v.reward for w, v in zip(weights, row, strict=True)),
                next(filter(None, (v.failure for v in row)), ""),
                tuple((n, float(v.reward)) for n, v in zip(self.verifiers, row, strict=True)),
            )
            for row in zip(*columns, strict=True)
        ]
