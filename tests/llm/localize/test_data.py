"""Reading labelled solutions: forms, halves, and one line for each bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm.localize.data import half_of, read_data
from llm.tasks import ChainReasoning
from tests.llm.scripted import write_run

PROCESS = {"id": "gsm-0", "problem": "1+1?", "steps": ["a", "b"], "label": 1}
BIG = {"input": "2+2?", "steps": ["c", "d", "e"], "target": "4", "mistake_index": 0}


def write(path: Path, rows: list[Any]) -> Path:
    """A JSON list, or JSON Lines, by the suffix."""
    lines = [json.dumps(row) for row in rows]
    path.write_text("[" + ", ".join(lines) + "]" if path.suffix == ".json" else "\n".join(lines))
    return path


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_read_data__forms(tmp_path: Path, suffix: str) -> None:
    rows = [PROCESS, {**PROCESS, "id": "x", "label": -1}, BIG, {**BIG, "mistake_index": None}]
    data = read_data(write(tmp_path / f"mine.{suffix}", rows))
    assert data.name == "mine"
    assert [s.first_error for s in data.solutions] == [1, None, 0, None]
    assert [s.id for s in data.solutions] == ["gsm-0", "x", "3", "4"]
    assert [s.problem for s in data.solutions] == ["1+1?", "1+1?", "2+2?", "2+2?"]
    assert data.solutions[2].steps == ["c", "d", "e"]


def test_read_data__halves_and_limit(tmp_path: Path) -> None:
    rows = [{**PROCESS, "problem": f"problem {i // 2}"} for i in range(200)]
    path = write(tmp_path / "a.jsonl", rows)
    halves = [read_data(path, half).solutions for half in ("tune", "report")]
    assert {s.number for s in halves[0]} | {s.number for s in halves[1]} == set(range(200))
    assert not {s.problem for s in halves[0]} & {s.problem for s in halves[1]}
    assert all(70 <= len(half) <= 130 for half in halves)
    assert half_of("problem  3\n") == half_of("problem 3")
    # A limit is a part of a larger one, spread over the file, in order.
    few, more = (read_data(path, limit=n).solutions for n in (20, 40))
    assert len(few) == 20 and read_data(path, limit=20).available == 200
    numbers = [s.number for s in few]
    assert numbers == sorted(numbers) and set(numbers) < {s.number for s in more}
    assert min(numbers) < 50 and max(numbers) > 150


def test_read_data__rollouts_of_a_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=(0, 5))
    (run / "config.yaml").write_text(
        "model: chain-base\nalgorithm: srpo\ntask: chain\ntask_args: {train: 16, test: 4}\n"
    )
    data = read_data(run)
    task = ChainReasoning(train=16, test=4)
    assert len({(s.id, *s.steps) for s in data.solutions}) == len(data.solutions) > 10
    assert {s.first_error is None for s in data.solutions} == {True, False}
    for solution in data.solutions:
        wrong = task.errors(solution.example, solution.steps)
        assert (solution.first_error is None) == (not wrong.any())
        if solution.first_error is not None:
            assert wrong[solution.first_error] and not wrong[: solution.first_error].any()


BAD: dict[str, tuple[Any, str]] = {
    "too large": ({**PROCESS, "label": 2}, ":2: label 2 is no step of the 2, 0 … 1, nor -1 for"),
    "too small": ({**PROCESS, "label": -2}, ":2: label -2 is no step of the 2"),
    "null": ({**PROCESS, "label": None}, ":2: label null is no step"),
    "bool": ({**PROCESS, "label": True}, ":2: label true is no step"),
    "text label": ({**PROCESS, "label": "1"}, ':2: label "1" is no step'),
    "index": ({**BIG, "mistake_index": -1}, ":2: mistake_index -1 is no step of the 3, 0 … 2, nor"),
    "no steps": ({**PROCESS, "steps": []}, ":2: steps is empty, or no list"),
    "text": ({**PROCESS, "steps": "abc"}, ":2: steps is empty, or no list"),
    "blank step": ({**PROCESS, "steps": ["a", " "]}, ":2: step 1 is blank"),
    "number": ({**PROCESS, "steps": ["a", 2]}, ":2: step 1 is blank, or no text"),
    "blank problem": ({**PROCESS, "problem": ""}, ":2: problem is no text"),
    "form": ({"question": 1, "steps": []}, ":2: unknown form (question, steps); a row needs"),
    "list": ([1], ":2: unknown form (a list)"),
}


@pytest.mark.parametrize("name", BAD)
def test_read_data__bad_rows(tmp_path: Path, name: str) -> None:
    row, message = BAD[name]
    path = write(tmp_path / "bad.jsonl", [PROCESS, row])
    with pytest.raises(ValueError) as raised:
        read_data(path)
    assert str(raised.value).startswith(f"data: {path}{message}")
    assert "\n" not in str(raised.value)


def test_read_data__bad_files(tmp_path: Path) -> None:
    cases = {
        "a.txt": ("x", "is neither .json nor .jsonl"),
        "b.json": ("{}", "is no list of rows"),
        "c.json": ("[", "is not JSON"),
        "d.jsonl": ('{"a": 1', "d.jsonl:1 is not JSON"),
        "e.jsonl": ("", "has no solution"),
    }
    for name, (text, message) in cases.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=message):
            read_data(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_data(tmp_path / "none.json")
    # The place in a list is a row, not a line.
    with pytest.raises(ValueError, match=r"bad.json, row 2: label 9"):
        read_data(write(tmp_path / "bad.json", [PROCESS, {**PROCESS, "label": 9}]))
