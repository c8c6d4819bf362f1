"""The command: rows are printed and written as they are measured."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bench import __main__ as command


def readings(milliseconds: float) -> dict[str, float]:
    """Of one contestant."""
    return {"median": milliseconds / 1e3, "min": milliseconds / 1e3, "readings": 1}


def test_main__a_row_is_printed_and_written_before_the_next_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "bench.json"
    row = {
        "problem": "band",
        "question": "backward induction",
        "seconds": {"ours": readings(2), "quantecon": readings(8), "quantecon VI": readings(1.6)},
        "ratio": 1.25,
        "ratio_of_minima": 0.5,
    }

    def rows(key: str, quick: bool) -> Iterator[dict[str, Any]]:
        yield row
        assert json.loads(path.read_text(encoding="utf-8"))["contest"] == [row]
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "contest_rows", rows)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    setting = {"versions": {"numpy": "2"}, "cpus": 2, "environment": {}}
    monkeypatch.setattr(command, "settings", lambda: setting)
    assert command.main(["--only", "band", "--quick", "--json", str(path)]) == 130
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record == {"quick": True, **setting, "contest": [row]}
    printed = capsys.readouterr()
    assert "interrupted" in printed.err
    lines = [line.split() for line in printed.out.splitlines()]
    cells = [*command.PROBLEMS["band"].title.split(), "backward", "induction"]
    assert [*cells, "2", "1.6", "VI", "1.2", "0.5", "no"] in lines


def test_main__a_file_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert command.main(["--json", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_contest_table__rows_line_up_with_the_heading() -> None:
    widths = [
        [column.width for column in command.contest_table([], heading=heading).columns]
        for heading in (True, False)
    ]
    assert widths[0] == widths[1] and all(widths[0])
