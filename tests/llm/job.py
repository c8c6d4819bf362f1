"""A job for tests of several processes: `run_job` starts this module once per process.

Each process writes its results to a file. The optimizer's epsilon is large: AdamW would otherwise
turn the rounding of a gradient near zero into the sign of a step.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from llm.distributed.processes import (
    first_to_fail,
    gather,
    job,
    on_every_process,
    on_main_process,
    rank,
    scatter_gather,
    world_size,
)
from llm.engines import SamplingParams
from llm.engines.sharded import ShardedEngine
from llm.engines.transformers import TransformersEngine
from llm.learner.options import LossConfig, UpdateOptions
from llm.learner.rows import Row, pad
from llm.learner.updater import PolicyUpdater, TrainingError
from llm.models import fsdp
from llm.models.lora import LoraOptions
from llm.models.policy import load_policy, merged_state_dict, trainable
from llm.runs.training_state import optimizer_tensors
from llm.tasks import Example
from llm.tasks.shared import shard_verification
from tests.llm.forked import ranks
from tests.llm.learner.test_updater import rows
from tests.llm.small import Essay, ScriptedEngine

#: Options of the update, of the policy and of the rows, by case.
CASES: dict[str, dict[str, Any]] = {
    "full": {},
    "untied, one row at a time": {"tied": False, "per_device_train_batch_size": 1},
    "one row": {"rows": 1},
    "no signal": {"still": True},
    "clipped gradient": {"max_grad_norm": 1e-2},
    "reference": {"loss": {"beta": 0.5}},
    "adapters": {"lora": 4},
    "adapters and reference": {"lora": 4, "loss": {"beta": 0.5}},
    "several steps": {
        "num_iterations": 2, "steps_per_generation": 2, "loss": {"epsilon": 0.001},
        "per_device_train_batch_size": 2,
    },
    "gradient checkpointing": {"gradient_checkpointing": True},
}  # fmt: skip


def updater(
    folders: Mapping[bool, Path], case: Mapping[str, Any]
) -> tuple[PolicyUpdater, list[Row]]:
    """An updater as the trainer creates it, and the rows of a step."""
    options = dict(case)
    folder = str(folders[options.pop("tied", True)])
    batch = rows()[: options.pop("rows", None)]
    if options.pop("still", False):
        batch = [row._replace(advantage=0.0) for row in batch]
    loss = LossConfig(
        **{"vllm_importance_sampling_mode": "token_truncate", **options.pop("loss", {})}
    )

    def load() -> Any:
        return load_policy(folder, lora=lora, gradient_checkpointing=saves, device=None)

    lora, saves = LoraOptions(options.pop("lora", 0)), options.pop("gradient_checkpointing", False)
    policy = load()
    if lora.r:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():  # otherwise the gradient of one of the two factors is 0
            for parameter in trainable(policy).values():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    reference = load().eval().requires_grad_(False) if loss.beta and not lora.r else None
    sharded: Any = policy
    if world_size() > 1:
        sharded = fsdp.shard(policy)
        reference = reference and fsdp.shard(reference)
    optimizer = torch.optim.AdamW(trainable(policy).values(), lr=1e-2, eps=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    update = PolicyUpdater(
        sharded, optimizer, schedule, loss, UpdateOptions(**options), max_completion_length=20,
        reference=reference,
    )  # fmt: skip
    return update, batch


def updated(folders: Mapping[bool, Path], case: Mapping[str, Any]) -> dict[str, Any]:
    """Results of two updates: metrics, content of a checkpoint, weights for an engine.

    Passes without a gradient come before and after, as for a parity check. They must use the
    current weights.
    """
    update, batch = updater(folders, case)
    probe = pad(batch, [0], update.device)

    def logprobs() -> list[float]:
        with torch.no_grad():
            return [float(value) for value in update.logprobs(probe)]

    before = logprobs()
    tokens: list[int] = []
    metrics = [update(batch, np.random.default_rng(step), tokens.append) for step in range(2)]
    names = list(trainable(update.policy))
    optimizer, record = optimizer_tensors(update.optimizer, names)
    return {
        "metrics": metrics,
        "model": fsdp.gather_full_tensors(
            {n: p.detach() for n, p in trainable(update.policy).items()}
        ),
        "optimizer": fsdp.gather_full_tensors(optimizer),
        "record": record,
        "engine": merged_state_dict(update.policy, torch.float32),
        "tokens": sum(tokens),
        "logprobs": [before, logprobs()],
    }


def refused_by_one(folders: Mapping[bool, Path]) -> str:
    """Why prefixes are not shared if the probe fails on the second process alone."""
    verdict = "made up" if rank() == 1 else ""
    with mock.patch("llm.learner.tries._why_not_shared", return_value=verdict):
        return updater(folders, {})[0].why_not_shared


def samples(folders: Mapping[bool, Path]) -> dict[str, Any]:
    """Completions of zero, one and five requests, and their token counts."""
    engine: Any = TransformersEngine(folders[True])
    if world_size() > 1:
        engine = ShardedEngine(engine)
    answers = []
    for number in (0, 1, 5):
        prompts = [list(range(1, 4 + i)) for i in range(number)]
        params = [SamplingParams(max_tokens=6 + i, n=2, seed=i) for i in range(number)]
        answers.append(engine.generate(prompts, params))
    stats = engine.stats
    return {"answers": answers, "generated": stats.generated_tokens, "prompt": stats.prompt_tokens}


class UnpicklableError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def raised(work: Callable[[], Any]) -> str:
    """Class and message of the error that a function raises."""
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def errors(folders: Mapping[bool, Path]) -> dict[str, str]:
    """The errors of this process if one process fails, or if processes disagree."""

    def answer(prompt: Sequence[int], p: SamplingParams, j: int) -> Sequence[int]:
        if 13 in prompt:
            raise ValueError("13 is not spoken here")
        return [1] * p.max_tokens

    engine, params = ShardedEngine(ScriptedEngine(answer)), [SamplingParams(max_tokens=2)] * 3

    def fail() -> None:
        raise UnpicklableError(1, 2)

    def fail_second() -> None:
        if rank() == 1:
            raise OSError("the second cannot")

    update, batch = updater(folders, {"per_device_train_batch_size": 1})
    batch[3] = batch[3]._replace(advantage=float("nan"))

    def diverge() -> None:
        try:
            update(batch, np.random.default_rng(0))
        except TrainingError as error:
            raise ValueError(str(error.diagnosis)) from None

    return {
        "engine": raised(lambda: engine.generate([[1], [13], [2]], params)),
        "ranks": raised(lambda: engine.generate([[1], [rank()], [2]], params)),
        "first": raised(lambda: on_main_process(fail)),
        "share": raised(
            lambda: scatter_gather([1, 2, 3], lambda mine: [1 / (i - 2) for i in mine], [])
        ),
        "together": raised(lambda: on_every_process(fail_second)),
        "update": raised(diverge),
        "after": raised(lambda: engine.generate([[1], [5], [2]], params)),
    }


class Moody(Essay):
    """A task with random rewards, different in every process."""

    def reward(self, example: Example, completion: str) -> float:
        if completion == "bad":
            raise KeyError(completion)
        return float.fromhex(os.urandom(4).hex())

    def verify(self, examples: Sequence[Example], completions: Sequence[str]) -> list[float]:
        return [self.reward(e, c) for e, c in zip(examples, completions, strict=True)]


def verifications() -> dict[str, Any]:
    """Results of a verifier that draws random rewards from the operating system."""
    task: Any = shard_verification(Moody())
    example = Example("essay", "a")
    return {
        "one by one": [task.reward(example, "text") for _ in range(3)],
        "all": task.verify([example] * 5, list("abcde")),
        "kind": type(task).__name__,
        "error": raised(lambda: task.verify([example] * 3, ["a", "bad", "b"])),
    }


def run_job(folder: Path, *folders: Path, processes: int = 2) -> list[dict[str, Any]]:
    """Run a job; returns the results of each process, or the outputs if one failed."""
    running = ranks("tests.llm.job", [str(folder), *map(str, folders)], processes)
    try:
        printed = ["".join(process.communicate(timeout=900)) for process in running]
    finally:
        for process in running:
            process.send_signal(signal.SIGKILL)
    if any(process.returncode for process in running):
        return [{"printed": text} for text in printed]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(processes)]


def main(folder: str, tied: str, untied: str) -> None:
    """Run all cases in this process of the job, and write the results."""
    torch.set_num_threads(1)
    folders = {True: Path(tied), False: Path(untied)}
    with job():
        answers = {
            "ranks": gather(rank()),
            "first": on_main_process(lambda: "first"),
            "updates": {name: updated(folders, case) for name, case in CASES.items()},
            "refused by one": refused_by_one(folders),
            "samples": samples(folders),
            "errors": errors(folders),
            "verdicts": verifications(),
            "speaks": gather(first_to_fail()),
        }
        torch.save(answers, Path(folder) / f"{rank()}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
