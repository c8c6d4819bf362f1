"""Figures of training runs and of the comparison: drawing, determinism, error messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm.compare.arms import ARMS
from llm.show.curves import tokens
from paper_figures import compare, training_run
from paper_figures.framework.style import COLOURS, DASHES, family

#: The signature of PNG files.
PNG = b"\x89PNG\r\n\x1a\n"


def write_run(folder: Path, steps: int = 5) -> Path:
    folder.mkdir()
    rows: list[dict[str, Any]] = [{"step": 0, "eval/pass@1": 0.1}]
    for step in range(1, steps + 1):
        rows.append({"step": step, "ledger/steps": 100 * step, "fresh/reward": 0.1 * step})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_training_run__draws_deterministically(tmp_path: Path) -> None:
    run, out = write_run(tmp_path / "run"), tmp_path / "figures" / "run.png"
    assert training_run.main([str(run), "--out", str(out)]) == 0
    first = out.read_bytes()
    assert first.startswith(PNG)
    assert training_run.main([str(run), "--out", str(out)]) == 0
    assert out.read_bytes() == first
    # A longer run gives another picture.
    other = write_run(tmp_path / "other", steps=6)
    assert training_run.main([str(other), "--out", str(out)]) == 0
    assert out.read_bytes() != first


def test_tokens__includes_localizations() -> None:
    assert tokens({"ledger/steps": 70, "ledger/localizer_cost": 30}) == 100
    assert tokens({}) == 0


def test_main__missing_runs_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert training_run.main([str(tmp_path)]) == 2
    assert "no metrics.jsonl in it" in capsys.readouterr().err
    assert compare.main(["--results", str(tmp_path)]) == 2
    assert "python -m llm.compare makes them" in capsys.readouterr().err


def test_style__distinct_colour_and_dash_per_method() -> None:
    assert {family(arm) for arm in ARMS} <= COLOURS.keys()
    assert COLOURS.keys() == DASHES.keys()
    assert len(set(COLOURS.values())) == len(COLOURS) == len(set(map(str, DASHES.values())))


def record(tokens: int, steps: int, end: float) -> dict[str, Any]:
    x = np.linspace(0, 1, 5)
    curve = {"tokens": (tokens * x).tolist(), "step": (steps * x).tolist()}
    config = {
        "token_budget": tokens,
        "seed": 0,
        "model": "m",
        "task_args": {},
        "prompts_per_step": 8,
    }
    return {"curve": curve | {"success": (end * x).tolist()}, "config": config}


def test_mean_curve__ends_with_the_shortest_run() -> None:
    grid, mean = compare.mean_curve([record(100, 10, 1.0), record(100, 20, 0.5)], "step")
    assert grid[-1] == 10
    assert mean[-1] == pytest.approx((1.0 + 0.25) / 2)
    assert mean[0] == 0


def test_compare__draws_recorded_runs(tmp_path: Path) -> None:
    results = tmp_path / "results"
    for regime in ("short", "long"):
        (results / regime).mkdir(parents=True)
        for arm in ("grpo", "rrpo", "deepest-checker"):
            for seed in (0, 1, 2):
                made = record(100, 10 + seed, 0.5 + 0.1 * seed)
                (results / regime / f"{arm}-s{seed}.json").write_text(json.dumps(made))
    out = tmp_path / "compare.png"
    assert compare.main(["--results", str(results), "--out", str(out)]) == 0
    assert out.read_bytes().startswith(PNG)
