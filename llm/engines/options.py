"""Options of the vLLM engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VLLMOptions:
    """Options of the vLLM engine.

    Parameters
    ----------
    tensor_parallel_size : int
        Number of GPUs that share one copy of the model.
    separate_process : bool
        Run the engine in a separate process. Implied by more than one GPU per engine, and by
        training with several processes, each of which has its own engine.
    first_device : int, optional
        First of the GPUs reserved for engines: tensor_parallel_size for each process of the job. By
        default an engine shares the GPU of its process and sleeps during updates.
    lora : bool
        Send only the LoRA adapters (lora.r) to vLLM, which applies them itself. By default they are
        merged into the weights that are sent.
    gpu_memory_utilization : float
        Fraction of the memory of each GPU for the engine.
    max_num_seqs : int
        Maximum number of sequences at once.
    max_model_len : int, optional
        Maximum tokens of prompt and completion; by default the limit of the model.
    enforce_eager : bool, optional
        Do not compile the model. The engine then starts within seconds but samples more slowly. By
        default true on CPUs only.
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
            raise ValueError(f"vllm.first_device: {self.first_device} is not a GPU number ≥ 0")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError(
                f"vllm.gpu_memory_utilization: {self.gpu_memory_utilization} is not in (0, 1]"
            )
