"""What a figure's data are computed from besides its settings: other records, and runs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

#: Folder of runs in results/ → the command that makes them.
RUNS = {"compare": "python -m llm.compare", "clip": "python -m paper_figures.clip_runs"}


def made_by(name: str) -> str:
    """The command that makes an input."""
    return RUNS.get(name) or f"python -m paper_figures {Path(name).stem} --recompute"


def digest(path: Path) -> str:
    """What an input is, in 16 hexadecimal digits; "" if it is not there.

    Of a record only its data count: made again with the same outcome, it changes nothing.
    """
    found = hashlib.sha256()
    if path.is_dir():
        for file in sorted(path.rglob("*.json")):
            found.update(file.relative_to(path).as_posix().encode() + b"\0" + file.read_bytes())
    elif path.is_file():
        found.update(_data(path.read_bytes()))
    else:
        return ""
    return found.hexdigest()[:16]


def _data(record: bytes) -> bytes:
    try:
        return json.dumps(json.loads(record)["data"], sort_keys=True).encode()
    except (ValueError, LookupError, TypeError):
        return record  # a broken one differs from any that is whole
