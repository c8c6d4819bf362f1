"""Options of the vLLM engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VLLMOptions:
    """The vLLM engine.

    Parameters
    ----------
    tensor_parallel_size : int
        Devices that share a model.
    separate_process : bool
        Run the engine in a process of its own; implied by more than one device, and where several
        processes train together (each has an engine of its own).
    first_device : int, optional
        Engines have GPUs of their own, from this one on: tensor_parallel_size for each process of
        the job. By default an engine shares the GPU of its process and sleeps during updates.
    lora : bool
        vLLM applies the adapters of lora.r itself, and a sync sends them alone; by default they are
        merged into the weights that it gets.
    gpu_memory_utilization : float
        Share of each GPU's memory for the engine.
    max_num_seqs : int
        Most sequences at once.
    max_model_len : int, optional
        Most tokens of prompt and completion; by default the model's.
    enforce_eager : bool, optional
        Do not compile: a GPU starts within seconds then, and samples more slowly. By default on
        CPUs alone.
    """

    tensor_parallel_size: int = 1
    separate_process: bool = False
    first_device: int | None = None
    lora: bool = False
    gpu_memory_utilization: float = 0.5
    max_num_seqs: int = 256
    max_model_len: int | None = None
    enforce_eager: bool | None = None

    def __post_init__(self) -> None:
        for name in ("tensor_parallel_size", "max_num_seqs", "max_model_len"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"vllm.{name}: {value} is not a whole number ≥ 1")
        if self.first_device is not None and self.first_device < 0:
            raise ValueError(f"vllm.first_device: {self.first_device} is not a number of a GPU")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(
                f"vllm.gpu_memory_utilization: {self.gpu_memory_utilization} is not in (0, 1]"
            )
