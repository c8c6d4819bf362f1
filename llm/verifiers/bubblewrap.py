"""Command line of bubblewrap: which parts of the machine a program can access."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

#: Script that runs inside the sandbox.
RUNNER = Path(__file__).with_name("program_runner.py")

#: Maximum bytes of one file, and of the temporary folder in memory.
FILES = 64 << 20


def bwrap_options(python: str) -> list[str]:
    """Return bubblewrap and its options; `python` must be a path without symbolic links."""
    options = [shutil.which("bwrap") or "bwrap", "--die-with-parent", "--new-session", "--clearenv"]
    for name, value in environment("/tmp").items():
        options += ["--setenv", name, value]
    options += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    options += ["--unshare-cgroup-try"]
    if os.getuid() == 0:  # the runner switches to another user, for whom RLIMIT_NPROC holds
        options += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        options += ["--unshare-user"]
    options += ["--ro-bind", "/usr", "/usr", "--ro-bind-try", "/etc/ld.so.cache"]
    options += ["/etc/ld.so.cache"]
    for folder in ("/bin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(folder):
            options += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            options += ["--ro-bind", folder, folder]
    options += ["--perms", "1777", "--size", str(FILES), "--tmpfs", "/tmp", "--chdir", "/tmp"]
    if not python.startswith("/usr/"):
        for parent in reversed(
            Path(python).parents[:-1]
        ):  # by default they are closed to other users
            options += ["--perms", "0755", "--dir", str(parent)]
        libraries = str(Path(python).parents[1] / "lib")
        options += ["--ro-bind", python, python, "--ro-bind", libraries, libraries]
    for device in ("null", "zero", "full", "random", "urandom"):
        options += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    options += ["--ro-bind", str(RUNNER), "/runner.py"]
    return [*options, "--remount-ro", "/"]


def environment(folder: str) -> dict[str, str]:
    """Return the complete environment of a program."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": folder,
        "TMPDIR": folder,
        "LANG": "C.UTF-8",
        "OPENBLAS_NUM_THREADS": "1",
    }
