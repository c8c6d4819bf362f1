"""`torchrun -m llm.train`: the run of one process, whoever resumes it, and however it ends.

torchrun itself starts the jobs in which it has a part: those with a killed process.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from torch.testing import assert_close

from llm.runs.checkpoints import latest
from tests.llm.forked import ranks
from tests.llm.training_runs import (
    arguments,
    final,
    kill,
    metrics,
    of_rank,
    rollouts,
    torchrun,
    train,
    wait_for_step,
)

pytestmark = pytest.mark.slow

#: A large epsilon, so that AdamW does not make the rounding of a gradient near zero a step's sign.
FLAGS = ["--algorithm=srpo", "--optimizer.adam_epsilon=1e-4", "--evaluation.steps=0"]

Runs = tuple[Path, dict[str, Any], Path]


@pytest.fixture
def runs(chain_base: Path, chain_args: dict[str, Any], tmp_path: Path) -> Runs:
    return chain_base, chain_args, tmp_path


def together(runs: Runs, name: str, *more: str) -> str:
    """Run it as two processes; returns what they print."""
    model, task, folder = runs
    job = ranks("llm.train", arguments(model, folder / name, task, *FLAGS, *more))
    printed = [process.communicate(timeout=600) for process in job]
    assert [process.returncode for process in job] == [0, 0], printed
    return "".join(out for out, _ in printed)


def alone(runs: Runs, name: str, *more: str) -> None:
    model, task, folder = runs
    assert train(model, folder / name, task, *FLAGS, *more) == 0


def assert_like(one: Path, other: Path) -> None:
    """The same run up to rounding; the same tokens, rewards and resets."""
    a, b = final(one), final(other)
    for group in ("model", "optimizer"):
        assert a[group].keys() == b[group].keys()
        for name, tensor in a[group].items():
            assert_close(b[group][name], tensor, rtol=1e-3, atol=1e-5, msg=f"{group} {name}")
    lines, others = metrics(one), metrics(other)
    assert [line["step"] for line in lines] == [line["step"] for line in others] == [1, 2, 3]
    for line, expected in zip(others, lines, strict=True):
        assert line == pytest.approx(expected, rel=1e-2, abs=1e-4)
    for step, records in rollouts(one).items():
        for record, expected in zip(rollouts(other)[step], records, strict=True):
            for mine, its in zip(record["continuations"], expected["continuations"], strict=True):
                assert (mine["ids"], mine["advantage"]) == (its["ids"], its["advantage"])


@pytest.mark.parametrize("more", [[], ["--lora.r=4"]])
def test_any_number_of_processes_runs_and_resumes_the_same_run(more: list[str], runs: Runs) -> None:
    folder = runs[2]
    alone(runs, "one", *more)
    out = together(runs, "two", *more)
    assert out.count("step 3/3") == 1  # one of them speaks
    assert_like(folder / "one", folder / "two")
    for name, source, go_on in (("one, two", "one", together), ("two, one", "two", alone)):
        # As the source stood after its first step.
        shutil.copytree(folder / source, folder / name)
        for step in (2, 3):
            shutil.rmtree(folder / name / "checkpoints" / f"step-00000{step}")
        go_on(runs, name, *more, "--resume=auto")
        assert_like(folder / "one", folder / name)


def said(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("python -m llm.train: ")]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_job(rank: int, runs: Runs) -> None:
    model, task, folder = runs
    output = folder / "run"
    flags = arguments(model, output, task, *FLAGS, "--steps=999", "--save_steps=1")
    run = torchrun(["--standalone", "--nproc_per_node=2"], flags)
    try:
        wait_for_step(output, 1, seconds=600)
        os.kill(of_rank(run, rank), signal.SIGKILL)
        _, err = run.communicate(timeout=300)
    finally:
        kill(run)
    assert run.returncode == 1
    (line,) = said(err)
    saved = latest(output / "checkpoints")
    assert saved is not None
    assert f"another process of this job ended; {saved.name} is saved, go on with torchrun" in line
    assert f"--nproc_per_node 2 -m llm.train --config {output / 'config.yaml'} --resume" in line
    step = int(saved.name.removeprefix("step-"))
    more = [f"--steps={step + 1}", "--resume=auto"]
    assert train(model, output, task, *FLAGS, *more) == 0
    assert metrics(output)[-1]["step"] == step + 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_one_process_ends_the_step_of_all(number: signal.Signals, runs: Runs) -> None:
    model, task, folder = runs
    output = folder / "run"
    flags = [*FLAGS, "--steps=999", "--save_steps=999"]
    first, second = ranks("llm.train", arguments(model, output, task, *flags))
    try:
        wait_for_step(output, 1, seconds=600)
        second.send_signal(number)
        printed = [process.communicate(timeout=300) for process in (first, second)]
    finally:
        kill(first)
        kill(second)
    assert first.returncode == second.returncode == 130
    assert not said("".join(err for _, err in printed))
    done = int(metrics(output)[-1]["step"])
    assert f"stopped after step {done}, which is saved; go on with" in printed[0][0]
    saved = latest(output / "checkpoints")
    assert saved is not None and saved.name == f"step-{done:06}"


def test_a_bad_input_is_said_once(runs: Runs) -> None:
    model, task, folder = runs
    flags = [*FLAGS, "--optimizer.lr_scheduler_type=none such"]
    job = ranks("llm.train", arguments(model, folder / "run", task, *flags))
    complaints = "".join(process.communicate(timeout=300)[1] for process in job)
    assert {process.returncode for process in job} == {2}
    (line,) = said(complaints)
    assert "optimizer.lr_scheduler_type: " in line
    assert not (folder / "run").exists()


def agents(flags: list[str]) -> str:
    """Run it by two torchrun agents of one process each, as on two machines; what they print."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1"]
    launch += [f"--master_port={port}"]
    job = [torchrun([*launch, f"--node_rank={node}"], flags) for node in range(2)]
    try:
        printed = [agent.communicate(timeout=600) for agent in job]
    finally:
        for agent in job:
            kill(agent)
    assert [agent.returncode for agent in job] == [0, 0], printed
    return "".join(out for out, _ in printed)


def test_two_agents_train_and_resume(runs: Runs) -> None:
    model, task, folder = runs
    flags = arguments(model, folder / "run", task, *FLAGS, "--prompts_per_step=2", "--save_steps=1")
    first = agents([*flags, "--steps=1"])
    assert first.count("step 1/1") == 1
    second = agents([*flags, "--steps=2", "--resume=auto"])
    assert "going on from" in second and second.count("step 2/2") == 1
    assert [row["step"] for row in metrics(folder / "run")] == [1, 2]
