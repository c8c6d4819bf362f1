"""Delimiters of thoughts, and the code fences that take them in.

A fence is a line of three or more backticks or tildes, as in Markdown, and as the code verifier
reads programs: what opens it may name a language, what closes it stands alone and is as long. Where
one is open a delimiter is part of the code; elsewhere it also ends a line, so that a fence may
follow it or stand before it. All depends on the text before alone: what is generated later moves no
boundary.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})(.*)", re.DOTALL)


def delimiters(text: str, delimiter: str) -> Iterator[tuple[int, bool]]:
    """Where delimiters begin, and whether a fence is open there."""
    opened, line, at = "", "", 0  # the marks of the open fence, and the line so far
    for mark in re.finditer(f"({re.escape(delimiter)})|\n", text):
        line, at = line + text[at : mark.start()], mark.end()
        after = _after(line, opened)
        if mark[1]:
            yield mark.start(), bool(after)
            if after and "\n" not in delimiter:
                continue  # the line of code goes on behind it
        opened, line = after, ""


def _after(line: str, opened: str) -> str:
    """The marks of the open fence after a line."""
    found = _FENCE.match(line)
    if found is None:
        return opened
    marks, rest = found.groups()
    if not opened:
        return "" if marks[0] in rest else marks  # ```so``` is within a line
    return "" if marks.startswith(opened) and not rest.strip() else opened


def end_of_thought(text: str, delimiter: str, begin: int = 0) -> int | None:
    """Where the first delimiter ends that is in no fence and begins at `begin` or later.

    Parameters
    ----------
    text : str
        From the begin of a thought, or of what stood before it in the same token.
    delimiter : str
    begin : int
    """
    for start, fenced in delimiters(text, delimiter):
        if not fenced and start >= begin:
            return start + len(delimiter)
    return None


def without_delimiters(text: str, delimiter: str) -> str:
    """The text a verifier reads: delimiters are ends of lines, and nothing where they are in code.

    Those without a letter or digit, such as empty lines, stay: they are part of any text.
    """
    if not any(map(str.isalnum, delimiter)):
        return text
    parts, at = [], 0
    for start, fenced in delimiters(text, delimiter):
        parts += [text[at:start], "\n" if not fenced or "\n" in delimiter else ""]
        at = start + len(delimiter)
    return "".join([*parts, text[at:]])
