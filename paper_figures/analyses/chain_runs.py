"""Training runs that figures look into: SRPO as the preset `chain` has it, for 30 steps.

They are made when they are first needed, half a minute each, and kept in results/ with their
checkpoints, which are too large to record. Remove that folder to make them anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm.config.train import TrainConfig

FOLDER = Path("results/paper_figures")

#: What differs from the preset; the seeds are a figure's own.
RUN: Mapping[str, Any] = {"preset": "chain", "steps": 30, "save_steps": 5}


def chain_config(run: Mapping[str, Any], seed: int) -> TrainConfig:
    """The settings of a run."""
    from llm.config.train import parse_config

    config = parse_config(["--config", run["preset"]], "paper_figures")
    return dataclasses.replace(
        config,
        steps=run["steps"],
        save_steps=run["save_steps"],
        seed=seed,
        rollout_steps=0,
        evaluation=dataclasses.replace(config.evaluation, steps=0),
        resume="auto",
        output=str(FOLDER / f"{run['preset']}-{config.algorithm}-s{seed}"),
    )


def chain_run(
    run: Mapping[str, Any], seed: int, progress: Callable[[str], None] = lambda what: None
) -> Path:
    """The folder of a run, which is made, or gone on with, if it is not complete.

    Raises
    ------
    ValueError, OSError, llm.runs.checkpoints.CheckpointError
        If what is there is another run, or cannot be gone on with.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded
    from rich.console import Console
    from transformers.utils import logging

    from llm.common.progress import Reporter
    from llm.runs.folder import alone, begin_run, open_run
    from llm.train.trainer import Trainer

    logging.disable_progress_bar()
    config = chain_config(run, seed)
    resume = open_run(config)
    made = config.folder / "config.yaml"
    if made.is_file() and made.read_text(encoding="utf-8") != config.to_yaml():
        raise ValueError(f"{config.folder}: a run of other settings; remove it to make it anew")
    if resume is not None and resume.name == f"step-{config.steps:06}":
        return config.folder
    progress(f"training, seed {seed}")
    trainer = Trainer(config, Reporter(config.steps, Console(quiet=True)), resume)
    with contextlib.closing(trainer), alone(config.folder):
        begin_run(config, trainer.step)
        trainer.run()
    return config.folder
