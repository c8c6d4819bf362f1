"""Runs programs that nobody has read, as far apart from everything else as this machine permits.

Three ways, the first that works is taken (`find_sandbox` runs a program to see):

``bwrap``
    Bubblewrap, a sandbox: the program sees Python, the system's libraries and a temporary folder
    in memory; no other file, process, or network.
``namespaces``
    A process of its own, without network, that can neither see nor signal others; files are
    protected by their permissions only.
``plain``
    A process of its own. Where this process is root's the program runs as another user, who is
    nobody else; otherwise it may read, write and signal all that this user may.

In all of them time, memory of each process, their number, the size of files and of output are
limited, the environment is empty, and whatever the program started is ended with it.
"""

from __future__ import annotations

import functools
import json
import os
import random
import secrets
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from llm.verifiers.bubblewrap import FILES, RUNNER, bwrap_options, environment

KINDS = ("bwrap", "namespaces", "plain")

#: Users that systemd sets aside for services without one; none of them owns a file.
USERS = (61184, 65519)
#: Processes and threads of one program.
PROCESSES = 32
#: Before a command: where memory runs out, the kernel ends a program rather than the training.
FIRST_TO_GO = ("/bin/sh", "-c", 'echo 1000 2>&- >/proc/self/oom_score_adj; exec "$@"', "sh")
#: Bytes of output; a program that prints more has failed.
OUTPUT = 8 << 20
#: Seconds in which a supervisor must have ended a program.
GRACE = 5.0
#: In the environment of a program and its children.
MARK = "CREDIT_RESETS_PROGRAM"


class Limits(NamedTuple):
    """What one run may use.

    Attributes
    ----------
    cpu : int
        Seconds of processor time of each process.
    wall : float
        Seconds until all is ended.
    memory : int
        Bytes of address space of each process.
    """

    cpu: int
    wall: float
    memory: int


class Outcome(NamedTuple):
    """How a run ended.

    Attributes
    ----------
    started : bool
        Whether the program was begun; if not, the sandbox is at fault.
    ended : {"", "timeout", "output"}
        What ended it: itself, the clock, or the limit of output.
    status : int
        Exit status, 128 + n after signal n.
    output : bytes
        What a program printed.
    result : bytes
        JSON of what a function returned, or empty.
    """

    started: bool
    ended: str
    status: int
    output: bytes
    result: bytes


@dataclass(frozen=True)
class Sandbox:
    """One way to run programs.

    Parameters
    ----------
    kind : {"bwrap", "namespaces", "plain"}
    python : str
        The interpreter; its standard library alone can be imported.
    """

    kind: str
    python: str

    def run(
        self,
        source: str,
        limits: Limits,
        stdin: str = "",
        function: str = "",
        arguments: list[Any] | None = None,
        stop: threading.Event | None = None,
    ) -> Outcome:
        """Run a program on its standard input, or call one of its functions.

        Parameters
        ----------
        source : str
        limits : Limits
        stdin : str
        function : str
            A global one, or a method of the class Solution; "" for none.
        arguments : list, optional
            JSON values.
        stop : Event, optional
            Ends the run early when set, as if its time was over.
        """
        nonce = secrets.token_hex(16)
        user = random.SystemRandom().randint(*USERS) if os.getuid() == 0 else None
        processes = PROCESSES
        if self.kind == "plain" and user is None:  # counts all processes of this user
            processes += _tasks_of_user()
        request = {
            "nonce": nonce,
            "parent": os.getpid(),
            "source": source,
            "stdin": stdin,
            "function": function,
            "arguments": arguments or [],
            "user": user,
            "namespaces": self.kind == "namespaces",
            "limits": {
                "CPU": limits.cpu,
                "AS": limits.memory,
                "FSIZE": FILES,
                "NPROC": processes,
                "NOFILE": 64,
                "CORE": 0,
            },
        }
        folder = ""
        try:
            if self.kind != "bwrap":
                folder = tempfile.mkdtemp(prefix="program-")
                if user is not None:
                    os.chown(folder, user, user)
            with tempfile.TemporaryFile() as file:
                file.write(json.dumps(request).encode())
                file.seek(0)
                process = subprocess.Popen(
                    self.command(),
                    stdin=file,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    cwd=folder or "/",
                    env=environment(folder or "/tmp") | {MARK: nonce},
                    start_new_session=True,
                )
            with process:
                try:
                    ended, output = _output(process, limits.wall, stop)
                finally:
                    self._end(process, nonce)
        finally:
            if folder:
                _remove(folder)
        line, _, rest = output.partition(b"\n")
        started = line == nonce.encode()
        head = nonce.encode() + b" "
        result = rest.removeprefix(head) if function and rest.startswith(head) else b""
        return Outcome(started, ended, process.returncode, b"" if function else rest, result)

    def command(self) -> list[str]:
        """The command line; the request follows on its standard input."""
        python = os.path.realpath(self.python)
        run = [python, "-I", "-S", "-X", "utf8"]
        if self.kind != "bwrap":
            return [*FIRST_TO_GO, *run, str(RUNNER), "supervise"]
        return [*FIRST_TO_GO, *bwrap_options(python), *run, "/runner.py"]

    def risks(self) -> str:
        """What a program may do here, in words."""
        if self.kind == "bwrap":
            return "programs run in a sandbox"
        reach = "without network, " if self.kind == "namespaces" else "with network, "
        whom = "others" if os.getuid() == 0 else "you"
        more = " and end your processes" if (self.kind, whom) == ("plain", "you") else ""
        return (
            f"programs run {reach}but in no sandbox: they can read and write what {whom} can"
            f"{more}; work in a container, or install bubblewrap"
        )

    def _end(self, process: subprocess.Popen[bytes], nonce: str) -> None:
        """End a process, and with it all that holds the pipe of its output."""
        if process.poll() is None and self.kind != "bwrap":
            process.terminate()  # a supervisor ends all the others
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        if process.poll() is None:
            # Bubblewrap and the first process inside, with which all the others end. A signal to
            # bubblewrap alone would leave that one behind while it is being set up.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if self.kind != "bwrap" and process.returncode < 0:  # killed, perhaps by the program
            _kill_marked(nonce)
        end = time.monotonic() + GRACE
        while time.monotonic() < end and _read(process, 0.1) != b"":
            pass


def _read(process: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """Some output, b"" at its end, None if none comes."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], seconds)[0]:
        return None
    return os.read(process.stdout.fileno(), 1 << 16)


def _output(
    process: subprocess.Popen[bytes], wall: float, stop: threading.Event | None
) -> tuple[str, bytes]:
    """What ended the process, and its output."""
    end = time.monotonic() + wall
    output = bytearray()
    is_open = True
    while is_open or process.poll() is None:
        if time.monotonic() > end or (stop is not None and stop.is_set()):
            return "timeout", bytes(output)
        if len(output) > OUTPUT:
            return "output", bytes(output)
        if is_open:
            data = _read(process, 0.1)
            output += data or b""
            is_open = data != b""
        else:
            time.sleep(0.005)
    return "", bytes(output)


_TRIAL = "import collections, heapq, json, random, re\nprint(6 * 7)"


@functools.cache
def find_sandbox(python: str = sys.executable) -> tuple[Sandbox, str]:
    """The best sandbox that works here, and why the better ones do not.

    Raises
    ------
    ValueError
        If none does.
    """
    why: list[str] = []
    for kind in KINDS:
        sandbox = Sandbox(kind, python)
        reason = not_working(sandbox)
        if not reason:
            return sandbox, "; ".join(why)
        why.append(reason)
    raise ValueError(f"code: no program can be run: {'; '.join(dict.fromkeys(why))}")


def not_working(sandbox: Sandbox) -> str:
    """Why a sandbox does not work here, or ""."""
    if sys.platform != "linux":
        return f"{sandbox.kind} needs Linux"
    if sandbox.kind == "bwrap" and shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    if not os.access(sandbox.python, os.X_OK):
        return f"{sandbox.python} is not a program"
    outcome = sandbox.run(_TRIAL, Limits(cpu=10, wall=120.0, memory=512 << 20))
    if outcome.started and outcome.output == b"42\n":
        return ""
    if outcome.started:
        return (
            f"{os.path.realpath(sandbox.python)} does not work for another user, who may not read "
            "it, perhaps; name one that all may read, such as /usr/bin/python3"
        )
    return {
        "bwrap": "bubblewrap is installed but not permitted here",
        "namespaces": "namespaces are not permitted here",
        "plain": "no process can be confined here",
    }[sandbox.kind]


def _tasks_of_user() -> int:
    """Threads of this user's processes, which is what RLIMIT_NPROC counts."""
    count = 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == os.getuid():
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue
    return count


def _kill_marked(nonce: str) -> None:
    """Kill what has the nonce in its environment, until nothing has."""
    mark = f"{MARK}={nonce}".encode()
    found = True
    while found:
        found = False
        for name in os.listdir("/proc"):
            try:
                if name.isdigit() and mark in Path(f"/proc/{name}/environ").read_bytes():
                    os.kill(int(name), signal.SIGKILL)
                    found = True
            except OSError:
                continue


def _remove(folder: str) -> None:
    """Remove a folder of a program's, which may have locked parts of it."""
    for path, folders, _ in os.walk(folder):  # from the top: a folder is opened, then walked
        for name in folders:
            inner = os.path.join(path, name)
            if not os.path.islink(inner):
                with suppress(OSError):
                    os.chmod(inner, stat.S_IRWXU)
    shutil.rmtree(folder, ignore_errors=True)
