"""Helpers for tests of programs: sandboxes that work here, and leftover processes."""

from __future__ import annotations

import functools
import os
import sys
import time
from pathlib import Path

import pytest

from llm.verifiers.sandbox import USERS, Sandbox, not_working

ROOT = os.getuid() == 0


def sandbox(kind: str) -> Sandbox:
    """Return a sandbox of a kind, with this or the system's interpreter; skip if neither works."""
    box, reason = _sandbox(kind)
    if reason:
        pytest.skip(reason)
    return box


@functools.cache
def _sandbox(kind: str) -> tuple[Sandbox, str]:
    box, reason = Sandbox(kind, sys.executable), not_working(Sandbox(kind, sys.executable))
    if reason and Path("/usr/bin/python3").exists():  # which all users can read
        box = Sandbox(kind, "/usr/bin/python3")
        reason = not_working(box)
    return box, reason


def processes() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def parent_of(process: int) -> int:
    """Parent of a process, or 0 if it has ended."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def ancestors(process: int) -> list[int]:
    """A process, its parent, and so on up to the first that is known."""
    line = []
    while process:
        line.append(process)
        process = parent_of(process)
    return line


def of_other_tests(process: int, before: set[int]) -> bool:
    """Whether another pytest process, which runs beside this one, has started a process.

    An orphan's parent is an ancestor of this process.
    """
    line = ancestors(process)
    old = next((each for each in line if each in before), 0)
    return os.getpid() not in line and old not in (0, *ancestors(os.getpid()))


def strays(before: set[int]) -> set[int]:
    """New processes that belong to a program or a worker, or are zombies of this process."""
    leftover = set()
    for process in processes() - before:
        try:
            user = os.stat(f"/proc/{process}").st_uid
            command = Path(f"/proc/{process}/cmdline").read_bytes()
            stat = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        mine = int(stat[1]) == os.getpid()
        if not of_other_tests(process, before) and (
            (ROOT and USERS[0] <= user <= USERS[1])
            or b"runner.py" in command
            or b"math_worker" in command
            or (mine and stat[0] == "Z")
        ):
            leftover.add(process)
    return leftover


def none_left(before: set[int], seconds: float = 20.0) -> bool:
    """Whether all leftover processes end within `seconds`."""
    end = time.monotonic() + seconds
    while strays(before):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
