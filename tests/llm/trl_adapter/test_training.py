"""Training through TRL: masked prefixes, separate groups, and the gradient of `PolicyUpdater`."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cpi
from llm.learner.options import LossConfig, UpdateOptions
from llm.learner.rows import make_rows
from llm.learner.updater import PolicyUpdater
from tests.llm.trl_adapter.problems import (
    correct,
    tokenizer,
)
from tests.llm.trl_adapter.watch import (
    Watch,
    base_model,
    first_thought,
    mask,
    rows_of,
    srpo,
)

pytestmark = pytest.mark.filterwarnings("ignore:You are using 'rollout_func':UserWarning")


@pytest.mark.parametrize(
    "config",
    [
        {"loss_type": "dapo"},
        {"loss_type": "grpo", "beta": 0.1, "entropy_coef": 0.01},
        {"loss_type": "dapo", "num_iterations": 2, "top_entropy_quantile": 0.5},
    ],
)
def test_training__no_gradient_through_shared_prefix(tmp_path: Path, config: Any) -> None:
    watch = Watch(srpo(), tmp_path, max_steps=2, **config).train()
    masked = 0
    for inputs, scores in zip(watch.inputs, watch.scores, strict=True):
        trained = mask(inputs)
        for values in scores:  # log-probs, entropies
            if values.grad is not None:
                assert not values.grad[~trained].any()
        informative = (inputs["advantages"] != 0)[:, None] & trained
        if config["loss_type"] == "dapo" and "num_iterations" not in config:
            assert scores[0].grad[informative].all()
        shared = inputs["completion_mask"].bool() & ~trained
        masked += int((shared & (inputs["advantages"] != 0)[:, None]).sum())
    assert masked > 10


def test_training__advantages_are_normalized_within_each_group(tmp_path: Path) -> None:
    # A generation has three prompts, six micro-batches and two optimizer steps.
    watch = Watch(
        srpo(),
        tmp_path,
        max_steps=4,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=3,
        steps_per_generation=6,
        learning_rate=1e-6,
    ).train()
    assert len(watch.calls) == 2 and len(watch.inputs) == 12
    seen: list[str] = []
    informative = []
    for number, (prompts, output) in enumerate(watch.calls):
        assert len(prompts) == 24
        seen += prompts[::8]
        expected = []
        for first in range(0, 24, 4):
            group = slice(first, first + 4)
            assert len(set(prompts[first - first % 8 : first - first % 8 + 8])) == 1
            ids = [tuple(i) for i in output["completion_ids"][group]]
            kept = [m.count(0) for m in output["env_mask"][group]]
            # Groups alternate: fresh, then reset with a shared prefix that is masked.
            assert len(set(kept)) == 1 and (kept[0] == 0 or first % 8 == 4)
            assert len({i[: kept[0]] for i in ids}) == 1
            texts = tokenizer().batch_decode(ids, skip_special_tokens=True)
            rewards = np.array(correct(prompts[group], texts))
            spread = rewards.std(ddof=1) + 1e-4
            advantages = (rewards - rewards.mean()) / spread if rewards.std() else 0 * rewards
            expected += list(zip(ids, kept, advantages.tolist(), strict=True))
        actual = [row for i in watch.inputs[6 * number : 6 * number + 6] for row in rows_of(i)]
        for one, other in zip(sorted(actual), sorted(expected), strict=True):
            assert one[:2] == other[:2] and one[2] == pytest.approx(other[2], abs=1e-5)
        informative += [row for row in actual if row[1] and row[2]]
    assert informative
    assert len(set(seen)) == 6  # no prompt repeats


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_training__gradient_equals_policy_updater(tmp_path: Path, loss_type: Any) -> None:
    model = base_model()
    ours = copy.deepcopy(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    watch = Watch(
        srpo(),
        tmp_path,
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        learning_rate=1.0,
        max_grad_norm=0.0,
        loss_type=loss_type,
        gradient_accumulation_steps=2,
        temperature=0.8,
    ).train()
    (groups,) = watch.collections
    optimizer = torch.optim.SGD(ours.parameters(), lr=1.0)
    update = PolicyUpdater(
        ours,
        optimizer,
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0),
        LossConfig(loss_type=loss_type, vllm_importance_sampling_correction=False),
        UpdateOptions(max_grad_norm=0.0),
        max_completion_length=24,
        temperature=0.8,
    )
    rows = make_rows(groups, cpi.group_advantages([group.returns for group in groups]))
    assert any(row.advantage and row.trained < len(row.ids) - 9 for row in rows)
    update(rows, np.random.default_rng(0))
    after, largest = watch.weights, 0.0
    for name, parameter in ours.named_parameters():
        mine, theirs = parameter.detach() - before[name], after[name] - before[name]
        largest = max(largest, float(mine.abs().max()))
        torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=2e-6)
    assert largest > 1e-2


def test_training__resets_to_first_thought_equal_grpo(tmp_path: Path) -> None:
    # Both plans train on one group. The reset plan also draws seeds, but keeps none of their text.
    config = {"max_steps": 2, "learning_rate": 1e-3}
    grpo = srpo(algorithm="grpo", plan=cpi.GroupPlan(fresh=4))
    resets = srpo(localizer=first_thought, plan=cpi.GroupPlan(0, resets=1, per_reset=4))
    one = Watch(grpo, tmp_path, **config).train()
    other = Watch(resets, tmp_path, **config).train()
    assert resets.ledger.resets_accepted > 4 and grpo.ledger.resets_accepted == 0
    for (_, a), (_, b) in zip(one.calls, other.calls, strict=True):
        assert a == b
    assert all(torch.equal(a, other.weights[name]) for name, a in one.weights.items())


def test_training__empty_prefix_trains_on_all_tokens(tmp_path: Path) -> None:
    watch = Watch(srpo(localizer=first_thought), tmp_path).train()
    assert watch.logged("ledger/resets_accepted") == [2]
    (inputs,) = watch.inputs
    assert inputs["tool_mask"].all()
    assert watch.logged("reset/empty_prefix_rate") == [1.0]


def test_training__warns_once_if_no_completion_has_the_delimiter(tmp_path: Path) -> None:
    small = {"prompts": 1, "max_steps": 4, "per_device_train_batch_size": 8}
    for algorithm, size, expected in (("rrpo", 4, 1), ("grpo", 8, 0)):
        resets = srpo(algorithm=algorithm, delimiter="</thought>")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            Watch(resets, tmp_path, num_generations=size, max_completion_length=4, **small).train()
        said = [str(w.message) for w in caught if "had the delimiter" in str(w.message)]
        assert len(said) == expected
        assert not said or said[0].startswith("in 3 rollouts no completion had the delimiter '</th")


def test_training__reward_rises(tmp_path: Path) -> None:
    watch = Watch(srpo(), tmp_path, prompts=64, max_steps=11, per_device_train_batch_size=128)
    rewards = watch.train().logged("fresh/reward")
    assert len(rewards) == 11
    assert np.mean(rewards[:3]) < 0.35 and np.mean(rewards[-3:]) > 0.6
