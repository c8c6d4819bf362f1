"""Plan of the host's memory and temporary files, besides the GPUs' memory.

Each process loads the full model before it keeps its shard. A sleeping vLLM engine keeps its
weights in host memory. Merged weights for an engine in another process pass through host memory and
a file, once for each process.
"""

from __future__ import annotations

from typing import NamedTuple

from llm.config.train import TrainConfig
from llm.planning.footprint import Footprint
from llm.planning.hardware import GIB
from llm.planning.memory_plan import engine_weights, merged_bytes, sends_adapters


class HostPlan(NamedTuple):
    """Bytes that all processes of a host need together.

    Attributes
    ----------
    memory : dict of str to int
        Bytes by purpose; the purposes follow each other in time.
    files : int
        Bytes of temporary files during a weight sync.
    """

    memory: dict[str, int]
    files: int

    def __str__(self) -> str:
        """The plan in one line."""
        parts = [f"{size / GIB:.1f} GiB {purpose}" for purpose, size in self.memory.items()]
        if self.files:
            parts.append(f"files of {self.files / GIB:.1f} GiB in TMPDIR for each sync")
        return ", ".join(parts)


def plan_host(config: TrainConfig, footprint: Footprint, processes: int) -> HostPlan:
    """Plan the host of a machine with GPUs.

    Parameters
    ----------
    config : TrainConfig
    footprint : Footprint
        Footprint of the model with its adapters.
    processes : int
        Number of processes, one GPU each.
    """
    vllm, options, several = config.engine == "vllm", config.vllm, processes > 1
    shared = vllm and options.first_device is None
    folder = shared and (several or options.separate_process or options.tensor_parallel_size > 1)
    copies = 2 if several and config.needs_reference and not config.lora.r else 1
    merged = 0 if sends_adapters(config) else merged_bytes(footprint)
    memory = {
        "to load the model": copies * footprint.weights,
        "for sleeping engines": engine_weights(config, footprint) if shared else 0,
        "for merged weights": merged if several or folder else 0,
    }
    files = footprint.gradients if sends_adapters(config) else merged if folder else 0
    total = {purpose: processes * size for purpose, size in memory.items() if size}
    return HostPlan(total, processes * files)


def check_host(plan: HostPlan, config: TrainConfig, memory: int, free: int, folder: str) -> None:
    """Refuse a run that the host cannot hold.

    Parameters
    ----------
    plan : HostPlan
    config : TrainConfig
    memory, free : int
        Bytes of host memory, and free bytes in the folder for temporary files.
    folder : str
        The folder for temporary files.

    Raises
    ------
    ValueError
        If memory or disk space is too small; the message names which.
    """
    purpose, needed = max(plan.memory.items(), key=lambda part: part[1])
    adapters = " or vllm.lora true" if config.lora.r and not sends_adapters(config) else ""
    if needed > memory:
        raise ValueError(
            f"nproc_per_node: {needed / GIB:.1f} GiB of host memory are needed {purpose}, "
            f"{memory / GIB:.1f} are there; fewer processes may fit"
        )
    if plan.files > free:
        raise ValueError(
            f"TMPDIR: new weights for the engines are files of {plan.files / GIB:.1f} GiB, and "
            f"{free / GIB:.1f} are free in {folder}; name another folder{adapters}"
        )
