r"""The boxes `\boxed{…}` of a text."""

from __future__ import annotations

import re
from collections.abc import Iterator

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is a character like any other


def has_box(text: str) -> bool:
    """Whether a box begins in a text, ended or not."""
    return _BOX.search(text) is not None


def last_boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{…}` or `\fbox{…}`, braces balanced.

    The last box decides even if it is never closed, as in a text that was cut off: then there is
    no answer, rather than one that was taken back. Of a box within a box the inner one counts.
    """
    return next(boxes(text), None)


def boxes(text: str, box: re.Pattern[str] = _BOX) -> Iterator[str | None]:
    """The contents of the boxes, from the last to the first; None for one that is never closed.

    Parameters
    ----------
    text : str
    box : re.Pattern
        What begins a box, its brace included.
    """
    limit = len(text)
    for begin in reversed(list(box.finditer(text))):
        content = _closed(text, begin.end(), limit)
        yield content
        if content is None:  # then what holds it can only end before it
            limit = begin.start()


def _closed(text: str, start: int, limit: int) -> str | None:
    """The text from `start` to the brace that closes it; None if that is not before `limit`."""
    depth = 1
    for brace in _BRACE.finditer(text, start, limit):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[start : brace.start()].strip()
    return None
