"""Run a module of this package in a separate process, with its own memory and a time limit.

Python handles no signal while a library is inside LAPACK or SuperLU, so the limit ends the process.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def run_module(module: str, *arguments: str) -> dict[str, Any] | None:
    """The JSON output of `python -m module arguments`; None if `limit` ended the process.

    Raises
    ------
    RuntimeError
        If the process fails; quotes its last line of stderr.
    """
    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode == -signal.SIGALRM:
        return None
    if process.returncode:
        stderr_lines = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        raise RuntimeError(f"{' '.join(command[2:])}: {stderr_lines[-1]}")
    result: dict[str, Any] = json.loads(process.stdout)
    return result


@contextmanager
def limit(seconds: int) -> Iterator[None]:
    """End this process if the block takes longer; the default signal action needs no Python."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
