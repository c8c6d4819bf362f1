"""Extract the program of a completion: its last fenced block of Python."""

from __future__ import annotations

import re
import textwrap

# All quantifiers are possessive, so that completions are scanned in linear time.
_MARKS = r"^[ \t]*+(?P<fence>`{3,}+|~{3,}+)[ \t]*+"
_OPENING = re.compile(rf"(?m){_MARKS}(?P<language>[\w+#.-]*+)[^\n`]*+$")
_CLOSING = re.compile(rf"(?m){_MARKS}$")
# Tokens of Python: the beginning of a triple-quoted string, other strings, comments.
_PYTHON = re.compile(
    rf"(?m:{_MARKS}$)|(?P<quotes>\"{{3}}|'{{3}})"
    r"|\"(?:\\.|[^\"\\\n])*+\"?|'(?:\\.|[^'\\\n])*+'?|#[^\n]*+"
)
_QUOTES = {quotes: re.compile(rf"(?s)\\.|(?P<end>{quotes})") for quotes in ('"""', "'''")}


def program(completion: str) -> str | None:
    r"""Return the last fenced block of Python in a text; None if there is none.

    Blocks without a language count if no block is marked python, py or python3. A fence within a
    triple-quoted string does not end a block. A block without a closing fence extends to the end
    of the text.
    """
    completion = completion.replace("\r\n", "\n")
    blocks: dict[bool, str] = {}  # last block by whether it is marked as Python
    unclosed = set[str]()
    opening = _OPENING.search(completion)
    while opening is not None:
        language = opening["language"].lower()
        start = opening.end() + 1
        python = language in ("python", "py", "python3")
        end = _end(completion, start, opening["fence"], python or not language, unclosed)
        if python or not language:
            text = completion[start : end.start() if end else len(completion)]
            blocks[python] = textwrap.dedent(text)
        opening = _OPENING.search(completion, end.end()) if end else None
    return blocks.get(True, blocks.get(False))


def _end(
    text: str, start: int, marks: str, python: bool, unclosed: set[str]
) -> re.Match[str] | None:
    """Fence that ends a block.

    Quotes in `unclosed` have no end in the text, so they do not begin a string.
    """
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
