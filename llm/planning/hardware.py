"""What a run is planned for: the machine at hand, or one that is assumed."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass

import torch

from llm.models.policy import default_device
from llm.planning.options import DryRunOptions

GIB = 2**30

#: Share of a GPU's memory that can be planned for. The rest is what the driver and the CUDA context
#: take, what fragmentation loses, and what a card of 80 GB lacks of 80 GiB.
USABLE = 0.95

#: Peak of a GPU that is only assumed, operations a second: an A100's, in bfloat16.
ASSUMED_TFLOPS = 312.0


@dataclass(frozen=True)
class Hardware:
    """What a run is planned for.

    Parameters
    ----------
    gpus : int
        Processes, with a GPU each; on a CPU, processes that share it.
    memory : int
        Bytes of each.
    device : {"cuda", "cpu"}
    flops : float
        Operations a second of each, at its peak.
    here : bool
        Whether this is the machine at hand, not one that is assumed.
    """

    gpus: int
    memory: int
    device: str
    flops: float
    here: bool

    @property
    def usable(self) -> int:
        """Bytes of each that can be planned for."""
        return int(USABLE * self.memory)


def find(options: DryRunOptions, bf16: bool | None) -> Hardware:
    """The hardware that is meant: what is given, and for the rest what is here."""
    gpus = options.gpus or int(os.environ.get("WORLD_SIZE", "1"))
    device = default_device()
    here = options.gpu_memory is None
    if options.gpu_memory is not None:
        kind, memory = "cuda", int(options.gpu_memory * GIB)
    elif device.type == "cuda":
        kind, memory = "cuda", torch.cuda.get_device_properties(device).total_memory
    else:
        kind, memory = "cpu", machine_memory() // gpus
    if options.tflops is not None:
        flops = 1e12 * options.tflops
    else:
        flops = (
            _measured_flops(device, computes_in_bf16(bf16, kind)) if here else 1e12 * ASSUMED_TFLOPS
        )
    return Hardware(gpus, memory, kind, flops, here and options.gpus is None)


def computes_in_bf16(wanted: bool | None, device: str) -> bool:
    """As the trainer decides, for a device that need not be here."""
    if wanted is not None:
        return wanted
    return device == "cuda" and (not torch.cuda.is_available() or torch.cuda.is_bf16_supported())


def machine_memory() -> int:
    """Bytes of the machine's own memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _measured_flops(device: torch.device, bf16: bool) -> float:
    """Operations a second of a large matrix product."""
    size = 8192 if device.type == "cuda" else 768
    dtype = torch.bfloat16 if bf16 else torch.float32
    factor = torch.ones((size, size), dtype=dtype, device=device)
    best = math.inf
    for _ in range(4):
        began = time.perf_counter()
        float((factor @ factor)[0, 0])  # which waits for a GPU
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
