"""Optimizer steps: moved parameters, gradients, several passes, and non-finite numbers."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import cpi
from cpi.core.collect import Group
from llm.learner.options import LossConfig, UpdateOptions
from llm.learner.rows import Row, make_rows
from llm.learner.updater import PolicyUpdater, TrainingError
from llm.models.lora import LoraOptions
from llm.models.policy import load_policy, trainable
from tests.llm.small import dense_logprobs, random_group

CPU = torch.device("cpu")
PLAIN = LossConfig(vllm_importance_sampling_correction=False)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def policy(tiny_model: Callable[[bool], Path]) -> Any:
    return load_policy(str(tiny_model(True)), device=CPU)


@pytest.fixture
def adapted(tiny_model: Callable[[bool], Path]) -> Any:
    return load_policy(str(tiny_model(True)), lora=LoraOptions(r=4), device=CPU)


def groups(seed: int = 0) -> list[Group]:
    draws = rng(seed)
    return [
        random_group(draws, [(2, 4), (3,), (1, 1, 1), (5, 2)], returns=[1, 0, 0, 1]),
        random_group(draws, [(2, 1), (6,)], kept=(3, 2)),
    ]


def rows(seed: int = 0) -> list[Row]:
    sampled = groups(seed)
    return make_rows(sampled, cpi.group_advantages([group.returns for group in sampled]))


def updater(
    policy: Any, loss: LossConfig = PLAIN, *, rate: float = 1e-3, sgd: bool = False,
    reference: Any = None, temperature: float = 1.0, top_p: float = 1.0, **options: Any,
) -> PolicyUpdater:  # fmt: skip
    parameters = list(trainable(policy).values())
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD(parameters, lr=rate)
        if sgd
        else torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    return PolicyUpdater(
        policy,
        optimizer,
        schedule,
        loss,
        UpdateOptions(**options),
        max_completion_length=20,
        reference=reference,
        temperature=temperature,
        top_p=top_p,
    )


def snapshot(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def moved(before: dict[str, torch.Tensor], model: Any) -> set[str]:
    """Names of the parameters with any changed bit."""
    after = snapshot(model)
    assert before.keys() == after.keys()
    return {
        name
        for name, value in before.items()
        if not torch.equal(value.view(torch.uint8), after[name].view(torch.uint8))
    }


def norm(before: dict[str, torch.Tensor], model: Any) -> float:
    after = snapshot(model)
    return math.sqrt(sum(float((after[n] - v).double().square().sum()) for n, v in before.items()))


# --- what moves ---


def test_updater__every_weight_moves(policy: Any) -> None:
    before = snapshot(policy)
    assert len(before) == 26 and before.keys() == trainable(policy).keys()
    metrics = updater(policy)(rows(), rng())
    assert moved(before, policy) == before.keys()
    assert all(parameter.grad is None for parameter in policy.parameters())
    assert math.isfinite(metrics["loss"]) and metrics["grad_norm"] > 0
    assert metrics["clip_ratio/region_mean"] == 0.0


def test_updater__only_adapters_move(adapted: Any) -> None:
    before = snapshot(adapted)
    adapters = {name for name in before if ".lora_" in name}
    second = {name for name in adapters if ".lora_B." in name}
    assert adapters == trainable(adapted).keys() and len(adapters) == 2 * len(second) == 28
    update = updater(adapted)
    update(rows(), rng())
    assert moved(before, adapted) == second  # B is zero at first, and A has no gradient yet
    between = snapshot(adapted)
    update(rows(1), rng())
    assert moved(between, adapted) == adapters
    assert moved(before, adapted) == adapters  # the base's weights are the same bits


def test_updater__loss_falls_along_the_gradient(policy: Any) -> None:
    # To first order, a small step raises the advantage-weighted log-probs.
    def value() -> float:
        with torch.no_grad():
            return sum(
                row.advantage * float(dense_logprobs(policy, row.ids)[row.trained_from - 1 :].sum())
                for row in rows()
            )

    total = sum(row.trained for row in rows())
    before, start = value(), snapshot(policy)
    update = updater(policy, sgd=True, rate=1e-4, max_grad_norm=0.0)
    metrics = update(rows(), rng())
    gained = (value() - before) / total
    assert gained == pytest.approx(1e-4 * metrics["grad_norm"] ** 2, rel=0.1)
    assert norm(start, policy) == pytest.approx(1e-4 * metrics["grad_norm"], rel=1e-3)


def test_updater__step_without_advantages_counts_as_step(policy: Any) -> None:
    still = [row._replace(advantage=0.0) for row in rows()]
    update = updater(policy)
    before = snapshot(policy)
    metrics = update(still, rng())
    assert metrics == {
        "loss": 0.0, "grad_norm": 0.0, "learning_rate": 1e-3,
        "update/tokens": 0, "update/computed_tokens": 0,
    }  # fmt: skip
    assert moved(before, policy) == set()
    assert update.scheduler.get_last_lr() == [5e-4]
    assert {int(s["step"]) for s in update.optimizer.state.values()} == {1}
    assert len(update.optimizer.state) == 26


def test_updater__learning_rate_and_progress(policy: Any) -> None:
    done: list[int] = []
    update = updater(policy, per_device_train_batch_size=2, share_prefixes=False)
    first = update(rows(), rng(), done.append)
    assert first["learning_rate"] == 1e-3 and update(rows(), rng())["learning_rate"] == 5e-4
    assert len(done) == 3 and sum(done) == sum(row.trained for row in rows())


def test_updater__logprobs_at_sampling_temperature(policy: Any) -> None:
    engine = [
        row._replace(
            logprobs=dense_logprobs(policy, row.ids, 0.7).detach().numpy()[row.trained_from - 1 :]
        )
        for row in rows()
    ]
    name = "sampling/sampling_logp_difference/max"
    right = updater(copy.deepcopy(policy), temperature=0.7)(engine, rng())
    wrong = updater(copy.deepcopy(policy), temperature=1.0)(engine, rng())
    assert right[name] < 1e-4 < 0.1 < wrong[name]


# --- numbers that are not finite ---


def refused(update: PolicyUpdater, bad: Sequence[Row]) -> TrainingError:
    """The error of an update that leaves policy, optimizer and schedule bitwise unchanged."""
    before, state = snapshot(update.policy), copy.deepcopy(update.optimizer.state_dict())
    rate = update.scheduler.get_last_lr()
    with pytest.raises(TrainingError) as raised:
        update(bad, rng())
    assert moved(before, update.policy) == set()
    assert_close(update.optimizer.state_dict(), state, rtol=0, atol=0)
    assert update.scheduler.get_last_lr() == rate
    assert raised.value.diagnosis["learning_rate"] == rate[0]
    assert "\n" not in str(raised.value)
    return raised.value


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_updater__non_finite_weight_refused(policy: Any, value: float) -> None:
    update = updater(policy)
    update(rows(), rng())  # so that the optimizer has a state
    name = "model.layers.1.mlp.down_proj.weight"
    with torch.no_grad():
        policy.get_parameter(name)[3, 5] = value
    error = refused(update, rows())
    assert f"loss is nan (the weights of {name} are not finite); lower" in str(error)
    assert error.diagnosis["parameters_not_finite"] == [name]
    assert error.diagnosis["loss"] == "nan"
    assert error.diagnosis["tokens_not_finite"]["ratio"] > 0
    assert error.diagnosis["largest_advantage"] == pytest.approx(0.866, abs=1e-3)


@pytest.mark.parametrize(("value", "shown"), [(-math.inf, "inf"), (math.nan, "nan")])
def test_updater__non_finite_advantage_refused(policy: Any, value: float, shown: str) -> None:
    bad = rows()
    bad[2] = bad[2]._replace(advantage=value)
    error = refused(updater(policy, per_device_train_batch_size=1), bad)
    assert f"(an advantage is {shown}); " in str(error)
    assert error.diagnosis["largest_advantage"] == shown  # a string, as JSON has no such number
    assert error.diagnosis["rows"] == [2]
    assert error.diagnosis["parameters_not_finite"] == []


def test_updater__infinite_engine_logprob_refused(policy: Any) -> None:
    bad = rows()
    bad[1].logprobs[0] = -math.inf
    loss = LossConfig(
        vllm_importance_sampling_mode="token_truncate",
        vllm_importance_sampling_clip_max=None,
        vllm_importance_sampling_clip_min=0.0,
    )
    error = refused(updater(policy, loss), bad)
    assert "not finite per token: " in str(error) and "is_ratio" in str(error)
    assert error.diagnosis["tokens_not_finite"]["is_ratio"] == 1


def test_updater__gradient_overflow_refused(policy: Any) -> None:
    huge = [row._replace(advantage=row.advantage * 1e38) for row in rows()]
    error = refused(updater(policy), huge)
    assert str(error).startswith("grad_norm is inf (the gradient overflows); lower learning_rate")
    assert error.diagnosis["grad_norm"] == "inf" and error.diagnosis["rows"] == []
    assert error.diagnosis["largest_advantage"] > 1e37


# --- the length of a gradient ---


@pytest.mark.parametrize("limit", [0.0, 1e-3, 1e6])
def test_updater__max_grad_norm(policy: Any, limit: float) -> None:
    policy = policy.double()
    before = snapshot(policy)
    metrics = updater(policy, sgd=True, rate=1e-2, max_grad_norm=limit)(rows(), rng())
    gradient_norm = metrics["grad_norm"]
    assert 1e-2 < gradient_norm < 1e3  # the recorded norm is not clipped
    length = norm(before, policy) / 1e-2
    assert length == pytest.approx(min(gradient_norm, limit) if limit else gradient_norm, rel=1e-4)


# --- several optimizer steps ---


def by_definition(
    policy: Any, batch: Sequence[Row], passes: int, rate: float, epsilon: float
) -> dict[str, torch.Tensor]:
    """Gradient descent on the clipped loss, from dense logits; all rows in every step."""
    model = copy.deepcopy(policy)
    total = sum(row.trained for row in batch)
    with torch.no_grad():
        old = [dense_logprobs(model, row.ids)[row.trained_from - 1 :] for row in batch]
    for number in range(passes):
        loss = torch.zeros(())
        for row, before in zip(batch, old, strict=True):
            ratio = (dense_logprobs(model, row.ids)[row.trained_from - 1 :] - before).exp()
            clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
            advantage = float(np.float32(row.advantage))
            loss = loss - torch.minimum(ratio * advantage, clipped * advantage).sum() / total
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= rate * 0.5**number * gradient
    return snapshot(model)


def test_updater__second_pass_clipped_against_first_policy(policy: Any) -> None:
    policy = policy.double()
    passes, rate, epsilon = 3, 0.05, 0.1
    expected = by_definition(policy, rows(), passes, rate, epsilon)
    loss = LossConfig(epsilon=epsilon, vllm_importance_sampling_correction=False)
    update = updater(
        policy, loss, sgd=True, rate=rate, num_iterations=passes, max_grad_norm=0.0,
        per_device_train_batch_size=2,
    )  # fmt: skip
    start = snapshot(policy)
    metrics = update(rows(), rng())
    assert metrics["clip_ratio/region_mean"] > 0.1
    for name, value in snapshot(policy).items():
        error = (value - expected[name]).abs().max()
        assert error < 1e-6 * (value - start[name]).abs().max(), name


def test_updater__two_passes_of_two_steps(policy: Any) -> None:
    parts: list[list[int]] = []

    class Recording(PolicyUpdater):
        def _step(self, rows: Any, part: Any, old: Any, *more: Any) -> dict[str, float]:
            parts.append(list(part))
            assert old is not None and len(old) == len(rows)
            return super()._step(rows, part, old, *more)

    update = updater(
        policy,
        LossConfig(epsilon=0.01, vllm_importance_sampling_correction=False),
        rate=1e-2,
        num_iterations=2,
        steps_per_generation=2,
    )
    update.__class__ = Recording
    done: list[int] = []
    metrics = update(rows(), rng(), done.append)
    assert [len(part) for part in parts] == [3, 3, 3, 3]
    assert sorted(parts[0] + parts[1]) == sorted(parts[2] + parts[3]) == list(range(6))
    assert parts[:2] != parts[2:]  # split differently
    assert metrics["clip_ratio/region_mean"] > 0
    assert metrics["learning_rate"] == pytest.approx(1e-2 * (1 + 0.5 + 0.25 + 0.125) / 4)
    assert sum(done) == 2 * sum(row.trained for row in rows())
    assert {int(s["step"]) for s in update.optimizer.state.values()} == {4}


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_updater__each_step_is_the_mean_over_its_own_rows(loss_type: Any, policy: Any) -> None:
    loss = LossConfig(loss_type=loss_type, vllm_importance_sampling_correction=False)
    # At rate 0, all steps are on the same policy.
    still = {"rate": 0.0, "sgd": True, "max_grad_norm": 0.0}
    both = updater(policy, loss, steps_per_generation=2, **still)(rows(), rng())
    order = rng().permutation(len(rows()))
    halves = [
        updater(policy, loss, **still)([rows()[i] for i in part], rng())
        for part in np.array_split(order, 2)
    ]
    for name in ("loss", "grad_norm"):
        assert both[name] == pytest.approx(
            np.mean([half[name] for half in halves]), rel=1e-5, abs=1e-6
        )


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_updater__rows_without_advantage_count_in_the_mean(loss_type: Any, policy: Any) -> None:
    loss = LossConfig(loss_type=loss_type, vllm_importance_sampling_correction=False)
    still = {"rate": 0.0, "sgd": True, "max_grad_norm": 0.0}
    more = [*rows(), *(row._replace(advantage=0.0) for row in rows())]
    alone, diluted = (updater(policy, loss, **still)(each, rng()) for each in (rows(), more))
    assert diluted["grad_norm"] == pytest.approx(alone["grad_norm"] / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_iterations", 0, "num_iterations: 0 is not a whole number ≥ 1"),
        ("steps_per_generation", 0, "steps_per_generation: 0 is not"),
        ("per_device_train_batch_size", 0, "per_device_train_batch_size: 0 is not"),
        ("max_grad_norm", -1.0, "max_grad_norm: -1.0 is not ≥ 0"),
    ],
)
def test_update_options__bad_values_refused(name: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UpdateOptions(**{name: value})  # type: ignore[arg-type]


# --- the reference ---


def test_kl__reference_model_equals_policy_without_adapters(policy: Any, adapted: Any) -> None:
    loss = LossConfig(beta=0.1, vllm_importance_sampling_correction=False)
    frozen = copy.deepcopy(policy).eval().requires_grad_(False)
    full = updater(policy, loss, reference=frozen)
    lora = updater(adapted, loss)  # the reference is its base, without the adapters
    lora_too = updater(copy.deepcopy(adapted), loss, reference=frozen)
    before = snapshot(frozen)
    for update in (full, lora, lora_too):
        assert update(rows(), rng())["kl"] == 0.0
    after = [update(rows(), rng())["kl"] for update in (full, lora, lora_too)]
    assert min(after) > 1e-5
    assert after[1] == pytest.approx(after[2], rel=1e-3)
    assert moved(before, frozen) == set()


def test_kl__rows_without_term_beside_a_loss_with_one(adapted: Any) -> None:
    without = [row._replace(beta=0.0) for row in rows()]
    plain = updater(copy.deepcopy(adapted))(rows(), rng())
    measured = updater(adapted, dataclasses.replace(PLAIN, beta=0.1))(without, rng())
    assert measured.pop("kl") == 0.0
    assert measured == pytest.approx(plain, rel=1e-6)


def test_kl__decreases_over_steps(policy: Any) -> None:
    frozen = copy.deepcopy(policy).eval().requires_grad_(False)
    with torch.no_grad():
        policy.model.norm.weight.mul_(1.2)
    still = [row._replace(advantage=0.0) for row in rows()]
    # Without the ratio as a factor, the loss is the recorded mean.
    loss = LossConfig(
        beta=1.0, use_bias_correction_kl=False, vllm_importance_sampling_correction=False
    )
    update = updater(policy, loss, reference=frozen, rate=1e-3, sgd=True)
    kl = [update(still, rng())["kl"] for _ in range(4)]
    assert kl[0] > kl[1] > kl[2] > kl[3] > 0
