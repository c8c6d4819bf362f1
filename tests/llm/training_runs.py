"""Small training runs through the command, and what they leave behind."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from llm.runs.checkpoints import latest, load
from llm.runs.rollout_records import read_rollouts, rollout_files
from llm.train.__main__ import main
from tests.llm.forked import Forked

#: Metrics that tell the time.
CLOCKS = ("step_time", "time/", "tokens_per_second/")


def arguments(model: Path, output: Path, task: dict[str, Any], *more: str) -> list[str]:
    """Flags of a run of three steps on eight prompts; `more` wins."""
    return [
        "--config=chain",
        f"--model={model}",
        f"--output={output}",
        f"--task_args={json.dumps(task)}",
        "--steps=3",
        "--prompts_per_step=8",
        "--save_steps=1",
        "--save_total_limit=99",
        "--optimizer.learning_rate=1e-3",
        "--evaluation.steps=2",
        *more,
    ]


def train(model: Path, output: Path, task: dict[str, Any], *more: str) -> int:
    """Run the command in this process, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return main(arguments(model, output, task, *more))
    finally:
        torch.set_num_threads(threads)


def start(model: Path, output: Path, task: dict[str, Any], *more: str) -> Forked:
    """Run the command in a process of its own."""
    return Forked("llm.train", arguments(model, output, task, *more))


def torchrun(options: list[str], flags: list[str]) -> Forked:
    """An agent of torchrun; the processes that it starts are new ones."""
    options = [*options, "-m", "llm.train", *flags]
    env = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return Forked("torch.distributed.run", options, env)


def of_rank(run: Forked, rank: int) -> int:
    """The process id of a rank of a job."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has gone meanwhile
            parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
            names = (path / "environ").read_text().split("\0")
            if int(parent) == run.pid and f"RANK={rank}" in names:
                return int(path.name)
    raise ProcessLookupError(f"no rank {rank}")


def wait_for_step(output: Path, step: int, seconds: float = 120) -> None:
    """Until a run has recorded a step."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        path = output / "metrics.jsonl"
        if path.exists() and len(path.read_text().splitlines()) > step:
            return
        time.sleep(0.01)
    raise TimeoutError(f"step {step} of {output} did not come")


def kill(run: subprocess.Popen[str] | Forked) -> None:
    """As a cluster would that runs out of memory."""
    run.send_signal(signal.SIGKILL)
    run.communicate()


def metrics(output: Path) -> list[dict[str, float]]:
    """The metrics of a run, without those of the clock."""
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if not name.startswith(CLOCKS)}
        for line in lines
    ]


def rollouts(output: Path) -> dict[int, Any]:
    """The records of every step."""
    return {step: read_rollouts(path) for step, path in rollout_files(output).items()}


def final(output: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of the newest checkpoint: weights, optimizer, generators."""
    path = latest(output / "checkpoints")
    assert path is not None
    return load(path).tensors


def assert_same_run(one: Path, other: Path) -> None:
    """Bit for bit: weights, optimizer, random generators, metrics and rollouts."""
    a, b = final(one), final(other)
    assert a.keys() == b.keys()
    for group, tensors in a.items():
        assert tensors.keys() == b[group].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, b[group][name]), (group, name)
    assert metrics(one) == metrics(other)
    assert rollouts(one) == rollouts(other)
