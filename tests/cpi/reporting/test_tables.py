"""Consoles on streams of any encoding."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cpi.reporting.tables import console


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
