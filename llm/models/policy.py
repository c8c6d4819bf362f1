"""The policy: loading a causal language model, and its weights for engines and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from llm.distributed.processes import world_size
from llm.models.architecture import remove_noise
from llm.models.fsdp import distribute, full_tensor
from llm.models.lora import LoraOptions, adapt


def default_device() -> torch.device:
    """A GPU if available, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_bf16(wanted: bool | None, device: torch.device) -> bool:
    """`wanted` if given; else whether `device` is a GPU that supports bfloat16."""
    supported = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return supported if wanted is None else wanted


def load_tokenizer(model: str) -> Any:
    """Load the tokenizer of a model.

    Raises
    ------
    FileNotFoundError
        If it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model)
    except Exception as error:  # of any type: an incomplete file is a KeyError
        raise FileNotFoundError(_load_failure(model, "tokenizer", error)) from error


def load_policy(
    model: str,
    *,
    lora: LoraOptions | None = None,
    gradient_checkpointing: bool = False,
    device: torch.device | None = None,
    bf16: bool = False,
    disable_dropout: bool = True,
) -> Any:
    """Load the model to train, in train mode, on `device`.

    Trained weights are float32. With `bf16`, training uses autocast; with LoRA the frozen base
    weights are then stored in bfloat16. Unless told otherwise, the model has no dropout, apart from
    that of the adapters: engines sample without it.

    Raises
    ------
    FileNotFoundError
        If any part of the model cannot be loaded. (Transformers initializes missing weights.)
    ValueError
        If the adapters do not fit the model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    lora = lora or LoraOptions()
    dtype = torch.bfloat16 if bf16 and lora.r else torch.float32
    try:
        config = AutoConfig.from_pretrained(model)
        if disable_dropout:
            remove_noise(config)
        policy, report = AutoModelForCausalLM.from_pretrained(
            model,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        bad = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
        if bad:
            raise ValueError(
                f"{len(bad)} weights are missing or of another shape, such as {bad[0]}"
            )
    except Exception as error:  # of any type: safetensors and configurations have their own
        raise FileNotFoundError(_load_failure(model, "model", error)) from error
    policy.to(device or default_device())
    return adapt(policy, lora, gradient_checkpointing)


def eos_token_ids(policy: Any) -> list[int]:
    """EOS token ids of the model's generation config; chat models have several."""
    eos = policy.generation_config.eos_token_id
    return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)


def trainable(policy: Any) -> dict[str, torch.nn.Parameter]:
    """Trainable parameters, by name."""
    return {name: p for name, p in policy.named_parameters() if p.requires_grad}


@torch.no_grad()
def merged_state_dict(policy: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Full state dict under the base model's names, with adapters merged in (collective).

    Merging works on copies, because merging in place and undoing it would round the base weights.
    Tensors of a sharded policy are gathered one by one and moved to the CPU, so that no device
    holds a second model.
    """
    if not hasattr(policy, "peft_config"):  # peft is not imported without need
        return {name: _gathered(tensor, dtype) for name, tensor in policy.state_dict().items()}
    from peft.tuners.lora import LoraLayer

    base = policy.get_base_model()
    # One adapter product at a time: together, in float32, they are twice a bfloat16 model.
    # A layer of experts is wrapped once for each of its adapted parameters.
    adapted: dict[str, tuple[LoraLayer, str]] = {
        _base_name(f"{name}.{getattr(module, 'parameter_name', 'weight')}"): (module, adapter)
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
        name: _gathered(merged(name, tensor), dtype)
        for name, tensor in (
            (_base_name(key), tensor)
            for key, tensor in base.state_dict().items()
            if ".lora_" not in key
        )
    }


def _base_name(name: str) -> str:
    """Name of a parameter before adapters wrapped its layer."""
    return ".".join(part for part in name.split(".") if part != "base_layer")


def adapter_state_dict(policy: Any) -> dict[str, torch.Tensor]:
    """Full adapter tensors on the CPU, under peft's names (collective)."""
    from peft import get_peft_model_state_dict

    return {n: full_tensor(t).to("cpu") for n, t in get_peft_model_state_dict(policy).items()}


def _gathered(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if world_size() == 1 else full_tensor(tensor).to("cpu", dtype)


def load_trainable(policy: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Restore saved values of `trainable(policy)`; only the values on rank 0 are used.

    Raises
    ------
    ValueError
        If names or shapes differ from those of the policy.
    """
    parameters = trainable(policy)
    if parameters.keys() != tensors.keys() or any(
        parameters[n].shape != tensors[n].shape for n in parameters
    ):
        differing = sorted(
            name
            for name in parameters.keys() | tensors.keys()
            if name not in parameters
            or name not in tensors
            or parameters[name].shape != tensors[name].shape
        )
        raise ValueError(
            f"checkpoint: weights of another architecture, {differing[0]} differs "
            f"(and {len(differing) - 1} more); resume with the model and LoRA options of the run"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(distribute(tensors[name], parameter))


def _load_failure(model: str, part: str, error: Exception) -> str:
    """Message for a model or tokenizer that could not be loaded."""
    if isinstance(error, OSError | ValueError):
        reason = f"{error}\n".lstrip().splitlines()[0][:200]  # later lines are advice
    else:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    kind = "folder" if Path(model).is_dir() else "name"
    here = "" if kind == "folder" else ", which is no folder here"
    return f"model: no {part} could be loaded from the {kind} {model!r}{here} ({reason})"
