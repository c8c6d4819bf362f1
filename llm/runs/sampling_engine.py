"""The engine of a saved model, for commands that sample from it without training it."""

from __future__ import annotations

from dataclasses import asdict

from llm.engines import Engine, make_engine
from llm.engines.options import VLLMOptions
from llm.models.policy import load_policy, merged_state_dict
from llm.runs.saved_model import SavedModel


def open_engine(
    saved: SavedModel, engine: str, *, bf16: bool, seed: int, vllm: VLLMOptions
) -> Engine:
    """Start an engine with the weights of a model or of a run's checkpoint."""
    import torch

    # The engine needs all memory of the GPU.
    cpu = torch.device("cpu")
    policy = None
    if saved.checkpoint is not None:
        policy = saved.policy(cpu, bf16)
    elif engine == "transformers":
        load_policy(saved.model, device=cpu)  # rejects a model that lacks weights
    opened = make_engine(engine, saved.model, bf16=bf16, seed=seed, **asdict(vllm))
    if policy is not None:
        try:
            opened.sync_weights(merged_state_dict(policy, opened.dtype))
        except BaseException:
            opened.close()
            raise
    return opened
