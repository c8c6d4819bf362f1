"""The watchdog: what it ends and removes, however the process that started it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

psutil = pytest.importorskip("psutil")  # comes with vLLM

PARENT = """
import os, subprocess, sys, time
from llm.engines.watchdog import Watchdog

watchdog = Watchdog()
watchdog.add_folder(sys.argv[1])
child = subprocess.Popen(["sh", "-c", "sleep 600 & wait"], start_new_session=True)
watchdog.add_process(child.pid)
print(child.pid, flush=True)
if os.fork() == 0:  # like a pool of processes, which may outlive its parent
    time.sleep(15)
    os._exit(0)
if sys.argv[2] == "close":
    watchdog.close()
    watchdog.close()
    print(child.wait(), flush=True)
time.sleep(600 if sys.argv[2] == "kill" else 0)
"""


@pytest.mark.parametrize("how", ["kill", "close", "end"])
def test_watchdog__processes_and_folders_end_with_their_parent(how: str, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "model.safetensors").write_text("0")
    parent = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PARENT, str(folder), how],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    family = [child]
    if how == "kill":
        while len(family) < 2:
            family = [child, *child.children()]
        parent.kill()
    elif how == "close":
        assert int(parent.stdout.readline()) == -signal.SIGKILL
    parent.wait(timeout=10)
    parent.stdout.close()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    end = time.monotonic() + 10
    while folder.exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert not folder.exists()
