"""Trackers: what TensorBoard, Weights & Biases and Trackio receive of a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from llm.runs.trackers import (
    COLUMNS,
    TRACKERS,
    check_installed,
    completion_rows,
    make_tracker,
)
from llm.tasks import ChainReasoning
from tests.llm.scripted import collected, sloppy
from tests.llm.training_runs import metrics, train

ROWS = [(3, "1 + 1 | 2", "a\nb", 1.0, 0.5), (3, "p", "c", 0.0, -0.5)]


def test_completion_rows__of_all_groups() -> None:
    task = ChainReasoning(train=16, test=4)
    _, records = collected(task, sloppy(task, 0.4), step=5, number=3)
    assert {record["kind"] for record in records} >= {"fresh", "reset"}
    rows = completion_rows(records)
    assert len(rows) == sum(len(record["continuations"]) for record in records)
    assert {row[0] for row in rows} == {5}
    for record in records:
        for continuation in record["continuations"]:
            whole = "".join(record["prefix"] + continuation["thoughts"])
            expected = (5, record["prompt"], whole, continuation["reward"],
                        continuation["advantage"])  # fmt: skip
            assert expected in rows
    chat: Any = {**records[0], "prompt": [{"role": "user", "content": "1+1?"}]}
    assert completion_rows([chat])[0][1] == "user: 1+1?"


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for entry in TRACKERS.values():
        monkeypatch.setitem(sys.modules, entry.package, None)


@pytest.mark.parametrize("name", TRACKERS)
def test_check_installed__names_the_cure(name: str, no_package: None, tmp_path: Path) -> None:
    for call in (lambda: check_installed(name), lambda: make_tracker(name, tmp_path, {})):
        with pytest.raises(ValueError, match=rf"report_to: {name} .*pip install 'credit-resets\["):
            call()
    check_installed("none")
    assert make_tracker("none", tmp_path, {}) is None


@pytest.mark.parametrize("more", [[], ["--dry_run"]])
def test_train__a_tracker_that_is_not_installed(
    more: list[str],
    no_package: None,
    chain_base: Path,
    chain_args: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(chain_base, tmp_path / "run", chain_args, "--report_to=wandb", *more) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("python -m")]
    assert "report_to: wandb" in line and "pip install 'credit-resets[wandb]'" in line
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_train__an_unknown_tracker(
    chain_base: Path, chain_args: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(chain_base, tmp_path, chain_args, "--report_to=paper") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


class Calls(types.ModuleType):
    """A module in place of wandb or trackio that notes what it is given."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.started: dict[str, Any] = {}
        self.logged: list[tuple[dict[str, Any], int]] = []
        self.finished = False

    def init(self, **options: Any) -> Calls:
        self.started = options
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((values, step))

    def Table(self, columns: list[str], data: list[list[Any]]) -> list[dict[str, Any]]:
        return [dict(zip(columns, row, strict=True)) for row in data]

    def finish(self) -> None:
        self.finished = True


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_train__reports_all_steps_and_completions(
    name: str,
    chain_base: Path,
    chain_args: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = Calls(name)
    monkeypatch.setitem(sys.modules, name, module)
    flags = [f"--report_to={name}", "--steps=2", "--rollout_steps=2", "--evaluation.steps=0"]
    assert train(chain_base, tmp_path / "mine", chain_args, *flags) == 0
    assert module.finished and module.started["name"] == "mine"
    assert module.started["config"]["steps"] == 2 and module.started["resume"] == "allow"
    tables = [(values["completions"], step) for values, step in module.logged
              if "completions" in values]  # fmt: skip
    ((rows, at),) = tables
    assert at == 2 and tuple(rows[0]) == COLUMNS and len(rows) == 8 * 8
    lines = (tmp_path / "mine" / "metrics.jsonl").read_text().splitlines()
    numbers = [
        {"step": step, **values} for values, step in module.logged if "completions" not in values
    ]
    assert numbers == [json.loads(line) for line in lines]
    mean = sum(row["reward"] for row in rows) / len(rows)
    assert mean == pytest.approx(numbers[-1]["reward"])


def test_make_tracker__a_service_that_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Calls("wandb")
    monkeypatch.setattr(module, "init", lambda **options: 1 / 0, raising=False)
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(ValueError, match="report_to: wandb does not start: division by zero"):
        make_tracker("wandb", tmp_path, {})


def test_tensorboard__events_of_a_run(
    chain_base: Path, chain_args: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    flags = ["--report_to=tensorboard", "--evaluation.steps=0"]
    assert train(chain_base, tmp_path, chain_args, *flags, "--steps=1") == 0
    assert train(chain_base, tmp_path, chain_args, *flags, "--steps=2", "--resume=auto") == 0
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    rows = metrics(tmp_path)
    for name in ("reward", "loss", "ledger/localizer_cost"):
        logged = [(event.step, event.value) for event in events.Scalars(name)]
        assert logged == [(row["step"], pytest.approx(row[name])) for row in rows]
    tables = events.Tensors("completions/text_summary")
    assert [event.step for event in tables] == [1, 2]
    text = tables[0].tensor_proto.string_val[0].decode()
    assert text.startswith("| step | prompt | completion | reward | advantage |\n| --- |")
    assert len(text.splitlines()) == 2 + 8 * 8


def test_tensorboard__cells(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = make_tracker("tensorboard", tmp_path, {})
    assert tracker is not None
    tracker.completions(3, ROWS)
    tracker.close()
    (event,) = (
        EventAccumulator(str(tmp_path / "tensorboard")).Reload().Tensors("completions/text_summary")
    )
    first = event.tensor_proto.string_val[0].decode().splitlines()[2]
    assert first == "| 3 | 1 + 1 \\| 2 | a<br>b | 1 | 0.5 |"


REAL = """
import json, sys
from pathlib import Path
from llm.runs.trackers import make_tracker
rows = [tuple(row) for row in json.loads(sys.argv[2])]
for step in (1, 2):  # a run, resumed
    tracker = make_tracker(sys.argv[1], Path("run"), {"steps": 2})
    tracker.completions(step, rows)
    tracker.metrics(step, {"reward": 0.5 + step})
    tracker.close()
"""


def real(name: str, folder: Path, **variables: str) -> None:
    """Use a tracker in a process of its own, offline."""
    path = os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", REAL, name, json.dumps(ROWS)],
        cwd=folder, env={**os.environ, **variables, "PYTHONPATH": path},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_trackio__for_real(tmp_path: Path) -> None:
    trackio = pytest.importorskip("trackio", "0.43", exc_type=ImportError)
    assert trackio
    real("trackio", tmp_path, TRACKIO_DIR=str(tmp_path / "store"))
    import sqlite3

    (file,) = (tmp_path / "store").glob("*.db")
    with sqlite3.connect(file) as store:
        logged = store.execute("SELECT run_name, step, metrics FROM metrics ORDER BY step")
        rows = [(name, step, json.loads(values)) for name, step, values in logged]
    store.close()
    assert {name for name, _, _ in rows} == {"run"}
    scalars = [(step, values["reward"]) for _, step, values in rows if "reward" in values]
    assert scalars == [(1, 1.5), (2, 2.5)]
    tables = [values["completions"] for _, _, values in rows if "completions" in values]
    assert len(tables) == 2 and "1 + 1 | 2" in json.dumps(tables[0])


def test_wandb__for_real(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    real("wandb", tmp_path, WANDB_MODE="offline", WANDB_SILENT="true")
    runs = list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len({run.name.rpartition("-")[2] for run in runs}) == 1
    assert any(run.rglob("*.table.json") for run in runs)
