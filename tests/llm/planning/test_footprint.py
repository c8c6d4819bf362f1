"""What a model takes, from its configuration, against models that are there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from llm.learner.tries import trie_cost
from llm.models.lora import LoraOptions, adapt
from llm.models.policy import trainable
from llm.planning.footprint import Footprint, load_architecture
from tests.llm.architectures import PARAMETERS, tiny_olmo3, write
from tests.llm.tiny_models import tiny_qwen2


def held(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("r", [0, 4])
def test_states_are_those_of_a_model_that_is_trained(tied: bool, r: int) -> None:
    model = tiny_qwen2(tied=tied)
    base = sum(p.numel() for p in model.parameters())
    footprint = Footprint(model.config, LoraOptions(r=r), bf16=False)
    policy = adapt(model, LoraOptions(r=r))
    moved = list(trainable(policy).values())
    optimizer = torch.optim.AdamW(moved, lr=1e-3)
    policy(torch.zeros((1, 3), dtype=torch.int64)).logits.sum().backward()
    optimizer.step()
    assert footprint.base == base
    assert footprint.parameters == sum(p.numel() for p in policy.parameters())
    assert footprint.trained == sum(p.numel() for p in moved)
    assert footprint.weights == held(policy.parameters())
    assert footprint.gradients == held(p.grad for p in moved)
    assert footprint.optimizer == held(t for s in optimizer.state.values() for t in s.values())
    layers = policy.get_decoder().layers
    assert footprint.layer == held(layers[0].parameters())
    assert footprint.rest == footprint.weights - sum(held(x.parameters()) for x in layers)


def test_adapters_of_every_matrix_and_the_largest_tensor() -> None:
    config = tiny_qwen2(tied=False).config
    footprint = Footprint(config, LoraOptions(r=3), bf16=True)
    linear = Footprint(config, LoraOptions(r=1), bf16=True).trained
    assert footprint.edges == linear + 2 * (64 + 64)  # and of the embeddings and the head
    assert footprint.largest == 2 * 128 * 64  # of the MLP


def test_under_bfloat16_adapters_stay_in_float32() -> None:
    config = tiny_qwen2().config
    whole, adapters = (Footprint(config, LoraOptions(r=r), bf16=True) for r in (0, 4))
    assert whole.weights == 4 * whole.base
    assert adapters.weights == 2 * adapters.base + 4 * adapters.trained


@pytest.mark.parametrize("tokens", [1, 5, 20])
def test_the_cache_is_the_one_that_transformers_keeps(tokens: int) -> None:
    from transformers import AutoModelForCausalLM

    config = tiny_olmo3()
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        ids = torch.zeros((1, tokens), dtype=torch.int64)
        cache = model(ids, use_cache=True).past_key_values
    kept = held(t for layer in cache.layers for t in (layer.keys, layer.values))
    footprint = Footprint(config, LoraOptions(), bf16=False)
    assert footprint.cache(tokens, torch.float32) == kept
    assert footprint.cache(tokens, torch.bfloat16) == kept // 2
    assert (kept == 4 * tokens * 2 * 64 * 4) == (tokens < 8)  # windows are full afterwards


@pytest.mark.vllm
def test_a_token_takes_what_vllm_says() -> None:
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    config = tiny_qwen2().config
    block = FullAttentionSpec(block_size=16, num_kv_heads=1, head_size=32, dtype=torch.bfloat16)
    footprint = Footprint(config, LoraOptions(), bf16=True)
    assert footprint.cache(1, torch.bfloat16) * 16 == 2 * block.page_size_bytes  # of two layers


@pytest.mark.parametrize("checkpointing", [False, True])
def test_layers_beyond_the_traced_ones_take_as_much(checkpointing: bool) -> None:
    config = tiny_qwen2().config
    config.num_hidden_layers = 7
    config.layer_types = ["full_attention"] * 7
    footprint = Footprint(config, LoraOptions(r=4), bf16=False)
    foreseen = footprint.update(2, 8, 100, checkpointing)
    traced = footprint._trace(7, 2, 8, 100, checkpointing)
    assert foreseen == pytest.approx(traced, rel=0.02)


def test_checkpointing_and_fewer_rows_take_less() -> None:
    config = tiny_qwen2().config
    footprint = Footprint(config, LoraOptions(r=4), bf16=False)
    some, all_ = (footprint.update(rows, 8, 200, False) for rows in (1, 4))
    assert some < all_ < 4.1 * some
    assert footprint.update(4, 8, 200, True) < 0.9 * all_


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("adapters", [False, True])
def test_a_large_trie_takes_no_more_than_rows_of_the_same_cost(
    attention: str, adapters: bool
) -> None:
    config = tiny_qwen2().config
    config._attn_implementation = attention
    footprint = Footprint(config, LoraOptions(r=4 * adapters), bf16=adapters)
    size, length = 4, 400
    limit = size * trie_cost(length, footprint.width)
    largest = max(n for n in range(size * length) if trie_cost(n, footprint.width) <= limit)
    assert largest > 1.5 * length
    assert not footprint.why_not_shared
    one = footprint.update(1, 1, largest - 1, adapters, tries=True)
    assert one <= footprint.update(size, 1, length - 1, adapters, tries=True)
    separate = footprint.update(size, 1, length - 1, adapters)
    assert 0.95 * one < separate <= footprint.update(size, 1, length - 1, adapters, tries=True)


@pytest.mark.slow
def test_the_peak_is_the_measured_one_within_a_fifth() -> None:
    command = [sys.executable, "-m", "tests.llm.peak", "full", "lora+checkpointing"]
    command += ["tries"]
    # So that what is freed is given back: glibc keeps it, as much again as a checkpointed update.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(cases) == 3
    for found in cases:
        assert 0.8 < found["predicted"] / found["measured"] < 1.2


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS)
def test_published_models_have_the_published_number_of_parameters(
    name: str, tmp_path: Path
) -> None:
    architecture = load_architecture(str(write(tmp_path)[name]))
    assert Footprint(architecture, LoraOptions(), bf16=True).base == PARAMETERS[name]


def test_a_model_without_a_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"^model: no config\.json of .* weights are not nee"
    ):
        load_architecture(str(tmp_path))


@pytest.mark.parametrize("name", ["GPT2", "GPTNeoX", "Bloom"])
def test_cache__of_other_families(name: str) -> None:
    config = getattr(transformers, f"{name}Config")(
        vocab_size=64, pad_token_id=0, **dict.fromkeys(("hidden_size", "n_embd"), 32),
        **dict.fromkeys(("num_hidden_layers", "n_layer"), 2),
        **dict.fromkeys(("num_attention_heads", "n_head"), 2), intermediate_size=64,
    )  # fmt: skip
    footprint = Footprint(config, LoraOptions(), bf16=False)
    assert footprint.cache(8, torch.float32) == 4 * 2 * 2 * 8 * 32  # keys and values, two layers
    assert footprint.update(1, 4, 4, False) > 0
