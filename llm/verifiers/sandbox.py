"""Runs untrusted programs, isolated as far as this machine permits.

There are three kinds of isolation. `find_sandbox` runs a trial program in each, in this order, and
takes the first that works:

``bwrap``
    Bubblewrap, a sandbox. The program can access Python, the system libraries and a temporary
    folder in memory, but no other file, no other process, and no network.
``namespaces``
    A process without network, which cannot see or signal other processes. Files are protected only
    by their permissions.
``plain``
    A separate process. If this process runs as root, the program runs as an unused user.
    Otherwise it can read, write and signal whatever this user can.

All kinds limit time, memory, the number of processes, file sizes and output. All clear the
environment, and end every process that the program has started. Under bubblewrap the files of a
program share 64 MiB. Elsewhere a program ends when the files in its temporary folder exceed 64 MiB
or are more than 10,000. It may exceed that for a tenth of a second. Files that it writes to other
folders are limited singly, to 64 MiB each, and are not removed.
"""

from __future__ import annotations

import errno
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

#: Range of user ids that systemd reserves for dynamic service users, who own no files.
USERS = (61184, 65519)
#: Maximum processes and threads of one program.
PROCESSES = 32
#: Prefix of a command: if memory runs out, the kernel kills the program, not the training run.
FIRST_TO_GO = ("/bin/sh", "-c", 'echo 1000 2>&- >/proc/self/oom_score_adj; exec "$@"', "sh")
#: Maximum bytes of output; a program that prints more has failed.
OUTPUT = 8 << 20
#: Maximum files and folders of a program outside bubblewrap.
ENTRIES = 10_000
#: Seconds between two looks at the files of a program outside bubblewrap.
LOOK = 0.1
#: Maximum seconds for a supervisor to end a program.
GRACE = 5.0
#: Environment variable that identifies a program and its children.
MARK = "CREDIT_RESETS_PROGRAM"


class Limits(NamedTuple):
    """Resource limits of one run.

    Attributes
    ----------
    cpu : int
        Seconds of processor time of each process.
    wall : float
        Seconds of wall-clock time, after which all processes are ended.
    memory : int
        Bytes of address space of each process.
    """

    cpu: int
    wall: float
    memory: int


class Outcome(NamedTuple):
    """Result of one run.

    Attributes
    ----------
    started : bool
        Whether the program was started; if not, the sandbox has failed.
    ended : {"", "timeout", "output", "disk"}
        What ended the run: "" if it ended by itself, else the limit of time, output or files.
    status : int
        Exit status, 128 + n after signal n.
    output : bytes
        Output of a program.
    result : bytes
        Return value of a function as JSON, or empty.
    """

    started: bool
    ended: str
    status: int
    output: bytes
    result: bytes


@dataclass(frozen=True)
class Sandbox:
    """Runs programs with one kind of isolation.

    Parameters
    ----------
    kind : {"bwrap", "namespaces", "plain"}
    python : str
        Interpreter; programs can import its standard library only.
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
        """Run a program on a standard input, or call one of its functions.

        Parameters
        ----------
        source : str
        limits : Limits
        stdin : str
        function : str
            Name of a global function, or of a method of the class Solution; "" for none.
        arguments : list, optional
            Arguments of the function, JSON values.
        stop : Event, optional
            Ends the run when set, like a timeout.
        """
        nonce = secrets.token_hex(16)
        user = random.SystemRandom().randint(*USERS) if os.getuid() == 0 else None
        processes = PROCESSES
        if self.kind == "plain" and user is None:  # NPROC counts all processes of this user
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
                    ended, output = _output(process, limits.wall, stop, folder)
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
        """Return the command line of the runner, which reads the request from standard input."""
        python = os.path.realpath(self.python)
        run = [python, "-I", "-S", "-X", "utf8"]
        if self.kind != "bwrap":
            return [*FIRST_TO_GO, *run, str(RUNNER), "supervise"]
        return [*FIRST_TO_GO, *bwrap_options(python), *run, "/runner.py"]

    def risks(self) -> str:
        """Describe in words what a program can do to this machine."""
        if self.kind == "bwrap":
            return "programs run in a sandbox"
        reach = "without network, " if self.kind == "namespaces" else "with network, "
        owner = "others" if os.getuid() == 0 else "you"
        signals = " and end your processes" if (self.kind, owner) == ("plain", "you") else ""
        return (
            f"programs run {reach}but in no sandbox: they can read and write what {owner} can"
            f"{signals}; work in a container, or install bubblewrap"
        )

    def _end(self, process: subprocess.Popen[bytes], nonce: str) -> None:
        """End a process and all processes that hold its output pipe."""
        if process.poll() is None and self.kind != "bwrap":
            process.terminate()  # the supervisor then ends all other processes
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        if process.poll() is None:
            # Kills bubblewrap and the first process inside; the others end with the latter. During
            # set-up the first process would survive a signal to bubblewrap alone.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if self.kind != "bwrap" and process.returncode < 0:  # killed, perhaps by the program
            _kill_marked(nonce)
        end = time.monotonic() + GRACE
        while time.monotonic() < end and _read(process, 0.1) != b"":
            pass


def _read(process: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """Read available output; b"" at its end, None if there is none within `seconds`."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], seconds)[0]:
        return None
    return os.read(process.stdout.fileno(), 1 << 16)


def _output(
    process: subprocess.Popen[bytes], wall: float, stop: threading.Event | None, folder: str
) -> tuple[str, bytes]:
    """Collect the output of a process; returns which limit ended it, if any, and the output.

    `folder` holds the files of the process; "" if their total is limited otherwise.
    """
    end = time.monotonic() + wall
    look = 0.0
    output = bytearray()
    is_open = True
    while is_open or process.poll() is None:
        if folder and time.monotonic() > look:
            if _exceeds(folder, FILES):
                return "disk", bytes(output)
            look = time.monotonic() + LOOK
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
    """Return the first kind of sandbox that works, and why the preceding ones do not.

    Raises
    ------
    ValueError
        If no kind works.
    """
    reasons: list[str] = []
    for kind in KINDS:
        sandbox = Sandbox(kind, python)
        reason = not_working(sandbox)
        if not reason:
            return sandbox, "; ".join(reasons)
        reasons.append(reason)
    raise ValueError(f"code: no program can be run: {'; '.join(dict.fromkeys(reasons))}")


def not_working(sandbox: Sandbox) -> str:
    """Return why a sandbox does not work on this machine; "" if it works."""
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
            f"{os.path.realpath(sandbox.python)} does not work for another user, perhaps because "
            "of its permissions; name one that all users can read, such as /usr/bin/python3"
        )
    return {
        "bwrap": "bubblewrap is installed but not permitted here",
        "namespaces": "namespaces are not permitted here",
        "plain": "no process can be confined here",
    }[sandbox.kind]


def _tasks_of_user() -> int:
    """Number of threads of this user's processes, as counted by RLIMIT_NPROC."""
    count = 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == os.getuid():
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            continue
    return count


def _kill_marked(nonce: str) -> None:
    """Kill all processes with the nonce in their environment, until none is left."""
    mark = f"{MARK}={nonce}".encode()
    killed = True
    while killed:
        killed = False
        for name in os.listdir("/proc"):
            try:
                if name.isdigit() and mark in Path(f"/proc/{name}/environ").read_bytes():
                    os.kill(int(name), signal.SIGKILL)
                    killed = True
            except OSError:
                continue


def _remove(folder: str) -> None:
    """Remove the folder of a program, however deep, even if the program has locked parts of it.

    What cannot be removed stays.
    """
    with suppress(OSError):
        os.chmod(folder, stat.S_IRWXU)
        here = os.open(folder, os.O_RDONLY)
        try:
            below, names = [_clear(here)], list[str]()  # subfolders that remain; path to this one
            while below[-1] or names:
                if below[-1]:
                    names.append(below[-1].pop())
                    os.chmod(names[-1], stat.S_IRWXU, dir_fd=here)
                    here = _enter(here, names[-1])
                    below.append(_clear(here))
                else:
                    here = _enter(here, "..")
                    below.pop()
                    os.rmdir(names.pop(), dir_fd=here)
        finally:
            os.close(here)
        os.rmdir(folder)


def _enter(folder: int, name: str) -> int:
    """Open a folder inside a folder, which is closed."""
    entered = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
    os.close(folder)
    return entered


def _clear(folder: int) -> list[str]:
    """Remove the files of an open folder; return the names of its subfolders."""
    with os.scandir(folder) as entries:
        folders = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    for name, is_folder in folders.items():
        if not is_folder:
            os.unlink(name, dir_fd=folder)
    return [name for name, is_folder in folders.items() if is_folder]


def _exceeds(folder: str, limit: int) -> bool:
    """Whether the files of a folder take more than `limit` bytes, or are more than `ENTRIES`.

    Folders that cannot be read count as nothing, those nested too deeply for a path as too much.
    """
    size = count = 0
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    count += 1
                    size += 512 * entry.stat(follow_symlinks=False).st_blocks
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    if size > limit or count > ENTRIES:
                        return True
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return True
    return False
