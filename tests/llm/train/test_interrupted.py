"""Interrupted runs: one line names the cause, and the next start resumes from complete files."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from rich.console import Console

from llm.common.atomic_files import append, write_whole
from llm.common.progress import Reporter
from llm.config.train import TrainConfig, parse_config
from llm.learner.updater import PolicyUpdater
from llm.runs import folder as run_folder
from llm.runs.checkpoints import latest, save
from llm.runs.folder import alone, begin_run, open_run
from llm.train.session import stop_on_signals
from llm.train.trainer import Trainer
from tests.llm.train.test_bad_input import one_line
from tests.llm.training_runs import arguments, assert_same_run, metrics, train

GRPO = ["--algorithm=grpo", "--evaluation.steps=0", "--save_steps=99"]


def fail(monkeypatch: pytest.MonkeyPatch, method: str, call: int, error: BaseException) -> None:
    """Make one call of an updater method raise an error; calls count from 1."""
    original = getattr(PolicyUpdater, method)
    calls = 0

    def failing(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise error
        return original(*arguments, **options)

    monkeypatch.setattr(PolicyUpdater, method, failing)


def test_train__out_of_memory_loses_no_step(
    chain_base: Path,
    chain_args: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    reference, resumed = tmp_path / "reference", tmp_path / "resumed"
    assert train(chain_base, reference, chain_args, *GRPO) == 0
    full = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of …"
    with monkeypatch.context() as patch:
        fail(patch, "__call__", 3, torch.OutOfMemoryError(full))
        assert train(chain_base, resumed, chain_args, *GRPO) == 1
    err = one_line(capfd)
    assert "Tried to allocate 2.00 GiB; lower update.per_device_train_batch_size" in err
    assert "step-000002 is saved, go on with" in err
    assert train(chain_base, resumed, chain_args, *GRPO, "--resume=auto") == 0
    assert_same_run(reference, resumed)


def test_train__half_a_step_is_not_saved(
    chain_base: Path,
    chain_args: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    fail(monkeypatch, "_step", 4, ValueError("in the second pass of step 2"))
    more = [*GRPO, "--update.num_iterations=2"]
    assert train(chain_base, tmp_path / "run", chain_args, *more) == 1
    assert "second pass of step 2; step-000000 is saved" in one_line(capfd)


def test_train__signal_before_the_run_began(
    chain_base: Path,
    chain_args: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # A shell starts background processes with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for place, message in (
        ("llm.config.train.parse_config", "stopped before the run began"),
        ("llm.train.build.load_policy", "stopped at once"),
    ):
        for number in (signal.SIGINT, signal.SIGTERM):
            with monkeypatch.context() as patch:
                patch.setattr(place, lambda *_, n=number, **__: signal.raise_signal(n))
                assert train(chain_base, tmp_path / "run", chain_args) == 130
            assert one_line(capfd).rstrip() == f"python -m llm.train: {message}"
    assert not (tmp_path / "run").exists()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    signal.signal(signal.SIGINT, before)


class StoppedWhilePrinting(io.RawIOBase):
    """Output during whose first write a signal arrives."""

    def __init__(self) -> None:
        self.written = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if not self.written:
            signal.raise_signal(signal.SIGINT)
        self.written += bytes(data)
        return len(data)


def test_stop_on_signals__signal_during_a_print() -> None:
    raw = StoppedWhilePrinting()
    console = Console(file=io.TextIOWrapper(io.BufferedWriter(raw), write_through=True))
    trainer, reporter = SimpleNamespace(stop_requested=False), Reporter(3, console)
    for attempt in range(2):  # of which only the first is stopped
        with stop_on_signals(cast(Any, trainer), reporter):
            reporter.message(f"line {attempt}")
    assert trainer.stop_requested
    lines = raw.written.decode().splitlines()
    message = "finishing this step, then saving; a second signal stops at once"
    assert sorted(lines) == [message, "line 0", "line 1"]


LEAVING = """
import atexit, time
from llm.common.commands import leave

atexit.register(print, "the rest", end="")  # handlers run in reverse order
atexit.register(lambda: (print("leaving", flush=True), time.sleep({seconds})))
leave(130)
"""


@pytest.mark.parametrize("number", [None, signal.SIGINT, signal.SIGTERM])
def test_leave__a_signal_does_not_change_the_exit_code(number: signal.Signals | None) -> None:
    script = LEAVING.format(seconds=60 if number else 0)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as leaving:
        assert leaving.stdout is not None and leaving.stdout.readline() == b"leaving\n"
        if number:
            leaving.send_signal(number)
        assert leaving.stdout.read() == (b"" if number else b"the rest")
    assert leaving.returncode == 130


@pytest.mark.slow
def test_train__closed_pipe_loses_no_step(
    chain_base: Path, chain_args: dict[str, Any], tmp_path: Path
) -> None:
    flags = arguments(chain_base, tmp_path / "run", chain_args, *GRPO, "--steps=9999")
    run = subprocess.Popen(
        [sys.executable, "-m", "llm.train", *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert run.stdout is not None and run.stderr is not None
    while not run.stdout.readline().startswith("step 2/"):
        assert run.poll() is None, run.stderr.read()
    run.stdout.close()
    assert run.wait(timeout=60) == 1
    (line,) = run.stderr.read().splitlines()
    run.stderr.close()
    done = int(metrics(tmp_path / "run")[-1]["step"])
    assert f"the output pipe was closed, so the run stopped; step-{done:06} is saved" in line


@pytest.mark.parametrize("encoding", ["ascii", None])
def test_train__ascii_or_missing_output(
    encoding: str | None,
    chain_base: Path,
    chain_args: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The parity line has a Δ; a daemon may have no output at all.
    output = io.BytesIO()
    stream = io.TextIOWrapper(output, encoding=encoding) if encoding else None
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        assert train(chain_base, tmp_path / "run", chain_args, *GRPO, "--steps=1") == 0
        if stream is None:
            sys.stdout.close()  # the replacement
        else:
            stream.flush()
            assert b"|\\u0394 log-prob|" in output.getvalue()


# --- files


@contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """Limit the size of files: writes fail as on a full disk, with another errno."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_atomic_files__full_disk_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "file"
    write_whole(file, "before\n")
    with no_file_over(4096):
        for write in (write_whole, append):
            with pytest.raises(OSError, match=f"File too large: '{file}'"):
                write(file, "after\n" * 1000)
            if write is write_whole:
                assert file.read_text() == "before\n"


def config(folder: Path, **more: Any) -> TrainConfig:
    flags = [f"--{name}={value}" for name, value in more.items()]
    return parse_config(["--model=m", f"--output={folder}", *flags], "x")


def test_begin_run__killed_while_deleting_later_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (2, 4):
        save(tmp_path / "checkpoints", step, {}, {})
    lines = "".join(json.dumps({"step": step}) + "\n" for step in range(5))
    write_whole(tmp_path / "metrics.jsonl", lines)

    def killed(path: Path, text: str) -> None:
        write_whole(path, text)
        if path.name == "metrics.jsonl":
            raise KeyboardInterrupt

    monkeypatch.setattr(run_folder, "write_whole", killed)
    named = config(tmp_path, resume=tmp_path / "checkpoints" / "step-000002")
    with pytest.raises(KeyboardInterrupt):
        begin_run(named, 2)
    # Not step 4, whose metrics are deleted.
    saved = open_run(config(tmp_path, resume="auto"))
    assert saved == latest(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step-000002"
    monkeypatch.undo()
    begin_run(named, 2)
    assert [line["step"] for line in metrics(tmp_path)] == [0, 1, 2]


def test_begin_run__damaged_metrics_and_environment(tmp_path: Path) -> None:
    begin_run(config(tmp_path), 0)
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n\xff\xfe\n{"step": 2}\n')
    begin_run(config(tmp_path), 2)
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2]
    (tmp_path / "environment.json").write_text("[{")
    with pytest.raises(ValueError, match=r"environment\.json is not JSON .*; repair or delete it"):
        begin_run(config(tmp_path), 2)


def test_train__two_runs_cannot_share_a_folder(
    chain_base: Path,
    chain_args: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    with alone(run):
        assert train(chain_base, run, chain_args, "--resume=auto") == 2
        assert f"output: another process is at work in {run}; wait for" in one_line(capfd)
    # Another run starts while this one loads its model.
    made = Trainer.__init__

    with monkeypatch.context() as patch, alone(tmp_path / "other"):
        (tmp_path / "other" / run_folder.LOCK).rename(tmp_path / "lock")

        def init(*arguments: Any) -> None:
            made(*arguments)
            (tmp_path / "lock").rename(tmp_path / "other" / run_folder.LOCK)

        patch.setattr(Trainer, "__init__", init)
        assert train(chain_base, tmp_path / "other", chain_args) == 2
        assert "another process is at work in" in one_line(capfd)
    assert os.listdir(tmp_path / "other") == [run_folder.LOCK]
    assert train(chain_base, run, chain_args, *GRPO, "--steps=1") == 0
