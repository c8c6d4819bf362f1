"""The base class of errors that commands report in one line."""

from __future__ import annotations

from typing import ClassVar


class ReportedError(RuntimeError):
    """Something went wrong outside the program; the message says what, and what to do.

    Attributes
    ----------
    exit_code : int
        Of a command that ends with it.
    """

    exit_code: ClassVar[int] = 2
