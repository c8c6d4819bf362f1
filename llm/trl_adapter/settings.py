"""Checks of a `trl.GRPOTrainer`: settings that are incompatible with resets are refused."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from cpi.core.plans import GroupPlan

#: Supported version: the hook is experimental, and this adapter calls private methods.
TRL_VERSION = "1.16."


def group_size(plan: GroupPlan) -> int:
    """The common size of a plan's groups, TRL's `num_generations`.

    Raises
    ------
    ValueError
        If the sizes differ, or the plan is adaptive.
    """
    if plan.retries:
        raise ValueError(
            "plan: an adaptive plan has groups where others fail, but a step of TRL has a fixed "
            "number of completions; take llm.train --algorithm adaptive, or a plan without retries"
        )
    sizes = {plan.fresh, plan.per_reset} - {0}
    if len(sizes) > 1:
        raise ValueError(
            f"plan: groups of {plan.fresh} and {plan.per_reset}, but all groups of TRL "
            "have num_generations; make fresh and per_reset equal, or fresh 0"
        )
    return sizes.pop()


def check_sampling(trainer: Any) -> None:
    """Refuse settings that the adapter's sampling would not honour.

    Raises
    ------
    ValueError
        If there is such a setting, or TRL has an unsupported version.
    """
    if not version("trl").startswith(TRL_VERSION):
        raise ValueError(
            f"trl: this is {version('trl')}, whose rollout_func may differ from 1.16; "
            "pip install 'trl>=1.16,<1.17'"
        )
    args = trainer.args
    batching = args.use_transformers_continuous_batching
    penalty = args.repetition_penalty
    refused: list[tuple[str, Any, str]] = [
        ("use_vllm", args.use_vllm, "leave it off, and give ResetRollouts engine=VLLMEngine(…)"),
        ("use_transformers_continuous_batching", batching, "leave it off"),
        ("top_k", args.top_k, "only temperature and top_p are supported; leave it out"),
        ("min_p", args.min_p, "only temperature and top_p are supported; leave it out"),
        ("repetition_penalty", penalty if penalty != 1 else None, "leave it at 1"),
        ("generation_kwargs", args.generation_kwargs, "leave them out"),
        ("tools", trainer.tools, "completions with tool calls are not supported; leave them out"),
        ("images", trainer._is_vlm, "prompts are text only; use a language model"),
        ("fsdp", trainer.is_fsdp_enabled, "each process needs the full model to sample; use DDP"),
        (
            "deepspeed",
            trainer.is_deepspeed_enabled,
            "each process needs the full model to sample; use DDP",
        ),
    ]
    for name, given, cure in refused:
        if given:
            raise ValueError(f"{name}: {given!r} does not go with resets; {cure}")


def check_groups(trainer: Any, plan: GroupPlan, prompts: Sequence[Any]) -> None:
    """Refuse settings or prompts that would mix groups of different prompts or kinds.

    Parameters
    ----------
    trainer : GRPOTrainer
    plan : GroupPlan
    prompts : sequence
        The trainer's prompts in this process, one for each completion.

    Raises
    ------
    ValueError
        If a setting mixes groups, or the prompts do not come in complete plans.
    """
    size, rows = group_size(plan), plan.rollouts
    if trainer.num_generations != size:
        raise ValueError(
            f"num_generations: {trainer.num_generations}, but a group of the plan has {size}; "
            f"set num_generations={size}"
        )
    if trainer.shuffle_dataset:
        raise ValueError(
            "shuffle_dataset: True separates the groups of a prompt; set it to False "
            "(ResetRollouts.dataset has already shuffled)"
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
            f"{len(prompts)} completions at once, not a multiple of the {rows} of a prompt; make "
            f"their product a multiple of {rows}"
        )
    for first in range(0, len(prompts), rows):
        if any(prompt != prompts[first] for prompt in prompts[first : first + rows]):
            raise ValueError(
                f"train_dataset: completions {first} to {first + rows - 1} of a process are not of "
                "one prompt; train on the data set of ResetRollouts.dataset, unchanged"
            )
