"""Input files of a figure: records of other figures, and packed runs."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import zlib
from pathlib import Path

from llm.compare.records import PACKED

#: Packed runs in results/ → the command that makes them, if not `llm.compare`.
RUNS = {"clip": "python -m paper_figures.clip_runs"}


def made_by(name: str) -> str:
    """The command that makes an input."""
    if name.endswith(PACKED):
        command = RUNS.get(name.removesuffix(PACKED), "python -m llm.compare")
        return f"{command}, then python -m paper_figures pack"
    return f"python -m paper_figures {Path(name).stem} --recompute"


def digest(path: Path) -> str:
    """Digest of an input file, 16 hexadecimal digits; "" if the file is missing.

    Only the data of a record count, so recomputing equal data does not change the digest.
    """
    sha256 = hashlib.sha256()
    if not path.is_file():
        return ""
    if path.name.endswith(PACKED):
        content = path.read_bytes()
        with contextlib.suppress(OSError, EOFError, zlib.error):  # damaged: digest the raw bytes
            content = gzip.decompress(content)  # zlib versions compress differently
        sha256.update(content)
    else:
        sha256.update(_data(path.read_bytes()))
    return sha256.hexdigest()[:16]


def _data(record: bytes) -> bytes:
    try:
        return json.dumps(json.loads(record)["data"], sort_keys=True).encode()
    except (ValueError, LookupError, TypeError):
        return record  # not a record: digest the raw bytes
