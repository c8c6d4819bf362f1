"""Transfer of new weights to a vLLM engine.

- `Folder`: the full model through a temporary folder, to separate engine processes.
- `Adapters`: LoRA adapters through a temporary folder; vLLM applies them to its base weights.
- `Transfer`: from GPU to GPU by vLLM's weight-transfer API (NCCL), if the engine has reserved GPUs.
  Not yet run on GPUs.

Each is called with the engine's `LLM` and a state dict.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

#: LoRA ranks that vLLM can reserve memory for.
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


class Folder:
    """Sends the model through a temporary folder.

    Parameters
    ----------
    parent : str
        Where the folder is made.
    """

    def __init__(self, parent: str) -> None:
        self.parent = parent

    def __call__(self, llm: Any, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Send all weights."""
        with tempfile.TemporaryDirectory(dir=self.parent) as folder:
            _save(state_dict, Path(folder) / "model.safetensors")
            llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})


class Adapters:
    """Sends LoRA adapters, which apply to all later requests.

    Parameters
    ----------
    config : peft.LoraConfig
    parent : str, optional
        Where the temporary folder is made.

    Attributes
    ----------
    request : vllm LoRARequest or None
        The current adapters, to pass to `LLM.generate`.
    """

    def __init__(self, config: Any, parent: str | None = None) -> None:
        self.config, self.parent, self.request = config, parent, None
        self.options = {
            "enable_lora": True,
            "max_lora_rank": reserved_rank(config.r),
        }

    def __call__(self, llm: Any, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Send new adapters, and remove the old ones."""
        from vllm.lora.request import LoRARequest

        engine, old = llm.llm_engine, self.request
        # A new name, so that prefixes cached with the old adapters are not reused.
        number = 1 if old is None else old.lora_int_id + 1
        with tempfile.TemporaryDirectory(dir=self.parent) as folder:
            self.config.save_pretrained(folder)
            _save(state_dict, Path(folder) / "adapter_model.safetensors")
            if old is not None:
                engine.remove_lora(old.lora_int_id)
            self.request = LoRARequest(f"policy-{number}", number, folder)
            engine.add_lora(self.request)
            # Pinned, as an evicted adapter would be reloaded from the deleted folder.
            engine.pin_lora(number)


class Transfer:
    """Sends weights from this process's GPU to the engine's workers.

    Parameters
    ----------
    workers : int
        Number of the engine's workers; each has one GPU.
    """

    options: Mapping[str, Any] = {"weight_transfer_config": {"backend": "nccl"}}

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._trainer: Any = None
        self._weights: Mapping[str, torch.Tensor] = {}

    def __call__(self, llm: Any, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Send all weights; the first call connects."""
        self._weights = state_dict
        if self._trainer is None:
            self._trainer = self._connect(llm)
        self._trainer.send_weights()
        self._weights = {}

    def _connect(self, llm: Any) -> Any:
        from vllm.distributed.weight_transfer import (
            ParamMeta,
            WeightSource,
            WeightTransferTrainerFactory,
        )
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        transfer = self

        class Source(WeightSource):
            def metadata(self) -> list[Any]:
                return [ParamMeta(n, t.dtype, tuple(t.shape)) for n, t in transfer._weights.items()]

            def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
                for name, tensor in transfer._weights.items():
                    yield name, tensor.to("cuda")

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # Each rank of the job has its own engine and NCCL group, and is rank 0 of that group.
        info = NCCLTrainerInitInfo("127.0.0.1", port, world_size=1 + self.workers, rank=0)
        return WeightTransferTrainerFactory.trainer_init(info, client=_Client(llm), source=Source())


class _Client:
    """Adapts `LLM` to vLLM's protocol `VLLMWeightSyncClient`."""

    def __init__(self, llm: Any) -> None:
        self.llm = llm

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.llm.init_weight_transfer_engine({"init_info": init_info})

    def start_weight_update(self) -> None:
        self.llm.start_weight_update()

    def update_weights(self, update_info: Any) -> None:
        self.llm.update_weights({"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.llm.finish_weight_update(weight_version)


def reserved_rank(r: int) -> int:
    """Smallest LoRA rank ≥ `r` that vLLM can reserve memory for.

    Raises
    ------
    ValueError
        If `r` exceeds the largest supported rank.
    """
    if r > RANKS[-1]:
        raise ValueError(f"lora.r: {r} is more than vLLM's {RANKS[-1]}; unset vllm.lora")
    return next(rank for rank in RANKS if rank >= r)


def _save(state_dict: Mapping[str, torch.Tensor], file: Path) -> None:
    from safetensors.torch import save_file

    # safetensors refuses tensors that share memory, as tied embeddings do.
    seen: set[int] = set()
    tensors = {}
    for name, tensor in state_dict.items():
        copy = tensor.detach().cpu().contiguous()
        tensors[name] = copy.clone() if copy.data_ptr() in seen else copy
        seen.add(copy.data_ptr())
    save_file(tensors, file)
