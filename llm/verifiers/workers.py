"""Verifiers in worker processes, which are killed when an answer takes too long.

`llm.verifiers.serving` is the other side.
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from llm.verifiers.in_threads import in_threads
from llm.verifiers.verifier import Verification

#: Maximum seconds to start a worker, which loads sympy, perhaps from a slow disk.
START = 300.0
#: Number of the message of a server that is ready; requests count from 1.
GREETING = 0

_ROOT = str(Path(__file__).parents[2])
_WORKER = (
    "import sys; sys.path[:] = sys.argv[4:]; from importlib import import_module; "
    "import_module(sys.argv[1]).main()"
)

Request = TypeVar("Request", bound=Hashable)


class Worker:
    """Handle of a worker process, started at the first pair and again whenever it has ended.

    Parameters
    ----------
    timeout : float
        Seconds for a pair.
    memory : int
        Bytes of address space of the process.
    module : str
        Its function `main` is the worker.
    """

    def __init__(
        self, timeout: float, memory: int, module: str = "llm.verifiers.math_worker"
    ) -> None:
        self.timeout, self.memory, self.module = timeout, memory, module
        self.process: subprocess.Popen[bytes] | None = None
        #: Process that serves, a child of `process`; 0 until it is known.
        self.server = 0
        self.requests, self.unread = 0, b""
        self.cancelled = self.has_worked = False

    def judge(self, pair: Any) -> Verification:
        """Verify a request, a named tuple of JSON data; a failure after `timeout`.

        Raises
        ------
        RuntimeError
            If the first worker does not start. Later, as when memory is short, that is a "crash".
        """
        reply: dict[str, Any] | None = {}
        for _ in range(2):  # a second try: the worker may have been killed from outside
            try:
                reply = self._ask(pair)
            except (OSError, RuntimeError):
                if not self.has_worked:
                    raise
            if reply != {} or self.cancelled:
                break
        if reply is None:
            return Verification(0.0, "timeout")
        failure = reply.get("failure", "") if reply else "crash"
        return Verification(float(reply.get("reward", 0)), failure)

    def _ask(self, pair: Any) -> dict[str, Any] | None:
        """Reply to a pair; {} if the server has died, None after `timeout` seconds."""
        process = self._started()
        assert process.stdin is not None
        self.requests += 1  # a server may answer what its killed predecessor left unread
        request = pair._asdict() | {"id": self.requests}
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            reply = self._reply(self.timeout, self.requests)
        except BrokenPipeError:
            reply = {}
        if reply is None:
            process.send_signal(signal.SIGUSR1)
        if reply is None or reply.get("last"):
            self.server = 0  # another follows
        return reply

    def _started(self) -> subprocess.Popen[bytes]:
        """The process, with a server that is ready."""
        process = self.process
        alive = process is not None and process.poll() is None
        if process is not None and alive and (self.server or self._reply(START, GREETING)):
            return process
        self.close()
        path = [_ROOT, *(os.path.abspath(entry) for entry in sys.path if entry)]
        limits = [self.module, str(self.timeout), str(self.memory)]
        with tempfile.TemporaryFile() as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", _WORKER, *limits, *path],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C must reach only the run, which may finish its step
            )
            if not self._reply(START, GREETING):
                self.close()
                errors.seek(0)
                last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
                raise RuntimeError(
                    f"{self._name}: a worker did not start: {' '.join(last) or 'no message'}"
                )
        self.has_worked = True
        return self.process

    def _reply(self, timeout: float, number: int) -> dict[str, Any] | None:
        """Read the reply to a request; {} if the server has died, None after `timeout` seconds."""
        assert self.process is not None and self.process.stdout is not None
        pipe, end = self.process.stdout, time.monotonic() + timeout
        while True:
            line, newline, rest = self.unread.partition(b"\n")
            if not newline:
                if not select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
                    return None
                data = os.read(pipe.fileno(), 1 << 16)
                if not data:
                    self.close()
                    return {}
                self.unread += data
                continue
            self.unread, reply = rest, json.loads(line)
            if "ready" in reply:
                self.server = reply["ready"]
                return reply if number == GREETING else {}
            if reply["id"] == number:
                return dict(reply)

    @property
    def _name(self) -> str:
        return self.module.rpartition(".")[2].removesuffix("_worker")

    def cancel(self) -> None:
        """Kill the server; a thread that waits for its reply then stops waiting."""
        self.cancelled = True
        process = self.process  # another thread may close it concurrently
        if process is not None:
            process.send_signal(signal.SIGUSR1)

    def close(self) -> None:
        """Kill the process and its server, and wait until the process has ended."""
        if self.process is None:
            return
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process, self.server, self.unread = None, 0, b""


class WorkerPool:
    """Several workers, which start with the first requests.

    They end with `close`, with this process, or when the pool is garbage-collected.

    Parameters
    ----------
    timeout : float
        Seconds for one request.
    workers : int
        Number of processes.
    memory : int
        MiB of address space of each worker.
    module : str
        As for `Worker`.
    """

    def __init__(self, timeout: float, workers: int, memory: int, module: str) -> None:
        self.timeout, self.workers, self.memory, self.module = timeout, workers, memory, module
        self._pool: list[Worker] = []
        self._owner, self._lock = 0, threading.Lock()

    def verify_all(self, requests: Sequence[Request]) -> dict[Request, Verification]:
        """Verification of each distinct request.

        Raises
        ------
        RuntimeError
            If a worker does not start.
        """
        requests = list(dict.fromkeys(requests))
        workers = self._workers()
        idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in workers:
            idle.put(worker)

        def verify(request: Request) -> Verification:
            worker = idle.get()
            try:
                return worker.judge(request)
            finally:
                idle.put(worker)

        with self._lock:
            for worker in workers:
                worker.cancelled = False
            results = in_threads(verify, requests, len(workers), self._cancel)
        return dict(zip(requests, results, strict=True))

    def _workers(self) -> list[Worker]:
        """Return the workers of this process; a forked process must not share its parent's."""
        if self._owner != os.getpid():
            for worker in self._pool:
                if worker.process is not None:
                    # A child of the parent process: neither wait for it nor kill it.
                    worker.process.returncode = 0
            self._pool = [
                Worker(self.timeout, self.memory << 20, self.module) for _ in range(self.workers)
            ]
            self._owner, self._lock = os.getpid(), threading.Lock()
            weakref.finalize(self, _close, self._pool, self._owner)
        return self._pool

    def _cancel(self) -> None:
        for worker in self._pool:
            worker.cancel()

    def close(self) -> None:
        """End the workers; a later call starts new ones."""
        _close(self._pool, self._owner)


def _close(workers: Sequence[Worker], owner: int) -> None:
    if os.getpid() == owner:
        for worker in workers:
            worker.close()
