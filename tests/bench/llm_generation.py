"""Time generation: `python -m tests.bench.llm_generation ROUNDS` prints JSON.

Contestants: our vLLM engine, vLLM called directly, and our Transformers engine. All get the same
requests: 8 samples of 64 tokens for each of 32 prompts, new ones each round. Each contestant
runs in a separate process, which vLLM requires, and waits for its turn.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.bench.llm_world import WORDS, save_model

PROMPTS, SAMPLES, PROMPT_TOKENS, COMPLETION_TOKENS = 32, 8, 64, 64
CONTESTANTS = ("ours", "direct", "transformers")

Generate = Callable[[list[list[int]], int], int]


def ours(model: str, engine: str) -> Generate:
    """Generate with an engine of this project."""
    from llm.engines import SamplingParams, make_engine

    inference_engine = make_engine(engine, model, bf16=False, seed=0)

    def generate(prompts: list[list[int]], seed: int) -> int:
        params = [
            SamplingParams(COMPLETION_TOKENS, n=SAMPLES, seed=seed + i) for i in range(len(prompts))
        ]
        return sum(
            len(c.ids) for group in inference_engine.generate(prompts, params) for c in group
        )

    return generate


def direct(model: str) -> Generate:
    """Generate with vLLM directly, with the same options: seeds, log-probs of sampled tokens."""
    import os

    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    from vllm import LLM, SamplingParams

    llm = LLM(
        model, dtype="float32", enforce_eager=True, block_size=32, skip_tokenizer_init=True,
        logprobs_mode="processed_logprobs",
        enable_chunked_prefill=False,  # with it, seeded requests crash vLLM on a CPU
    )  # fmt: skip

    def generate(prompts: list[list[int]], seed: int) -> int:
        params = [
            SamplingParams(
                n=SAMPLES, max_tokens=COMPLETION_TOKENS, logprobs=0, seed=seed + SAMPLES * i,
                ignore_eos=True, detokenize=False,
            )
            for i in range(len(prompts))
        ]  # fmt: skip
        requests: Any = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = llm.generate(requests, params, use_tqdm=False)
        return sum(len(sample.token_ids) for output in outputs for sample in output.outputs)

    return generate


def contestant(name: str, model: str) -> None:
    """Generate once for each line of stdin, and print the seconds."""
    import random

    import torch

    torch.set_num_threads(1)
    makers: dict[str, Callable[[], Generate]] = {
        "ours": lambda: ours(model, "vllm"),
        "direct": lambda: direct(model),
        "transformers": lambda: ours(model, "transformers"),
    }
    generate = makers[name]()
    for line in sys.stdin:
        draw = random.Random(int(line))
        prompts = [[draw.randrange(WORDS) for _ in range(PROMPT_TOKENS)] for _ in range(PROMPTS)]
        began = time.perf_counter()
        tokens = generate(prompts, 1000 * int(line))
        seconds = time.perf_counter() - began
        assert tokens == PROMPTS * SAMPLES * COMPLETION_TOKENS, tokens
        print(json.dumps({"step": seconds, "tokens": tokens}), flush=True)


def measure(rounds: int) -> dict[str, list[dict[str, float]]]:
    """Seconds of each call, by contestant; the first two rounds warm up."""
    with TemporaryDirectory() as scratch:
        model = save_model(Path(scratch) / "model")
        running = {
            name: subprocess.Popen(
                [sys.executable, "-m", "tests.bench.llm_generation", name, model],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )
            for name in CONTESTANTS
        }  # fmt: skip
        readings: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
        for number in range(rounds + 2):
            for name, process in running.items():
                readings[name].append(_turn(name, process, number))
        for process in running.values():
            process.communicate()
    return {name: calls[2:] for name, calls in readings.items()}


def _turn(name: str, process: subprocess.Popen[str], number: int) -> dict[str, float]:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{number}\n")
    process.stdin.flush()
    for line in process.stdout:  # vLLM also prints to stdout
        if line.startswith("{"):
            reading: dict[str, float] = json.loads(line)
            return reading
    raise RuntimeError(f"{name} ended with exit code {process.wait()}")


if __name__ == "__main__":
    if sys.argv[1] in CONTESTANTS:
        contestant(*sys.argv[1:])
    else:
        print(json.dumps(measure(int(sys.argv[1]))))
