"""Errors of bad data: one line names the file, the row and the remedy."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from llm.tasks import make_task
from llm.tasks.data_task import DataTask
from llm.tasks.declaration import Declaration
from tests.llm.tasks.rows import SCHEMAS, write

DECLARATION = "prompt: q\nanswer: a\ntest: 2\nverifier: numeric\n"

#: Bad rows, which replace the third of six, and their messages, by defect.
ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "no prompt": ({"a": "3"}, "row 3: field 'q' is missing; mend it, or leave such rows out with"),
    "null prompt": ({"q": None, "a": "3"}, "row 3: field 'q' is missing"),
    "empty prompt": ({"q": " ", "a": "3"}, "row 3: the prompt is empty"),
    "no answer": ({"q": "3?"}, "row 3: field 'a' is missing"),
    "a list": ({"q": ["3?", 3], "a": "3"}, "row 3: field 'q' is a list, not text, a number or"),
    "true": ({"q": True, "a": "3"}, "row 3: field 'q' is a bool, not text"),
    "words": ({"q": "3?", "a": "three"}, "row 3: numeric: the answer 'three' is not a number"),
    "too long": (
        {"q": "9" * 10_000_000, "a": "3"},
        "row 3: the prompt has 10000000 characters, more than task_args.max_prompt_chars (20000)",
    ),
}


def rows(*others: dict[str, Any]) -> list[dict[str, Any]]:
    return [*({"q": f"{i}?", "a": str(i)} for i in (1, 2)), *others,
            *({"q": f"{i}?", "a": str(i)} for i in (4, 5, 6))]  # fmt: skip


def error_of(folder: Path, **options: Any) -> str:
    """Message of the error that a task over bad files raises."""
    (folder / "mine.yaml").write_text(DECLARATION)
    with pytest.raises(ValueError) as raised:
        make_task(str(folder / "mine.yaml"), **options).examples("train")
    assert "\n" not in str(raised.value) and str(raised.value).startswith("task")
    return str(raised.value)


@pytest.mark.parametrize("case", ROWS)
def test_examples__a_bad_row_is_named_or_dropped(case: str, tmp_path: Path) -> None:
    row, message = ROWS[case]
    path = write(tmp_path / "six.jsonl", rows(row))
    assert f"{path}, {message}" in error_of(tmp_path, path=str(path))
    lenient = make_task(str(tmp_path / "mine.yaml"), path=str(path), bad_rows="drop")
    assert len(lenient.examples("train")) + len(lenient.examples("test")) == 5
    assert any(f"six.jsonl, {message.partition(';')[0]}" in note for note in lenient.notes())
    if case == "too long":
        longer = make_task(str(tmp_path / "mine.yaml"), path=str(path), max_prompt_chars=10**7)
        assert len(longer.examples("train")) == 4


def _truncated(content: bytes) -> bytes:
    return content[: len(content) - 9]


def test_json_lines__a_truncated_line_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.jsonl", rows())
    path.write_bytes(_truncated(path.read_bytes()))
    message = error_of(tmp_path, path=str(path))
    assert f"{path} cannot be read as json, row 5: " in message


def test_json_lines__lines_must_be_objects(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text('{"q": "1?", "a": "1"}\n[1, 2]\n')
    assert f"{path} cannot be read as json, row 2: '[1, 2]" in error_of(tmp_path, path=str(path))


def test_json_lines__text_must_be_utf8(tmp_path: Path) -> None:
    path = tmp_path / "bytes.jsonl"
    path.write_bytes(b'{"q": "1?", "a": "1"}\n{"q": "caf\xe9?", "a": "2"}\n')
    for where in ({}, {"q": {"matches": "x"}}):  # a row that cannot be read meets any condition
        message = error_of(tmp_path, path=str(path), where=where)
        assert f"{path}, row 2: b" in message and "'caf\xe9?" in message.replace('"q": "', "'")
        assert "the file is Latin-1: convert it by iconv -f LATIN1 -t UTF-8; mend it, or" in message


def test_json__a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.json", rows())
    path.write_bytes(_truncated(path.read_bytes()))
    message = error_of(tmp_path, path=str(path))
    assert f"{path} cannot be read as json: " in message and "char" in message


def test_parquet__a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.parquet", rows())
    path.write_bytes(_truncated(path.read_bytes()))
    assert f"{path} cannot be read as parquet: ArrowInvalid: " in error_of(tmp_path, path=str(path))


def test_csv__rows_of_different_lengths_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ragged.csv"
    path.write_text("q,a\n1?,1\n2?,2,2\n3?,3\n")
    message = error_of(tmp_path, path=str(path))
    assert f"{path}, row 2: it has 3 cells, and the header 2; mend it, or leave" in message


def test_gzip__a_truncated_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(rows()[0]).encode())[:-9])
    assert f"{path} cannot be read as json" in error_of(tmp_path, path=str(path))


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv"])
def test_examples__an_empty_file_has_no_rows(ending: str, tmp_path: Path) -> None:
    for number, content in enumerate(["", "\n \n"]):
        path = tmp_path / f"empty{number}.{ending}"
        path.write_text(content)
        assert error_of(tmp_path, path=str(path)) == f"task: {path} has no rows"


def test_csv__a_header_alone_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "none.csv"
    path.write_text("q,a\n")
    assert error_of(tmp_path, path=str(path)) == f"task: {path} has no rows"


def test_examples__a_missing_column_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "other.jsonl", [{"question": "1?", "a": "1"}] * 3)
    message = error_of(tmp_path, path=str(path))
    assert message == f"task: {path} has no field 'q'; its fields are question, a"


def test_path__missing_files_and_unknown_formats_are_refused(tmp_path: Path) -> None:
    assert "no/such.jsonl is not a file; name one" in error_of(tmp_path, path="no/such.jsonl")
    assert f"{tmp_path} is not a file" in error_of(tmp_path, path=str(tmp_path))
    (tmp_path / "rows.xlsx").write_text("")
    message = error_of(tmp_path, path=str(tmp_path / "rows.xlsx"))
    assert (
        "rows.xlsx does not end in one of .jsonl, .ndjson, .json, .csv, .tsv, .parquet" in message
    )


def test_examples__an_empty_split_is_refused(tmp_path: Path) -> None:
    path = str(write(tmp_path / "five.jsonl", rows()))
    message = error_of(tmp_path, path=path, where={"a": {"matches": "x"}})
    assert message.startswith(
        "task: mine has no test problems: no row is left that meets the condit"
    )
    assert "mine has no train problems" in error_of(tmp_path, path=path, test=5)
    twice = str(write(tmp_path / "ten.jsonl", [*rows(), *rows()]))
    message = error_of(tmp_path, path=twice, test=9)
    assert "5 test problems, 9 asked for; 5 rows repeat a problem)" in message
    answers = {"integer": False}
    assert "mine has no test problems" in error_of(tmp_path, path=path, answer_where=answers)
    some = make_task(str(tmp_path / "mine.yaml"), path=path, train=9)
    assert len(some.examples("train")) == 3
    assert some.notes() == ["task: mine: 3 train problems, 9 asked for"]


def test_bad_rows__dropping_all_rows_names_the_first_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.jsonl", [{"q": f"{i}?", "a": "?"} for i in range(4)])
    message = error_of(tmp_path, path=str(path), bad_rows="drop")
    assert "; 4 rows left out, the first: " in message and "answer '?' is not a number" in message


def test_examples__no_training_problems_left_and_repeated_rows(tmp_path: Path) -> None:
    rows = [{"q": f"{n % 3} + 0", "a": f"\\boxed{{{n % 3}}}"} for n in range(7)]
    path = write(tmp_path / "a.jsonl", rows)
    more: dict[str, Any] = {"path": str(path), "prompt": "q", "answer": "a", "verifier": "exact"}
    with pytest.raises(ValueError, match="test takes all there are, up to 5; give a smaller"):
        DataTask(Declaration("mine", test=5, **more)).examples("train")
    task = DataTask(Declaration("mine", test=2, **more))
    assert len(task.examples("train")) == 1
    assert any("rows repeat a problem" in note for note in task.notes())
    assert not any("another answer" in note for note in task.notes())
    write(path, [*rows[:4], {**rows[4], "a": "\\boxed{9}"}, *rows[5:]])  # row 2, answered otherwise
    task = DataTask(Declaration("mine", test=2, **more))
    task.examples("train")
    (note,) = [note for note in task.notes() if "another answer" in note]
    assert re.search(
        rf"repeat a problem, 1 with another answer, the first: {path}, row [25]$", note
    )


def test_examples__powers_distinguish_problems(tmp_path: Path) -> None:
    problems = [
        "Compute 10² + 1.",
        "Compute 102 + 1.",
        "Compute 1½.",
        "Find x₁.",
        "Find x1.",
        "１?",
    ]
    rows = [{"q": q, "a": str(n)} for n, q in enumerate(problems)]
    path = write(tmp_path / "a.jsonl", [*rows, {"q": "1?", "a": "5"}])  # in full-width digits above
    task = DataTask(
        Declaration("mine", path=str(path), prompt="q", answer="a", verifier="exact", test=2)
    )
    examples = [*task.examples("test"), *task.examples("train")]
    assert {example.problem for example in examples} >= set(problems[:5]) and len(examples) == 6


def test_delimiter__an_unexpanded_backslash_n_is_refused() -> None:
    with pytest.raises(ValueError, match="holds a backslash and an n, not the end of a line"):
        Declaration("mine", path="a", prompt="q", answer="a", test=1, delimiter="\\n\\n")


def test_extract__a_text_without_the_answer_is_a_bad_row(tmp_path: Path) -> None:
    make, _, _ = SCHEMAS["gsm8k"]
    row = {**make(3), "answer": "It is 1003."}
    path = write(tmp_path / "sums.jsonl", [make(1), make(2), row])
    task = make_task("gsm8k", path=str(path), test=1, bad_rows="error")
    with pytest.raises(ValueError, match=r"row 3: field 'answer' has no answer by extract 'after"):
        task.examples("train")


def test_examples__a_changed_file_is_not_read_from_the_cache(tmp_path: Path) -> None:
    path = write(tmp_path / "changes.jsonl", rows())
    (tmp_path / "mine.yaml").write_text(DECLARATION)
    first = make_task(str(tmp_path / "mine.yaml"), path=str(path)).examples("train")
    write(path, [{"q": row["q"] + "!", "a": row["a"]} for row in rows()])
    again = make_task(str(tmp_path / "mine.yaml"), path=str(path)).examples("train")
    assert [e.problem + "!" for e in first] == [e.problem for e in again]


def test_path__wildcards_in_a_file_name_are_literal(tmp_path: Path) -> None:
    path = write(tmp_path / "a[1]*?.jsonl", rows())
    (tmp_path / "mine.yaml").write_text(DECLARATION)
    assert len(make_task(str(tmp_path / "mine.yaml"), path=str(path)).examples("train")) == 3
