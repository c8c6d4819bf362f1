"""Results of commands as JSON files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def check_writable(path: Path, option: str = "--json") -> None:
    """Raise OSError if `path` cannot be written; called before the work starts."""
    if path.is_dir():
        raise IsADirectoryError(f"{option}: {path} is a folder; name a file")
    places = [path]
    if not _is_stream(path):
        file = Path(os.path.realpath(path))
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise NotADirectoryError(f"{option}: {path.parent} is a file; name a folder") from None
        places = [file, file.parent] if file.exists() else [file.parent]
    if not all(os.access(place, os.W_OK) for place in places):
        raise PermissionError(f"{option}: {path} cannot be written")


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write UTF-8. A file is replaced atomically: a reader never sees a part of it.

    Raises
    ------
    OSError
        If that fails; the message names the file.
    """
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # Half of a surrogate pair, as in names of files that are no UTF-8, becomes JSON's escape.
    data = text.encode("utf-8", errors="backslashreplace")
    try:
        if _is_stream(path):
            path.write_bytes(data)
            return
        file = Path(os.path.realpath(path))
        part = file.with_name(file.name + ".part")
        part.write_bytes(data)
        part.replace(file)
    except OSError as error:
        error.filename = error.filename or str(path)  # unknown where a write fails: a full disk
        raise


def _is_stream(path: Path) -> bool:
    """Whether `path` is a pipe or a device, which a file must not replace."""
    return path.exists() and not path.is_file()
