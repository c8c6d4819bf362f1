"""Ends vLLM's processes with the process that started them, however that one ends.

A process that is killed cannot clean up. vLLM's processes would then run, and hold their memory,
for minutes. So a small process of its own, `python watchdog.py`, waits for the end of its standard
input, which the kernel closes. Then it kills the processes and removes the folders that it was told
of, a line each. Forked processes close their copies of that pipe, as they may live longer.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path


class Watchdog:
    """Kills processes, with their descendants, and removes folders at the end of this process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__],  # not beside this file: it has a transformers.py
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,  # a buffer has a lock, which another thread may hold at a fork
            start_new_session=True,  # signals of a terminal do not reach it
        )
        _watchdogs.add(self)

    def add_process(self, pid: int) -> None:
        """Watch a process from now on."""
        self._tell(f"process {pid}")

    def add_folder(self, folder: str) -> None:
        """Watch a folder from now on."""
        self._tell(f"folder {folder}")

    def close(self) -> None:
        """Kill and remove now what is still there; may be called twice."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it was killed
            self._process.stdin.write(f"{line}\n".encode())


_watchdogs: weakref.WeakSet[Watchdog] = weakref.WeakSet()


def _close_inherited() -> None:
    """Close the pipes of a forked process to the watchdogs of its parent."""
    for watchdog in _watchdogs:
        assert watchdog._process.stdin is not None
        watchdog._process.stdin.close()


os.register_at_fork(after_in_child=_close_inherited)


def watch() -> None:
    """Read lines until the end of the input; then kill and remove."""
    import psutil

    processes, folders = [], []
    for line in sys.stdin:
        kind, _, name = line.rstrip("\n").partition(" ")
        if kind == "folder":
            folders.append(Path(name))
        else:
            with contextlib.suppress(psutil.NoSuchProcess):
                processes.append(psutil.Process(int(name)))
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in (*process.children(recursive=True), process):
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    watch()
