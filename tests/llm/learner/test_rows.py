"""Rows of tokens: which tokens are trained, and that no others have a gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

import cpi
from cpi.core.collect import Group
from cpi.core.episodes import Episode, Prefix
from llm.learner.options import LossConfig, UpdateOptions
from llm.learner.rows import (
    MicroBatch,
    Row,
    make_rows,
    micro_batches,
    pad,
    shard_micro_batches,
)
from llm.learner.updater import PolicyUpdater
from llm.models.policy import load_policy
from llm.thoughts.simulator import Prompt, token_ids
from tests.cpi.worlds import repeatable
from tests.llm.small import dense_logprobs, random_group

CPU = torch.device("cpu")

#: The made-up engine log-probs differ from the model's, so the correction has an effect.
CORRECTED: dict[str, Any] = {"vllm_importance_sampling_mode": "token_truncate"}
LOSSES = {
    "grpo": LossConfig("grpo", **CORRECTED),
    "dr_grpo": LossConfig("dr_grpo", **CORRECTED),
    "dapo": LossConfig("dapo", **CORRECTED),
    "bnpo": LossConfig("bnpo", **CORRECTED),
    "cispo": LossConfig("cispo", epsilon_high=5.0, **CORRECTED),
    "gspo": LossConfig("grpo", "sequence", **CORRECTED),
}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def policy(tiny_model: Callable[[bool], Path]) -> Any:
    """A policy in float64, in which sums in another order agree to many digits."""
    return load_policy(str(tiny_model(True)), device=CPU).double()


def groups(seed: int = 0) -> list[Group]:
    """A fresh group, and two that share prefixes; lengths differ, one episode is cut."""
    draws = rng(seed)
    return [
        random_group(draws, [(2, 4), (3,), (1, 1, 1), (5, 2)], returns=[1, 0, 0, 1]),
        random_group(draws, [(2, 1), (6,)], kept=(3, 2), ends=["stop", "cut"]),
        random_group(draws, [(1,), (4, 3), (2,)], kept=(4,), prompt=2),
    ]


def rows_of(sampled: Sequence[Group], **options: Any) -> list[Row]:
    advantages = cpi.group_advantages([group.returns for group in sampled])
    return make_rows(sampled, advantages, **options)


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_alike(actual: dict[str, Any], expected: dict[str, Any], error: float = 1e-6) -> None:
    """Equal but for `error` of the largest number in a tensor; advantages are float32."""
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        largest = float(tensor.abs().max())
        assert largest > 0, name
        assert_close(
            actual[name], tensor, rtol=0, atol=error * largest, msg=lambda m, n=name: n + m
        )


def step(
    policy: Any,
    rows: Sequence[Row],
    loss: LossConfig,
    size: int = 32,
    kind: Any = PolicyUpdater,
    **options: Any,
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The gradient, as the change of a copy of the policy in an SGD step at rate 1, and metrics."""
    model = copy.deepcopy(policy)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    constant = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    rest = {"max_grad_norm": 0.0, "per_device_train_batch_size": size, **options}
    reference = policy if loss.beta else None
    update = kind(
        model, optimizer, constant, loss, UpdateOptions(**rest), max_completion_length=20,
        reference=reference,
    )  # fmt: skip
    metrics = update(rows, rng())
    after = weights(model)
    return {name: value - after[name] for name, value in weights(policy).items()}, metrics


# --- rows ---


def test_make_rows__by_hand() -> None:
    sampled = groups()
    rows = rows_of(sampled)
    assert len(rows) == 9
    episodes = [episode for group in sampled for episode in group.episodes]
    advantages = np.concatenate(cpi.group_advantages([group.returns for group in sampled]))
    kept = [5] * 4 + [5 + 3 + 2] * 2 + [2 + 4] * 3  # prompt and shared prefix
    suffixes = [6, 3, 3, 7, 3, 6, 1, 7, 2]
    for row, episode, advantage, begin, suffix in zip(
        rows, episodes, advantages, kept, suffixes, strict=True
    ):
        assert row.ids.dtype == np.int64
        assert row.ids.tolist() == [*episode.origin.start.ids, *token_ids(episode.steps)]
        assert (row.trained_from, row.trained_to) == (begin, begin + suffix)
        assert row.trained == suffix == len(row.logprobs) and row.trained_to == len(row.ids)
        scores = np.concatenate([thought.logprobs for thought in episode.steps])
        np.testing.assert_array_equal(row.logprobs, scores[-suffix:])
        assert row.advantage == advantage


def test_make_rows__cut_episodes_can_be_masked() -> None:
    sampled = groups()
    for row, full in zip(
        rows_of(sampled, mask_truncated_completions=True), rows_of(sampled), strict=True
    ):
        np.testing.assert_array_equal(row.ids, full.ids)
        assert row.advantage == full.advantage and row.trained_from == full.trained_from
        cut = len(full.ids) == 5 + 5 + 6 and full.trained == 6
        assert row.trained == len(row.logprobs) == (0 if cut else full.trained)
        assert row.trained_to == (row.trained_from if cut else full.trained_to)


@repeatable
@given(st.integers(0, 10**6), st.integers(1, 11), st.sets(st.integers(0, 8), min_size=1))
def test_micro_batches__hold_each_row_once(seed: int, size: int, chosen: set[int]) -> None:
    rows = rows_of(groups(seed), mask_truncated_completions=bool(seed % 2))
    batches = micro_batches(rows, sorted(chosen), size, CPU)
    assert sorted(i for batch in batches for i in batch.members) == sorted(chosen)
    assert all(len(batch.members) == size for batch in batches[:-1])
    lengths = [len(rows[i].ids) for batch in batches for i in batch.members]
    assert lengths == sorted(lengths)  # like lengths together
    for batch in batches:
        assert 1 <= len(batch.members) <= size
        widest = max(len(rows[i].ids) for i in batch.members)
        shape = (len(batch.members), widest)
        assert batch.input_ids.shape == batch.attention_mask.shape == batch.mask.shape == shape
        assert batch.mask.dtype == torch.bool
        for at, i in enumerate(batch.members):
            row, length = rows[i], len(rows[i].ids)
            assert batch.input_ids[at, :length].tolist() == row.ids.tolist()
            assert batch.attention_mask[at].tolist() == [1] * length + [0] * (widest - length)
            trained = batch.mask[at].nonzero()[:, 0].tolist()
            assert trained == list(range(row.trained_from, row.trained_to))
            assert float(batch.advantages[at]) == np.float32(row.advantage)
            mine = batch.logprobs[batch.row == at]
            assert mine.tolist() == row.logprobs.astype(np.float32).tolist()
        assert len(batch.row) == len(batch.logprobs) == int(batch.mask.sum())
        assert (batch.row.diff() >= 0).all()


@repeatable
@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 7), st.integers(1, 5))
def test_shard_micro_batches__even_shards(lengths: list[int], size: int, ranks: int) -> None:
    rows = [Row(np.zeros(n, dtype=np.int64), n, n, np.zeros(0), 0.0) for n in lengths]
    rounds = shard_micro_batches(rows, range(len(rows)), size, ranks)
    shards = [[i for members in rounds for i in members[shard]] for shard in range(ranks)]
    assert sorted(i for shard in shards for i in shard) == list(range(len(rows)))
    assert all(len(members) == ranks for members in rounds)  # equally many micro-batches per rank
    assert all(len(each) <= size for members in rounds for each in members)
    assert len(rounds) == max(-(-len(shard) // size) for shard in shards)
    tokens = [sum(lengths[i] for i in shard) for shard in shards]
    assert max(tokens) - min(tokens) <= max(lengths, default=0)
    for shard in shards:
        assert [lengths[i] for i in shard] == sorted(lengths[i] for i in shard)


def test_shard_micro_batches__longest_rows_first() -> None:
    rows = [Row(np.zeros(n, dtype=np.int64), n, n, np.zeros(0), 0.0) for n in (1, 1, 1, 3)]
    assert shard_micro_batches(rows, range(4), 8, 2) == [[[3], [0, 1, 2]]]


# --- gradients ---


def gradient_by_definition(
    policy: Any, sampled: Sequence[Group], weight: Callable[[int, int], float]
) -> dict[str, torch.Tensor]:
    """∇ of −Σ weight · Â · log π(token | all before it), over the tokens after the shared prefix.

    From dense logits, a sequence at a time; rows, masks and micro-batches do not occur.
    """
    model = copy.deepcopy(policy)
    advantages = cpi.group_advantages([group.returns for group in sampled])
    loss = torch.zeros((), dtype=torch.float64)
    for group, values in zip(sampled, advantages, strict=True):
        for episode, advantage in zip(group.episodes, values, strict=True):
            suffix = token_ids(episode.steps[group.prefix.length :])
            ids = [*group.prefix.start.ids, *token_ids(episode.steps)]
            trained = dense_logprobs(model, ids)[-len(suffix) :]
            loss = loss - weight(len(values), len(suffix)) * float(advantage) * trained.sum()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "bnpo", "cispo"])
def test_updater__gradient_of_suffixes_only(policy: Any, loss_type: str) -> None:
    sampled = groups()
    tokens = sum(row.trained for row in rows_of(sampled))
    weight = {
        "grpo": lambda group, length: 1 / (9 * length),
        "dr_grpo": lambda group, length: 1 / (9 * 20),
    }.get(loss_type, lambda group, length: 1 / tokens)
    config = LossConfig(
        loss_type,  # type: ignore[arg-type]
        epsilon_high=5.0 if loss_type == "cispo" else None,
        vllm_importance_sampling_correction=False,
    )
    moved, _ = step(policy, rows_of(sampled), config)
    assert_alike(moved, gradient_by_definition(policy, sampled, weight))


class Dense(PolicyUpdater):
    """Computes the log-probs of all tokens, and keeps their gradients."""

    seen: list[tuple[MicroBatch, torch.Tensor]] = []  # noqa: RUF012

    def logprobs(self, batch: MicroBatch, model: Any = None) -> torch.Tensor:
        table = self.policy(
            batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).logits[:, :-1].log_softmax(-1)  # fmt: skip
        scores = table.gather(-1, batch.input_ids[:, 1:, None])[..., 0]
        scores.retain_grad()
        self.seen.append((batch, scores))
        return scores[batch.mask[:, 1:]]


@pytest.mark.parametrize("name", LOSSES)
def test_updater__zero_gradient_of_prefix_tokens(policy: Any, name: str) -> None:
    Dense.seen = []
    sampled = groups()
    rows = rows_of(sampled)
    moved, _ = step(policy, rows, LOSSES[name], 4, kind=Dense, share_prefixes=False)
    episodes = [(group, episode) for group in sampled for episode in group.episodes]
    for batch, scores in Dense.seen:
        assert scores.grad is not None
        for at, i in enumerate(batch.members):
            group, episode = episodes[i]
            prompt = len(group.prefix.start.ids)
            shared = sum(len(thought.ids) for thought in group.prefix.steps)
            end = prompt + len(token_ids(episode.steps))
            slopes = scores.grad[at]  # of tokens 1, 2, …
            assert (slopes[: prompt + shared - 1] == 0).all()
            assert (slopes[end - 1 :] == 0).all()
            # A row has one advantage, so the gradients of its suffix tokens have the same sign.
            pull = slopes[prompt + shared - 1 : end - 1] * -rows[i].advantage
            assert (pull >= 0).all()
    everything = torch.cat([scores.grad.flatten() for _, scores in Dense.seen])  # type: ignore[union-attr]
    assert (everything != 0).sum() > 10
    assert_alike(moved, step(policy, rows, LOSSES[name])[0])


def as_prompt(group: Group) -> Group:
    """The same group, its shared thoughts made part of the prompt."""
    start = group.prefix.start
    prefix = Prefix(Prompt((*start.ids, *token_ids(group.prefix.steps)), start.example))
    episodes = [
        Episode(prefix, e.steps[group.prefix.length :], e.ret, e.failed, e.cost)
        for e in group.episodes
    ]
    return Group(group.start, prefix, episodes, group.seed)


@pytest.mark.parametrize("name", LOSSES)
def test_updater__prefix_equals_prompt(policy: Any, name: str) -> None:
    sampled = groups()
    moved, metrics = step(policy, rows_of(sampled), LOSSES[name])
    others, same = step(policy, rows_of([as_prompt(group) for group in sampled]), LOSSES[name])
    assert_close(moved, others, rtol=0, atol=0)
    assert metrics == same


# --- how a step is split ---

WITH_KL = {
    **LOSSES,
    "dapo, KL": LossConfig("dapo", beta=0.1, **CORRECTED),
    "gspo, KL": LossConfig("grpo", "sequence", beta=0.1, **CORRECTED),
}


@pytest.mark.parametrize("name", WITH_KL)
@pytest.mark.parametrize("passes", [1, 2])
def test_updater__micro_batch_size_changes_nothing(policy: Any, name: str, passes: int) -> None:
    rows = rows_of(groups(), mask_truncated_completions=True)
    results = [
        step(policy, rows, WITH_KL[name], size, num_iterations=passes, share_prefixes=False)
        for size in (1, 3, 8, 32)
    ]
    moved, metrics = results[-1]
    for other, its in results[:-1]:
        assert_alike(other, moved, 1e-9)
        assert its.keys() == metrics.keys()
        assert its == pytest.approx(metrics, rel=1e-6, abs=1e-8)


class Padded(PolicyUpdater):
    """Has extra empty micro-batches, like a rank with fewer rows than others."""

    def _batches(self, rows: Sequence[Row], plan: Any) -> Iterator[tuple[MicroBatch, int]]:
        yield pad(rows, [], CPU), 0
        yield from super()._batches(rows, plan)
        yield pad(rows, [], CPU), 0


@pytest.mark.parametrize("passes", [1, 2])
def test_updater__empty_micro_batch_changes_nothing(policy: Any, passes: int) -> None:
    rows = rows_of(groups(), mask_truncated_completions=True)
    for loss in WITH_KL.values():
        moved, metrics = step(policy, rows, loss, num_iterations=passes)
        other, same = step(policy, rows, loss, kind=Padded, num_iterations=passes)
        assert same == metrics
        for name, value in moved.items():
            assert torch.equal(value, other[name])


class Unskipped(PolicyUpdater):
    """Also runs forward passes on rows that cannot move the policy."""

    def _informative(self, rows: Sequence[Row], part: Sequence[int]) -> list[int]:
        return [i for i in part if rows[i].trained]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("passes", [1, 2])
def test_updater__rows_without_advantage_may_be_skipped(
    policy: Any, name: str, passes: int
) -> None:
    draws = rng(4)
    sampled = [
        random_group(draws, [(2, 4), (3,), (7,)], returns=[1, 1, 1]),
        random_group(draws, [(2, 1), (6,)], kept=(3, 2)),
        random_group(draws, [(3,), (2,)], returns=[0, 0]),
    ]
    rows = rows_of(sampled)
    moved, metrics = step(policy, rows, LOSSES[name], num_iterations=passes)
    other, same = step(policy, rows, LOSSES[name], kind=Unskipped, num_iterations=passes)
    assert_alike(moved, other, 1e-9)
    for shared in ("loss", "grad_norm", "learning_rate"):
        assert metrics[shared] == pytest.approx(same[shared], rel=1e-9, abs=1e-12)
    # Skipped rows still count as rows, and their tokens as tokens.
    alone, _ = step(policy, [row for row in rows if row.advantage], LOSSES[name])
    one, _ = step(policy, rows, LOSSES[name])
    share = {"grpo": 2 / 7, "gspo": 2 / 7, "dr_grpo": 2 / 7}.get(name, 9 / (9 + 16 + 5))
    assert_alike(one, {k: share * v for k, v in alone.items()})


def test_updater__rows_without_advantage_needed_with_kl(policy: Any) -> None:
    seen = []

    class Recording(PolicyUpdater):
        def _informative(self, rows: Sequence[Row], part: Sequence[int]) -> list[int]:
            seen.append(super()._informative(rows, part))
            return seen[-1]

    draws = rng(5)
    sampled = [
        random_group(draws, [(2,), (3,)], returns=[1, 1]),
        random_group(draws, [(2, 1), (6,)], ends=["stop", "cut"]),
    ]
    rows = rows_of(sampled, mask_truncated_completions=True)
    step(policy, rows, LossConfig(beta=0.1), kind=Recording)
    step(policy, rows, LossConfig(), kind=Recording)
    assert seen == [[0, 1, 2], [2]]
