"""The folder of a run: which folders are refused, and what a resumed run deletes."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llm.config.train import TrainConfig, parse_config
from llm.runs import checkpoints
from llm.runs.folder import begin_run, environment, open_run


def config(folder: Path, **changes: Any) -> TrainConfig:
    return dataclasses.replace(parse_config(["--model=m", f"--output={folder}"], "x"), **changes)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of three steps, with checkpoints of steps 2 and 3, and files of the user."""
    folder = tmp_path / "run"
    begin_run(config(folder), 0)
    (folder / "rollouts").mkdir()
    lines = [json.dumps({"step": step, "reward": 0.5}) + "\n" for step in range(4)]
    (folder / "metrics.jsonl").write_text("".join(lines))
    for step in range(1, 4):
        (folder / "rollouts" / f"step-{step:06}.jsonl").write_text("{}\n")
    for step in (2, 3):
        checkpoints.save(folder / "checkpoints", step, {}, {})
    (folder / "rollouts" / "step-of-mine.jsonl").write_text("")
    (folder / "checkpoints" / "step-best").mkdir()
    return folder


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def steps(folder: Path) -> list[int]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


# --- opening


def test_open_run__writes_nothing(tmp_path: Path) -> None:
    for resume in ("never", "auto"):
        assert open_run(config(tmp_path / "deep" / "run", resume=resume)) is None
    assert list(tmp_path.iterdir()) == []


def test_open_run__existing_run_is_refused(run: Path) -> None:
    before = tree(run)
    with pytest.raises(ValueError, match=rf"output: {run} already holds a run; --resume auto goes"):
        open_run(config(run))
    # Also before the first checkpoint, and if the metrics are deleted.
    (run / "metrics.jsonl").rename(run / "gone")
    with pytest.raises(ValueError, match="already holds a run"):
        open_run(config(run))
    (run / "gone").rename(run / "metrics.jsonl")
    (run / "checkpoints").rename(run / "gone")
    with pytest.raises(ValueError, match="already holds a run"):
        open_run(config(run))
    with pytest.raises(ValueError, match="has the metrics of a run and no checkpoint to go on"):
        open_run(config(run, resume="auto"))
    (run / "gone").rename(run / "checkpoints")
    assert tree(run) == before


def test_open_run__checkpoint_to_resume_from(run: Path, tmp_path: Path) -> None:
    second, third = (run / "checkpoints" / f"step-{step:06}" for step in (2, 3))
    assert open_run(config(run, resume="auto")) == third
    assert open_run(config(run, resume=str(second))) == second
    # Another folder may resume from there, unless it already holds a run.
    assert open_run(config(tmp_path / "other", resume=str(second))) == second
    begin_run(config(tmp_path / "other"), 0)
    (tmp_path / "other" / "metrics.jsonl").write_text('{"step": 0}\n')
    with pytest.raises(ValueError, match=rf"already holds another run than {second}; choose"):
        open_run(config(tmp_path / "other", resume=str(second)))
    with pytest.raises(ValueError, match="'step-4' is neither 'never' nor 'auto' nor a checkpoint"):
        open_run(config(run, resume="step-4"))


def test_open_run__impossible_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=rf"cannot be made, {tmp_path / 'file'} is a file; choose"):
        open_run(config(tmp_path / "file" / "run"))
    with pytest.raises(ValueError, match="is a file"):
        open_run(config(tmp_path / "file"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_open_run__unwritable_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match=rf"cannot be made, {tmp_path} is not writable"):
        open_run(config(tmp_path / "run"))
    tmp_path.chmod(0o700)


# --- beginning


@pytest.mark.parametrize(
    ("step", "recorded", "saved"), [(3, [0, 1, 2, 3], [2, 3]), (2, [0, 1, 2], [2]), (0, [], [])]
)
def test_begin_run__later_records_are_deleted(
    step: int, recorded: list[int], saved: list[int], run: Path
) -> None:
    begin_run(config(run, steps=9), step)
    assert steps(run) == recorded
    assert tree(run / "rollouts") == [
        *(f"step-{number:06}.jsonl" for number in range(1, step + 1)),
        "step-of-mine.jsonl",
    ]
    folders = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert folders == [*(f"step-{number:06}" for number in saved), "step-best"]
    assert parse_config([f"--config={run}/config.yaml"], "x") == config(run, steps=9)
    assert len(json.loads((run / "environment.json").read_text())) == 2  # one entry per start


@pytest.mark.parametrize("broken", ['{"step": 2}', '{"step": 2', "{}\n", "[2]\n", '"step"\n'])
def test_begin_run__incomplete_metrics_line_is_dropped(broken: str, run: Path) -> None:
    # Even a line that lacks only its newline: the next line would be appended to it.
    complete = '{"step": 1}\n'
    (run / "metrics.jsonl").write_text(complete + broken)
    begin_run(config(run), 2)
    assert (run / "metrics.jsonl").read_text() == complete


def test_begin_run__interrupted_deletion_is_finished(run: Path) -> None:
    third = run / "checkpoints" / "step-000003"
    (run / "checkpoints" / "step-000003.deleted").mkdir()
    begin_run(config(run), 2)
    assert not third.exists()
    assert not third.with_suffix(".deleted").exists()
    assert checkpoints.latest(run / "checkpoints") == run / "checkpoints" / "step-000002"


@pytest.mark.parametrize("spec", [None, SimpleNamespace(name="llm.train")])
def test_environment__names_command_and_versions(
    spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__spec__=spec))  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "argv", ["/home/somebody/train.py", "--steps=3"])
    entry = json.loads(json.dumps(environment()))
    assert {"torch", "transformers", "numpy"} <= entry["versions"].keys()
    program = ["train.py"] if spec is None else ["python", "-m", "llm.train"]
    assert entry["command"] == [*program, "--steps=3"]
    assert entry["python"] and entry["device"]
