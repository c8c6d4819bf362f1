"""What a figure's data are computed from besides its settings: other records, and runs."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

from llm.compare.records import PACKED

#: Packed records in results/ → the command that makes them, if it is not `llm.compare`.
RUNS = {"clip": "python -m paper_figures.clip_runs"}


def made_by(name: str) -> str:
    """The command that makes an input."""
    if name.endswith(PACKED):
        return RUNS.get(name.removesuffix(PACKED), "python -m llm.compare")
    return f"python -m paper_figures {Path(name).stem} --recompute"


def digest(path: Path) -> str:
    """What an input is, in 16 hexadecimal digits; "" if it is not there.

    Of a record only its data count: made again with the same outcome, it changes nothing.
    """
    found = hashlib.sha256()
    if not path.is_file():
        return ""
    if path.name.endswith(PACKED):
        found.update(gzip.decompress(path.read_bytes()))  # another zlib may pack otherwise
    else:
        found.update(_data(path.read_bytes()))
    return found.hexdigest()[:16]


def _data(record: bytes) -> bytes:
    try:
        return json.dumps(json.loads(record)["data"], sort_keys=True).encode()
    except (ValueError, LookupError, TypeError):
        return record  # a broken one differs from any that is whole
