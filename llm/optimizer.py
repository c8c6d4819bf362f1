"""The optimizer of a run, and its schedule."""

from __future__ import annotations

from typing import Any

import torch

from llm.config import TrainConfig
from llm.models import trainable


def make_optimizer(policy: Any, config: TrainConfig) -> tuple[torch.optim.Optimizer, Any]:
    """AdamW over what training moves, and the schedule of its learning rate.

    Raises
    ------
    ValueError
        If there is no such schedule, or it is not one of steps alone.
    """
    from transformers import get_scheduler

    options = config.optimizer
    optimizer = torch.optim.AdamW(
        trainable(policy).values(),
        lr=options.learning_rate,
        betas=(options.adam_beta1, options.adam_beta2),
        eps=options.adam_epsilon,
        weight_decay=options.weight_decay,
    )
    updates = config.steps * config.update.num_iterations * config.update.steps_per_generation
    try:
        scheduler = get_scheduler(
            options.lr_scheduler_type, optimizer, options.warmup_steps, num_training_steps=updates
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"optimizer.lr_scheduler_type: {error}; constant is the default") from None
    if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        raise ValueError(
            f"optimizer.lr_scheduler_type: {options.lr_scheduler_type} follows a metric, and "
            "here is none; constant is the default"
        )
    return optimizer, scheduler
