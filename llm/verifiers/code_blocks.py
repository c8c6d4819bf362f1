"""The program in a completion: its last fenced block of Python."""

from __future__ import annotations

import re
import textwrap

# Possessive throughout: what a model wrote is read in time that grows with its length alone.
_MARKS = r"^[ \t]*+(?P<fence>`{3,}+|~{3,}+)[ \t]*+"
_OPENING = re.compile(rf"(?m){_MARKS}(?P<language>[\w+#.-]*+)[^\n`]*+$")
_CLOSING = re.compile(rf"(?m){_MARKS}$")
# Of Python's text: where a string of three quotes begins, other strings, comments.
_PYTHON = re.compile(
    rf"(?m:{_MARKS}$)|(?P<quotes>\"{{3}}|'{{3}})"
    r"|\"(?:\\.|[^\"\\\n])*+\"?|'(?:\\.|[^'\\\n])*+'?|#[^\n]*+"
)
_QUOTES = {quotes: re.compile(rf"(?s)\\.|(?P<end>{quotes})") for quotes in ('"""', "'''")}


def program(completion: str) -> str | None:
    r"""The last fenced block of Python in a text.

    Blocks that name no language count where no block is marked python, py or python3. A line like a
    fence within a string of three quotes does not end a block; a block that nothing ends goes to
    the end of the text, as does one whose only fence stands in such a string.
    """
    completion = completion.replace("\r\n", "\n")
    found: dict[bool, str] = {}  # by whether it says Python
    unclosed = set[str]()
    opening = _OPENING.search(completion)
    while opening is not None:
        language = opening["language"].lower()
        start = opening.end() + 1
        python = language in ("python", "py", "python3")
        end = _end(completion, start, opening["fence"], python or not language, unclosed)
        if python or not language:
            text = completion[start : end.start() if end else len(completion)]
            found[python] = textwrap.dedent(text)
        opening = _OPENING.search(completion, end.end()) if end else None
    return found.get(True, found.get(False))


def _end(
    text: str, start: int, marks: str, python: bool, unclosed: set[str]
) -> re.Match[str] | None:
    """The fence that ends a block; strings of `unclosed` quotes are none, as nothing ends them."""
    pattern, at = _PYTHON if python else _CLOSING, start
    while (token := pattern.search(text, at)) is not None:
        at = token.end()
        groups = token.groupdict()
        if groups["fence"] and groups["fence"].startswith(marks):
            return token
        quotes = groups.get("quotes")
        if quotes and quotes not in unclosed:
            ends = (m.end() for m in _QUOTES[quotes].finditer(text, at) if m["end"])
            closed = next(ends, None)
            if closed is None:
                unclosed.add(quotes)
            at = closed or at
    return None
