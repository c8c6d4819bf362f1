"""How new weights reach a vLLM engine that cannot be handed tensors, or need not be.

- `Folder`: the whole model through a temporary folder, to processes of the engine's own.
- `Adapters`: LoRA adapters through a folder as well; vLLM applies them to the weights it has.
- `Transfer`: from GPU to GPU by vLLM's weight-transfer API (NCCL), where the engine has GPUs of its
  own. Not yet run on GPUs.

Each is called with the engine's `LLM` and a state dict.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

#: What vLLM reserves room for.
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


class Folder:
    """Writes the model, tells the engine to read it."""

    def __call__(self, llm: Any, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Send all of it."""
        with tempfile.TemporaryDirectory(prefix="vllm-weights-") as folder:
            _save(state_dict, Path(folder) / "model.safetensors")
            llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})


class Adapters:
    """Writes LoRA adapters, tells the engine to use them for all that is asked from then on.

    Parameters
    ----------
    config : peft.LoraConfig

    Attributes
    ----------
    request : vllm LoRARequest or None
        Names the adapters to use.
    """

    def __init__(self, config: Any) -> None:
        self.config, self.request = config, None
        self.options = {
            "enable_lora": True,
            "max_lora_rank": reserved_rank(config.r),
        }

    def __call__(self, llm: Any, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Send them."""
        from vllm.lora.request import LoRARequest

        engine, old = llm.llm_engine, self.request
        # By a new name, so that no prefix of the old adapters' counts as theirs.
        number = 1 if old is None else old.lora_int_id + 1
        with tempfile.TemporaryDirectory(prefix="vllm-adapters-") as folder:
            self.config.save_pretrained(folder)
            _save(state_dict, Path(folder) / "adapter_model.safetensors")
            if old is not None:
                engine.remove_lora(old.lora_int_id)
            self.request = LoRARequest(f"policy-{number}", number, folder)
            engine.add_lora(self.request)
            # So that they are not dropped, and looked for in a folder that has gone.
            engine.pin_lora(number)


class Transfer:
    """Sends weights from this process's GPU to the engine's workers.

    Parameters
    ----------
    workers : int
        Of the engine; each has a GPU.
    """

    options: Mapping[str, Any] = {"weight_transfer_config": {"backend": "nccl"}}

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._trainer: Any = None
        self._weights: Mapping[str, torch.Tensor] = {}

    def __call__(self, llm: Any, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Send all of it; connects at the first call."""
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
        # Each process of a job feeds an engine of its own, so each is the first of its transfer.
        info = NCCLTrainerInitInfo("127.0.0.1", port, world_size=1 + self.workers, rank=0)
        return WeightTransferTrainerFactory.trainer_init(info, client=_Client(llm), source=Source())


class _Client:
    """vLLM's `VLLMWeightSyncClient` protocol over its `LLM`."""

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
    """The rank that vLLM reserves room for, where adapters have rank `r`.

    Raises
    ------
    ValueError
        If that is more than it can.
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
        own = tensor.detach().cpu().contiguous()
        tensors[name] = own.clone() if own.data_ptr() in seen else own
        seen.add(own.data_ptr())
    save_file(tensors, file)
