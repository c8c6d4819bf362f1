"""What a run takes of the machine itself, beside the memory of its GPUs: memory, and files.

Each of several processes loads the whole model before it keeps its part of it. A vLLM that sleeps
has its weights there, and merged weights for an engine in another process pass through there and
through a file, once for each process.
"""

from __future__ import annotations

from typing import NamedTuple

from llm.config.train import TrainConfig
from llm.planning.footprint import Footprint
from llm.planning.hardware import GIB
from llm.planning.memory_plan import engine_weights, merged_bytes, sends_adapters


class HostPlan(NamedTuple):
    """Bytes for all processes of a machine together.

    Attributes
    ----------
    memory : dict of str to int
        By what takes them; one after the other.
    files : int
        In the folder for temporary files, while new weights go to engines.
    """

    memory: dict[str, int]
    files: int

    def __str__(self) -> str:
        """As a line."""
        parts = [f"{size / GIB:.1f} GiB {what}" for what, size in self.memory.items()]
        if self.files:
            parts.append(f"files of {self.files / GIB:.1f} GiB in TMPDIR for each sync")
        return ", ".join(parts)


def plan_host(config: TrainConfig, footprint: Footprint, processes: int) -> HostPlan:
    """The plan of a machine with GPUs.

    Parameters
    ----------
    config : TrainConfig
    footprint : Footprint
        Of its model, with its adapters.
    processes : int
        With a GPU each.
    """
    vllm, options, several = config.engine == "vllm", config.vllm, processes > 1
    shared = vllm and options.first_device is None
    folder = shared and (several or options.separate_process or options.tensor_parallel_size > 1)
    copies = 2 if several and config.needs_reference and not config.lora.r else 1
    merged = 0 if sends_adapters(config) else merged_bytes(footprint)
    memory = {
        "to load the model": copies * footprint.weights,
        "for engines that sleep": engine_weights(config, footprint) if shared else 0,
        "for merged weights": merged if several or folder else 0,
    }
    files = footprint.gradients if sends_adapters(config) else merged if folder else 0
    each = {what: processes * size for what, size in memory.items() if size}
    return HostPlan(each, processes * files)


def check_host(plan: HostPlan, config: TrainConfig, memory: int, free: int, folder: str) -> None:
    """Refuse a run that the machine has no room for.

    Parameters
    ----------
    plan : HostPlan
    config : TrainConfig
    memory, free : int
        Bytes of the machine's memory, and those free in the folder for temporary files.
    folder : str
        Which that is.

    Raises
    ------
    ValueError
        Says what is lacking.
    """
    what, most = max(plan.memory.items(), key=lambda part: part[1])
    adapters = " or vllm.lora true" if config.lora.r and not sends_adapters(config) else ""
    if most > memory:
        raise ValueError(
            f"nproc_per_node: {most / GIB:.1f} GiB of the machine's memory are needed {what}, "
            f"{memory / GIB:.1f} are there; fewer processes may fit"
        )
    if plan.files > free:
        raise ValueError(
            f"TMPDIR: new weights for the engines are files of {plan.files / GIB:.1f} GiB, and "
            f"{free / GIB:.1f} are free in {folder}; name another folder{adapters}"
        )
