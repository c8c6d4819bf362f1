"""The policy: loading and its errors, LoRA adapters, merged weights, checkpoints."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from envs.reasoning import ChainTask
from llm.chain.model import chain_model, chain_tokenizer
from llm.models.lora import LoraOptions
from llm.models.policy import (
    eos_token_ids,
    load_policy,
    load_tokenizer,
    load_trainable,
    merged_state_dict,
    trainable,
)
from tests.llm.tiny_models import VOCABULARY, save

TinyModel = Callable[[bool], Path]


def load(folder: Path, lora: LoraOptions | None = None, **options: Any) -> Any:
    return load_policy(str(folder), lora=lora, device=torch.device("cpu"), **options)


def adapted(folder: Path, lora: LoraOptions, **options: Any) -> Any:
    """A policy with random trainable weights."""
    policy = load(folder, lora, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainable(policy).values():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return policy


def copies(tensors: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def assert_equal(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        assert torch.equal(actual[name], tensor), name


# --- loading

LOADERS = {"tokenizer": load_tokenizer, "model": load_policy}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An untrained model with its tokenizer."""
    tokenizer = chain_tokenizer(ChainTask(5, ("+1",)))
    folder = save(chain_model(tokenizer, hidden_size=32, layers=1), tmp_path / "a model")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("part", "lost"),
    [("tokenizer", "tokenizer.json"), ("model", "model.safetensors"), ("model", "config.json")],
)
def test_load__error_names_part_and_folder(part: str, lost: str, folder: Path) -> None:
    LOADERS[part](str(folder))
    (folder / lost).unlink()
    with pytest.raises(FileNotFoundError) as raised:
        LOADERS[part](str(folder))
    message = str(raised.value)
    assert message.startswith(f"model: no {part} could be loaded from the folder '{folder}' (")
    assert "\n" not in message


@pytest.mark.parametrize("part", LOADERS)
def test_load__error_names_broken_config_and_wrong_name(part: str, folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(FileNotFoundError, match=rf"no {part} .* '{folder}' \(.*not a valid JSON"):
        LOADERS[part](str(folder))
    with pytest.raises(
        FileNotFoundError, match=f"no {part} .* from the name '/no/such/model', which is no"
    ):
        LOADERS[part]("/no/such/model")


def cut_short(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def lose_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_a_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] += 1
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("damage", [cut_short, lose_a_weight, change_a_shape])
def test_load_policy__damaged_weights_are_an_error(
    damage: Callable[[Path], None], folder: Path
) -> None:
    load(folder)
    damage(folder)
    with pytest.raises(FileNotFoundError, match=f"no model could be loaded from .* '{folder}'"):
        load(folder)


@pytest.mark.parametrize("bf16", [False, True])
def test_load_policy__all_weights_trained_in_float32(bf16: bool, tiny_model: TinyModel) -> None:
    policy = load(tiny_model(True), bf16=bf16)
    assert policy.training
    assert not policy.config.use_cache
    assert trainable(policy).keys() == dict(policy.named_parameters()).keys()
    assert {p.dtype for p in policy.parameters()} == {torch.float32}


@pytest.mark.parametrize(("bf16", "frozen"), [(False, torch.float32), (True, torch.bfloat16)])
def test_load_policy__lora_adapters_trained_in_float32(
    bf16: bool, frozen: torch.dtype, tiny_model: TinyModel
) -> None:
    policy = load(tiny_model(True), LoraOptions(r=4), bf16=bf16)
    assert policy.training
    trained = trainable(policy)
    # Two matrices for each linear layer of the two decoder layers; none for the head.
    assert len(trained) == 2 * 7 * 2
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    rest = [p for name, p in policy.named_parameters() if name not in trained]
    assert {p.dtype for p in rest} == {frozen}


@pytest.mark.parametrize("r", [0, 4])
def test_load_policy__gradient_checkpointing_changes_no_gradient(
    r: int, tiny_model: TinyModel
) -> None:
    ids = torch.arange(12)[None]
    gradients = []
    for checkpointing in (False, True):
        lora = LoraOptions(r=r)
        policy = adapted(tiny_model(True), lora, gradient_checkpointing=checkpointing)
        assert policy.is_gradient_checkpointing == checkpointing
        policy(ids, labels=ids).loss.backward()
        gradients.append({name: p.grad for name, p in trainable(policy).items()})
    assert_equal(*gradients)
    assert all(gradient.any() for gradient in gradients[0].values())


def test_lora_options__negative_rank_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"lora\.r: -1 is not a rank"):
        LoraOptions(r=-1)


@pytest.mark.parametrize(("given", "ids"), [(None, []), (5, [5]), ([7, 5], [7, 5])])
def test_eos_token_ids__from_the_generation_config(
    given: Any, ids: list[int], tiny_model: TinyModel
) -> None:
    for lora in (None, LoraOptions(r=2)):
        policy = load(tiny_model(True), lora)
        assert eos_token_ids(policy) == [VOCABULARY - 1]
        policy.generation_config.eos_token_id = given
        assert eos_token_ids(policy) == ids


# --- weights for an engine


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "lora",
    [
        LoraOptions(r=4),
        LoraOptions(r=3, alpha=12.0, dropout=0.5),
        LoraOptions(r=2, target_modules=["q_proj", "down_proj"]),
    ],
)
def test_merged_state_dict__equals_peft_merge(
    tied: bool, lora: LoraOptions, tiny_model: TinyModel
) -> None:
    policy = adapted(tiny_model(tied), lora)
    before = copies(policy.state_dict())
    merged = merged_state_dict(policy, torch.float32)
    assert_equal(policy.state_dict(), before)  # merging changed a copy
    assert policy.training
    base = AutoModelForCausalLM.from_pretrained(tiny_model(tied)).state_dict()
    peft = copy.deepcopy(policy).merge_and_unload().state_dict()
    assert merged.keys() == base.keys() == peft.keys()
    changed = 0
    for name, tensor in peft.items():
        assert merged[name].dtype == torch.float32
        assert (merged[name] - tensor).abs().max() <= 1e-6, name
        changed += not torch.equal(merged[name], base[name])
    assert changed == len(trainable(policy)) // 2


def test_lora_options__alpha_defaults_to_rank(tiny_model: TinyModel) -> None:
    name = "model.layers.1.mlp.up_proj"
    for alpha, scale in ((None, 1.0), (8.0, 2.0), (0.0, 0.0)):
        policy = adapted(tiny_model(True), LoraOptions(r=4, alpha=alpha))
        own = {n.removeprefix("base_model.model."): p for n, p in policy.named_parameters()}
        product = own[f"{name}.lora_B.default.weight"] @ own[f"{name}.lora_A.default.weight"]
        expected = own[f"{name}.base_layer.weight"] + scale * product
        merged = merged_state_dict(policy, torch.float32)[f"{name}.weight"]
        assert (merged - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("r", [0, 4])
def test_merged_state_dict__equals_file_before_training(
    r: int, tied: bool, tiny_model: TinyModel
) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model(tied)).state_dict()
    policy = load(tiny_model(tied), LoraOptions(r=r))
    assert_equal(merged_state_dict(policy, torch.float32), dict(base))
    rounded = {name: tensor.to(torch.bfloat16) for name, tensor in base.items()}
    assert_equal(merged_state_dict(policy, torch.bfloat16), rounded)
    assert ("lm_head.weight" in base) and tied == torch.equal(
        base["lm_head.weight"], base["model.embed_tokens.weight"]
    )


def test_merged_state_dict__rounded_once(tiny_model: TinyModel) -> None:
    # The bfloat16 base and the float32 product are added in float32, to keep small products.
    policy = adapted(tiny_model(True), LoraOptions(r=4), bf16=True)
    merged = merged_state_dict(policy, torch.bfloat16)
    for name, module in policy.get_base_model().named_modules():
        if not hasattr(module, "lora_A"):
            continue
        product = module.lora_B["default"].weight @ module.lora_A["default"].weight
        exact = module.base_layer.weight.double() + product.double()
        assert merged[f"{name}.weight"].dtype == torch.bfloat16
        # Half a unit in the last place of 8 significant bits.
        error = (merged[f"{name}.weight"].double() - exact).abs() / exact.abs()
        assert error.max() <= 2**-8


# --- weights of a checkpoint


@pytest.mark.parametrize("r", [0, 4])
def test_load_trainable__restores_trained_weights(r: int, tiny_model: TinyModel) -> None:
    policy = adapted(tiny_model(True), LoraOptions(r=r))
    other = load(tiny_model(True), LoraOptions(r=r))
    saved = copies(trainable(policy))
    load_trainable(other, saved)
    assert_equal(other.state_dict(), policy.state_dict())
    for tensor in saved.values():
        tensor.zero_()  # copied, not shared
    assert_equal(other.state_dict(), policy.state_dict())


@pytest.mark.parametrize(
    ("lora", "odd", "more"),
    [
        (LoraOptions(r=2), r"layers\.0\.mlp\.down_proj\.lora_A", 27),
        (LoraOptions(r=4, target_modules=["q_proj"]), r"layers\.0\.mlp\.down_proj", 23),
        (LoraOptions(), r"base_model\.model\.model\.layers\.0\.mlp", 53),
    ],
)
def test_load_trainable__other_architecture_is_an_error(
    lora: LoraOptions, odd: str, more: int, tiny_model: TinyModel
) -> None:
    policy = load(tiny_model(True), LoraOptions(r=4))
    before = copies(policy.state_dict())
    message = (
        rf"checkpoint: weights of another architecture, \S*{odd}\S* differs \(and {more} more\)"
    )
    with pytest.raises(ValueError, match=message):
        load_trainable(policy, trainable(adapted(tiny_model(True), lora)))
    assert_equal(policy.state_dict(), before)
