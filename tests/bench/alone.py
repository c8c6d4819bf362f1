"""Run a module of this package in a process of its own: memory to itself, and a time limit.

Python hears no signal while a library is inside LAPACK or SuperLU, so what ends is the process.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def alone(module: str, *words: str) -> dict[str, Any] | None:
    """What `python -m module words` prints as JSON; None if its `limit` ended it.

    Raises
    ------
    RuntimeError
        If it fails, with the last line it wrote.
    """
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == -signal.SIGALRM:
        return None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(f"{' '.join(command[2:])}: {said[-1]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@contextmanager
def limit(seconds: int) -> Iterator[None]:
    """End this process if the block takes longer: a signal left to its default needs no Python."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
