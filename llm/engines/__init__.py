"""Inference engines behind one protocol: Transformers (in this process) and vLLM."""

from __future__ import annotations

from typing import Any

from llm.engines.engine import (
    Completion,
    Engine,
    EngineError,
    EngineStats,
    SamplingParams,
)

__all__ = ["Completion", "Engine", "EngineError", "EngineStats", "SamplingParams", "make_engine"]


def make_engine(
    name: str,
    model: str,
    *,
    bf16: bool,
    seed: int,
    lora: bool = False,
    adapters: Any = None,
    **vllm: Any,
) -> Engine:
    """Start the engine of this name.

    Parameters
    ----------
    name : {"transformers", "vllm"}
    model : str
        Folder or hub name.
    bf16 : bool
        Weights in bfloat16 instead of float32.
    seed : int
    lora : bool
        Whether vLLM applies the LoRA adapters itself, instead of merged weights.
    adapters : peft.LoraConfig, optional
        Configuration of the adapters; used only if `lora`.
    **vllm
        Other arguments of `VLLMEngine`.

    Raises
    ------
    ValueError
        If no engine has this name.
    EngineError
        If the engine does not start.
    """
    if name == "transformers":
        import torch

        from llm.engines.transformers import TransformersEngine
        from llm.models.policy import default_device

        dtype = torch.bfloat16 if bf16 else torch.float32
        return TransformersEngine(model, device=default_device(), dtype=dtype)
    if name == "vllm":
        from llm.engines.vllm import VLLMEngine

        return VLLMEngine(
            model,
            dtype="bfloat16" if bf16 else "float32",
            seed=seed,
            adapters=adapters if lora else None,
            **vllm,
        )
    raise ValueError(f"engine: {name!r} is neither transformers nor vllm")
