"""The policy: loading a causal language model, LoRA adapters, and its weights for an engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from llm.distributed.processes import world_size
from llm.models.fsdp import distribute, full_tensor
from llm.models.lora import LoraOptions, adapt


def default_device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_bf16(wanted: bool | None, device: torch.device) -> bool:
    """What is wanted; else whether this is a GPU that computes in bfloat16."""
    able = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return able if wanted is None else wanted


def load_tokenizer(model: str) -> Any:
    """The tokenizer of a model.

    Raises
    ------
    FileNotFoundError
        If it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model)
    except Exception as error:  # of any type: a KeyError for a file that lacks something
        raise FileNotFoundError(_not_found(model, "tokenizer", error)) from error


def load_policy(
    model: str,
    *,
    lora: LoraOptions | None = None,
    gradient_checkpointing: bool = False,
    device: torch.device | None = None,
    bf16: bool = False,
) -> Any:
    """The model to train, in train mode on `device`.

    All weights are trained in float32, under autocast where `bf16`; with LoRA the frozen base is
    held in bfloat16 then and the adapters in float32.

    Raises
    ------
    FileNotFoundError
        If the model cannot be loaded, all of it: Transformers makes up weights it does not find.
    ValueError
        If the adapters do not fit it.
    """
    from transformers import AutoModelForCausalLM

    lora = lora or LoraOptions()
    dtype = torch.bfloat16 if bf16 and lora.r else torch.float32
    try:
        policy, report = AutoModelForCausalLM.from_pretrained(
            model, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
        odd = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
        if odd:
            raise ValueError(
                f"{len(odd)} weights are missing or of another shape, such as {odd[0]}"
            )
    except Exception as error:  # of any type: safetensors and the configurations have their own
        raise FileNotFoundError(_not_found(model, "model", error)) from error
    policy.to(device or default_device())
    return adapt(policy, lora, gradient_checkpointing)


def eos_token_ids(policy: Any) -> list[int]:
    """Ids that end a text, from the model's generation config: chat models have several."""
    eos = policy.generation_config.eos_token_id
    return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)


def trainable(policy: Any) -> dict[str, torch.nn.Parameter]:
    """The parameters that training moves, by name."""
    return {name: p for name, p in policy.named_parameters() if p.requires_grad}


@torch.no_grad()
def merged_state_dict(policy: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The whole state dict under the base model's names, adapters merged in.

    Merging is done on the side: merging in place and undoing it would round the base weights. Of a
    policy that is divided among processes, tensors are made whole one by one and put on the CPU, so
    that no device holds a second model; all processes must ask.
    """
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    if not isinstance(policy, PeftModel):
        return {name: _whole(tensor, dtype) for name, tensor in policy.state_dict().items()}
    base = policy.get_base_model()
    # One product of adapters at a time: in float32, all of them are twice a bfloat16 model.
    adapted: dict[str, tuple[LoraLayer, str]] = {
        f"{name}.base_layer.weight": (module, adapter)
        for name, module in base.named_modules()
        if isinstance(module, LoraLayer)
        for adapter in module.active_adapters
    }

    def merged(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name not in adapted:
            return tensor
        layer, adapter = adapted[name]
        return tensor.float() + layer.get_delta_weight(adapter).float()

    return {
        name.replace(".base_layer.", "."): _whole(merged(name, tensor), dtype)
        for name, tensor in base.state_dict().items()
        if ".lora_" not in name
    }


def adapter_state_dict(policy: Any) -> dict[str, torch.Tensor]:
    """The adapters alone, whole, on the CPU, under peft's names; all processes must ask."""
    from peft import get_peft_model_state_dict

    return {n: full_tensor(t).to("cpu") for n, t in get_peft_model_state_dict(policy).items()}


def _whole(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if world_size() == 1 else full_tensor(tensor).to("cpu", dtype)


def load_trainable(policy: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put saved values of `trainable(policy)` back; the first process's, where there are several.

    Raises
    ------
    ValueError
        If names or shapes are those of another model.
    """
    own = trainable(policy)
    if own.keys() != tensors.keys() or any(own[n].shape != tensors[n].shape for n in own):
        odd = sorted(
            name
            for name in own.keys() | tensors.keys()
            if name not in own or name not in tensors or own[name].shape != tensors[name].shape
        )
        raise ValueError(
            f"checkpoint: weights of another architecture, {odd[0]} differs "
            f"(and {len(odd) - 1} more); resume with the model and LoRA options of the run"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(distribute(tensors[name], parameter))


def _not_found(model: str, what: str, error: Exception) -> str:
    if isinstance(error, OSError | ValueError):
        reason = f"{error}\n".lstrip().splitlines()[0][:200]  # the rest is advice
    else:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    kind = "folder" if Path(model).is_dir() else "name"
    return f"model: no {what} could be loaded from the {kind} {model!r} ({reason})"
