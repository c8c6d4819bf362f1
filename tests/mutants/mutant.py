"""What a planted fault is."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """Replace `old`, which stands once in `file`, by `new`.

    `tests` are run first, where they are not the file that mirrors the mutant's.
    """

    file: str
    fault: str
    old: str
    new: str
    tests: tuple[str, ...] = ()

    @property
    def room(self) -> str:
        """The folder at the top."""
        return self.file.partition("/")[0]
