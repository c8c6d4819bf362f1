"""Finds the delimiters of thoughts, except inside code fences.

A fence is a line of three or more backticks or tildes, as in Markdown and in the code verifier. An
opening fence may name a language; a closing fence stands alone and is at least as long. Inside a
fence, a delimiter is part of the code. Outside, a delimiter also ends a line, so a fence may stand
directly before or after it.

Boundaries depend only on the preceding text, so later tokens never move a boundary.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})(.*)", re.DOTALL)


def delimiters(text: str, delimiter: str) -> Iterator[tuple[int, bool]]:
    """Yield the start of each delimiter, and whether it is inside a fence."""
    opened, line, at = "", "", 0  # the marks of the open fence, and the line so far
    for mark in re.finditer(f"({re.escape(delimiter)})|\n", text):
        line, at = line + text[at : mark.start()], mark.end()
        after = _after(line, opened)
        if mark[1]:
            yield mark.start(), bool(after)
            if after and "\n" not in delimiter:
                continue  # the line of code continues after it
        opened, line = after, ""


def _after(line: str, opened: str) -> str:
    """Marks of the fence that is open after a line; "" if none is open."""
    fence = _FENCE.match(line)
    if fence is None:
        return opened
    marks, rest = fence.groups()
    if not opened:
        return "" if marks[0] in rest else marks  # ```code``` within a line is no fence
    return "" if marks.startswith(opened) and not rest.strip() else opened


def end_of_thought(text: str, delimiter: str, begin: int = 0) -> int | None:
    """Return the end of the first delimiter outside fences that starts at `begin` or later.

    Parameters
    ----------
    text : str
        Text from the start of a thought, or of the token that contains this start.
    delimiter : str
    begin : int
        Minimum start of the delimiter in `text`.
    """
    for start, fenced in delimiters(text, delimiter):
        if not fenced and start >= begin:
            return start + len(delimiter)
    return None


def without_delimiters(text: str, delimiter: str) -> str:
    """Return the text for a verifier: delimiters become line ends, or "" inside fences.

    Delimiters without letters and digits, such as empty lines, stay: any text may contain them.
    """
    if not any(map(str.isalnum, delimiter)):
        return text
    parts, at = [], 0
    for start, fenced in delimiters(text, delimiter):
        parts += [text[at:start], "\n" if not fenced or "\n" in delimiter else ""]
        at = start + len(delimiter)
    return "".join([*parts, text[at:]])


def after_thinking(text: str) -> str:
    """Return what follows `<think>…</think>`, for a verifier; "" if the thinking has no end."""
    _, closed, answer = text.rpartition("</think>")
    return answer if closed or "<think>" not in text else ""
