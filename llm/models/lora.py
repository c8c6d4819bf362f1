"""LoRA adapters (peft)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LoraOptions:
    """Options of LoRA adapters, with the names of peft.

    Parameters
    ----------
    r : int
        Rank of the adapters; 0 trains all weights instead.
    alpha : float, optional
        Adapters are scaled by alpha / r; by default alpha is r.
    dropout : float
        Dropout probability of the adapters' inputs.
    target_modules : str or list of str
        Names of the adapted modules, or "all-linear".
    """

    r: int = 0
    alpha: float | None = None
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"

    def __post_init__(self) -> None:
        if self.r < 0:
            raise ValueError(f"lora.r: {self.r} is not a rank ≥ 1, nor 0 for full weights")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout: {self.dropout} is not in [0, 1)")


def adapt(policy: Any, lora: LoraOptions, gradient_checkpointing: bool = False) -> Any:
    """Prepare a model for training: adapters, gradient checkpointing, train mode.

    Raises
    ------
    ValueError
        If the adapters do not fit the model.
    """
    policy.config.use_cache = False
    if gradient_checkpointing:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    if lora.r:
        from peft import LoraConfig, get_peft_model

        adapters = LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha if lora.alpha is not None else lora.r,
            lora_dropout=lora.dropout,
            target_modules=lora.target_modules,
            task_type="CAUSAL_LM",
        )
        try:
            policy = get_peft_model(policy, adapters)
        except ValueError as error:
            raise ValueError(f"lora: {error}") from error
        if gradient_checkpointing:
            policy.enable_input_require_grads()
    return policy.train()
