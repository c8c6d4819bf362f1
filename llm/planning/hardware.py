"""Hardware that a run is planned for: this machine, or an assumed one."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass

import torch

from llm.models.policy import default_device
from llm.planning.options import DryRunOptions

GIB = 2**30

#: Share of a GPU's memory that plans may use. The rest covers the driver, the CUDA context,
#: fragmentation, and the difference between 80 GB and 80 GiB.
USABLE = 0.95

#: Peak of an assumed GPU in 10¹² operations a second: an A100's in bfloat16.
ASSUMED_TFLOPS = 312.0


@dataclass(frozen=True)
class Hardware:
    """Devices of a run.

    Parameters
    ----------
    gpus : int
        Number of processes, one GPU each; on a CPU, processes that share it.
    memory : int
        Bytes of each device.
    device : {"cuda", "cpu"}
    flops : float
        Peak operations a second of each device.
    here : bool
        Whether this is the current machine, not an assumed one.
    """

    gpus: int
    memory: int
    device: str
    flops: float
    here: bool

    @property
    def usable(self) -> int:
        """Bytes of each device that plans may use."""
        return int(USABLE * self.memory)


def find(options: DryRunOptions, bf16: bool | None) -> Hardware:
    """Hardware by the options, completed from this machine."""
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
    """Whether training computes in bfloat16, on a device that may be absent here."""
    if wanted is not None:
        return wanted
    return device == "cuda" and (not torch.cuda.is_available() or torch.cuda.is_bf16_supported())


def machine_memory() -> int:
    """Bytes of this machine's RAM."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _measured_flops(device: torch.device, bf16: bool) -> float:
    """Measured operations a second of a large matrix product."""
    size = 8192 if device.type == "cuda" else 768
    dtype = torch.bfloat16 if bf16 else torch.float32
    factor = torch.ones((size, size), dtype=dtype, device=device)
    best = math.inf
    for _ in range(4):
        start = time.perf_counter()
        float((factor @ factor)[0, 0])  # waits for the GPU
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
