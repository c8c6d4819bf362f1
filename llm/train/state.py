"""Save a training run to a checkpoint, and restore it from one."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cpi.core.collect import Ledger
from llm.config.resume import differences, recorded
from llm.config.train import TrainConfig
from llm.distributed.processes import on_main_process
from llm.models.fsdp import gather_full_tensors
from llm.models.policy import load_trainable, trainable
from llm.runs import checkpoints, training_state
from llm.train.build import Learner, Problems


class Restored(NamedTuple):
    """Progress of a resumed run: steps done, their cost, and tokens of all rows."""

    step: int
    ledger: Ledger
    num_tokens: int


def save_run(
    config: TrainConfig,
    problems: Problems,
    learner: Learner,
    step: int,
    ledger: Ledger,
    num_tokens: int,
) -> Path:
    """Write a checkpoint (collective); returns its folder."""
    parameters = trainable(learner.policy)
    optimizer, optimizer_state = training_state.optimizer_tensors(
        learner.optimizer, list(parameters)
    )
    rng, rng_state = training_state.rng_state()
    tensors = {
        "model": gather_full_tensors({n: p.detach() for n, p in parameters.items()}),
        "optimizer": gather_full_tensors(optimizer),
        "rng": rng,
    }
    state = {
        "config": config.plain(),
        "optimizer": optimizer_state,
        "scheduler": learner.scheduler.state_dict(),
        "rng": rng_state,
        "ledger": ledger.to_json(),
        "num_tokens": num_tokens,
        "problems": problems.digest,
    }
    folder, keep = config.folder / "checkpoints", config.save_total_limit
    return on_main_process(lambda: checkpoints.save(folder, step, tensors, state, keep=keep))


def restore_run(config: TrainConfig, problems: Problems, learner: Learner, path: Path) -> Restored:
    """Restore weights, optimizer, schedule and random generators from a checkpoint.

    Raises
    ------
    ValueError
        If settings or problems differ from those of the checkpoint.
    CheckpointError
        If the checkpoint is damaged.
    """
    checkpoint = checkpoints.load_sharded(path)
    changed = differences(recorded(checkpoint.state["config"]), config.plain())
    if changed:
        raise ValueError(
            f"resume: {path} was made with other settings ({'; '.join(changed[:3])}"
            f"{f' and {len(changed) - 3} more' if len(changed) > 3 else ''}); give the same "
            "ones, or another --output for a new run"
        )
    if checkpoint.state["problems"] != problems.digest:
        raise ValueError(
            f"task: the training problems of {problems.task} are not those that {path} was trained "
            "on: their data have changed; put them back, or give another --output"
        )
    load_trainable(learner.policy, checkpoint.tensors["model"])
    names = list(trainable(learner.policy))
    training_state.load_optimizer(
        learner.optimizer, names, checkpoint.tensors["optimizer"], checkpoint.state["optimizer"]
    )
    learner.scheduler.load_state_dict(checkpoint.state["scheduler"])
    training_state.set_rng_state(checkpoint.tensors["rng"], checkpoint.state["rng"])
    return Restored(
        checkpoint.step, Ledger(**checkpoint.state["ledger"]), checkpoint.state["num_tokens"]
    )
