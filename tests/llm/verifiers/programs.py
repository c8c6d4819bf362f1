"""What the tests of programs share: sandboxes that work here, and processes left behind."""

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
    """One of this kind, with this interpreter or the system's, which other users may read."""
    found, why = _sandbox(kind)
    if why:
        pytest.skip(why)
    return found


@functools.cache
def _sandbox(kind: str) -> tuple[Sandbox, str]:
    found, why = Sandbox(kind, sys.executable), not_working(Sandbox(kind, sys.executable))
    if why and Path("/usr/bin/python3").exists():
        found = Sandbox(kind, "/usr/bin/python3")
        why = not_working(found)
    return found, why


def processes() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def strays(before: set[int]) -> set[int]:
    """Processes that came later, and are a program's, a runner, or a zombie of this process."""
    found = set()
    for process in processes() - before:
        try:
            user = os.stat(f"/proc/{process}").st_uid
            command = Path(f"/proc/{process}/cmdline").read_bytes()
            stat = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        mine = int(stat[1]) == os.getpid()
        if (
            (ROOT and USERS[0] <= user <= USERS[1])
            or b"runner.py" in command
            or b"math_worker" in command
            or (mine and stat[0] == "Z")
        ):
            found.add(process)
    return found


def none_left(before: set[int], seconds: float = 20.0) -> bool:
    """Whether all of them are gone, soon."""
    end = time.monotonic() + seconds
    while strays(before):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
