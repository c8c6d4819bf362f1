"""Training runs for the figures: SRPO with the preset `chain`, 30 steps.

A run is trained when a figure first needs it, in half a minute. Its checkpoints are too large to
record and stay in results/. Remove that folder to repeat the runs.
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

#: Changes to the preset; each figure sets its own seeds.
RUN: Mapping[str, Any] = {"preset": "chain", "steps": 30, "save_steps": 5}


def chain_config(run: Mapping[str, Any], seed: int) -> TrainConfig:
    """Training settings of a run."""
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
    run: Mapping[str, Any], seed: int, progress: Callable[[str], None] = lambda stage: None
) -> Path:
    """Train a run, or resume it if it is incomplete; returns its folder.

    Raises
    ------
    ValueError, OSError, llm.runs.checkpoints.CheckpointError
        If the folder has a run with other settings, or the run cannot be resumed.
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
    saved_config = config.folder / "config.yaml"
    if saved_config.is_file() and saved_config.read_text(encoding="utf-8") != config.to_yaml():
        raise ValueError(f"{config.folder}: a run with other settings; remove it to repeat the run")
    if resume is not None and resume.name == f"step-{config.steps:06}":
        return config.folder
    progress(f"training, seed {seed}")
    trainer = Trainer(config, Reporter(config.steps, Console(quiet=True)), resume)
    with contextlib.closing(trainer), alone(config.folder):
        begin_run(config, trainer.step)
        trainer.run()
    return config.folder
