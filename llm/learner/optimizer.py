"""The optimizer of a run, and its schedule."""

from __future__ import annotations

from typing import Any

import torch

from llm.learner.options import OptimizerOptions
from llm.models.policy import trainable


def make_optimizer(
    policy: Any, options: OptimizerOptions, num_updates: int
) -> tuple[torch.optim.Optimizer, Any]:
    """AdamW over the trainable parameters, and its learning-rate schedule.

    Parameters
    ----------
    policy : PreTrainedModel or PeftModel
    options : OptimizerOptions
    num_updates : int
        Optimizer steps of the whole run, which schedules such as "cosine" need.

    Raises
    ------
    ValueError
        If there is no such schedule, or it depends on more than the step.
    """
    from transformers import get_scheduler

    optimizer = torch.optim.AdamW(
        trainable(policy).values(),
        lr=options.learning_rate,
        betas=(options.adam_beta1, options.adam_beta2),
        eps=options.adam_epsilon,
        weight_decay=options.weight_decay,
    )
    try:
        scheduler = get_scheduler(
            options.lr_scheduler_type,
            optimizer,
            options.warmup_steps,
            num_training_steps=num_updates,
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"optimizer.lr_scheduler_type: {error}; constant is the default") from None
    if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        raise ValueError(
            f"optimizer.lr_scheduler_type: {options.lr_scheduler_type} follows a metric, and "
            "training has none; constant is the default"
        )
    return optimizer, scheduler
