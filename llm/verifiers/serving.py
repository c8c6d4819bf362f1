"""Worker process of a verifier: JSON lines in, JSON lines out.

`llm.verifiers.workers` limits time by having this process killed.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
from collections.abc import Callable
from typing import IO, Any

#: Seconds between two checks that the parent process is alive.
LOOK = 5.0

#: Replies to a request: a reward, or a failure.
Judge = Callable[[dict[str, Any]], dict[str, Any]]


def _requests(supervisor: int) -> Any:
    """Requests from standard input, until it ends or the supervisor has exited."""
    pending = b""
    while os.getppid() == supervisor:
        if not select.select([0], [], [], LOOK)[0]:
            continue
        data = os.read(0, 1 << 16)
        if not data:
            return
        *lines, pending = (pending + data).split(b"\n")
        yield from map(json.loads, lines)


def _resident() -> int:
    """Resident memory of this process in bytes."""
    try:
        with open("/proc/self/statm") as status:
            return int(status.read().split()[1]) * resource.getpagesize()
    except OSError:  # no /proc: use the peak, which on Linux would include the parent's memory
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024)


def serve(judge: Judge, timeout: float, memory: int, replies: IO[str]) -> None:
    """Answer requests until there are no more, or this process uses too much memory.

    Parameters
    ----------
    judge : function
    timeout : float
        Seconds for a request. `workers` enforces it; if that has ended, an alarm ends this process.
    memory : int
        Maximum bytes of address space.
    replies : text file
    """
    print(json.dumps({"ready": os.getpid()}), file=replies, flush=True)
    for request in _requests(os.getppid()):
        signal.alarm(int(timeout) + 2)
        try:
            reply = judge(request)
        except MemoryError:
            reply = {"failure": "memory"}
        except RecursionError:
            reply = {"failure": "nested too deeply"}
        signal.alarm(0)
        is_large = _resident() > memory // 2
        # Then a new process with empty caches follows.
        last = is_large or reply.get("failure") == "memory"
        print(json.dumps(reply | {"id": request["id"], "last": last}), file=replies, flush=True)
        if last:
            os._exit(1)


def supervise(judge: Judge, timeout: float, memory: int, replies: IO[str]) -> None:
    """Fork a process that serves, and another whenever one has died.

    A fork takes milliseconds, loading sympy seconds. SIGUSR1 kills the process that serves. It and
    this one end with their parent, or when standard input ends.
    """
    parent, child = os.getppid(), 0

    def kill(*_: Any) -> None:
        if child:
            os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGUSR1, kill)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while os.getppid() == parent:
        ended, alive = os.pipe()  # the child holds `alive`, so that its end can be read
        child = os.fork()
        if child == 0:
            os.close(ended)
            serve(judge, timeout, memory, replies)
            os._exit(0)
        os.close(alive)
        while not select.select([ended], [], [], LOOK)[0]:
            if os.getppid() != parent:
                kill()
        died, child = child, 0
        _, status = os.waitpid(died, 0)
        os.close(ended)
        if status == 0:
            return


def work(judge: Judge, warm_up: Callable[[], object]) -> None:
    """Serve on standard input and output; output of libraries goes to standard error.

    Parameters
    ----------
    judge : function
    warm_up : function
        Loads modules, which must not count as time of the first request.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import logging

    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the parent may ignore this signal
    warm_up()
    supervise(judge, float(sys.argv[2]), int(sys.argv[3]), replies)
