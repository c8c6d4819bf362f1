"""Where each byte of a GPU goes in the phases of a training step, before anything is started.

A step generates, goes backward through micro-batches, lets the optimizer step, and hands the new
weights to the engine. What is alive differs, so a run fits if each of these phases does.

- FSDP2 divides weights, gradients and optimizer state among the GPUs (one process each). A layer's
  weights come together for its turn: its own, the next one's and a buffer. Embeddings, final norm
  and head are one unit, together for the whole pass.
- Every process has an engine, with all weights; tensor parallelism divides them among its GPUs.
- vLLM takes its share of a GPU's memory whatever it needs, and gives it back while it sleeps, which
  it does in the middle phases where it can: on GPUs. The Transformers engine keeps its weights.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from llm.config.train import TrainConfig
from llm.engines.vllm_weights import reserved_rank
from llm.planning.demand import Lengths, demand, evaluation
from llm.planning.footprint import Footprint
from llm.planning.hardware import GIB, Hardware

PHASES = ("generate", "backward", "step", "sync")

#: What vLLM takes beside weights and cache: activations of a prefill, buffers, CUDA graphs.
ENGINE_BUFFERS = 2 * GIB

#: Cache of a vLLM on a CPU (`VLLMEngine.kv_cache_gib`), and most rows of a Transformers batch.
CPU_CACHE, BATCH = 1 * GIB, 256

#: Bytes that the Transformers engine needs for each logit of a batch, beside the model's own: two
#: tables in float32 and a cumulative one in float64, with the temperature's quotient.
SAMPLING_BYTES = 20


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on each GPU.

    Attributes
    ----------
    parts : dict of str to four int
        By what they hold; in the order of `PHASES`.
    problems : list of str
        Why it does not fit; none if it does.
    cached : int
        Tokens that vLLM's cache holds, 0 for the other engine.
    """

    parts: dict[str, tuple[int, int, int, int]]
    problems: list[str]
    cached: int

    def totals(self) -> tuple[int, ...]:
        """Bytes in each phase."""
        return tuple(sum(each) for each in zip(*self.parts.values(), strict=True))


def plan_memory(
    config: TrainConfig,
    footprint: Footprint,
    hardware: Hardware,
    lengths: Lengths,
    update: int | None = None,
) -> MemoryPlan:
    """The plan of a run.

    Parameters
    ----------
    config : TrainConfig
    footprint : Footprint
        Of its model, with its adapters.
    hardware : Hardware
    lengths : Lengths
    update : int, optional
        Bytes of an update's activations and logits, if known; else they are traced.
    """
    gpus = hardware.gpus

    def share(whole: int) -> int:
        return math.ceil(whole / gpus)

    rows, (prompt, completion) = micro_batch(config, gpus), longest_row(config, lengths)
    if update is None:
        update = footprint.update(rows, prompt, completion, config.gradient_checkpointing)
    logits = min(footprint.logits(rows * completion), update)
    weights, optimizer = share(footprint.weights), share(footprint.optimizer)
    gradients = share(footprint.gradients)
    reference = weights if config.needs_reference and not config.lora.r else 0
    together = footprint.rest + 3 * footprint.layer if gpus > 1 else 0
    # Where there are GPUs, AdamW works on all tensors at once, with room for one more of each.
    working = gradients if hardware.device == "cuda" else 0

    engine, cache, buffers, problems, cached = _engine(config, footprint, hardware, lengths)
    sleeps = config.engine == "vllm" and hardware.device == "cuda"
    stays = 0 if sleeps else engine
    pinned = cache if config.engine == "vllm" and not sleeps else 0
    in_sync = cache if config.engine == "vllm" else 0

    parts = {
        "weights": (weights,) * 4,
        "other weights, gathered": (0, together, 0, 0),
        "gradients": (0, gradients, gradients, 0),
        "optimizer": (optimizer, optimizer, optimizer + working, optimizer),
        "activations": (0, update - logits, 0, 0),
        "logits chunk": (0, logits, 0, 0),
        "reference copy": (reference,) * 4,
        "engine weights": (engine, stays, stays, engine),
        "engine buffers": (buffers, 0, 0, buffers if config.engine == "vllm" else 0),
        "KV cache": (cache, pinned, pinned, in_sync),
        "weights for the engine": (0, 0, 0, handed(config, footprint, hardware)),
    }
    plan = MemoryPlan({name: row for name, row in parts.items() if any(row)}, problems, cached)
    for phase, total in zip(PHASES, plan.totals(), strict=True):
        if total > hardware.usable:
            problems.append(
                f"{phase}: {total / GIB:.1f} GiB are needed, {hardware.usable / GIB:.1f} are there"
            )
    return plan


def micro_batch(config: TrainConfig, gpus: int) -> int:
    """Most rows of a process that go through the model at once."""
    rows = sum(kind.number for kind in demand(config).rows)
    rows = math.ceil(rows / config.update.steps_per_generation / gpus)
    return min(config.update.per_device_train_batch_size, rows)


def longest_row(config: TrainConfig, lengths: Lengths) -> tuple[int, int]:
    """Most tokens of a row before those trained on, and most of those."""
    whole, trained = demand(config, lengths.request).longest
    return lengths.prompt + whole - trained, trained


def sequences(config: TrainConfig, lengths: Lengths) -> list[tuple[int, int, int]]:
    """Generate calls: requests, samples of each, and most tokens of a sequence."""
    calls = demand(config, lengths.request).calls
    if config.evaluation.steps:
        calls.append(evaluation(config))
    return [(c.requests, c.samples, lengths.prompt + c.context + c.new) for c in calls]


def engine_bytes(footprint: Footprint) -> int:
    """Bytes of each number in the engine."""
    return 2 if footprint.bf16 else 4


def handed(config: TrainConfig, footprint: Footprint, hardware: Hardware) -> int:
    """Bytes of new weights that are on the device on their way to the engine.

    Adapters go by way of the CPU. So do weights of several processes, which make them whole one by
    one; what one process has merged is all on its device.
    """
    if sends_adapters(config):
        return 0
    divided = hardware.gpus > 1 and hardware.device == "cuda"
    return footprint.largest if divided else merged_bytes(footprint)


def merged_bytes(footprint: Footprint) -> int:
    """Bytes of the whole model with its adapters merged in, as an engine has it."""
    return footprint.base * engine_bytes(footprint)


def engine_weights(config: TrainConfig, footprint: Footprint, parallel: int = 1) -> int:
    """Bytes of an engine's weights on each of its devices."""
    weights = math.ceil(merged_bytes(footprint) / parallel)
    if sends_adapters(config):  # room for those of every matrix, divided in part at best
        weights += reserved_rank(config.lora.r) * footprint.edges * engine_bytes(footprint)
    return weights


def sends_adapters(config: TrainConfig) -> bool:
    """Whether the engine gets adapters alone, not merged weights."""
    return config.engine == "vllm" and config.vllm.lora


def _engine(
    config: TrainConfig, footprint: Footprint, hardware: Hardware, lengths: Lengths
) -> tuple[int, int, int, list[str], int]:
    """Weights, cache and buffers of an engine, what is wrong with it, tokens in vLLM's cache."""
    dtype = torch.bfloat16 if footprint.bf16 else torch.float32
    size = engine_bytes(footprint)
    text = footprint.architecture.get_text_config()
    most = footprint.positions
    if config.engine == "transformers":
        cache = logits = 0
        for requests, samples, tokens in sequences(config, lengths):
            rows = min(BATCH, math.ceil(requests / hardware.gpus) * samples)
            rows = max(rows, samples)
            # Growing by a token copies a layer's keys and values.
            grown = footprint.cache(min(tokens, most), dtype) * (1 + 1 / footprint.layers)
            cache = max(cache, int(rows * grown))
            logits = max(logits, rows * footprint.vocabulary * (SAMPLING_BYTES + size))
        return merged_bytes(footprint), cache, logits, [], 0

    problems: list[str] = []
    options = config.vllm
    parallel = options.tensor_parallel_size
    if parallel > hardware.gpus:
        problems.append(
            f"vllm.tensor_parallel_size: {parallel} is more than the {hardware.gpus} GPUs"
        )
    if text.num_attention_heads % parallel:
        problems.append(
            f"vllm.tensor_parallel_size: {parallel} does not divide the model's "
            f"{text.num_attention_heads} attention heads"
        )
    weights = engine_weights(config, footprint, parallel)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    token = math.ceil(footprint.cache(1, dtype) / min(parallel, heads))
    if hardware.device == "cpu":
        cache, buffers = CPU_CACHE, 0
    else:
        buffers = ENGINE_BUFFERS
        cache = int(options.gpu_memory_utilization * hardware.memory) - weights - buffers
    needed = (options.max_model_len or most) * token
    if cache < needed:
        problems.append(
            f"KV cache: one sequence of {options.max_model_len or most} tokens takes "
            f"{needed / GIB:.1f} GiB, {max(cache, 0) / GIB:.1f} are left for it"
        )
    return weights, max(cache, 0), buffers, problems, max(cache, 0) // token if token else 0


def with_settings(config: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    """A copy with other values, by the names that flags have."""
    for name, value in changes.items():
        section, _, inner = name.rpartition(".")
        new = {inner: value}
        if section:
            new = {section: dataclasses.replace(getattr(config, section), **new)}
        config = dataclasses.replace(config, **new)
    return config
