"""Time training steps: `python -m tests.bench.llm_steps SIGNAL ROUNDS` prints JSON.

TRL's loop cannot be paused, so our trainers take their turns in its callback at the end of a step.
A round is one step of TRL, one of ours, and one of ours with vLLM if installed. TRL's time is from
one callback to the next; ours is that of `Trainer.train_step`. Both include tokenizing, rewards,
the optimizer and the metrics of the step. Ours also includes copying the weights to the engine. The
first round warms up.
"""

from __future__ import annotations

import io
import json
import sys
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from tests.bench.llm_world import Signal, reward_function, save_model

#: Prompts × group size = 128 completions, as long as their prompts, in micro-batches of 32.
PROMPTS, GROUP, PROMPT_TOKENS, COMPLETION_TOKENS, MICRO_BATCH = 16, 8, 64, 64, 32
LEARNING_RATE = 5e-5


def measure(signal: Signal, rounds: int) -> dict[str, Any]:
    """Seconds of each step, of generation and of training, by contestant."""
    import torch

    torch.set_num_threads(1)
    with TemporaryDirectory() as scratch:
        model = save_model(Path(scratch) / "model")
        trainers = {"transformers": trainer(model, "transformers", signal, scratch)}
        if vllm_is_installed():
            trainers["vllm"] = trainer(model, "vllm", signal, scratch)
        readings: dict[str, list[dict[str, float]]] = {name: [] for name in ("trl", *trainers)}

        def run_ours() -> None:
            for name, t in trainers.items():
                began = time.perf_counter()
                metrics = t.train_step()
                readings[name].append(
                    {
                        "step": time.perf_counter() - began,
                        "generate": metrics["time/generate"],
                        "train": metrics["time/train"],
                        "no_signal": metrics["frac_reward_zero_std"],
                        "tokens": metrics["tokens_per_second/generate"] * metrics["time/generate"],
                    }
                )

        run_trl(model, signal, rounds + 1, scratch, readings["trl"], run_ours)
        for t in trainers.values():
            t.close()
    return {name: steps[1:] for name, steps in readings.items()}


def vllm_is_installed() -> bool:
    """Whether vLLM is installed."""
    import importlib.util

    return importlib.util.find_spec("vllm") is not None


def trainer(model: str, engine: Any, signal: Signal, scratch: str, **changes: Any) -> Any:
    """Our trainer, without progress output; its only file is metrics.jsonl."""
    from llm.common.progress import Reporter
    from llm.config.train import EvaluationOptions, PlanOptions, TrainConfig
    from llm.learner.options import UpdateOptions
    from llm.thoughts.options import SamplingOptions
    from llm.train.trainer import Trainer

    folder = Path(scratch) / f"{engine}-{changes.get('algorithm', 'grpo')}"
    folder.mkdir()
    settings: dict[str, Any] = {
        "model": model,
        "engine": engine,
        "algorithm": "grpo",
        "plan": PlanOptions(fresh=GROUP),
        "task": "tests.bench.llm_world:Words",
        "task_args": {"prompts": PROMPTS, "length": PROMPT_TOKENS, "signal": signal},
        "prompts_per_step": PROMPTS,
        "steps": 1000,
        "rollout_steps": 0,
        "sampling": SamplingOptions(
            max_completion_length=COMPLETION_TOKENS, max_thoughts=COMPLETION_TOKENS
        ),
        "update": UpdateOptions(per_device_train_batch_size=MICRO_BATCH),
        "evaluation": EvaluationOptions(steps=0),
        "output": str(folder),
    }
    config = TrainConfig(**settings | changes)
    return Trainer(config, Reporter(config.steps, Console(file=io.StringIO())))


def run_trl(
    model: str, signal: Signal, steps: int, scratch: str, readings: list[Any], others: Any
) -> None:
    """Run TRL's GRPOTrainer on the same problems, with our defaults."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from tests.bench.llm_world import Words

    class Timed(GRPOTrainer):
        generating = 0.0

        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            completions = super()._generate_single_turn(*args, **kwargs)
            self.generating += time.perf_counter() - began
            return completions

    class Turns(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            step = time.perf_counter() - self.began
            readings.append(
                {"step": step, "generate": trl.generating, "train": step - trl.generating}
            )
            trl.generating = 0.0
            others()
            self.began = time.perf_counter()

    config = GRPOConfig(
        output_dir=f"{scratch}/trl",
        per_device_train_batch_size=MICRO_BATCH,
        gradient_accumulation_steps=PROMPTS * GROUP // MICRO_BATCH,
        num_generations=GROUP,
        max_completion_length=COMPLETION_TOKENS,
        temperature=1.0,
        top_p=1.0,
        beta=0.0,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        weight_decay=0.01,
        max_grad_norm=1.0,
        max_steps=steps,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    )
    prompts = [example.prompt for example in Words(PROMPTS, PROMPT_TOKENS).examples("train")]
    trl = Timed(
        model=AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        reward_funcs=reward_function(signal),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=AutoTokenizer.from_pretrained(model, padding_side="left"),
        callbacks=[Turns()],
    )
    trl.train()
    lengths = {entry["completions/mean_length"] for entry in trl.state.log_history[:-1]}
    assert lengths == {COMPLETION_TOKENS}, f"TRL's completions had {lengths} tokens"


if __name__ == "__main__":
    import contextlib

    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):
        result = measure(sys.argv[1], int(sys.argv[2]))
    print(json.dumps(result))
