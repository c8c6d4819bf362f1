"""Architectures: maximum lengths, positions, recurrent layers, dropout, experts with adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.testing import assert_close

from llm.engines import SamplingParams
from llm.engines.transformers import TransformersEngine
from llm.models.architecture import UNLIMITED, check_cache, context_length
from llm.models.logprobs import completion_logprobs
from llm.models.lora import LoraOptions
from llm.models.policy import load_policy, merged_state_dict, trainable
from tests.llm.tiny_models import VOCABULARY, save

#: Sizes under the names that most configurations have.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
#: Sizes under the names of older configurations.
OLD_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "n_embd": 32, "d_model": 32, "n_layer": 2, "n_layers": 2,
    "n_head": 2, "n_heads": 2, "n_positions": 128, "max_seq_len": 128,
}  # fmt: skip

#: Class → options with noise in training, for models that read it in different ways.
NOISY: dict[str, dict[str, Any]] = {
    "GPT2": {**OLD_SIZES, "resid_pdrop": 0.5, "attn_pdrop": 0.5},  # modules
    "OPT": {**SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.5},  # in the layers
    "Falcon": {**SIZES, "hidden_dropout": 0.5},  # in each forward pass
    "Bloom": {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 2,
              "hidden_dropout": 0.5},  # without position ids
    "Gemma3": {
        "text_config": {**SIZES, "num_key_value_heads": 1, "head_dim": 16,
                        "attention_dropout": 0.5},
        "vision_config": {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
                          "num_attention_heads": 1, "image_size": 28, "patch_size": 14},
        "mm_tokens_per_image": 4,
    },  # in a nested configuration
    "Mixtral": {**SIZES, "num_key_value_heads": 1, "num_local_experts": 4,
                "router_jitter_noise": 0.5},
}  # fmt: skip


def model(name: str, **options: Any) -> Any:
    config = getattr(transformers, f"{name}Config")(**options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., str]:
    return lambda name, **options: str(save(model(name, **options), tmp_path / name))


def test_context_length__by_any_name() -> None:
    for expected, config in (
        (128, transformers.Qwen2Config(**SIZES)),
        (128, transformers.GPT2Config(**OLD_SIZES)),
        (128, transformers.MptConfig(**OLD_SIZES)),
        (128, transformers.Gemma3Config(**NOISY["Gemma3"])),
        (UNLIMITED, transformers.BloomConfig(vocab_size=9)),
    ):
        assert context_length(config) == expected, type(config)


@pytest.mark.parametrize("name", NOISY)
def test_load_policy__no_noise_unless_asked_for(name: str, folder: Callable[..., str]) -> None:
    path = folder(name, **NOISY[name])
    ids = torch.arange(24).reshape(2, 12)

    def logits(**options: Any) -> list[torch.Tensor]:
        policy = load_policy(path, device=torch.device("cpu"), **options)
        assert policy.training
        with torch.no_grad():
            return [policy(ids).logits, policy(ids).logits, policy.eval()(ids).logits]

    first, second, without = logits()
    assert torch.equal(first, second) and torch.equal(first, without)
    first, second, without = logits(disable_dropout=False)
    assert not torch.equal(first, second) and not torch.equal(first, without)


@pytest.mark.parametrize("name", ["Bloom", "Mpt", "Gemma3", "Mixtral"])
def test_engine_and_trainer__agree_on_padded_rows(name: str, folder: Callable[..., str]) -> None:
    path = folder(name, **NOISY.get(name, OLD_SIZES))
    policy = load_policy(path, device=torch.device("cpu"))
    prompts = [list(range(3, 12)), [5, 7]]
    samples = TransformersEngine(policy).generate(prompts, [SamplingParams(max_tokens=6)] * 2)
    ids = torch.zeros((2, 15), dtype=torch.int64)
    present, mask = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for row, (prompt, (sample,)) in enumerate(zip(prompts, samples, strict=True)):
        end = len(prompt) + len(sample.ids)
        ids[row, :end] = torch.tensor([*prompt, *sample.ids])
        present[row, :end], mask[row, len(prompt) : end] = 1, True
    sampled = torch.cat([torch.tensor(sample.logprobs) for (sample,) in samples]).float()
    assert_close(completion_logprobs(policy, ids, present, mask), sampled, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        *(("Mamba", None), ("RecurrentGemma", None), ("Jamba", None), ("Rwkv", None)),
        ("Lfm2", ["conv", "full_attention"]),
        ("MiniMax", ["full_attention", "linear_attention"]),
    ],
)
def test_check_cache__recurrent_layers_are_refused_by_name(
    name: str, layers: list[str] | None
) -> None:
    kind = getattr(transformers, f"{name}ForCausalLM")
    config = kind.config_class(
        **({"num_hidden_layers": 2, "layer_types": layers} if layers else {})
    )
    with pytest.raises(ValueError, match=f"model: {name}ForCausalLM has recurrent layers, but"):
        check_cache(kind, config)


@pytest.mark.parametrize("name", ["Mixtral", "Gemma3", "GptOss", "MiniMax", "Lfm2", "Bloom"])
def test_check_cache__attention_layers_are_accepted(name: str) -> None:
    kind = getattr(transformers, f"{name}ForCausalLM")
    layers = {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
    check_cache(kind, kind.config_class(**(layers if name in ("MiniMax", "Lfm2") else {})))


@pytest.mark.filterwarnings("ignore:The following .* keys did not match:RuntimeWarning")  # of PEFT
def test_merged_state_dict__adapters_of_experts(folder: Callable[..., str]) -> None:
    path = folder("Mixtral", **NOISY["Mixtral"])
    policy = load_policy(path, lora=LoraOptions(r=2), device=torch.device("cpu")).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainable(policy).values():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    assert any("experts" in name for name in trainable(policy))
    merged = model("Mixtral", **NOISY["Mixtral"]).eval()
    before = merged.state_dict()["model.layers.1.mlp.experts.down_proj"].clone()
    merged.load_state_dict(merged_state_dict(policy, torch.float32))
    assert not torch.equal(before, merged.state_dict()["model.layers.1.mlp.experts.down_proj"])
    ids = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        assert_close(merged(ids).logits, policy(ids).logits, rtol=0, atol=1e-5)
