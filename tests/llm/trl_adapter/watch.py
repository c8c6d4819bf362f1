"""A `trl.GRPOTrainer` that records its calls, on the package's base model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cpi.core.collect import Collection
from cpi.core.episodes import Episode
from llm.models.shipped import SHIPPED
from llm.trl_adapter import ResetRollouts
from tests.llm.trl_adapter.problems import (
    ask,
    correct,
    errors,
    problems,
    tokenizer,
)

CPU = torch.device("cpu")
BASE = str(SHIPPED["chain-base"])


def base_model() -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    model.generation_config.eos_token_id = [1, tokenizer().convert_tokens_to_ids("}")]
    return model


def srpo(**changes: Any) -> ResetRollouts:
    options: dict[str, Any] = {"delimiter": "\n", "localization_prompt": ask, "errors": errors}
    return ResetRollouts(changes.pop("algorithm", "srpo"), **options | changes)


class Watch:
    """A trainer with recorded rollouts and training inputs."""

    def __init__(
        self,
        resets: ResetRollouts,
        folder: Path,
        *,
        model: Any = None,
        prompts: int = 8,
        data: Any = None,
        reward_funcs: Any = correct,
        optimizer: Any = None,
        more: dict[str, Any] | None = None,
        **config: Any,
    ) -> None:
        from trl import GRPOConfig, GRPOTrainer

        watch = self
        self.resets, self.calls, self.inputs, self.scores = resets, [], [], []
        self.collections: list[Collection] = []

        class Watched(GRPOTrainer):
            def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
                outputs = super()._get_per_token_logps_and_entropies(*args, **kwargs)
                if torch.is_grad_enabled():
                    for scores in outputs[:2]:
                        scores.retain_grad()
                    watch.scores.append(outputs[:2])
                return outputs

            def _compute_loss(self, model: Any, inputs: Any) -> Any:
                watch.inputs.append(inputs)
                return super()._compute_loss(model, inputs)

        def rollout(prompts: Any, trainer: Any) -> Any:
            output = resets(prompts, trainer)
            watch.calls.append((prompts, output))
            if trainer.model.training:
                assert resets.collection is not None
                watch.collections.append(resets.collection)
            return output

        defaults: dict[str, Any] = {
            "output_dir": str(folder),
            "num_generations": 4,
            "shuffle_dataset": False,
            "per_device_train_batch_size": 16,
            "max_completion_length": 24,
            "max_steps": 1,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "dataloader_pin_memory": False,
            "logging_steps": 1,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
        }
        self.trainer = Watched(
            model=base_model() if model is None else model,
            processing_class=tokenizer(),
            reward_funcs=reward_funcs,
            args=GRPOConfig(**defaults | config),
            train_dataset=resets.dataset(problems(prompts)) if data is None else data,
            rollout_func=rollout,
            optimizers=(optimizer, None),
            **more or {},
        )

    def train(self) -> Watch:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            self.trainer.train()
        finally:
            torch.set_num_threads(threads)
        return self

    def logged(self, name: str) -> list[float]:
        return [entry[name] for entry in self.trainer.state.log_history if name in entry]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        model = self.trainer.model
        return {name: p.detach().clone() for name, p in model.named_parameters()}


def mask(inputs: Any) -> torch.Tensor:
    """Mask of the completion tokens that TRL trains on."""
    return (inputs["completion_mask"] * inputs["tool_mask"]).bool()


def rows_of(inputs: Any) -> list[tuple[tuple[int, ...], int, float]]:
    """Rows that TRL trained on: completion, length of the masked prefix, advantage."""
    rows = []
    for number, ids in enumerate(inputs["completion_ids"]):
        present = inputs["completion_mask"][number].bool()
        tools = inputs["tool_mask"][number][present]
        kept = int((tools == 0).sum())
        assert not tools[:kept].any() and tools[kept:].all()  # only a prefix is masked
        advantage = float(inputs["advantages"][number])
        rows.append((tuple(ids[present].tolist()), kept, advantage))
    return rows


def first_thought(episodes: Sequence[Episode]) -> list[Any]:
    return [np.eye(1, episode.length)[0] for episode in episodes]
