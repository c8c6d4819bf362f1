"""Progress in lines: finished problems, rate and time left."""

from __future__ import annotations

import pytest

from llm.common.bars import ProblemBars


def test_problem_bars__rate_counts_from_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([100.0, 100.0, 130.0, 160.0])
    monkeypatch.setattr("llm.common.bars.time.monotonic", lambda: next(clock))
    bars = ProblemBars("rows")
    bars.bars.disable = True
    for name, done in (("a", 10), ("b", 0), ("a", 14), ("a", 40)):  # a is resumed at 10
        bars(name, done, 40)
    assert capsys.readouterr().err.splitlines() == [
        "a: 10 of 40 rows",
        "b: 0 of 40 rows",
        "a: 14 of 40 rows, 8 a minute, 3 min left",
        "a: 40 of 40 rows, 30 a minute",
    ]
