"""A run whose engine is killed loses no step, says so in a line, and goes on."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from llm.runs import checkpoints
from llm.train.__main__ import main

#: Seconds until a run is taken to hang.
LIMIT = 120


def arguments(base: Path, output: Path, chain_args: dict[str, Any], steps: int) -> list[str]:
    flags = {
        "model": base,
        "engine": "vllm",
        "vllm.separate_process": "true",
        "algorithm": "rrpo",
        "output": output,
        "steps": steps,
        "save_steps": 10**6,  # so that what is saved is saved because of the accident
        "prompts_per_step": 4,
        "evaluation.steps": 0,
        "sampling.max_completion_length": 32,
        **{f"task_args.{name}": json.dumps(value) for name, value in chain_args.items()},
    }
    return [str(word) for name, value in flags.items() for word in (f"--{name}", value)]


def metrics(output: Path) -> list[dict[str, Any]]:
    """The lines that are complete."""
    file = output / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def steps(output: Path) -> list[int]:
    return [line["step"] for line in metrics(output)]


def engine_process() -> int:
    """The process of vLLM's engine among the children of this one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "stat").read_text().rpartition(")")[2].split()
            name = (folder / "cmdline").read_text() + (folder / "comm").read_text()
        except OSError:  # it has ended meanwhile
            continue
        if int(words[1]) == os.getpid() and words[0] != "Z" and "EngineCor" in name:
            found.append(int(folder.name))
    (process,) = found
    return process


def kill_engine_after(output: Path, step: int, killed: list[int]) -> None:
    """Kill the engine once a run has recorded a step."""
    end = time.monotonic() + LIMIT
    while not steps(output) or steps(output)[-1] < step:
        if time.monotonic() > end:
            return
        time.sleep(0.02)
    killed.append(engine_process())
    os.kill(killed[0], signal.SIGKILL)


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_train__a_killed_engine_costs_no_step(
    chain_base: Path,
    chain_args: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "run"
    killed: list[int] = []
    killer = threading.Thread(target=kill_engine_after, args=(output, 2, killed))
    killer.start()
    code = main(arguments(chain_base, output, chain_args, steps=10_000))
    killer.join()
    complaints = capsys.readouterr().err
    (engine,) = killed

    # The step that was under way is lost, and no other; one line says so.
    done, latest = steps(output), checkpoints.latest(output / "checkpoints")
    assert latest is not None
    reached = checkpoints.load(latest).step
    assert done == list(range(1, reached + 1))
    assert code == 1
    # The weights of every step have reached the process.
    for line in metrics(output):
        assert line["sampling/sampling_logp_difference/max"] < 1e-4
    line = re.fullmatch(
        rf"python -m llm.train: vLLM's engine process {engine} died \(killed by signal 9\); "
        rf"start a new engine; what it printed is in (\S+); {latest.name} is saved, "
        r"go on with python -m llm.train (.*)\n",
        complaints,
    )
    assert line is not None, complaints
    log = Path(line[1])
    assert log.stat().st_size > 0
    log.unlink()

    # What it says to do works, wherever the engine then runs.
    more = ["--steps", str(reached + 2), "--vllm.separate_process", "false"]
    assert main([*shlex.split(line[2]), *more]) == 0
    printed, complaints = capsys.readouterr()
    assert complaints == ""
    assert f"going on from {latest}" in printed
    assert steps(output) == list(range(1, reached + 3))
    final = checkpoints.latest(output / "checkpoints")
    assert final is not None and checkpoints.load(final).step == reached + 2
