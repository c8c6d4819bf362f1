"""Loads rows of data sets from the Hugging Face hub or from local files."""

from __future__ import annotations

import contextlib
import glob
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from llm.tasks.declaration import Declaration
from llm.tasks.rows import ArrowRows, Rows, read_text_rows

#: Formats of local files, by suffix, and what separates their cells.
FORMATS = {
    **dict.fromkeys(("jsonl", "ndjson", "json"), "json"),
    **dict.fromkeys(("csv", "tsv"), "csv"),
    "parquet": "parquet",
}
CELL_DELIMITERS = {"csv": ",", "tsv": "\t"}


class Source(NamedTuple):
    """A table of rows.

    Attributes
    ----------
    name : str
        Name in messages: the file, or the data set with configuration and split.
    label : str
        Short name, the prefix of problem names.
    rows : Rows
    """

    name: str
    label: str
    rows: Rows

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
                _suffix(path)


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


def _suffix(path: Path) -> str:
    suffix = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if suffix not in FORMATS:
        raise ValueError(f"task: {path} does not end in one of .{', .'.join(FORMATS)}")
    return suffix


def _local(path: Path, name: str = "") -> Source:
    """Load the rows of a file."""
    suffix = _suffix(path)
    try:
        if suffix == "parquet":
            rows = _parquet(path)
        else:
            rows = read_text_rows(path, CELL_DELIMITERS.get(suffix))
    except Exception as error:
        if "corresponds to no data" in str(error):  # of a Parquet file
            raise ValueError(f"task: {name or path} has no rows") from None
        about_text = suffix != "parquet" and isinstance(error, ValueError)
        cause = str(error) if about_text else _cause(error)
        place = ", " if cause.startswith("row ") else ": "
        raise ValueError(
            f"task: {name or path} cannot be read as {FORMATS[suffix]}{place}{cause}"
        ) from None  # a dry run takes an OSError for a source that cannot be reached
    if not len(rows):
        raise ValueError(f"task: {name or path} has no rows")
    return Source(name or str(path), path.name.partition(".")[0], rows)


def _parquet(path: Path) -> Rows:
    with _quiet():
        from datasets import load_dataset

        # Wildcards in the name of an existing file are literal.
        file = glob.escape(str(path.resolve()))
        return ArrowRows(load_dataset("parquet", data_files=file, split="train"))


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
    label = config if isinstance(task.config, list) and config else split
    return Source(name, label, ArrowRows(rows))


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
