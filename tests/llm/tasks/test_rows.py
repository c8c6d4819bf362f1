"""Rows of text files: values as they are written, encodings, forms that are refused."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm.tasks import DataTask
from llm.tasks.declaration import Declaration
from llm.tasks.rows import RowError, read_text_rows

#: Values of one column, which a table with one type for each column would change.
VALUES: list[Any] = [
    *[1, "007", 3, "1e3", 2.5, 2**70, -(2**64), "2024-01-05", "2024-01-05T10:00:00Z", True, "true"],
    *["", " x ", None, [1, "2"], {"b": 1}, {"b": "1", "c": []}, [], "nan", "é½𝟙", "\u2028"],
]

#: How a list of rows is written.
FORMS: dict[str, Callable[[list[Any]], bytes]] = {
    "a.jsonl": lambda rows: "".join(json.dumps(r) + "\n" for r in rows).encode(),
    "b.jsonl": lambda rows: "\r\n\n".join(json.dumps(r, ensure_ascii=False) for r in rows).encode(),
    "c.json": lambda rows: json.dumps(rows, indent=2).encode(),
    "d.ndjson": lambda rows: FORMS["a.jsonl"](rows).decode().encode("utf-8-sig"),
    "e.jsonl.gz": lambda rows: gzip.compress(FORMS["a.jsonl"](rows)),
    "f.json.gz": lambda rows: gzip.compress(b"\n" + FORMS["c.json"](rows)),
}


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", FORMS)
def test_json__values_are_read_as_written(name: str, tmp_path: Path) -> None:
    rows = [{"a": value, "only": i} if i % 3 else {"a": value} for i, value in enumerate(VALUES)]
    table = read_text_rows(written(tmp_path / name, FORMS[name](rows)))
    assert (len(table), table.column_names) == (len(rows), ["a", "only"])
    order = random.Random(0).sample(range(len(rows)), len(rows))
    assert [repr(table[i]) for i in order] == [repr(rows[i]) for i in order]
    assert repr(list(table.columns(["a"]))) == repr(rows)


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("b.tsv", "\t"), ("c.csv.gz", ",")])
def test_table__cells_are_read_as_written(name: str, mark: str, tmp_path: Path) -> None:
    cells = [
        "007",
        "None",
        "",
        " x ",
        "2024-01-05",
        '"a"',
        "a,b\tc",
        "two\nlines",
        "é",
        "x" * 140_000,
    ]
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
    text = f"q{mark}a\n" + "".join(f"{i}{mark}{cell}\n" for i, cell in enumerate(quoted)) + "\n9\n"
    content = text.encode("utf-8-sig")
    content = gzip.compress(content) if name.endswith("gz") else content
    table = read_text_rows(written(tmp_path / name, content), mark)
    assert table.column_names == ["q", "a"] and len(table) == len(cells) + 1
    assert [table[i]["a"] for i in range(len(cells))] == cells
    assert table[len(cells)] == {"q": "9"}  # a cell is missing


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize(("text", "mark"), [('{"q": "é"}\n', None), ("q,a\né,1\n", ",")])
def test_read_text_rows__other_encodings_are_named(
    encoding: str, text: str, mark: str | None, tmp_path: Path
) -> None:
    path = written(tmp_path / "a", text.encode(encoding))
    name = encoding.upper()
    with pytest.raises(ValueError, match=f"it is {name}, not UTF-8; .* iconv -f {name} -t UTF-8"):
        read_text_rows(path, mark)


@pytest.mark.parametrize(("ending", "mark"), [("jsonl", None), ("csv", ",")])
def test_read_text_rows__latin_1_is_a_bad_row(
    ending: str, mark: str | None, tmp_path: Path
) -> None:
    words = ["1?", "café?", "3?"]
    if mark:
        text = "q,a\n" + "".join(f"{word},1\n" for word in words)
    else:
        text = "".join(f'{{"q": "{word}", "a": "1"}}\n' for word in words)
    path = written(tmp_path / f"a.{ending}", text.encode("latin-1"))
    table = read_text_rows(path, mark)
    with pytest.raises(RowError, match=r"is not UTF-8; if '.*café\?.*' is right, the file is Lat"):
        table[1]
    assert (table[0]["q"], table[2]["q"]) == ("1?", "3?")
    assert [row is None for row in table.columns(["q"])] == [False, True, False]
    task = DataTask(
        Declaration("mine", path=str(path), prompt="q", answer="a", test=1, bad_rows="drop")
    )
    assert len(task.examples("train")) == 1 and "row 2: b" in "".join(task.notes())


REFUSED: dict[str, tuple[str, bytes, str]] = {
    "twice": (
        "jsonl",
        b'{"a": 1}\n\n{"a": 1, "b": {"c": 1, "c": 2}}\n',
        "row 2: 'c' is given twice",
    ),
    "twice in a list": ("json", b'[{"a": 1, "b": 2, "a": 1}]', "'a' is given twice"),
    "columns": ("csv", b"q,a,q\n1,2,3\n", "its header names 'q' twice; rename one"),
    "quotes": ("csv", b'q,a\n1,2\n"1"x,2\n', "row 2: ',' expected after '\"'"),
    "open quotes": ("tsv", b'q\ta\n1\t"2\n', "row 1: unexpected end of data"),
    "deep": ("jsonl", b'{"a": 1}\n{"a": ' + b"[" * 2000 + b"]" * 2000 + b"}\n", "row 2: it is nes"),
    "deep list": ("json", b'[{"a": ' + b'{"b":' * 2000 + b"1" + b"}" * 2000 + b"}]", "it is nes"),
    "one object": ("json", b'{\n  "rows": [{"a": 1}]\n}\n', "it holds one object, not"),
    "numbers": ("json", b'[{"a": 1}, 2]', "row 2: '2' is not an object"),
    "all Latin-1": ("jsonl", '{"é": "è"}\n'.encode("latin-1") * 3, "row 1: b"),
    "Latin-1 header": ("csv", "é,a\n1,2\n".encode("latin-1"), "'é' is right"),
    "Latin-1 list": ("json", '[{"a": "è"}]\n'.encode("latin-1"), '\'[{"a": "è"}]\\n\' is right'),
    "no text": ("jsonl", b"\0\1\2\3" * 9, "row 1: Expecting value"),
    "no text at all": ("jsonl", bytes(range(256)), "row 1: Expecting"),
    "long number": ("jsonl", b'{"a": ' + b"1" * 5000 + b"}\n", "row 1: Exceeds the limit"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_read_text_rows__other_forms_are_refused(case: str, tmp_path: Path) -> None:
    ending, content, message = REFUSED[case]
    path = written(tmp_path / f"a.{ending}", content)
    with pytest.raises(ValueError) as raised:
        read_text_rows(path, {"csv": ",", "tsv": "\t"}.get(ending))
    assert message in str(raised.value) and "\n" not in str(raised.value)
    task = DataTask(Declaration("mine", path=str(path), prompt="q", answer="a", test=1))
    with pytest.raises(ValueError) as raised:
        task.examples("test")
    comma = ", " if message.startswith("row") else ": "
    form = "json" if "json" in ending else "csv"
    assert str(raised.value).startswith(f"task: {path} cannot be read as {form}{comma}")


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_json__half_a_character_is_a_bad_row(ending: str, tmp_path: Path) -> None:
    rows = [{"q": "1?", "a": "1"}, {"q": "\ud83d?", "a": "2"}, {"q": "\U0001f600?", "a": "3"}]
    content = FORMS["a.jsonl" if ending == "jsonl" else "c.json"](rows)
    table = read_text_rows(written(tmp_path / f"a.{ending}", content))
    with pytest.raises(RowError, match=r"it has half a character, the lone surrogate '\\ud83d'"):
        table[1]
    assert table[2] == rows[2]


def test_json_lines__a_file_that_is_replaced_or_cut(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", FORMS["a.jsonl"]([{"a": i} for i in range(9)]))
    table = read_text_rows(path)
    written(tmp_path / "b.jsonl", b"").replace(path)
    assert [row and row["a"] for row in table.columns(["a"])] == list(range(9))
    table = read_text_rows(written(tmp_path / "c.jsonl", FORMS["a.jsonl"]([{"a": 1}] * 2)))
    os.truncate(tmp_path / "c.jsonl", 12)
    assert table[0] == {"a": 1}
    with pytest.raises(RowError, match="the file has been changed since it was opened: Untermin"):
        table[1]


def test_json_lines__files_are_closed(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", b'{"a": 1}\n')
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    tables = [read_text_rows(path) for _ in range(5)]
    del tables
    assert not before or len(os.listdir("/proc/self/fd")) <= len(before)
