"""Bad data: one line names the file, the row and the cure."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from llm.tasks import make_task
from llm.tasks.data_task import DataTask
from llm.tasks.declaration import Declaration
from tests.llm.tasks.rows import SCHEMAS, write

OWN = "prompt: q\nanswer: a\ntest: 2\nverifier: numeric\n"

#: Rows that take the place of the third of six, by what is wrong with them.
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


def refused(folder: Path, **options: Any) -> str:
    """What is said of a task over files that are not as they should be."""
    (folder / "mine.yaml").write_text(OWN)
    with pytest.raises(ValueError) as raised:
        make_task(str(folder / "mine.yaml"), **options).examples("train")
    assert "\n" not in str(raised.value) and str(raised.value).startswith("task")
    return str(raised.value)


@pytest.mark.parametrize("case", ROWS)
def test_a_bad_row(case: str, tmp_path: Path) -> None:
    row, message = ROWS[case]
    path = write(tmp_path / "six.jsonl", rows(row))
    assert f"{path}, {message}" in refused(tmp_path, path=str(path))
    left = make_task(str(tmp_path / "mine.yaml"), path=str(path), bad_rows="drop")
    assert len(left.examples("train")) + len(left.examples("test")) == 5
    assert any(f"six.jsonl, {message.partition(';')[0]}" in note for note in left.notes())
    if case == "too long":
        longer = make_task(str(tmp_path / "mine.yaml"), path=str(path), max_prompt_chars=10**7)
        assert len(longer.examples("train")) == 4


def _cut(content: bytes) -> bytes:
    return content[: len(content) - 9]


def test_a_line_that_is_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.jsonl", rows())
    path.write_bytes(_cut(path.read_bytes()))
    said = refused(tmp_path, path=str(path))
    assert f"{path} cannot be read as json, row 5: " in said


def test_lines_that_are_no_objects(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text('{"q": "1?", "a": "1"}\n[1, 2]\n')
    assert f"{path} cannot be read as json, row 2: '[1, 2]" in refused(tmp_path, path=str(path))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "bytes.jsonl"
    path.write_bytes(b'{"q": "1?", "a": "1"}\n{"q": "\xff\xfe?", "a": "2"}\n')
    assert f"{path}, row 2: 'utf-8' codec can't decode" in refused(tmp_path, path=str(path))
    where = {"q": {"matches": "x"}}
    said = refused(tmp_path, path=str(path), where=where)
    assert f"{path}, row 2: field 'q': 'utf-8' codec can't" in said


def test_a_json_file_that_is_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.json", rows())
    path.write_bytes(_cut(path.read_bytes()))
    said = refused(tmp_path, path=str(path))
    assert f"{path} cannot be read as json: " in said and "char" in said


#: Answers of three rows, and the number that Arrow would round.
LONG: list[tuple[list[Any], int | None]] = [
    ([1, 2**70, 3], 2**70),
    ([1.5, 2**53 + 1, 3], 2**53 + 1),
    ([1, -(2**64), 3], -(2**64)),
    ([[1], [2, 2**66], [3]], 2**66),
    ([1, 2**62 + 1, 3], None),
    ([1.5, 2**53, 3], None),
    (["1", str(2**70), "3"], None),
]


@pytest.mark.parametrize(("answers", "rounded"), LONG)
@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_long_whole_numbers(
    answers: list[Any], rounded: int | None, ending: str, tmp_path: Path
) -> None:
    others = [{"n": 2**60 + 1, "f": 0.5}, {"n": 1, "f": 1}, {"n": 2, "f": 2.0}]
    three = [{"q": f"{i}?", "a": a, **others[i]} for i, a in enumerate(answers)]
    path = write(tmp_path / f"long.{ending}", three)
    if ending == "jsonl":
        path.write_text("\n" + path.read_text())  # blank lines are no rows
    if rounded is None:
        (tmp_path / "mine.yaml").write_text(OWN)
        task = make_task(str(tmp_path / "mine.yaml"), path=str(path))
        examples = [*task.examples("train"), *task.examples("test")]
        assert {task.answer(e) for e in examples} == set(answers)  # type: ignore[attr-defined]
        return
    said = refused(tmp_path, path=str(path))
    if ending == "json" and rounded > 2**64:  # a reader that says so itself
        assert f"{path} cannot be read as json: ValueError: Value is too big" in said
    else:
        assert f"{path}, row 2: {rounded} has more digits than" in said


def test_damaged_parquet(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.parquet", rows())
    path.write_bytes(_cut(path.read_bytes()))
    assert f"{path} cannot be read as parquet: ArrowInvalid: " in refused(tmp_path, path=str(path))


def test_ragged_csv(tmp_path: Path) -> None:
    path = tmp_path / "ragged.csv"
    path.write_text("q,a\n1?,1\n2?,2,2\n3?,3\n")
    said = refused(tmp_path, path=str(path))
    assert f"{path} cannot be read as csv: ParserError: " in said and "line 3, saw 3" in said


def test_a_damaged_archive(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(rows()[0]).encode())[:-9])
    assert f"{path} cannot be read as json" in refused(tmp_path, path=str(path))


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv"])
def test_an_empty_file(ending: str, tmp_path: Path) -> None:
    for number, content in enumerate(["", "\n \n"]):
        path = tmp_path / f"empty{number}.{ending}"
        path.write_text(content)
        said = refused(tmp_path, path=str(path))
        assert said == f"task: {path} has no rows" or (number and ending == "csv")


def test_a_file_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "none.csv"
    path.write_text("q,a\n")
    assert refused(tmp_path, path=str(path)) == f"task: {path} has no rows"


def test_no_such_column(tmp_path: Path) -> None:
    path = write(tmp_path / "other.jsonl", [{"question": "1?", "a": "1"}] * 3)
    said = refused(tmp_path, path=str(path))
    assert said == f"task: {path} has no field 'q'; its fields are question, a"


def test_no_such_file(tmp_path: Path) -> None:
    assert "no/such.jsonl is not a file; name one" in refused(tmp_path, path="no/such.jsonl")
    assert f"{tmp_path} is not a file" in refused(tmp_path, path=str(tmp_path))
    (tmp_path / "rows.xlsx").write_text("")
    said = refused(tmp_path, path=str(tmp_path / "rows.xlsx"))
    assert "rows.xlsx does not end in one of .jsonl, .ndjson, .json, .csv, .parquet" in said


def test_nothing_left(tmp_path: Path) -> None:
    path = str(write(tmp_path / "five.jsonl", rows()))
    said = refused(tmp_path, path=path, where={"a": {"matches": "x"}})
    assert said.startswith("task: mine has no test problems: no row is left that meets the condit")
    assert "mine has no train problems" in refused(tmp_path, path=path, test=5)
    twice = str(write(tmp_path / "ten.jsonl", [*rows(), *rows()]))
    said = refused(tmp_path, path=twice, test=9)
    assert "5 test problems, 9 asked for; 5 rows repeat a problem)" in said
    answers = {"integer": False}
    assert "mine has no test problems" in refused(tmp_path, path=path, answer_where=answers)
    some = make_task(str(tmp_path / "mine.yaml"), path=path, train=9)
    assert len(some.examples("train")) == 3
    assert some.notes() == ["task: mine: 3 train problems, 9 asked for"]


def test_all_rows_bad(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.jsonl", [{"q": f"{i}?", "a": "?"} for i in range(4)])
    said = refused(tmp_path, path=str(path), bad_rows="drop")
    assert "; 4 rows left out, the first: " in said and "answer '?' is not a number" in said


def test_all_held_out_and_repeated_rows_are_told(tmp_path: Path) -> None:
    rows = [{"q": f"{n % 3} + 0", "a": f"\\boxed{{{n % 3}}}"} for n in range(7)]
    path = write(tmp_path / "a.jsonl", rows)
    more: dict[str, Any] = {"path": str(path), "prompt": "q", "answer": "a", "verifier": "exact"}
    with pytest.raises(ValueError, match="test takes all there are, up to 5; give a smaller"):
        DataTask(Declaration("mine", test=5, **more)).examples("train")
    task = DataTask(Declaration("mine", test=2, **more))
    assert len(task.examples("train")) == 1
    assert any("rows repeat a problem" in note for note in task.notes())


def test_a_delimiter_that_a_shell_has_not_read_is_refused() -> None:
    with pytest.raises(ValueError, match="holds a backslash and an n, not the end of a line"):
        Declaration("mine", path="a", prompt="q", answer="a", test=1, delimiter="\\n\\n")


def test_text_without_its_answer(tmp_path: Path) -> None:
    make, _, _ = SCHEMAS["gsm8k"]
    row = {**make(3), "answer": "It is 1003."}
    path = write(tmp_path / "sums.jsonl", [make(1), make(2), row])
    task = make_task("gsm8k", path=str(path), test=1, bad_rows="error")
    with pytest.raises(ValueError, match=r"row 3: field 'answer' has no answer by extract 'after"):
        task.examples("train")


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "changes.jsonl", rows())
    (tmp_path / "mine.yaml").write_text(OWN)
    first = make_task(str(tmp_path / "mine.yaml"), path=str(path)).examples("train")
    write(path, [{"q": row["q"] + "!", "a": row["a"]} for row in rows()])
    again = make_task(str(tmp_path / "mine.yaml"), path=str(path)).examples("train")
    assert [e.problem + "!" for e in first] == [e.problem for e in again]


def test_a_name_that_looks_like_a_pattern(tmp_path: Path) -> None:
    path = write(tmp_path / "a[1]*?.jsonl", rows())
    (tmp_path / "mine.yaml").write_text(OWN)
    assert len(make_task(str(tmp_path / "mine.yaml"), path=str(path)).examples("train")) == 3
