"""Atomic writes; errors name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, text: str, errors: str = "strict") -> None:
    """Write a text file atomically; `errors` is passed on to `open`."""
    part = path.with_name(path.name + ".part")
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8", errors=errors, newline="\n")
        part.replace(path)


def append(path: Path, text: str) -> None:
    """Append to a text file; not atomic."""
    with _named(path), path.open("a", encoding="utf-8") as file:
        file.write(text)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Add the file name to an OSError; failed writes, unlike failed opens, lack it."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
