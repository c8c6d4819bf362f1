"""Base class of errors that commands report in one line."""

from __future__ import annotations

from typing import ClassVar


class ReportedError(RuntimeError):
    """A failure outside the program; the message gives the cause and the cure.

    Attributes
    ----------
    exit_code : int
        Exit code of a command that ends with this error.
    """

    exit_code: ClassVar[int] = 2
