"""Files of a run, written so that a full disk leaves no half of one and is said by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, text: str, errors: str = "strict") -> None:
    """Write a text file, all of it or nothing; `errors` is what `open` takes."""
    part = path.with_name(path.name + ".part")
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8", errors=errors, newline="\n")
        part.replace(path)


def append(path: Path, text: str) -> None:
    """Write at the end of a text file."""
    with _named(path), path.open("a", encoding="utf-8") as file:
        file.write(text)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of writing, unlike those of opening, do not say what was written."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
