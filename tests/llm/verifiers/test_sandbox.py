from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm.verifiers import bubblewrap
from llm.verifiers import sandbox as module
from llm.verifiers.bubblewrap import FILES, bwrap_options
from llm.verifiers.sandbox import (
    KINDS,
    OUTPUT,
    PROCESSES,
    Limits,
    Outcome,
    Sandbox,
    find_sandbox,
)
from tests.llm.verifiers.programs import ROOT, none_left, processes, sandbox, strays

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="programs run on Linux only")

LIMITS = Limits(cpu=1, wall=60.0, memory=256 << 20)
SHORT = LIMITS._replace(wall=1.0)  # for what the clock must end
PROJECT = Path(__file__).parents[3]


@pytest.fixture(params=KINDS)
def box(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    found = sandbox(request.param)
    before = processes()
    yield found
    assert none_left(before), "a program left a process behind"


def protects(box: Sandbox) -> bool:
    """Whether a program is another user, or sees nothing of this one's."""
    return ROOT or box.kind == "bwrap"


def apart(box: Sandbox) -> bool:
    return ROOT or box.kind != "plain"


def printed(box: Sandbox, source: str, limits: Limits = LIMITS) -> str:
    outcome = box.run(source, limits)
    assert (outcome.started, outcome.ended, outcome.status) == (True, "", 0), outcome
    return outcome.output.decode()


def test_a_program_reads_its_input_and_prints(box: Sandbox) -> None:
    source = "import sys\nfor line in sys.stdin: print(line.strip()[::-1])\nprint(__name__)"
    assert box.run(source, LIMITS, stdin="abc\nüé\n") == Outcome(
        True, "", 0, "cba\néü\n__main__\n".encode(), b""
    )
    assert (
        box.run("print(input())", LIMITS, stdin="x" * 1_000_000).output == b"x" * 1_000_000 + b"\n"
    )


def test_a_function_returns_json_and_its_prints_are_nobodys(box: Sandbox) -> None:
    source = "def f(x, y):\n    print('noise')\n    return [x + y, (1, {'a': None})]"
    outcome = box.run(source, LIMITS, function="f", arguments=[1, 2.5])
    assert json.loads(outcome.result) == [3.5, [1, {"a": None}]]
    assert outcome.output == b""


@pytest.mark.parametrize(
    "source",
    [
        "def f(:",
        "1/0",
        "def f(): return f()\nf()",
        "print(input())",
        "import os\nos.abort()",
        "import ctypes\nctypes.string_at(0)",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
        "\0",
        "import numpy_",
    ],
)
def test_what_crashes_has_a_status(box: Sandbox, source: str) -> None:
    outcome = box.run(source, LIMITS._replace(memory=64 << 20))
    assert outcome.started
    assert outcome.status != 0 and outcome.ended == ""


def test_output_need_not_be_text(box: Sandbox) -> None:
    source = "import os\nos.write(1, bytes(range(256)))"
    assert box.run(source, LIMITS).output == bytes(range(256))


def test_an_endless_loop_ends_by_its_processor_time(box: Sandbox) -> None:
    outcome = box.run("while True: pass", LIMITS)
    assert outcome.ended == "" and outcome.status > 128


def test_a_sleeper_ends_by_the_clock(box: Sandbox) -> None:
    assert box.run("import time\ntime.sleep(60)", SHORT).ended == "timeout"


def test_one_that_is_ended_while_it_starts_leaves_nothing(box: Sandbox) -> None:
    for wall in (0.0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06):
        assert box.run("import time\ntime.sleep(60)", LIMITS._replace(wall=wall)).ended


def test_one_that_closes_its_output_is_still_waited_for(box: Sandbox) -> None:
    source = "import os, time\nos.close(1)\ntime.sleep({})\nos._exit(0)"
    assert box.run(source.format(0.2), LIMITS).status == 0
    assert box.run(source.format(60), SHORT).ended == "timeout"


def test_one_that_ignores_signals_ends_too(box: Sandbox) -> None:
    source = (
        "import signal, time\n"
        "for n in range(1, 32):\n    if n not in (9, 19): signal.signal(n, signal.SIG_IGN)\n"
        "time.sleep(60)"
    )
    assert box.run(source, SHORT).ended == "timeout"


def test_memory_is_limited(box: Sandbox) -> None:
    outcome = box.run("x = bytearray(1 << 20)\nwhile True: x += x", LIMITS)
    assert outcome.status != 0 and outcome.ended == ""


def test_programs_are_the_first_to_go_when_memory_runs_out(box: Sandbox) -> None:
    if box.kind == "bwrap":
        assert "oom_score_adj" in " ".join(box.command())  # /proc is not shown inside
    else:
        assert printed(box, "print(open('/proc/self/oom_score_adj').read())") == "1000\n\n"


def test_files_are_limited(box: Sandbox) -> None:
    source = (
        "size = 0\n"
        "try:\n"
        "    with open('big', 'wb', buffering=0) as file:\n"
        "        while size < (1 << 28): size += file.write(bytes(1 << 22))\n"
        "except OSError: pass\n"
        "print(size)"
    )
    assert 0 < int(printed(box, source)) <= FILES


def test_endless_output_is_cut(box: Sandbox) -> None:
    outcome = box.run("while True: print('y' * 1000)", LIMITS._replace(cpu=20))
    assert outcome.ended == "output"
    assert len(outcome.output) < OUTPUT + (1 << 17)


def test_a_fork_bomb_is_bounded(box: Sandbox) -> None:
    # Bounded by itself, too, in case it is not: at most 200 processes.
    source = (
        "import os, time\n"
        "made = 0\n"
        "for _ in range(200):\n"
        "    try:\n"
        "        if os.fork() == 0:\n"
        "            time.sleep(20)\n"
        "            os._exit(0)\n"
        "        made += 1\n"
        "    except OSError: break\n"
        "print(made)\n"
    )
    made = int(printed(box, source))
    assert made > 0
    if apart(box):
        assert made < PROCESSES
    else:  # others of this user may come and go meanwhile
        assert made < 2 * PROCESSES


DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        {close}
        time.sleep(60)
        os._exit(0)
    os._exit(0)
os.wait()
{then}
"""


@pytest.mark.parametrize("close", ["os.close(0); os.close(1); os.close(2)", "pass"])
def test_a_daemon_dies_with_the_program(box: Sandbox, close: str) -> None:
    start = time.monotonic()
    assert printed(box, DAEMON.format(close=close, then="print('done')")) == "done\n"
    assert time.monotonic() - start < 30  # nobody waited for it


def test_killing_the_parent_frees_nobody(box: Sandbox) -> None:
    source = DAEMON.format(close="pass", then="os.kill(os.getppid(), 9)\ntime.sleep(60)")
    outcome = box.run(source, SHORT)
    assert outcome.status != 0 or outcome.ended == "timeout"


def test_stopping_the_parent_stops_nobody(box: Sandbox) -> None:
    source = "import os, signal, time\nos.kill(os.getppid(), signal.SIGSTOP)\ntime.sleep(60)"
    start = time.monotonic()
    box.run(source, SHORT)
    assert time.monotonic() - start < 30


def test_killing_all_kills_none_of_ours(box: Sandbox) -> None:
    if not apart(box):
        pytest.skip("without another user or namespace this would kill the tests")
    with subprocess.Popen(["sleep", "30"]) as bystander:
        outcome = box.run("import os\nos.kill(-1, 9)\nprint('alive')", LIMITS)
        assert bystander.poll() is None
        bystander.kill()
    assert outcome.started


SEARCH = """
import glob, os
places = [str(dict(os.environ)).encode()]
for path in glob.glob('/proc/*/environ') + [{path!r}]:
    try:
        with open(path, 'rb') as file: places.append(file.read())
    except OSError: pass
print(any({secret!r} in place for place in places))
"""


def test_secrets_are_out_of_reach(
    box: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not protects(box):
        pytest.skip("a program can read what this user can, as the warning says")
    secret = "tok-" + os.urandom(8).hex()
    file = tmp_path / "secret"
    file.write_text(secret)
    file.chmod(0o600)
    holder = [sys.executable, "-c", "input()"]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, env={"SECRET": secret}) as process:
        monkeypatch.setenv("SECRET", secret)
        # In the source it would be found everywhere: it is given in halves.
        source = SEARCH.format(path=str(file), secret=b"").replace(
            "b'' in", f"({secret[:9]!r} + {secret[9:]!r}).encode() in"
        )
        assert printed(box, source) == "False\n"
        process.communicate(b"\n")
    own = {"SECRET": secret}
    for place in (module, bubblewrap):
        monkeypatch.setattr(place, "environment", lambda folder: own)
    assert printed(box, source) == "True\n"  # the search does find what is there


def test_nothing_outside_can_be_written(box: Sandbox, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    if not protects(box):
        pytest.skip("a program can write what this user can, as the warning says")
    ours = [str(folder / "x") for folder in (tmp_path, Path.home())]
    source = f"""
for path in [*{ours!r}, *'/usr/x /bin/x /etc/x /x /dev/x /runner.py'.split()]:
    try: open(path, 'w')
    except OSError: continue
    print(path)
open('mine', 'w').write('here')
print(open('mine').read())
"""
    assert printed(box, source) == "here\n"
    assert not list(tmp_path.iterdir())
    assert not Path("mine").exists()


def test_temporary_folders_go_even_if_locked(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith("pytest"):
            folder.chmod(0o755)
    source = (
        "import os\nos.makedirs('a/b')\nopen('a/b/c', 'w')\nos.chmod('a/b', 0)\nos.chmod('a', 0)"
    )
    printed(box, source)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folder of temporary folders, in memory if possible: removing folders from a disk is slow."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else tmp_path
    with tempfile.TemporaryDirectory(dir=place) as folder:
        os.chmod(folder, 0o755)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_folders_too_deep_for_a_path_are_removed(box: Sandbox, memory: Path) -> None:
    deep = "import os\nfor _ in range(3000):\n    os.mkdir('a')\n    os.chdir('a')\n"
    outcome = box.run(f"{deep}os.symlink('/', 'root')\nos.chmod('.', 0)", LIMITS)
    assert outcome.started and outcome.ended in ("", "disk")
    assert not list(memory.iterdir()) and Path("/usr").exists()


@pytest.mark.parametrize(("files", "size"), [(100, 1 << 22), (20_000, 0)])
def test_all_files_together_are_limited(box: Sandbox, memory: Path, files: int, size: int) -> None:
    source = f"""
import time
try:
    for k in range({files}):
        with open(str(k), 'wb') as file: file.write(bytes({size}))
except OSError as error: print(error.errno)
time.sleep(60)
"""
    if box.kind != "bwrap":
        assert box.run(source, LIMITS._replace(cpu=20)).ended == "disk"
    elif size:  # the temporary folder is full
        assert printed(box, source.replace("60", "0")) == f"{errno.ENOSPC}\n"


def test_no_network(box: Sandbox) -> None:
    if box.kind == "plain":
        pytest.skip("there is network, as the warning says")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        source = (
            "import socket\n"
            f"try: socket.create_connection(('127.0.0.1', {port}), 1)\n"
            "except OSError as error: print('refused')"
        )
        assert printed(box, source) == "refused\n"
        socket.create_connection(("127.0.0.1", port), 1).close()  # it was there


def test_a_stop_ends_a_run(box: Sandbox) -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    start = time.monotonic()
    outcome = box.run("import time\ntime.sleep(60)", LIMITS, stop=stop)
    assert outcome.ended == "timeout"
    assert time.monotonic() - start < 30


def test_programs_end_when_their_run_is_killed(box: Sandbox) -> None:
    before = processes()
    script = (
        "from llm.verifiers.sandbox import Limits, Sandbox\n"
        f"box = Sandbox({box.kind!r}, {box.python!r})\n"
        f"box.run({DAEMON.format(close='pass', then='time.sleep(60)')!r}, Limits(9, 60.0, 1 << 28))"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=PROJECT) as run:
        end = time.monotonic() + 60
        seen = strays(before)
        while len(seen) < 3 and time.monotonic() < end:  # it, the program, its daemon
            time.sleep(0.02)
            seen = strays(before)
        assert len(seen) >= 3  # not looked at again: one that ends meanwhile would be missed
        run.kill()
    assert none_left(before)


#: Prints its number, and waits for the end of its input.
WAITING = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"

#: A session of its own that, when told to, starts a program like those of a sandbox.
OTHER_SESSION = f"""
import os, subprocess, sys
if os.fork():
    os._exit(0)
os.setsid()
print(flush=True)
sys.stdin.readline()
subprocess.run([sys.executable, "-c", {WAITING!r}, "runner.py"])
"""


def test_strays__programs_of_other_sessions_are_not_counted() -> None:
    def start(*words: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen([sys.executable, "-c", *words], stdin=pipe, stdout=pipe, text=True)

    with start(OTHER_SESSION) as other:
        assert other.stdin is not None and other.stdout is not None
        other.stdout.readline()
        other.wait()  # the session goes on, without a parent
        before = processes()
        other.stdin.write("\n")
        other.stdin.flush()
        foreign = int(other.stdout.readline())
        with start(WAITING, "runner.py") as own:
            assert own.stdout is not None and int(own.stdout.readline()) == own.pid
            assert foreign in processes() - before
            assert strays(before) == {own.pid} and not none_left(before, 0.0)
        assert none_left(before, 0.0)


AS_USER = """
import json, os, sys, tempfile
sys.path.insert(0, {project!r})
from llm.verifiers.sandbox import KINDS, Limits, Sandbox, find_sandbox, not_working
LIMITS = Limits(cpu=1, wall=60.0, memory=256 << 20)
report = {{}}
tempfile.tempdir = tempfile.mkdtemp()
for kind in KINDS:
    box = Sandbox(kind, sys.executable)
    if not_working(box):
        continue
    outcomes = [box.run(source, LIMITS) for source in {sources!r}]
    outcomes.append(box.run({killer!r}, LIMITS._replace(wall=2.0)))
    report[kind] = [(o.started, o.ended, o.status, o.output.decode()) for o in outcomes]
os.rmdir(tempfile.tempdir)  # which is empty
print(json.dumps(report))
"""


@pytest.mark.slow
@pytest.mark.skipif(not ROOT, reason="only root can become another user; others are one already")
def test_it_holds_for_ordinary_users(tmp_path: Path) -> None:
    python = Path("/usr/bin/python3")
    if not python.exists() or not os.access(PROJECT, os.R_OK):
        pytest.skip("there is no Python that other users may read")
    before = processes()
    sources = [
        "import os\nos.makedirs('a/b')\nos.chmod('a/b', 0)\nos.chmod('a', 0)\nprint(6 * 7)",
        DAEMON.format(close="pass", then="print('done')"),
        "import os\nn = 0\ntry:\n  while n < 200:\n    if os.fork() == 0:\n"
        "      import time\n      time.sleep(9)\n    n += 1\nexcept OSError: print(n < 100)",
    ]
    killer = DAEMON.format(close="os.close(1)", then="os.kill(os.getppid(), 9)\ntime.sleep(60)")
    script = AS_USER.format(project=str(PROJECT), sources=sources, killer=killer)
    ran = subprocess.run(
        [python, "-c", script],
        user=61000,
        group=61000,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    if "Permission" in ran.stderr or "No module named 'llm'" in ran.stderr:
        pytest.skip("other users may not read the project")
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert "plain" in report
    for kind, (plain, daemon, bomb, killed) in report.items():
        assert plain == [True, "", 0, "42\n"], kind
        assert daemon == [True, "", 0, "done\n"], kind
        assert killed[1] == "timeout" or killed[2] != 0, kind
        assert bomb[3] == "True\n", kind
    assert none_left(before)


def test_bubblewraps_options_show_little_and_write_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    python = "/home/me/tools/python/bin/python3.11"
    for user in (0, 1000):
        monkeypatch.setattr(os, "getuid", lambda user=user: user)
        options = bwrap_options(python)
        assert options[0].endswith("bwrap")
        assert {"--unshare-net", "--unshare-pid", "--unshare-ipc", "--die-with-parent"} < set(
            options
        )
        assert ("--unshare-user" in options) == (user != 0)
        shown = {
            options[k + 1] for k, name in enumerate(options) if "bind" in name and name[-1] != "/"
        }
        assert not any(name in ("--bind", "--bind-try") for name in options)
        homes = {path for path in shown if path.startswith("/home")}
        assert homes == {python, "/home/me/tools/python/lib"}
        assert not shown & {"/", "/home", "/root", "/tmp", "/proc", "/etc", "/var", str(PROJECT)}
        assert options[-2:] == ["--remount-ro", "/"]


def test_what_does_not_work_here_is_said() -> None:
    find_sandbox.cache_clear()
    with pytest.raises(ValueError, match=r"^code: no program .* /no/python is not a program$"):
        find_sandbox("/no/python")


def test_the_next_kind_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox("plain")
    python = sandbox("plain").python
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    find_sandbox.cache_clear()
    found, why = find_sandbox(python)
    find_sandbox.cache_clear()
    assert found.kind in ("namespaces", "plain")
    assert why.startswith("bubblewrap is not installed")
    assert "in no sandbox" in found.risks()


def test_interrupted_trials_leave_nothing(box: Sandbox) -> None:
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        box.run("import time\ntime.sleep(60)", LIMITS)
