"""Consoles on streams of any encoding."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cpi.reporting.tables import blocks, console, table


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_console__escapes_what_the_encoding_lacks(encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console(stream).print("p_π ≥ 1, \udcff")
    stream.flush()
    stream.seek(0)
    expected = r"p_π ≥ 1, \udcff" if encoding == "utf-8" else r"p_\u03c0 \u2265 1, \udcff"
    assert stream.read().strip() == expected


def test_console__closed_streams_show_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `>&-` in a shell, and in programs without a terminal."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    for shown in (console(), console(sys.stderr)):
        shown.print("p_π ≥ 1")


@pytest.mark.parametrize("option", ["--list", "--help"])
def test_bounds_command__prints_in_ascii(option: str) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "cpi.bounds", option]
    result = subprocess.run(command, capture_output=True, timeout=60, env=environment)
    assert result.returncode == 0 and not result.stderr
    assert result.stdout.isascii() and rb"\u" in result.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_bounds_command__full_disk_is_one_line() -> None:
    command = [sys.executable, "-m", "cpi.bounds", "--list"]
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert result.returncode == 2
    assert result.stderr == b"python -m cpi.bounds: [Errno 28] No space left on device\n"


def test_table__columns_that_do_not_fit_go_below_with_all_digits() -> None:
    rows = table("a title", ["task", *(f"column {n}" for n in range(8))])
    rows.add_row("first", *(f"{n}.123456" for n in range(8)))
    rows.add_row("second", *(f"{n}.654321" for n in range(8)))
    for width in (40, 80, 150):
        out = io.StringIO()
        Console(file=out, width=width).print(rows)
        text = out.getvalue()
        assert max(map(len, text.splitlines())) <= width
        assert text.count("a title") == 1 and "…" not in text
        assert all(f"{n}.{digits}" in text for n in range(8) for digits in (123456, 654321))
        assert text.count("first") == {40: 3, 80: 2, 150: 1}[width]


def test_blocks__each_column_once_after_the_first() -> None:
    assert blocks([5, 4, 4, 4], 11) == [[0, 1, 2], [0, 3]]
    assert blocks([5, 40, 4], 11) == [[0, 1], [0, 2]]  # one too wide stands alone
