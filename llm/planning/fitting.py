"""Search for the smallest change of settings that makes a run fit.

Settings that do not change results come first: micro-batch size, checkpointing, the engine's
memory. Settings that move the work to other hardware follow. Settings that change the training come
last. Among changes of equal weight, fewer settings are better.
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
    update_bytes,
    with_settings,
)

#: Maximum number of settings that a suggestion changes.
MAX_CHANGES = 4

#: Key of a suggestion for the number of processes.
GPUS = "gpus"


def smallest_change(
    config: TrainConfig,
    hardware: Hardware,
    lengths: Lengths,
    footprint: Callable[[TrainConfig], Footprint],
) -> dict[str, Any] | None:
    """The least intrusive change of settings with which a run fits; None if none fits.

    Parameters
    ----------
    config : TrainConfig
        The run that does not fit.
    hardware : Hardware
    lengths : Lengths
    footprint : function of TrainConfig
        Footprint of a configuration's model.

    Returns
    -------
    dict or None
        New values by flag name; "gpus" is the number of processes.
    """
    choices = _choices(config, hardware, lengths, footprint(config))
    combinations = [
        chosen
        for size in range(1, MAX_CHANGES + 1)
        for chosen in itertools.combinations(choices, size)
    ]
    combinations.sort(key=lambda chosen: (sum(choice.weight for choice in chosen), len(chosen)))
    updates = _UpdateBytes(config, hardware, lengths, footprint(config))
    for chosen in combinations:
        names = [choice.name for choice in chosen]
        for values in itertools.product(*(choice.values for choice in chosen)):
            changes = dict(zip(names, values, strict=True))
            others = {name: value for name, value in changes.items() if name != GPUS}
            try:
                changed = with_settings(config, others)
            except ValueError:  # an invalid combination, such as an empty last SPO-tree segment
                continue
            changed_hardware = dataclasses.replace(hardware, gpus=changes.get(GPUS, hardware.gpus))
            policy = footprint(changed)
            plan = plan_memory(changed, policy, changed_hardware, lengths, updates(changed, policy))
            if not plan.problems:
                return changes
    return None


class Choice(NamedTuple):
    """A setting, its alternative values from nearest to farthest, and the weight of a change."""

    weight: int
    name: str
    values: Sequence[Any]


def _choices(
    config: TrainConfig, hardware: Hardware, lengths: Lengths, footprint: Footprint
) -> list[Choice]:
    rows = micro_batch(config, hardware.gpus, lengths, footprint)
    choices = [
        Choice(1, "update.per_device_train_batch_size", _halves(rows)),
        Choice(2, "gradient_checkpointing", [] if config.gradient_checkpointing else [True]),
    ]
    if config.engine == "vllm":
        current = config.vllm.gpu_memory_utilization
        shares = sorted((n / 20 for n in range(1, 20)), key=lambda share: abs(share - current))
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
        Choice(21, GPUS, _doubles(hardware.gpus, 64) if hardware.device == "cuda" else []),
        Choice(60, "sampling.max_completion_length", _halves(config.sampling.limits().longest)[:4]),
    ]
    return [choice for choice in choices if choice.values]


def _halves(number: int) -> list[int]:
    """Powers of two below a number, largest first."""
    return [2**k for k in range(number.bit_length() - 1, -1, -1) if 2**k < number]


def _doubles(number: int, limit: int) -> list[int]:
    """A number doubled repeatedly, up to a limit."""
    doubles = []
    while (number := 2 * number) <= limit:
        doubles.append(number)
    return doubles


class _UpdateBytes:
    """Bytes of an update by micro-batch size, interpolated between one row and all rows.

    Only the two ends are traced. Memory at each moment is linear in rows, so the peak is convex and
    the interpolation is an upper bound.
    """

    def __init__(
        self, config: TrainConfig, hardware: Hardware, lengths: Lengths, footprint: Footprint
    ) -> None:
        self.max_rows = micro_batch(config, hardware.gpus, lengths, footprint)
        self.lengths = lengths

    def __call__(self, config: TrainConfig, footprint: Footprint) -> int:
        rows = min(self.max_rows, config.update.per_device_train_batch_size)
        longest = longest_row(config, self.lengths)
        one_row = update_bytes(config, footprint, 1, longest)
        if rows == 1:
            return one_row
        all_rows = update_bytes(config, footprint, self.max_rows, longest)
        return one_row + math.ceil((all_rows - one_row) * (rows - 1) / (self.max_rows - 1))
