"""Display of a run: one line per step in a file; a table above progress bars on a terminal."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from llm.common.progress import (
    HEADINGS_EVERY,
    SHOWN,
    STAGES,
    Reporter,
)

#: All displayed metrics; the loss is longer than its column.
METRICS = {
    **dict.fromkeys(SHOWN, 0.5),
    "loss": -123456.789,
    "grad_norm": 1234.5678,
    "completions/mean_length": 4096.0,
    "step_time": 98765.4321,
}


def in_file() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=40, highlight=False), file


def on_terminal(width: int) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=width, highlight=False, force_terminal=True), file


def screen(printed: io.StringIO, width: int) -> list[str]:
    """Final lines on a terminal, without trailing empty ones."""
    lines, row, column, cursor = [""], 0, 0, True
    for code, parameter, letter, character in re.findall(
        r"(\x1b\[([?0-9;]*)([A-Za-z]))|([^\x1b])", printed.getvalue()
    ):
        if letter == "A":
            row -= int(parameter or 1)
            assert row >= 0, "up beyond the first line"
        elif letter == "K":
            assert parameter == "2", "an erasure that this screen does not support"
            lines[row] = ""
        elif letter in ("h", "l"):
            cursor = letter == "h"
        elif character == "\n":  # a terminal in its usual mode also returns
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif character == "\r":
            column = 0
        elif not code:
            lines[row] = lines[row].ljust(column)[:column] + character + lines[row][column + 1 :]
            column += 1
            assert cell_len(lines[row]) <= width, f"wraps: {lines[row]}"
    assert cursor, "the cursor stays hidden"
    while lines and not lines[-1].strip():
        lines.pop()
    return [line.rstrip() for line in lines]


def run_stages(reporter: Reporter, *names: str) -> None:
    for name in names:
        with reporter.stage(name, 10) as stage:
            stage.advance(10)


def test_reporter__file_gets_one_line_per_step() -> None:
    console, file = in_file()
    with Reporter(3, console) as reporter:
        reporter.message("[/b] a message [red] of more than the forty columns of this file, whole")
        run_stages(reporter, *STAGES)
        reporter.step(0, {"eval/pass@1": 0.25})
        reporter.step(1, {"loss": -0.00126, "reward": 0.5, "localize/exact": 1 / 3, "lr": 0.1})
    assert file.getvalue().splitlines() == [
        "[/b] a message [red] of more than the forty columns of this file, whole",
        "step 0/3  eval/pass@1 0.250",
        "step 1/3  reward 0.500  localize/exact 0.33  loss -0.0013",
    ]


@pytest.mark.parametrize("width", [62, 80, 100, 140])
def test_reporter__terminal_shows_all_within_its_width(width: int) -> None:
    console, file = on_terminal(width)
    with Reporter(2, console) as reporter:
        reporter.message("[/b] a message [red] " + "of many words " * 10)
        for step in (1, 2):
            run_stages(reporter, *STAGES)
            reporter.step(step, METRICS)
    lines = screen(file, width)
    assert " ".join(lines).count("of many words") == 10
    bars = [line.split() for line in lines[-1 - len(STAGES) :]]
    assert [bar[:2] for bar in bars] == [["✓", name] for name in ("run", *STAGES)]
    assert bars[0][3:7] == ["step", "2", "of", "2"]
    for bar in bars[1:]:
        assert bar[3:5] == ["10", "tokens,"]
        assert re.fullmatch(r"[0-9,]+/s", bar[5])
    # Each value is right-aligned with its heading, once per step.
    table, values_shown = lines[: -1 - len(STAGES)], []
    for heading in SHOWN:
        values = [
            cell for above, below in value_lines(table) for cell in cells(above, below, heading)
        ]
        assert len(values) == 2, heading
        assert values[0] == values[1]
        values_shown.append(values[0])
    assert values_shown == [
        "0.500", "0.500", "0.500", "0.50", "0.50", "0.50", "0.50", "0.500",
        "-1.2e+05", "1234.568", "0.500", "4096", "98765.43",
    ]  # fmt: skip


def value_lines(table: list[str]) -> list[tuple[str, str]]:
    """Pairs (line of headings, line of values)."""
    pairs, headings = [], ""
    for line in table:
        if re.search(r"[a-z]{4}", line):
            headings = line
        else:
            pairs.append((headings, line))
    return pairs


def cells(headings: str, values: str, heading: str) -> list[str]:
    """The values whose right end is that of the heading."""
    return [
        values[: match.end()].split("  ")[-1].strip()
        for match in re.finditer(rf"(?:^ *|(?<=  )){heading}(?=  |$)", headings)
    ]


def test_reporter__headings_repeat_periodically_and_on_change() -> None:
    console, file = on_terminal(140)
    with Reporter(60, console) as reporter:
        reporter.step(0, {"eval/pass@1": 0.25})
        for step in range(1, HEADINGS_EVERY + 3):
            reporter.step(step, {"reward": step / 100})
    lines = screen(file, 140)
    rows = ["step 0"] + [f"step {step}" for step in range(1, HEADINGS_EVERY + 3)]
    kinds = ["heading" if "step" in line else f"step {line.split()[0]}" for line in lines]
    first, second = 1 + HEADINGS_EVERY, 3 + HEADINGS_EVERY
    assert kinds == [
        "heading", rows[0], "heading", *rows[1:first], "heading", *rows[first:second],
    ]  # fmt: skip
    assert lines[0].split() == ["step", "eval/pass@1"]
    # A column is kept, empty, when its metric is missing.
    assert lines[2].split() == ["step", "reward", "eval/pass@1"]
    assert lines[3].split() == ["1", "0.010"]


def test_reporter__bars_in_the_order_of_stages() -> None:
    console, file = on_terminal(80)
    with Reporter(1, console) as reporter:
        run_stages(reporter, "generate", "train", "generate", "localize", "train")
    shown = [line.split()[1] for line in screen(file, 80)]
    assert shown == ["run", "generate", "localize", "train"]  # no reset stage ran


def test_stage__failure_is_shown_and_not_counted() -> None:
    console, file = on_terminal(80)
    reporter = Reporter(1, console)
    with pytest.raises(RuntimeError, match="of its own"), reporter:
        run_stages(reporter, "generate", "localize", "train")
        with reporter.stage("localize") as stage:
            stage.advance(7)
            raise RuntimeError("of its own")
    _, generate, localize, train = screen(file, 80)
    assert generate.startswith("✓")
    assert "stopped" in localize and not localize.startswith("✓")
    # The bar of a later stage no longer shows the previous step.
    assert "tokens" not in train and not train.startswith("✓")
    assert reporter.timings["localize"][0] == 10


def test_reporter__bars_vanish_if_no_stage_began() -> None:
    console, file = on_terminal(80)
    with pytest.raises(ValueError, match="bad input"), Reporter(5, console) as reporter:
        reporter.message("a run")
        raise ValueError("bad input")
    assert screen(file, 80) == ["a run"]
    assert "5 steps" in file.getvalue()  # the bars were shown before


def test_message__commands_are_not_wrapped() -> None:
    console, file = on_terminal(40)
    command = "  python -m llm.train --config a/folder/of/a/run/config.yaml --resume auto"
    Reporter(1, console).message(command)
    assert file.getvalue() == command + "\n"


def test_timings__add_up_until_cleared() -> None:
    reporter = Reporter(1, in_file()[0])
    began = time.perf_counter()
    for tokens in (5, 7):
        with reporter.stage("generate") as stage:
            stage.advance(tokens)
            time.sleep(0.01)
            stage.advance(0)
    took = time.perf_counter() - began
    run_stages(reporter, "train")
    seconds = reporter.timings["generate"][1]
    assert 0.02 <= seconds <= took
    metrics = reporter.clear_timings()
    assert metrics.keys() == {
        "time/generate", "tokens_per_second/generate", "time/train", "tokens_per_second/train",
    }  # fmt: skip
    assert metrics["time/generate"] == seconds
    assert metrics["tokens_per_second/generate"] == pytest.approx(12 / seconds)
    assert reporter.clear_timings() == {}
    run_stages(reporter, "generate")
    assert reporter.timings["generate"][0] == 10


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    folder = tmp_path / "runs of [mine]"
    (folder / "rollouts").mkdir(parents=True)
    rows = [
        {"step": 0, "eval/pass@1": 0.1},
        {"step": 1, "fresh/reward": 0.25, "entropy": 2.0, "step_time": 1.5, "ledger/steps": 600},
        {"step": 2, "fresh/reward": 0.5, "entropy": 1.0, "step_time": 2.0, "eval/pass@1": 0.2,
         "ledger/steps": 1200, "ledger/localizer_cost": 34},
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_summary__first_and_last_metrics(finished: Path) -> None:
    console, file = on_terminal(200)
    Reporter(2, console).summary(finished)
    lines = [line.split() for line in screen(file, 200)]
    assert ["first", "last"] in lines
    assert ["eval/pass@1", "0.100", "0.200"] in lines
    assert ["fresh/reward", "0.250", "0.500"] in lines
    assert ["entropy", "2.000", "1.000"] in lines
    assert "reset/reward" not in file.getvalue()
    assert file.getvalue().splitlines()[-4:] == [
        "2 steps, 1,234 tokens generated, 4 s",
        f"metrics are in {finished}/metrics.jsonl",
        "to look at rollouts:",
        f"  python -m llm.show '{finished}'",
    ]


def test_summary__without_rollouts(finished: Path) -> None:
    (finished / "rollouts").rmdir()
    console, file = in_file()
    Reporter(2, console).summary(finished)
    assert file.getvalue().splitlines()[-1] == f"metrics are in {finished}/metrics.jsonl"


def test_summary__no_steps(tmp_path: Path) -> None:
    console, file = in_file()
    Reporter(2, console).summary(tmp_path)
    assert file.getvalue() == "nothing was left to do\n"
