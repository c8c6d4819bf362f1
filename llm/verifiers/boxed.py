r"""Extract the contents of `\boxed{…}` from a text."""

from __future__ import annotations

import re
from collections.abc import Iterator

BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is an ordinary character


def has_box(text: str) -> bool:
    """Whether a text has a box, even one that is never closed."""
    return BOX.search(text) is not None


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed{…}` or `\fbox{…}`, braces balanced.

    If the last box is never closed, as in a truncated text, the result is None: an earlier box may
    have been withdrawn. Of nested boxes, the inner one counts.
    """
    return next(boxes(text), None)


def boxes(text: str, box: re.Pattern[str] = BOX) -> Iterator[str | None]:
    """Yield the contents of the boxes, last to first; None for a box that is never closed.

    Parameters
    ----------
    text : str
    box : re.Pattern
        Pattern of the beginning of a box, including its opening brace.
    """
    limit = len(text)
    for begin in reversed(list(box.finditer(text))):
        content = closed(text, begin.end(), limit)
        yield content
        if content is None:  # an enclosing box can then only be closed before this one
            limit = begin.start()


def closed(text: str, start: int, limit: int | None = None) -> str | None:
    """Text from `start` to its closing brace; None if there is no such brace before `limit`."""
    depth = 1
    for brace in _BRACE.finditer(text, start, len(text) if limit is None else limit):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[start : brace.start()].strip()
    return None
