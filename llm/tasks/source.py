"""Loads rows of data sets from the Hugging Face hub or from local files, with `datasets`."""

from __future__ import annotations

import contextlib
import csv
import glob
import gzip
import io
import itertools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from llm.tasks.declaration import Declaration

#: Loaders of `datasets`, by the suffix of a local file.
FORMATS = {"jsonl": "json", "ndjson": "json", "json": "json", "csv": "csv", "parquet": "parquet"}

#: Digits that may belong to an integer of more than 53 bits.
_LONG = re.compile(rb"\d{16}")


class Source(NamedTuple):
    """A table of rows.

    Attributes
    ----------
    name : str
        Name in messages: the file, or the data set with configuration and split.
    label : str
        Short name, the prefix of problem names.
    rows : datasets.Dataset
    """

    name: str
    label: str
    rows: Any

    def place(self, row: int) -> str:
        """Name of a row in messages, counted from 1."""
        return f"{self.name}, row {row + 1}"


def load(task: Declaration, split: str) -> list[Source]:
    """Load the tables of a split, "train" or "test"; without named splits, of the only split.

    Raises
    ------
    ValueError
        If a table cannot be loaded; the message is one line.
    """
    if task.path is not None:
        paths = task.path[split] if isinstance(task.path, dict) else task.path
        return [_local(path) for each in _many(paths) for path in _paths(each)]
    name = task.split[split] if isinstance(task.split, dict) else task.split
    if task.files:
        return [_file_of_hub(task, file) for file in _many(task.files)]
    configs = _many(task.config) if task.config else [None]
    return [_from_hub(task, config, name) for config in configs]


def check_files(task: Declaration) -> None:
    """Check that local files exist and have a known format, without reading them.

    Raises
    ------
    ValueError
        Names the file.
    """
    splits = task.path.values() if isinstance(task.path, dict) else [task.path or []]
    for paths in splits:
        for each in _many(paths):
            for path in _paths(each):
                _kind(path)


def _many(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _paths(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    matches = [path] if path.is_file() else [Path(each) for each in sorted(glob.glob(str(path)))]
    files = [each for each in matches if each.is_file()]
    if not files:
        raise ValueError(
            f"task_args.path: {pattern} is not a file; name one, or several as *.jsonl"
        )
    return files


def _kind(path: Path) -> str:
    ending = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if ending not in FORMATS:
        raise ValueError(f"task: {path} does not end in one of .{', .'.join(FORMATS)}")
    return FORMATS[ending]


def _local(path: Path, name: str = "") -> Source:
    """Load the rows of a file."""
    kind = _kind(path)
    with _quiet():
        from datasets import load_dataset

        try:
            options = _as_text(path) if kind == "csv" else {}
            # Wildcards in the name of an existing file are literal.
            file = glob.escape(str(path.resolve()))
            rows = load_dataset(kind, data_files=file, split="train", **options)
        except Exception as error:
            if "corresponds to no data" in str(error) or _is_empty(path):
                raise ValueError(f"task: {name or path} has no rows") from error
            place = (kind == "json" and _bad_line(path)) or f": {_cause(error)}"
            raise ValueError(f"task: {name or path} cannot be read as {kind}{place}") from error
    if kind == "json":
        _check_integers(path, name, rows)
    return Source(name or str(path), path.name.partition(".")[0], rows)


def _as_text(path: Path) -> dict[str, Any]:
    """Options that keep CSV cells as text: pandas would read 007 as 7, and None as missing."""
    from datasets import Features, Value

    with io.TextIOWrapper(_opened(path), "utf-8-sig", newline="") as file:
        names = next(csv.reader(file), [])
    features = Features({name: Value("string") for name in names})
    return {"features": features, "keep_default_na": False, "encoding": "utf-8-sig"}


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _check_integers(path: Path, name: str, rows: Any) -> None:
    """Raise a ValueError for integers that the JSON loader has changed.

    Arrow converts a column to floating point if one integer has more than 64 bits. The loader of
    JSON lists changes some integers to others.
    """
    for row, exact in _long_numbers(path, str(rows.data.schema)):
        try:
            changed = _changed(exact, rows[row])
        except (ValueError, IndexError):  # text that cannot be decoded, or a row of several lines
            continue
        if changed is not None:
            raise ValueError(
                f"task: {name or path}, row {row + 1}: {changed} has more digits than a number of "
                f'its column keeps; write the numbers of that field as text, "{changed}"'
            )


def _long_numbers(path: Path, schema: str) -> Iterator[tuple[int, Any]]:
    """Yield rows that may hold such integers, as parsed by Python."""
    with _opened(path) as file:
        lines = filter(bytes.strip, file)
        first = next(lines, b"")
        if first.lstrip().startswith(b"["):
            content = b"".join([first, *lines])
            if _LONG.search(content):
                with contextlib.suppress(ValueError):
                    yield from enumerate(json.loads(content))
        elif "double" in schema:
            for row, line in enumerate(itertools.chain([first], lines)):
                if _LONG.search(line):
                    with contextlib.suppress(ValueError):
                        yield row, json.loads(line)


def _changed(exact: Any, read: Any) -> int | None:
    """Return an integer that was changed, or rounded to floating point; None if there is none."""
    if isinstance(exact, dict) and isinstance(read, dict):
        pairs = [(value, read.get(key)) for key, value in exact.items()]
    elif isinstance(exact, list) and isinstance(read, list):
        pairs = list(zip(exact, read, strict=False))
    elif isinstance(exact, int) and isinstance(read, int | float):
        rounded = isinstance(read, float) and abs(exact) > 2**53
        return exact if rounded or read != exact else None
    else:
        return None
    return next((number for pair in pairs if (number := _changed(*pair)) is not None), None)


def _is_empty(path: Path) -> bool:
    try:
        with _opened(path) as file:
            return not file.read(1)
    except (OSError, EOFError):
        return False


def _bad_line(path: Path) -> str:
    """Locate a syntax error in a JSON file; "" if there is none."""
    with _opened(path) as file:
        try:
            lines = file.readlines()
        except (OSError, EOFError) as error:  # a damaged archive
            return f": {error}"
    try:
        content = json.loads(b"".join(lines))
        return "" if isinstance(content, list) else ": it holds no list of objects"
    except ValueError as error:
        if lines and lines[0].lstrip().startswith(b"["):
            return f": {error}"
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            return f", row {number}: {error}"
        if not isinstance(row, dict):
            return f", row {number}: {line[:40].decode(errors='replace')!r} is not an object"
    return ""


def _file_of_hub(task: Declaration, file: str) -> Source:
    """Load a file of a data set's repository, for data sets that need a loading script."""
    from huggingface_hub import hf_hub_download

    with _hub(f"{task.data}/{file}"):
        path = hf_hub_download(task.data, file, repo_type="dataset", revision=task.revision)
    return _local(Path(path), f"{task.data}/{file}")


def _from_hub(task: Declaration, config: str | None, split: str) -> Source:
    name = f"{task.data} ({', '.join(filter(None, (config, split)))})"
    with _hub(name):
        from datasets import load_dataset

        rows = load_dataset(task.data, config, split=split, revision=task.revision)
    return Source(name, config if isinstance(task.config, list) and config else split, rows)


@contextlib.contextmanager
def _hub(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"task: {name} cannot be loaded from the Hugging Face hub ({_cause(error)}); set "
            "HF_HUB_OFFLINE=1 if it has been downloaded before, or name local files with "
            "--task_args.path"
        ) from error


def _cause(error: BaseException) -> str:
    """Describe the root cause of an error in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line[:200]}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the logs of loaders, and progress bars if standard error is no terminal."""
    import datasets
    from datasets.utils import logging

    level, bars = logging.get_verbosity(), datasets.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    if not sys.stderr.isatty():
        datasets.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bar()
