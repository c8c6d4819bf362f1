"""Time a step with resets against GRPO: `python -m tests.bench.llm_resets ENGINE ROUNDS`.

SRPO has 4+1×4 rollouts per prompt and the surprisal localizer, which costs no tokens. GRPO has 8
rollouts per prompt, and as many prompts as give equally many generated tokens. Steps take turns;
the first of each warms up. Prints JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.bench.llm_steps import COMPLETION_TOKENS, GROUP, trainer
from tests.bench.llm_world import save_model

#: Number of prompts of SRPO, and tokens in each: two blocks of vLLM's prefix cache.
PROMPTS, PROMPT_TOKENS = 48, 64


def measure(engine: str, rounds: int) -> dict[str, Any]:
    """Seconds, tokens and cache hits of each step, by algorithm."""
    import torch

    from llm.config.train import PlanOptions

    torch.set_num_threads(1)
    task = {"prompts": 2 * PROMPTS, "length": PROMPT_TOKENS, "signal": "binary"}
    with TemporaryDirectory() as scratch:
        model = save_model(Path(scratch) / "model")

        def new_trainer(algorithm: str, prompts: int) -> Any:
            return trainer(
                model, engine, "binary", scratch, algorithm=algorithm, localizer="surprisal",
                plan=PlanOptions(), task_args=task, prompts_per_step=prompts,
            )  # fmt: skip

        srpo = new_trainer("srpo", PROMPTS)
        tokens = step(srpo)["tokens"]
        grpo = new_trainer("grpo", round(tokens / (GROUP * COMPLETION_TOKENS)))
        step(grpo)
        readings: dict[str, list[dict[str, float]]] = {"grpo": [], "srpo": []}
        for _ in range(rounds):
            readings["grpo"].append(step(grpo))
            readings["srpo"].append(step(srpo))
        grpo.close()
        srpo.close()
    return readings


def step(trainer: Any) -> dict[str, float]:
    """Run one training step; returns its seconds, tokens and cache hits."""
    before, tokens = replace(trainer.sampler.engine.stats), trainer.ledger.steps
    began = time.perf_counter()
    metrics = trainer.train_step()
    seconds = time.perf_counter() - began
    work = trainer.sampler.engine.stats - before
    return {
        "step": seconds,
        "tokens": trainer.ledger.steps - tokens,
        "prompt_tokens": work.prompt_tokens,
        "cached_tokens": work.cached_tokens,
        "no_signal": metrics["frac_reward_zero_std"],
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):
        result = measure(sys.argv[1], int(sys.argv[2]))
    print(json.dumps(result))
