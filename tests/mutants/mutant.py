"""The description of a planted fault."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """A fault: replace the only occurrence of `old` in `file` by `new`.

    `tests` run first; by default, the test file that mirrors `file`.
    """

    file: str
    fault: str
    old: str
    new: str
    tests: tuple[str, ...] = ()

    @property
    def room(self) -> str:
        """The top-level folder of the file."""
        return self.file.partition("/")[0]
