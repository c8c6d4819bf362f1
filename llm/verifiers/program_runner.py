"""Script that runs inside the sandbox: sets its own limits, then runs one program.

It uses the standard library only. `llm.verifiers.sandbox` starts it under bubblewrap, or with the
argument `supervise`. The script then forks, and the parent becomes a supervisor, which ends all
processes of the program. The request is one JSON object on standard input; see
`llm.verifiers.sandbox.Sandbox.run`.

The first line of standard output is the request's nonce: the limits are set, the program starts.
The output of the program follows. If a function is called, a line with the nonce and its result
follows instead.
"""

from __future__ import annotations

import builtins
import ctypes
import json
import os
import resource
import signal
import sys
import time
import types
from contextlib import suppress
from typing import Any, NoReturn

PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
CAPABILITY_VERSION_3 = 0x20080522

#: Modules that a program may use, with all their names, without importing them. The list is that
#: of LiveCodeBench (lcb_runner/evaluation/testing_util.py); later modules override earlier ones.
USUAL = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random",
    "statistics", "itertools", "functools", "operator", "io", "sys", "json", "typing",
)  # fmt: skip
#: Recursion limit and maximum digits of a printed integer, as in LiveCodeBench.
RECURSION = DIGITS = 50_000


def usual_names() -> dict[str, Any]:
    """Return the modules `USUAL`, the names in them, and the built-in names, which win."""
    names: dict[str, Any] = {"quit": sys.exit}
    exec("\n".join(f"from {name} import *" for name in USUAL), names)
    exec("\n".join(f"import {name}" for name in USUAL), names)
    return {**names, **vars(builtins)}  # so that pow is not math.pow


def confine(limits: dict[str, int], user: int | None) -> None:
    """Set the resource limits and switch to another user; neither can be undone."""
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = value + 1 if name == "CPU" else value
        resource.setrlimit(kind, (value, hard))
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)


def run(request: dict[str, Any]) -> NoReturn:
    """Run the program or call its function, then exit."""
    nonce = request["nonce"]
    os.write(1, f"{nonce}\n".encode())
    module = types.ModuleType("program" if request["function"] else "__main__")
    sys.modules[module.__name__] = module
    sys.argv = ["program.py"]
    try:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        # As built-ins: in the module they could be taken for the program's function.
        module.__dict__["__builtins__"] = usual_names()
        sys.setrecursionlimit(RECURSION)
        sys.set_int_max_str_digits(DIGITS)
        code = compile(request["source"], "program.py", "exec", dont_inherit=True)
        if not request["function"]:
            with suppress(SystemExit):  # as in LiveCodeBench: the output counts, not the status
                exec(code, module.__dict__)
            sys.exit()
        results = os.dup(1)
        os.dup2(2, 1)  # discard what the program prints
        exec(code, module.__dict__)
        value = _function(module.__dict__, request["function"])(*request["arguments"])
        line = f"{nonce} {json.dumps(value)}\n".encode()
        while line:
            line = line[os.write(results, line) :]
        os._exit(0)
    except MemoryError:  # a traceback may need more memory than is left
        os._exit(1)


def _function(names: dict[str, Any], name: str) -> Any:
    """Function of this name, or the method of a class Solution."""
    if name not in names and "Solution" in names:
        return getattr(names["Solution"](), name)
    return names[name]


def supervise(isolate: bool, parent: int) -> None:
    """Fork and return in the child only; with `isolate`, in separate namespaces.

    The parent waits for the child, kills the child's remaining descendants, and exits with the
    child's status. It also kills them on SIGTERM, and when its own parent has exited.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if isolate and not _unshare(libc):
        os._exit(1)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()  # so that signals to the child's process group spare the supervisor
        if isolate and os.getuid() != 0:  # drop the capabilities in the new user namespace
            header, none = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
            if libc.capset(header, none):
                os._exit(1)
        return
    status = None
    while status is None and not stopped and os.getppid() == parent:
        ended, code = os.waitpid(child, os.WNOHANG)
        if ended:
            status = code
        else:
            time.sleep(0.005)
    _end_all()
    code = 1 if status is None else os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _unshare(libc: Any) -> bool:
    """Enter new namespaces of network, processes and IPC; False if that is not permitted."""
    flags = CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC
    user, group = os.getuid(), os.getgid()
    if user == 0:
        return bool(libc.unshare(flags) == 0)
    # Try in a child first: a partial failure cannot be undone.
    trial = os.fork()
    if trial == 0:
        os._exit(0 if libc.unshare(flags | CLONE_NEWUSER) == 0 else 1)
    if os.waitpid(trial, 0)[1] != 0 or libc.unshare(flags | CLONE_NEWUSER) != 0:
        return False
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{file}", "w") as out:
            out.write(text)
    return True


def _end_all() -> None:
    """Kill and reap every descendant, including orphans: this process is their subreaper."""
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for process in _descendants():
            try:
                os.kill(process, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        time.sleep(0.002)


def _descendants() -> list[int]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            children.setdefault(parent, []).append(int(name))
    descendants: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        descendants += below
        waiting += below
    return descendants


def main() -> None:
    """Read the request, set the limits, run the program."""
    request = json.loads(sys.stdin.buffer.read())
    if sys.argv[1:] == ["supervise"]:
        supervise(request["namespaces"], request["parent"])
    stdin = os.memfd_create("stdin")
    with open(stdin, "wb", closefd=False) as file:
        file.write(request["stdin"].encode("utf-8", "surrogatepass"))
    os.lseek(stdin, 0, os.SEEK_SET)
    os.dup2(stdin, 0)
    os.close(stdin)
    confine(request["limits"], request["user"])
    run(request)


if __name__ == "__main__":
    main()
