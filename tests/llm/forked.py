"""Commands in processes of their own, forked from one that has loaded torch and transformers.

Loading them takes longer than most of what tests let a command do. The process that is forked is
clean: it has loaded modules and done nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

#: What takes seconds to load in a training run.
MODULES = [
    "torch",
    "torch.distributed",
    "transformers.models.qwen2.modeling_qwen2",
    "llm.train.build",
    "llm.train.trainer",
]


class Forked:
    """The command `python -m module arguments…`; used like `subprocess.Popen` with pipes of text.

    Modules are loaded already, with one thread, and functions registered with atexit do not run.
    """

    def __init__(self, module: str, arguments: list[str], env: dict[str, str] | None = None):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(MODULES)
        self.store: Any = None
        self._folder = tempfile.TemporaryDirectory()
        self._printed: tuple[str, str] | None = None
        target = (module, arguments, env or {}, self._folder.name)
        self._process = context.Process(target=_run, args=target)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait until it ends; returns what it printed, and its complaints."""
        self._process.join(timeout)
        if self._process.is_alive():
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        if self._printed is None:
            out, err = (Path(self._folder.name, name).read_text() for name in ("out", "err"))
            self._printed = out, err
            self._folder.cleanup()
        return self._printed

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, if it has not ended."""
        if self._process.is_alive():
            os.kill(self.pid, number)


def _run(module: str, arguments: list[str], env: dict[str, str], folder: str) -> None:
    import torch

    torch.set_num_threads(1)
    for descriptor, name in ((1, "out"), (2, "err")):
        file = os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.update(env)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def ranks(module: str, arguments: list[str], processes: int = 2) -> list[Forked]:
    """A job of several processes as torchrun starts it, with the store in this process."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    job = [
        Forked(module, arguments, shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(processes)
    ]
    for process in job:
        process.store = store  # lives as long as the job
    return job
