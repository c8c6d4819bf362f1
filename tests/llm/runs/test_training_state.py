"""State of optimizers and random generators: a resumed run is the same run."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from llm.runs.checkpoints import CheckpointError, load, save
from llm.runs.training_state import (
    load_optimizer,
    optimizer_tensors,
    rng_state,
    set_rng_state,
)
from tests.llm.tensors import assert_same, bits

# --- the optimizer ---


def network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2), nn.Linear(2, 2))
    net[2].to(torch.bfloat16)
    net[3].requires_grad_(False)
    net.register_parameter("unused", nn.Parameter(torch.ones(3)))
    net.register_parameter("scale", nn.Parameter(torch.ones(())))
    return net


def adamw(net: nn.Module, lr: float = 0.01, **options: Any) -> torch.optim.AdamW:
    matrices = [parameter for parameter in net.parameters() if parameter.dim() > 1]
    rest = [parameter for parameter in net.parameters() if parameter.dim() <= 1]
    decays = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(decays, lr=lr, betas=(0.8, 0.95), **options)


def order_of(net: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    by_identity = {id(parameter): name for name, parameter in net.named_parameters()}
    return [by_identity[id(p)] for group in optimizer.param_groups for p in group["params"]]


def train(net: nn.Sequential, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
        hidden = net[1](net[0](x)).to(torch.bfloat16)
        loss = (net[2](hidden).float() * net.get_parameter("scale")).square().mean()
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] *= 0.9
        optimizer.step()


OPTIONS: list[dict[str, Any]] = [{}, {"amsgrad": True}, {"foreach": True}, {"fused": True}]


@pytest.mark.parametrize("options", OPTIONS)
def test_load_optimizer__continued_run_is_the_same(tmp_path: Path, options: dict[str, Any]) -> None:
    net = network(0)
    optimizer = adamw(net, **options)
    train(net, optimizer, range(3))
    state, record = optimizer_tensors(optimizer, order_of(net, optimizer))
    assert "exp_avg/0.weight" in state and record["steps"]["0.weight"] == 3
    assert not any("unused" in name or name.endswith("3.weight") for name in state)
    path = save(tmp_path, 3, {"model": net.state_dict(), "optimizer": state}, {"optimizer": record})
    middle = copy.deepcopy(net.state_dict())
    train(net, optimizer, range(3, 8))
    assert any(bits(middle[name]) != bits(tensor) for name, tensor in net.state_dict().items())

    resumed = network(1)
    checkpoint = load(path)
    assert checkpoint.state["optimizer"] == record
    assert_same(checkpoint.tensors["model"], middle)
    resumed.load_state_dict(checkpoint.tensors["model"])
    other = adamw(resumed, lr=5.0, **options)
    before = copy.deepcopy(checkpoint.tensors["optimizer"])
    load_optimizer(
        other,
        order_of(resumed, other),
        checkpoint.tensors["optimizer"],
        checkpoint.state["optimizer"],
    )
    again = optimizer_tensors(other, order_of(resumed, other))
    assert again[1] == record
    assert_same(again[0], before)
    assert isinstance(other.param_groups[0]["betas"], tuple)
    train(resumed, other, range(3, 8))
    assert_same(dict(resumed.state_dict()), dict(net.state_dict()))
    end, end_record = optimizer_tensors(optimizer, order_of(net, optimizer))
    again = optimizer_tensors(other, order_of(resumed, other))
    assert_same(again[0], end)
    assert again[1] == end_record
    assert_same(checkpoint.tensors["optimizer"], before)  # training has not changed the checkpoint


def test_load_optimizer__before_the_first_step() -> None:
    net = network(0)
    optimizer = adamw(net, lr=0.25)
    tensors, record = optimizer_tensors(optimizer, order_of(net, optimizer))
    assert (tensors, record["steps"]) == ({}, {})
    other = adamw(net, lr=1.0)
    train(net, other, range(1))
    load_optimizer(other, order_of(net, other), tensors, record)
    assert not other.state
    assert [group["lr"] for group in other.param_groups] == [0.25, 0.25]


def test_load_optimizer__step_count_is_exact() -> None:
    parameter = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    for dtype, count in [(torch.float32, 2**24 - 1), (torch.float64, 2**53 - 1)]:
        optimizer.state[parameter]["step"] = torch.tensor(count, dtype=dtype)
        tensors, record = optimizer_tensors(optimizer, ["p"])
        optimizer.state.clear()
        load_optimizer(optimizer, ["p"], tensors, json.loads(json.dumps(record)))
        step = optimizer.state[parameter]["step"]
        assert (int(step), step.dtype) == (count, dtype)


def test_load_optimizer__parameters_match_by_name() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([a, b])
    (a.sum() + 3 * b.sum()).backward()
    optimizer.step()
    tensors, record = optimizer_tensors(optimizer, ["a", "b/c"])
    expected = {key: value.clone() for key, value in optimizer.state[b].items()}
    other = torch.optim.AdamW([b, a])
    load_optimizer(other, ["b/c", "a"], tensors, record)
    assert_same(other.state[b], expected)


def test_load_optimizer__other_model_is_refused() -> None:
    net = network(0)
    optimizer = adamw(net)
    train(net, optimizer, range(1))
    order = order_of(net, optimizer)
    tensors, record = optimizer_tensors(optimizer, order)
    other = adamw(net)
    untouched = copy.deepcopy(other.state_dict())

    def refused(
        message: str,
        target: torch.optim.Optimizer = other,
        names: list[str] = order,
        tensors: dict[str, Tensor] = tensors,
        **changes: Any,
    ) -> None:
        with pytest.raises(CheckpointError, match=message):
            load_optimizer(target, names, tensors, record | changes)

    refused("checkpoint is of SGD, this run uses AdamW", optimizer="SGD")
    refused("1 groups of parameters, this run 2", groups=record["groups"][:1])
    refused(
        r"lacks new\.weight and has 0\.weight besides",
        names=["new.weight" if name == "0.weight" else name for name in order],
    )
    swapped = [record["groups"][1], record["groups"][0]]
    refused("group 0 of the optimizer: not of this model", groups=swapped)
    less = {name: tensor for name, tensor in tensors.items() if name != "exp_avg_sq/0.bias"}
    refused("lacks exp_avg_sq/0.bias and has none besides", tensors=less)
    refused("has what/0.bias besides", tensors=tensors | {"what/0.bias": torch.ones(8)})
    refused(
        r"exp_avg/0\.bias is \(9,\), torch\.float32 in the checkpoint; its parameter .* \(8,\)",
        tensors=tensors | {"exp_avg/0.bias": torch.ones(9)},
    )
    refused(
        r"exp_avg/0\.bias is \(8,\), torch\.bfloat16",
        tensors=tensors | {"exp_avg/0.bias": torch.ones(8, dtype=torch.bfloat16)},
    )
    assert other.state_dict() == untouched
    for wrong in (order[:-1], [*order[:-1], order[0]]):
        with pytest.raises(ValueError, match="give each its own name"):
            load_optimizer(other, wrong, tensors, record)
        with pytest.raises(ValueError, match="give each its own name"):
            optimizer_tensors(optimizer, wrong)


def test_optimizer_tensors__other_optimizers_are_refused() -> None:
    parameter = nn.Parameter(torch.ones(2))
    sgd = torch.optim.SGD([parameter], momentum=0.9)
    tensor_lr = torch.optim.AdamW([parameter], lr=torch.tensor(0.1))
    factored = torch.optim.Adafactor([nn.Parameter(torch.ones(2, 2))])
    for optimizer in (sgd, factored):
        for group in optimizer.param_groups:
            group["params"][0].grad = torch.ones_like(group["params"][0])
        optimizer.step()
    with pytest.raises(ValueError, match="no step count for p; only AdamW's kind"):
        optimizer_tensors(sgd, ["p"])
    with pytest.raises(ValueError, match="row_var of p is not a tensor of its shape"):
        optimizer_tensors(factored, ["p"])
    with pytest.raises(ValueError, match=r"optimizer: group 0: .*Tensor .*; use floats"):
        optimizer_tensors(tensor_lr, ["p"])


# --- random generators ---


@pytest.fixture
def global_generators() -> Iterator[None]:
    """Seeds the generators, with half a pair of normal numbers pending; restores them after."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(3)
    random.gauss()
    np.random.standard_normal()  # noqa: NPY002
    torch.randn(1)
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])  # noqa: NPY002
    torch.set_rng_state(before[2])


def draws() -> list[float]:
    legacy = np.random
    return [
        *(random.gauss() for _ in range(3)),
        *(random.random() for _ in range(700)),
        *legacy.standard_normal(3),
        *legacy.random_sample(700),
        *torch.randn(3).tolist(),
        *torch.rand(700).tolist(),
    ]


@pytest.mark.usefixtures("global_generators")
@pytest.mark.parametrize("warm", [0, 1, 2, 311])
def test_set_rng_state__generators_continue(tmp_path: Path, warm: int) -> None:
    for _ in range(warm):
        random.gauss()
        np.random.standard_normal()  # noqa: NPY002
        torch.randn(1)
    tensors, record = rng_state()
    path = save(tmp_path, 1, {"rng": tensors}, {"rng": record})
    expected = draws()
    assert draws() != expected
    checkpoint = load(path)
    set_rng_state(checkpoint.tensors["rng"], checkpoint.state["rng"])
    again = rng_state()
    assert again[1] == record
    assert_same(again[0], tensors)
    assert draws() == expected


@pytest.mark.usefixtures("global_generators")
def test_set_rng_state__gpu_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.arange(16).byte()

    def set_state(state: Tensor) -> None:
        nonlocal gpu
        gpu = state

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "set_rng_state", set_state)
    tensors, record = rng_state()
    gpu = torch.zeros(16).byte()
    set_rng_state(tensors, record)
    assert torch.equal(gpu, torch.arange(16).byte())
    random.seed(5)
    before = random.getstate()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        CheckpointError, match="the checkpoint has the state of a GPU, but there is no GPU"
    ):
        set_rng_state(tensors, record)
    assert random.getstate() == before
