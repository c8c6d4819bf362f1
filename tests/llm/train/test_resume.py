from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from llm.runs.checkpoints import latest
from tests.llm.training_runs import assert_same_run, kill, metrics, start, train, wait_for_step


@pytest.mark.parametrize(
    "more",
    [
        ["--algorithm=srpo"],
        ["--lora.r=4", "--lora.dropout=0.1", "--algorithm=rrpo"],
        ["--algorithm=adaptive", "--localizer=halving", "--plan.fresh=2"],
    ],
)
def test_a_resumed_run_is_the_same_run(
    more: list[str], chain_base: Path, chain_args: dict[str, Any], tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(chain_base, whole, chain_args, *more) == 0
    assert train(chain_base, parts, chain_args, *more, "--steps=1") == 0
    assert train(chain_base, parts, chain_args, *more, "--resume=auto") == 0
    shared = [line["update/tokens"] - line["update/computed_tokens"] for line in metrics(whole)[1:]]
    assert max(shared) > 0
    # The first part ended with an evaluation, which the whole run had no reason for at step 1.
    lines = metrics(parts)
    for name in [name for name in lines[1] if name.startswith("eval/")]:
        assert name not in metrics(whole)[1]
    path = parts / "metrics.jsonl"
    kept = path.read_text().splitlines(keepends=True)
    path.write_text("".join([kept[0], *_without_evaluation(kept[1]), *kept[2:]]))
    assert_same_run(whole, parts)


def _without_evaluation(line: str) -> list[str]:
    import json

    record = json.loads(line)
    return [json.dumps({k: v for k, v in record.items() if not k.startswith("eval/")}) + "\n"]


@pytest.fixture(scope="module")
def whole_srpo(
    chain_base: Path, chain_args: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of SRPO that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert train(chain_base, folder, chain_args, "--algorithm=srpo") == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 1, 2])
def test_resume__a_killed_run_is_the_whole_run(
    step: int, whole_srpo: Path, chain_base: Path, chain_args: dict[str, Any], tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    run = start(chain_base, killed, chain_args, "--algorithm=srpo")
    wait_for_step(killed, step)
    kill(run)
    assert train(chain_base, killed, chain_args, "--algorithm=srpo", "--resume=auto") == 0
    assert_same_run(whole_srpo, killed)


def signal_after_a_step(output: Path, number: signal.Signals) -> None:
    """Send this process a signal once a run has recorded its first step."""
    wait_for_step(output, 1)
    os.kill(os.getpid(), number)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal__ends_the_step_and_saves(
    number: signal.Signals,
    chain_base: Path,
    chain_args: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "run"
    sender = threading.Thread(target=signal_after_a_step, args=(output, number))
    sender.start()
    code = train(chain_base, output, chain_args, "--steps=500", "--save_steps=500")
    sender.join()
    out, err = capsys.readouterr()
    assert code == 130, err
    assert "go on with" in out
    assert f"--config {output / 'config.yaml'} --resume auto" in out.replace("\n", "")
    done = int(metrics(output)[-1]["step"])
    saved = latest(output / "checkpoints")
    assert saved is not None
    assert saved.name == f"step-{done:06}"
    more = [f"--steps={done + 1}", "--save_steps=500", "--resume=auto"]
    assert train(chain_base, output, chain_args, *more) == 0
    assert metrics(output)[-1]["step"] == done + 1
