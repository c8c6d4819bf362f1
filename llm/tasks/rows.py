"""Rows of data sets: text files as they are written, Parquet files and the hub through Arrow.

`datasets` would infer one type for each column of a text file: "007" becomes 7, and a date becomes
a datetime.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import shutil
import sys
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

Row = Mapping[str, Any]

#: A JSON escape of half a character.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class RowError(ValueError):
    """Error of a row that cannot be used; its message gives the reason."""


class Rows:
    """A table of rows.

    Parameters
    ----------
    number : int
    read : function of int
        Returns a row, or raises a RowError.
    column_names : list of str
    """

    def __init__(self, number: int, read: Callable[[int], Row], column_names: list[str]) -> None:
        self._number, self._read, self.column_names = number, read, column_names

    def __len__(self) -> int:
        return self._number

    def __getitem__(self, row: int) -> Row:
        return self._read(row)

    def columns(self, names: Sequence[str]) -> Iterator[Row | None]:
        """Yield all rows, with at least the named columns; None for one that cannot be read."""
        for row in range(len(self)):
            try:
                yield self[row]
            except RowError:
                yield None


class ArrowRows(Rows):
    """Rows of a `datasets.Dataset`."""

    def __init__(self, dataset: Any) -> None:
        super().__init__(len(dataset), dataset.__getitem__, dataset.column_names)
        self._table = dataset.data

    def __getitem__(self, row: int) -> Row:
        try:
            return super().__getitem__(row)
        except UnicodeDecodeError as error:
            raise RowError(_not_utf8(error)) from None

    def columns(self, names: Sequence[str]) -> Iterator[Row | None]:
        """See `Rows.columns`. Other columns, which may be large, are not read."""
        for values in zip(*map(self._table.column, names), strict=True):
            try:
                yield {name: value.as_py() for name, value in zip(names, values, strict=True)}
            except UnicodeDecodeError:
                yield None


def read_text_rows(path: Path, cell_delimiter: str | None = None) -> Rows:
    """Read a text file in UTF-8, which may be compressed by gzip.

    Parameters
    ----------
    path : Path
        JSON lines, a JSON list of objects, or a table of cells below a header.
    cell_delimiter : str, optional
        What separates the cells of a table, which are all text.

    Raises
    ------
    OSError, EOFError, zlib.error
        If the file cannot be read.
    ValueError
        If it has another form or encoding; the message begins with the row, if one is to blame.
    """
    with path.open("rb") as stored, tempfile.TemporaryFile() as unpacked:
        file: IO[bytes] = stored
        if path.suffix == ".gz":
            with gzip.open(stored) as content:
                shutil.copyfileobj(content, unpacked)
            file = unpacked
        _skip_mark(file)
        return _json(file) if cell_delimiter is None else _table(file, cell_delimiter)


def _skip_mark(file: IO[bytes]) -> None:
    """Move to the first character; refuse other encodings than UTF-8."""
    file.seek(0)
    head = file.read(4000)
    encoding = json.detect_encoding(head)
    if not encoding.startswith("utf-8"):
        text = head.decode(encoding, errors="replace").lstrip("\ufeff")
        if all(character.isprintable() or character.isspace() for character in text):
            name = encoding.upper()
            raise ValueError(f"it is {name}, not UTF-8; convert it: iconv -f {name} -t UTF-8")
    file.seek(3 if encoding == "utf-8-sig" else 0)


# --- JSON ---


def _json(file: IO[bytes]) -> Rows:
    names: dict[str, None] = {}
    spans, end = array("Q"), file.tell()
    unreadable: RowError | None = None
    for line in file:
        start, end = end, end + len(line)
        if not line.strip():
            continue
        if not spans and line.lstrip().startswith(b"["):
            return _json_list(line + file.read())
        spans.extend((start, end))
        try:
            names.update(dict.fromkeys(_json_row(line)))
        except RowError as error:  # reported if the row is drawn
            unreadable = unreadable or error
        except ValueError as error:
            if len(spans) == 2 and _is_json(line + file.read()):
                raise ValueError("it holds one object, not a list of objects") from None
            raise ValueError(f"row {len(spans) // 2}: {error}") from None
    if unreadable and not names:
        raise ValueError(f"row 1: {unreadable}")
    descriptor = os.dup(file.fileno())  # the file's name may come to mean another one

    def read(row: int) -> Row:
        start, end = spans[2 * row], spans[2 * row + 1]
        try:
            return _json_row(os.pread(descriptor, end - start, start))
        except RowError:
            raise
        except ValueError as error:  # it was valid when the file was opened
            raise RowError(f"the file has been changed since it was opened: {error}") from None

    rows = Rows(len(spans) // 2, read, list(names))
    weakref.finalize(rows, os.close, descriptor)
    return rows


def _json_row(line: bytes) -> dict[str, Any]:
    """Parse a line.

    Raises
    ------
    RowError
        If a text of it has no valid encoding.
    ValueError
        If it is not a JSON object.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise RowError(_not_utf8(error)) from None
    row = _parsed(text)
    if not isinstance(row, dict):
        raise ValueError(f"{text.strip()[:40]!r} is not an object")
    if _SURROGATE.search(text):
        _check_characters(row)
    return row


def _json_list(content: bytes) -> Rows:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(_not_utf8(error)) from None
    rows: list[dict[str, Any]] = _parsed(text)
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number}: {str(row)[:40]!r} is not an object")
    check = _SURROGATE.search(text) is not None

    def read(row: int) -> Row:
        if check:
            _check_characters(rows[row])
        return rows[row]

    return Rows(len(rows), read, list(dict.fromkeys(name for row in rows for name in row)))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} is given twice")
    return values


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


def _check_characters(row: Row) -> None:
    if surrogate := lone_surrogate(json.dumps(row, ensure_ascii=False)):
        raise RowError(f"it has half a character, the lone surrogate {surrogate!r}")


def lone_surrogate(text: str) -> str:
    """Return the first half of a UTF-16 pair, which is no character; "" if there is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return text[error.start]
    return ""


# --- tables of cells ---


def _table(file: IO[bytes], delimiter: str) -> Rows:
    csv.field_size_limit(sys.maxsize)  # its default is 131,072 characters
    # Bytes that are not UTF-8 become surrogates, which are reported if the row is drawn.
    text = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="")
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    try:
        rows += filter(None, reader)
    except csv.Error as error:
        raise ValueError(f"row {max(1, len(rows))}: {error}") from None
    finally:
        text.detach()
    names, *rows = rows or [[]]
    _check_cells(names)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"its header names {twice!r} twice; rename one")

    def read(row: int) -> Row:
        cells = rows[row]
        if len(cells) > len(names):
            raise RowError(f"it has {len(cells)} cells, and the header {len(names)}")
        _check_cells(cells)
        return dict(zip(names, cells, strict=False))

    return Rows(len(rows), read, names)


def _check_cells(cells: Sequence[str]) -> None:
    for cell in cells:
        if not cell.isascii():
            try:
                cell.encode("utf-8", "surrogateescape").decode()
            except UnicodeDecodeError as error:
                raise RowError(_not_utf8(error)) from None


def _not_utf8(error: UnicodeDecodeError) -> str:
    """Text around bytes that are not UTF-8, read as Latin-1."""
    bytes_ = error.object[max(0, error.start - 10) : error.end + 10]
    return (
        f"{bytes_!r} is not UTF-8; if {bytes_.decode('latin-1')!r} is right, the file is Latin-1: "
        "convert it by iconv -f LATIN1 -t UTF-8"
    )
