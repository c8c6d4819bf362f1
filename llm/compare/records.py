"""Records of runs: JSON files during a comparison, one packed file per regime afterwards.

A packed file is gzip-compressed JSON Lines. The first line holds the entries that all records
share. Each further line holds the name and the remaining entries of a record. Equal records give
equal bytes.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Record = dict[str, Any]

#: Suffix of packed files.
PACKED = ".jsonl.gz"

#: Settings that every record must have.
SETTINGS = ("model", "task_args", "token_budget", "prompts_per_step", "seed")


def read_records_of(place: Path) -> dict[str, Record]:
    """Read the records of a folder, or of the packed file with its name.

    Parameters
    ----------
    place : Path
        For results/compare/short: that folder with its subfolders, else short.jsonl.gz beside it.

    Returns
    -------
    dict of name to record
        Sorted by name; a name is a path within `place` without its suffix.

    Raises
    ------
    ValueError
        If a record is damaged; names it and the cure.
    """
    file = place.with_name(place.name + PACKED)
    if not place.is_dir() and file.is_file():
        return unpack(file)
    paths = {
        path.relative_to(place).with_suffix("").as_posix(): path
        for path in place.rglob("*.json")
        if re.search(r"-s\d+$", path.stem)  # ends with the seed
    }
    return {name: read_record(paths[name]) for name in sorted(paths)}


def read_record(path: Path) -> Record:
    """Read the record of a run from its JSON file.

    Raises
    ------
    ValueError
        If the file holds no record; names the file.
    """
    try:
        record = dict(json.loads(path.read_text(encoding="utf-8")))
        _check(record)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            f"output: {path} is no record of a run; remove it, and it is made again"
        ) from None
    return record


def pack(records: Mapping[str, Record], file: Path) -> None:
    """Write records into a packed file."""
    ordered = [records[name] for name in sorted(records)]
    shared = _shared(ordered)
    lines: list[dict[str, Any]] = [{"shared": shared}]
    lines += [
        {"name": name, "record": _without(record, shared)}
        for name, record in zip(sorted(records), ordered, strict=True)
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def unpack(file: Path) -> dict[str, Record]:
    """Read the records of a packed file, by name.

    Raises
    ------
    ValueError
        If the file is damaged; names it.
    """
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            shared = json.loads(next(lines))["shared"]
            packed = [json.loads(line) for line in lines]
        records = {line["name"]: _joined(shared, line["record"]) for line in packed}
        for record in records.values():
            _check(record)
    except (
        OSError,
        EOFError,
        zlib.error,
        ValueError,
        LookupError,
        TypeError,
        StopIteration,
    ) as error:
        raise ValueError(
            f"{file}: a damaged file of records ({type(error).__name__}); restore it, or pack the "
            "runs again"
        ) from error
    return records


def _check(record: Record) -> None:
    """Raise any exception if this is not a record."""
    if not set(SETTINGS) <= record["config"].keys():
        raise ValueError("settings are missing")
    if not len(record["curve"]["tokens"]) == len(record["curve"]["success"]) > 0:
        raise ValueError("the curve has no readings")


def _shared(values: Iterable[Any]) -> dict[str, Any]:
    """Entries, at any depth of dictionaries, that are equal in all of the values."""
    first, *others = values
    shared = {}
    for key, value in first.items():
        if not all(key in other for other in others):
            continue
        if all(isinstance(each, dict) for each in (value, *(other[key] for other in others))):
            shared[key] = _shared([value, *(other[key] for other in others)])
        elif all(other[key] == value and type(other[key]) is type(value) for other in others):
            shared[key] = value
    return shared


def _without(record: Mapping[str, Any], shared: Mapping[str, Any]) -> Record:
    """A record without its shared entries."""
    rest = {}
    for key, value in record.items():
        if key not in shared:
            rest[key] = value
        elif isinstance(value, dict) and (remaining := _without(value, shared[key])):
            rest[key] = remaining
    return rest


def _joined(shared: Mapping[str, Any], rest: Mapping[str, Any]) -> Record:
    """A record from the shared and the remaining entries."""
    joined: Record = {
        key: _joined(value, rest.get(key, {})) if isinstance(value, dict) else value
        for key, value in shared.items()
    }
    return joined | {key: value for key, value in rest.items() if key not in shared}
