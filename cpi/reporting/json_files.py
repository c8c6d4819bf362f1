"""Results of commands as JSON files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def check_writable(path: Path) -> None:
    """Raise OSError if `path` cannot be written; called before the work starts."""
    if path.is_dir():
        raise IsADirectoryError(f"--json: {path} is a folder; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f"--json: {path} cannot be written")


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Atomic write: a reader never sees a partial file."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    part.replace(path)
