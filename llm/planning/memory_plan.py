"""Memory plan of a GPU in each phase of a training step.

A step has four phases: generate, backward passes of micro-batches, optimizer step, and weight sync
to the engine. Different tensors are alive in each, so a run fits if every phase fits.

- FSDP2 shards weights, gradients and optimizer state over the GPUs, one process each. Layers are
  gathered one at a time: the current layer, the next one and a buffer are in memory. Embeddings,
  final norm and head form one unit, gathered for the whole pass.
- Every process has an engine with all weights; tensor parallelism shards them over its GPUs.
- vLLM reserves a fixed share of a GPU's memory. On a GPU it sleeps and frees this share in the two
  middle phases. The Transformers engine keeps its weights.
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
from llm.planning.shared_prefixes import lines, shares

PHASES = ("generate", "backward", "step", "sync")

#: Bytes of vLLM besides weights and cache: prefill activations, buffers, CUDA graphs.
ENGINE_BUFFERS = 2 * GIB

#: Bytes of vLLM's cache on a CPU (`VLLMEngine.kv_cache_gib`); maximum rows of a Transformers batch.
CPU_CACHE, BATCH = 1 * GIB, 256

#: Bytes of the Transformers engine for each logit of a batch, besides the logit itself: the logits
#: in float32, divided by the temperature, and probabilities. Top-p sorts them, in the worst case:
#: values and indices, and as much again within the sort.
SAMPLING_BYTES, SORTING_BYTES = 12, 20


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on each GPU, by use and phase.

    Attributes
    ----------
    parts : dict of str to four int
        Bytes by use, in the order of `PHASES`.
    problems : list of str
        Reasons why the run does not fit; empty if it fits.
    cached : int
        Tokens that fit in vLLM's cache; 0 for the Transformers engine.
    """

    parts: dict[str, tuple[int, int, int, int]]
    problems: list[str]
    cached: int

    def totals(self) -> tuple[int, ...]:
        """Total bytes in each phase."""
        return tuple(sum(column) for column in zip(*self.parts.values(), strict=True))


def plan_memory(
    config: TrainConfig,
    footprint: Footprint,
    hardware: Hardware,
    lengths: Lengths,
    update: int | None = None,
) -> MemoryPlan:
    """Plan the memory of a run.

    Parameters
    ----------
    config : TrainConfig
    footprint : Footprint
        Footprint of the model with its adapters.
    hardware : Hardware
    lengths : Lengths
    update : int, optional
        Bytes of an update's activations and logits; traced by default.
    """
    gpus = hardware.gpus

    def share(total: int) -> int:
        return math.ceil(total / gpus)

    rows, longest = micro_batch(config, gpus, lengths, footprint), longest_row(config, lengths)
    if update is None:
        update = update_bytes(config, footprint, rows, longest)
    logits = min(footprint.logits(rows * longest[1]), update)
    weights, optimizer = share(footprint.weights), share(footprint.optimizer)
    gradients = share(footprint.gradients)
    reference = weights if config.needs_reference and not config.lora.r else 0
    gathered = footprint.rest + 3 * footprint.layer if gpus > 1 else 0
    # On GPUs, AdamW updates all tensors at once and needs a temporary copy of each.
    temporary = gradients if hardware.device == "cuda" else 0

    engine, cache, buffers, problems, cached = _engine(config, footprint, hardware, lengths)
    sleeps = config.engine == "vllm" and hardware.device == "cuda"
    stays = 0 if sleeps else engine
    pinned = cache if config.engine == "vllm" and not sleeps else 0
    in_sync = cache if config.engine == "vllm" else 0

    parts = {
        "weights": (weights,) * 4,
        "other weights, gathered": (0, gathered, 0, 0),
        "gradients": (0, gradients, gradients, 0),
        "optimizer": (optimizer, optimizer, optimizer + temporary, optimizer),
        "activations": (0, update - logits, 0, 0),
        "logits chunk": (0, logits, 0, 0),
        "reference copy": (reference,) * 4,
        "engine weights": (engine, stays, stays, engine),
        "engine buffers": (buffers, 0, 0, buffers if config.engine == "vllm" else 0),
        "KV cache": (cache, pinned, pinned, in_sync),
        "weights for the engine": (0, 0, 0, sync_bytes(config, footprint, hardware)),
    }
    plan = MemoryPlan({name: row for name, row in parts.items() if any(row)}, problems, cached)
    for phase, total in zip(PHASES, plan.totals(), strict=True):
        if total > hardware.usable:
            problems.append(
                f"{phase}: {total / GIB:.1f} GiB are needed, {hardware.usable / GIB:.1f} are there"
            )
    return plan


def update_bytes(
    config: TrainConfig, footprint: Footprint, rows: int, longest: tuple[int, int]
) -> int:
    """Bytes of an update of some of the longest rows, without weights and gradients."""
    checkpointing = config.gradient_checkpointing
    if shares(config, footprint):  # a trie may have trained tokens only
        return footprint.update(rows, 1, sum(longest) - 1, checkpointing, tries=True)
    return footprint.update(rows, *longest, checkpointing)


def micro_batch(config: TrainConfig, gpus: int, lengths: Lengths, footprint: Footprint) -> int:
    """Maximum rows of a process in one micro-batch; of tries, as many as take the same memory."""
    if shares(config, footprint):
        return lines(config, gpus, lengths, footprint.width)
    rows = sum(kind.number for kind in demand(config).rows)
    rows = math.ceil(rows / config.update.steps_per_generation / gpus)
    return min(config.update.per_device_train_batch_size, rows)


def longest_row(config: TrainConfig, lengths: Lengths) -> tuple[int, int]:
    """Maximum tokens of a row before its trained tokens, and maximum trained tokens."""
    total, trained = demand(config, lengths.request).longest
    return lengths.prompt + total - trained, trained


def sequences(config: TrainConfig, lengths: Lengths) -> list[tuple[int, int, int]]:
    """Generate calls: requests, samples per request, and maximum tokens of a sequence."""
    calls = demand(config, lengths.request).calls
    if config.evaluation.steps:
        calls.append(evaluation(config))
    return [(c.requests, c.samples, lengths.prompt + c.context + c.new) for c in calls]


def engine_bytes(footprint: Footprint) -> int:
    """Bytes of one weight in the engine."""
    return 2 if footprint.bf16 else 4


def sync_bytes(config: TrainConfig, footprint: Footprint, hardware: Hardware) -> int:
    """Bytes on the device for new weights during the sync to the engine.

    Adapters pass through the CPU. Sharded weights do too: their tensors are gathered one by one. A
    single process merges all weights on its device.
    """
    if sends_adapters(config):
        return 0
    divided = hardware.gpus > 1 and hardware.device == "cuda"
    return footprint.largest if divided else merged_bytes(footprint)


def merged_bytes(footprint: Footprint) -> int:
    """Bytes of the full model in the engine's dtype, with adapters merged."""
    return footprint.base * engine_bytes(footprint)


def engine_weights(config: TrainConfig, footprint: Footprint, parallel: int = 1) -> int:
    """Bytes of an engine's weights on each of its devices."""
    weights = math.ceil(merged_bytes(footprint) / parallel)
    if sends_adapters(config):  # vLLM reserves them for every matrix; assume no sharding
        weights += reserved_rank(config.lora.r) * footprint.edges * engine_bytes(footprint)
    return weights


def sends_adapters(config: TrainConfig) -> bool:
    """Whether the engine receives only adapters, not merged weights."""
    return config.engine == "vllm" and config.vllm.lora


def _engine(
    config: TrainConfig, footprint: Footprint, hardware: Hardware, lengths: Lengths
) -> tuple[int, int, int, list[str], int]:
    """Bytes of an engine's weights, cache and buffers; problems; tokens in vLLM's cache."""
    dtype = torch.bfloat16 if footprint.bf16 else torch.float32
    size = engine_bytes(footprint)
    text = footprint.architecture.get_text_config()
    positions = footprint.positions
    if config.engine == "transformers":
        cache = logits = 0
        for requests, samples, tokens in sequences(config, lengths):
            rows = min(BATCH, math.ceil(requests / hardware.gpus) * samples)
            rows = max(rows, samples)
            # Appending a token copies the keys and values of one layer.
            grown = footprint.cache(min(tokens, positions), dtype) * (1 + 1 / footprint.layers)
            cache = max(cache, int(rows * grown))
            sorting = SORTING_BYTES if config.sampling.top_p < 1 else 0
            logits = max(logits, rows * footprint.vocabulary * (SAMPLING_BYTES + sorting + size))
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
    needed = (options.max_model_len or positions) * token
    if cache < needed:
        problems.append(
            f"KV cache: one sequence of {options.max_model_len or positions} tokens takes "
            f"{needed / GIB:.1f} GiB, {max(cache, 0) / GIB:.1f} are left for it"
        )
    return weights, max(cache, 0), buffers, problems, max(cache, 0) // token if token else 0


def with_settings(config: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    """A copy of a configuration with new values, keyed by flag name."""
    for name, value in changes.items():
        section, _, option = name.rpartition(".")
        new = {option: value}
        if section:
            new = {section: dataclasses.replace(getattr(config, section), **new)}
        config = dataclasses.replace(config, **new)
    return config
