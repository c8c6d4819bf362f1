"""Errors that commands report in one line."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import ClassVar


class ReportedError(RuntimeError):
    """A failure outside the program; the message gives the cause and the cure.

    Attributes
    ----------
    exit_code : int
        Exit code of a command that ends with this error.
    """

    exit_code: ClassVar[int] = 2


def message_of(error: Exception | str) -> str:
    """Message of an error in one line; a disk without inodes is not said to lack space."""
    message = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename:
        return f"{message}; {NO_INODES}" if out_of_inodes(Path(error.filename)) else message
    return message


#: Cause and cure where a file system takes no more files, however many bytes are free.
NO_INODES = "its file system has no inode left for another file; delete files, whatever their size"


def out_of_inodes(path: Path) -> bool:
    """Whether the file system of a path has no inode left."""
    try:
        system = os.statvfs(next(p for p in (path, *path.absolute().parents) if p.exists()))
    except OSError:
        return False
    return system.f_files > 0 and system.f_favail == 0
