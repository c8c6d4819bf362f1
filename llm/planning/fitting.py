"""The smallest change that makes a run fit.

Settings that change no result come first (how many rows go through the model at once,
checkpointing, how the engine divides its memory), then those that change where the work is done,
and only then those that make it another run. Among changes of equal weight, fewer are better.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from llm.config.train import TrainConfig
from llm.engines.vllm_weights import RANKS
from llm.planning.demand import Lengths
from llm.planning.footprint import Footprint
from llm.planning.hardware import Hardware
from llm.planning.memory_plan import (
    longest_row,
    micro_batch,
    plan_memory,
    sequences,
    with_settings,
)

#: Most settings that a suggestion changes.
MOST = 4

#: What a suggestion calls the number of processes.
GPUS = "gpus"


def smallest_change(
    config: TrainConfig,
    hardware: Hardware,
    lengths: Lengths,
    footprint: Callable[[TrainConfig], Footprint],
) -> dict[str, Any] | None:
    """New values of the fewest and most harmless settings with which a run fits; None if none do.

    Parameters
    ----------
    config : TrainConfig
        That does not fit.
    hardware : Hardware
    lengths : Lengths
    footprint : function of TrainConfig
        Of its model.

    Returns
    -------
    dict or None
        By the names that flags have; "gpus" is the number of processes.
    """
    choices = _choices(config, hardware, lengths, footprint(config))
    combinations = [
        chosen for size in range(1, MOST + 1) for chosen in itertools.combinations(choices, size)
    ]
    combinations.sort(key=lambda chosen: (sum(choice.weight for choice in chosen), len(chosen)))
    updates = _Updates(config, hardware, lengths)
    for chosen in combinations:
        names = [choice.name for choice in chosen]
        for values in itertools.product(*(choice.values for choice in chosen)):
            changes = dict(zip(names, values, strict=True))
            others = {name: value for name, value in changes.items() if name != GPUS}
            try:
                changed = with_settings(config, others)
            except ValueError:  # as where SPO-tree's segments would leave nothing to the last
                continue
            there = dataclasses.replace(hardware, gpus=changes.get(GPUS, hardware.gpus))
            policy = footprint(changed)
            plan = plan_memory(changed, policy, there, lengths, updates(changed, policy))
            if not plan.problems:
                return changes
    return None


class Choice(NamedTuple):
    """A setting, other values of it from the nearest to the farthest, and how much they change."""

    weight: int
    name: str
    values: Sequence[Any]


def _choices(
    config: TrainConfig, hardware: Hardware, lengths: Lengths, footprint: Footprint
) -> list[Choice]:
    rows = micro_batch(config, hardware.gpus)
    choices = [
        Choice(1, "update.per_device_train_batch_size", _halves(rows)),
        Choice(2, "gradient_checkpointing", [] if config.gradient_checkpointing else [True]),
    ]
    if config.engine == "vllm":
        now = config.vllm.gpu_memory_utilization
        shares = sorted((n / 20 for n in range(1, 20)), key=lambda share: abs(share - now))
        room = config.vllm.max_model_len or footprint.positions
        needed = max(tokens for _, _, tokens in sequences(config, lengths))
        needed = 1024 * math.ceil(needed / 1024)
        heads = footprint.architecture.get_text_config().num_attention_heads
        sizes = [
            size
            for size in _doubles(config.vllm.tensor_parallel_size, hardware.gpus)
            if heads % size == 0
        ]
        choices += [
            Choice(1, "vllm.gpu_memory_utilization", shares),
            Choice(
                1,
                "vllm.lora",
                [True] if 0 < config.lora.r <= RANKS[-1] and not config.vllm.lora else [],
            ),
            Choice(2, "vllm.max_model_len", [needed] if needed < room else []),
            Choice(3, "vllm.tensor_parallel_size", sizes),
        ]
    elif hardware.device == "cuda":
        choices.append(Choice(6, "engine", ["vllm"]))
    choices += [
        Choice(20, "lora.r", [] if config.lora.r else [64]),
        Choice(21, GPUS, _doubles(hardware.gpus, 64)),
        Choice(60, "sampling.max_completion_length", _halves(config.sampling.limits().longest)[:4]),
    ]
    return [choice for choice in choices if choice.values]


def _halves(number: int) -> list[int]:
    """Smaller powers of two, the largest first."""
    return [2**k for k in range(number.bit_length() - 1, -1, -1) if 2**k < number]


def _doubles(number: int, most: int) -> list[int]:
    """Doubled again and again."""
    found = []
    while (number := 2 * number) <= most:
        found.append(number)
    return found


class _Updates:
    """Bytes of updates: those of one row and of all are traced, others are on the line between.

    Which is no less than what they take: memory at the peak is the largest of what it is at each
    moment, and that grows in a straight line with rows.
    """

    def __init__(self, config: TrainConfig, hardware: Hardware, lengths: Lengths) -> None:
        self.most, self.lengths = micro_batch(config, hardware.gpus), lengths

    def __call__(self, config: TrainConfig, footprint: Footprint) -> int:
        rows = min(self.most, config.update.per_device_train_batch_size)
        rest = (*longest_row(config, self.lengths), config.gradient_checkpointing)
        least = footprint.update(1, *rest)
        if rows == 1:
            return least
        most = footprint.update(self.most, *rest)
        return least + math.ceil((most - least) * (rows - 1) / (self.most - 1))
