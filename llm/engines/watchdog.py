"""Ends vLLM's processes with the process that started them, however that one ends.

A process that is killed cannot clean up. vLLM's processes would then run, and hold their memory,
for minutes. So a small process of its own, `python watchdog.py`, waits for the end of its standard
input, which the kernel closes. Then it kills the processes and removes the folders that it was told
of, a line each.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path


class Watchdog:
    """Kills processes, with their descendants, and removes folders at the end of this process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__],  # not beside this file: it has a transformers.py
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # signals of a terminal do not reach it
        )

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
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()


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
