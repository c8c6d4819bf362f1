"""Which settings of a `trl.GRPOTrainer` go with resets; the others are refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from cpi.core.plans import GroupPlan

#: The hook is experimental, and private methods of the trainer are called.
TRL_VERSION = "1.16."


def group_size(plan: GroupPlan) -> int:
    """The size that all groups of a plan have, TRL's `num_generations`.

    Raises
    ------
    ValueError
        If they differ.
    """
    sizes = {plan.fresh, plan.per_reset} - {0}
    if len(sizes) > 1:
        raise ValueError(
            f"plan: groups of {plan.fresh} and {plan.per_reset}, but all of TRL's have "
            "num_generations; make fresh and per_reset equal, or fresh 0"
        )
    return sizes.pop()


def check_sampling(trainer: Any) -> None:
    """Refuse settings under which our sampling would not be what the trainer says.

    Raises
    ------
    ValueError
        If there is one, or TRL is of another version.
    """
    if not version("trl").startswith(TRL_VERSION):
        raise ValueError(
            f"trl: this is {version('trl')}, and its rollout_func may change at any time; "
            "pip install 'trl>=1.16,<1.17'"
        )
    args = trainer.args
    batching = args.use_transformers_continuous_batching
    penalty = args.repetition_penalty
    refused: list[tuple[str, Any, str]] = [
        ("use_vllm", args.use_vllm, "leave it off, and give ResetRollouts an engine of ours"),
        ("use_transformers_continuous_batching", batching, "leave it off"),
        ("top_k", args.top_k, "only temperature and top_p are known here; leave it out"),
        ("min_p", args.min_p, "only temperature and top_p are known here; leave it out"),
        ("repetition_penalty", penalty if penalty != 1 else None, "leave it at 1"),
        ("generation_kwargs", args.generation_kwargs, "leave them out"),
        ("tools", trainer.tools, "completions are the model's own words only; leave them out"),
        ("images", trainer._is_vlm, "prompts are text only; use a language model"),
        ("fsdp", trainer.is_fsdp_enabled, "a process samples from a whole model; use DDP"),
        (
            "deepspeed",
            trainer.is_deepspeed_enabled,
            "a process samples from a whole model; use DDP",
        ),
    ]
    for name, given, cure in refused:
        if given:
            raise ValueError(f"{name}: {given!r} does not go with resets; {cure}")


def check_groups(trainer: Any, plan: GroupPlan, prompts: Sequence[Any]) -> None:
    """Refuse what would compare completions of different prompts, or scale groups together.

    Parameters
    ----------
    trainer : GRPOTrainer
    plan : GroupPlan
    prompts : sequence
        What the trainer wants completed in this process: a prompt for each completion.

    Raises
    ------
    ValueError
        If a setting does so, or the prompts do not come in whole plans.
    """
    size, rows = group_size(plan), plan.rollouts
    if trainer.num_generations != size:
        raise ValueError(
            f"num_generations: {trainer.num_generations}, but a group of the plan has {size}; "
            f"set num_generations={size}"
        )
    if trainer.shuffle_dataset:
        raise ValueError(
            "shuffle_dataset: True parts the groups of a prompt; set it to False "
            "(ResetRollouts.dataset has shuffled already)"
        )
    if trainer.scale_rewards == "batch":
        raise ValueError(
            "scale_rewards: 'batch' scales fresh and reset groups together; use 'group' or 'none'"
        )
    if trainer.multi_objective_aggregation != "sum_then_normalize":
        raise ValueError(
            f"multi_objective_aggregation: {trainer.multi_objective_aggregation!r} scales fresh "
            "and reset groups together; use 'sum_then_normalize'"
        )
    if len(prompts) % rows:
        raise ValueError(
            f"per_device_train_batch_size, steps_per_generation: a process generates "
            f"{len(prompts)} completions at once, not a multiple of the {rows} of a prompt; choose "
            "their product so"
        )
    for at in range(0, len(prompts), rows):
        if any(prompt != prompts[at] for prompt in prompts[at : at + rows]):
            raise ValueError(
                f"train_dataset: completions {at} to {at + rows - 1} of a process are not of one "
                "prompt; train on what ResetRollouts.dataset returns, as it is"
            )
