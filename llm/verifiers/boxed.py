r"""The last `\boxed{…}` of a text."""

from __future__ import annotations

import re

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
    start = -1
    for found in _BOX.finditer(text):
        start = found.end()
    if start < 0:
        return None
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[start : brace.start()].strip()
    return None
