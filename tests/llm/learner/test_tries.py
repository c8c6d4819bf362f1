"""Rows as tries: the data, and log-probs and gradients equal to those of separate rows."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from llm.learner.rows import Row
from llm.learner.tries import (
    Pack,
    build_trie,
    pack,
    plan_packs,
    shard_packs,
    trie_cost,
    why_not_shared,
)
from llm.learner.updater import PolicyUpdater
from llm.models.logprobs import CompletionLogprobs
from llm.models.lora import LoraOptions
from llm.models.policy import load_policy, trainable
from llm.models.tree_attention import attention_width
from tests.llm.learner.test_rows import WITH_KL, assert_alike, groups, rows_of, step
from tests.llm.tiny_models import VOCABULARY, tiny_qwen2

CPU = torch.device("cpu")

#: Hidden size of a model.
WIDTH = 256

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=1, max_size=8)


def arrays(sequences: list[list[int]]) -> list[Any]:
    return [np.array(ids, dtype=np.int64) for ids in sequences]


def row(ids: list[int], trained_from: int, advantage: float = 1.0, **more: Any) -> Row:
    logprobs = -np.ones(len(ids) - trained_from)
    return Row(np.array(ids), trained_from, len(ids), logprobs, advantage, **more)


# --- the data ---


@given(SEQUENCES)
def test_build_trie__every_distinct_prefix_once(sequences: list[list[int]]) -> None:
    trie = build_trie(arrays(sequences))
    assert len(trie) == len({tuple(ids[: k + 1]) for ids in sequences for k in range(len(ids))})
    prefix: dict[int, tuple[int, ...]] = {}
    for ids, path in zip(sequences, trie.nodes, strict=True):
        assert trie.ids[path].tolist() == ids
        assert trie.depth[path].tolist() == list(range(len(ids)))
        for k, node in enumerate(path.tolist()):
            assert prefix.setdefault(node, tuple(ids[: k + 1])) == tuple(ids[: k + 1])
    for i in range(len(trie)):
        for j in range(len(trie)):
            above = prefix[j][: len(prefix[i])] == prefix[i]
            assert (i <= j < trie.end[i]) == above, (i, j)


@given(SEQUENCES, st.integers(1, 40), st.integers(1, 3))
def test_packs__hold_each_row_once_and_keep_to_the_limit(
    sequences: list[list[int]], tokens: int, ranks: int
) -> None:
    longest = max(map(len, sequences)) + 1
    limit = max(trie_cost(tokens, WIDTH), trie_cost(longest, WIDTH))
    rows = [row([9, *ids], 1) for ids in sequences]
    index = list(range(0, len(rows), 2))
    packs = plan_packs(rows, index, WIDTH, limit)
    assert sorted(i for one in packs for i in one.rows) == index
    for one in packs:
        assert one.tokens == len(build_trie([rows[i].ids for i in one.rows]))
        assert one.tokens <= max(tokens, longest)
    rounds = shard_packs(packs, WIDTH, longest, limit, ranks)
    assert all(len(each) == ranks for each in rounds)
    assert sorted(i for each in rounds for part in each for one in part for i in one.rows) == index
    for part in (part for each in rounds for part in each if len(part) > 1):
        padded = len(part) * max(one.tokens for one in part)
        assert len(part) * max(trie_cost(one.tokens, WIDTH) for one in part) <= limit
        assert padded * (4 * WIDTH + longest) <= limit
    loads = [sum(one.tokens for each in rounds for one in each[k]) for k in range(ranks)]
    assert max(loads) - min(loads) <= max(one.tokens for one in packs)


def test_plan_packs__rows_with_nothing_in_common_stay_alone() -> None:
    rows = [row([k, *range(20)], 1) for k in range(50, 54)]
    assert [one.rows for one in plan_packs(rows, range(4), WIDTH, 10**9)] == [[0], [1], [2], [3]]
    # A long prefix is worth attention to siblings, a short one is not.
    for shared, all_join in ((1, False), (40, True)):
        tails = [row([*range(shared), *(30 + k for _ in range(20))], 1) for k in range(3)]
        assert (len(plan_packs(tails, range(3), WIDTH, 10**9)) == 1) == all_join


def test_plan_packs__the_mask_of_a_large_trie_counts() -> None:
    """A mask has N² entries: 32 rows' worth of tokens in one trie takes far more than 32 rows."""
    size, length, width = 32, 300, WIDTH
    draws = np.random.default_rng(0).integers(0, 50, size=(200, 50)).tolist()
    rows = [row([*range(250), *tail], 1) for tail in draws]
    limit = size * trie_cost(length, width)
    packs = plan_packs(rows, range(200), width, limit)
    largest = max(one.tokens for one in packs)
    assert largest**2 + 4 * WIDTH * largest <= size * (length**2 + 4 * WIDTH * length)
    # It would be 9600 tokens, with a mask 32 times as large as those of 32 rows.
    assert 3000 < largest < 3100


@pytest.mark.parametrize(("heads", "hidden"), [(2, 64), (8, 1024)])
def test_attention_width__eager_scores_count(heads: int, hidden: int) -> None:
    config = transformers.Qwen2Config(hidden_size=hidden, num_attention_heads=heads)
    config._attn_implementation = "sdpa"
    assert attention_width(config) == hidden
    config._attn_implementation = "eager"
    assert attention_width(config) == hidden / (2 * heads)


def test_pack__a_padded_line_for_each_trie() -> None:
    rows = [row([1, 2, 3, 4], 2, 0.5), row([1, 2, 5], 2, -1.0), row([6, 7], 1)]
    batch = pack(rows, [Pack([0, 1], 5), Pack([2], 2)], CPU)
    assert batch.members == [0, 1, 2]
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5], [6, 7, 0, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert batch.tries.depth.tolist() == [[0, 1, 2, 3, 2], [0, 1, 0, 0, 0]]
    assert batch.tries.end.tolist() == [[5, 5, 4, 4, 5], [2, 2, 3, 4, 5]]
    assert batch.tries.source.tolist() == [1, 2, 1, 5]
    assert batch.tries.targets.tolist() == [3, 4, 5, 7]
    assert batch.row.tolist() == [0, 0, 1, 2]
    assert batch.mask.sum(dim=1).tolist() == [3, 1]


# --- log-probs of every kind of attention ---

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
OLD: dict[str, Any] = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 2}
WINDOW = {"sliding_window": 4, "num_hidden_layers": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": SIZES,
    "Qwen2": SIZES,
    "Qwen3": {**SIZES, "head_dim": 16},
    "Mistral": {**SIZES, **WINDOW},
    "Gemma2": {**SIZES, **WINDOW, "head_dim": 16, "final_logit_softcapping": None},
    "Gemma3Text": {**SIZES, **WINDOW, "head_dim": 16},
    "Olmo2": SIZES,
    "Olmo3": {**SIZES, **WINDOW},
    "GPT2": OLD,
    "Phi3": {**SIZES, **WINDOW},
    "GPTNeoX": SIZES,
    "Mixtral": {**SIZES, "num_local_experts": 4},
    "Qwen3Moe": {
        **SIZES,
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
    },
}


def model_of(name: str, attention: str = "sdpa", **options: Any) -> Any:
    config = getattr(transformers, f"{name}Config")(**(FAMILIES.get(name, {}) | options))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=attention
        ).eval()


def tree_rows() -> list[Row]:
    """A prompt with fresh and reset rows, a row within another, a copy, and another prompt."""
    prompt, kept = list(range(3, 9)), [*range(3, 9), 20, 21, 22]
    return [
        row([*kept, 30, 31, 32, 33], 6, 1.0),
        row([*prompt, 40, 41], 6, -0.5),
        row([*kept, 50, 51, 52], 9, 0.25),
        row([*kept, 60], 9, -2.0),
        row(kept, 6, 0.75),
        row([*kept, 60], 9, 3.0),
        row([*prompt, 40, 42, 43], 6, 1.5, mask=np.array([True, False, True])),
        row([3, 10, 11], 1, -1.0),
    ]


def together(rows: list[Row]) -> list[Pack]:
    everything = list(range(len(rows)))
    return [Pack(everything, len(build_trie([r.ids for r in rows])))]


def alone(rows: list[Row]) -> list[Pack]:
    return [Pack([i], len(r.ids)) for i, r in enumerate(rows)]


def forward(model: Any, rows: list[Row], packs: list[Pack] | None) -> torch.Tensor:
    """Log-probs of the trained tokens, by Transformers' own masks if there are no packs."""
    module = CompletionLogprobs(model)
    if packs is not None:
        batch = pack(rows, packs, CPU)
        return module(batch.input_ids, batch.attention_mask, batch.mask, 0.9, 1.0, batch.tries)
    parts = []
    for each in rows:
        ids = torch.from_numpy(each.ids)[None]
        mask = torch.zeros_like(ids, dtype=torch.bool)
        mask[0, each.trained_from : each.trained_to] = (
            True if each.mask is None else torch.from_numpy(each.mask)
        )
        parts.append(module(ids, torch.ones_like(ids), mask, 0.9))
    return torch.cat(parts)


def slopes(model: Any, logprobs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradient of a sum with a weight for each token."""
    model.zero_grad()
    (logprobs * torch.linspace(-1, 2, len(logprobs))).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", FAMILIES)
def test_trie_logprobs__equal_those_of_separate_rows(name: str, attention: str) -> None:
    model, rows = model_of(name, attention), tree_rows()
    expected = forward(model, rows, None)
    actual = forward(model, rows, together(rows))
    assert_close(actual, expected, rtol=0, atol=1e-5)
    there, here = slopes(model, expected), slopes(model, actual)
    assert there.keys() == here.keys()
    for parameter, tensor in there.items():
        error = 1e-5 * max(1.0, float(tensor.abs().max()))
        message = parameter + ": {}"
        assert_close(here[parameter], tensor, rtol=0, atol=error, msg=message.format)
    assert not why_not_shared(model, lambda batch: _logprobs(model, batch))


def _logprobs(model: Any, batch: Any) -> torch.Tensor:
    result: torch.Tensor = CompletionLogprobs(model)(
        batch.input_ids, batch.attention_mask, batch.mask, 1.0, 1.0, batch.tries
    )
    return result


@pytest.mark.parametrize("kind", ["separate", "one alone", "nothing trained", "two prompts"])
def test_trie_logprobs__edge_cases(kind: str) -> None:
    model, rows = model_of("Qwen2"), tree_rows()
    if kind == "one alone":
        rows = rows[:1]
    packs = alone(rows) if kind == "separate" else together(rows)
    if kind == "two prompts":  # of unequal length: a trie with padding
        packs = [Pack([i for i, r in enumerate(rows) if r.ids[1] == token], 0) for token in (4, 10)]
        assert sorted(i for each in packs for i in each.rows) == list(range(len(rows)))
    if kind == "nothing trained":  # a reset after the last token: its row has no suffix
        empty = row(rows[0].ids.tolist(), len(rows[0].ids))
        rows = [rows[0], empty, *rows[1:]]
        packs = together(rows)
    order = [i for each in packs for i in each.rows]
    expected = forward(model, [rows[i] for i in order], None)
    actual = forward(model, rows, packs)
    assert_close(actual, expected, rtol=0, atol=1e-5)
    there, here = slopes(model, expected), slopes(model, actual)
    for parameter, tensor in there.items():
        error = 1e-5 * max(1.0, float(tensor.abs().max()))
        assert_close(here[parameter], tensor, rtol=0, atol=error)


@pytest.mark.parametrize("name", FAMILIES)
def test_trie_logprobs__in_bfloat16(name: str) -> None:
    model, rows = model_of(name), tree_rows()
    exact = forward(model, rows, None)
    with torch.autocast("cpu", torch.bfloat16):
        separate, packed = forward(model, rows, None), forward(model, rows, together(rows))
    noise, its = (float((each - exact).detach().abs().max()) for each in (separate, packed))
    assert 0 < noise and its < 2 * noise


def test_why_not_shared__names_the_cause() -> None:
    def reason(model: Any, logprobs: Any = None) -> str:
        return why_not_shared(model, logprobs or (lambda batch: _logprobs(model, batch)))

    bloom = {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 2}
    assert "positions follow from the attention mask" in reason(model_of("Bloom", "eager", **bloom))
    recurrent = transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1)
    )
    assert "recurrent layers" in reason(recurrent)
    other = model_of("Qwen2")
    other.config._attn_implementation = "flash_attention_2"
    assert "its attention, flash_attention_2, takes no masks" in reason(other)

    # A window that the model does not use: the masks are wrong within a single row.
    assert "differ by" in reason(model_of("Llama", sliding_window=4))

    # Tokens that see siblings, and a model that refuses the masks.
    blind = model_of("Qwen2")

    def causal(batch: Any) -> torch.Tensor:
        if tries := batch.tries:
            last = torch.full_like(tries.end, tries.end.shape[1])
            batch = batch._replace(tries=tries._replace(end=last))
        return _logprobs(blind, batch)

    assert "differ by" in reason(blind, causal)
    assert blind.training is False

    def refuses(batch: Any) -> torch.Tensor:
        raise TypeError("no such mask")

    assert "(TypeError: no such mask)" in reason(blind, refuses)


@pytest.mark.parametrize("name", FAMILIES)
def test_why_not_shared__rounding_in_bfloat16_passes_and_siblings_do_not(name: str) -> None:
    """An untrained model's log-probs hardly depend on the tokens: here siblings move them least."""
    model = model_of(name).to(torch.bfloat16)

    def causal(batch: Any) -> torch.Tensor:
        if tries := batch.tries:
            last = torch.full_like(tries.end, tries.end.shape[1])
            batch = batch._replace(tries=tries._replace(end=last))
        return _logprobs(model, batch)

    assert not why_not_shared(model, lambda batch: _logprobs(model, batch))
    assert "differ by" in why_not_shared(model, causal)


def test_why_not_shared__measures_the_rounding_of_separate_rows() -> None:
    model = tiny_qwen2()

    def noisy(tries: float, padded: float) -> str:
        def logprobs(batch: Any) -> torch.Tensor:
            noise = tries if batch.tries else padded if len(batch.members) > 1 else 0.0
            return _logprobs(model, batch) + noise

        return why_not_shared(model, logprobs)

    assert not noisy(0.0, 0.0)
    assert "differ by 0.01 " in noisy(0.01, 0.0)
    assert not noisy(0.05, 0.012)  # 0.038 apart, at a rounding of 0.012
    assert "differ by 0.05 " in noisy(0.062, 0.012)


# --- updates ---


@pytest.fixture(scope="module")
def policy(tiny_model: Callable[[bool], Path]) -> Any:
    """A policy in float64, in which sums in another order agree to many digits."""
    return load_policy(str(tiny_model(True)), device=CPU).double()


@pytest.mark.parametrize("name", WITH_KL)
@pytest.mark.parametrize("passes", [1, 2])
def test_updater__sharing_changes_nothing(policy: Any, name: str, passes: int) -> None:
    rows = rows_of(groups(), mask_truncated_completions=True)
    options = {"num_iterations": passes, "steps_per_generation": passes}
    moved, metrics = step(policy, rows, WITH_KL[name], share_prefixes=False, **options)
    assert metrics.pop("update/computed_tokens") == metrics["update/tokens"]
    for size in (1, 3, 32):
        others, its = step(policy, rows, WITH_KL[name], size, **options)
        # Norms round the gradient of a shared token to float32 once, not for every row.
        assert_alike(others, moved, 1e-6 if passes == 1 else 1e-5)
        assert its.pop("update/computed_tokens") <= metrics["update/tokens"]
        assert its == pytest.approx(metrics, rel=1e-6, abs=1e-8)


def updater(model: Any, **options: Any) -> PolicyUpdater:
    from llm.learner.options import LossConfig, UpdateOptions

    optimizer = torch.optim.SGD(trainable(model).values(), lr=1.0)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    return PolicyUpdater(
        model, optimizer, schedule, LossConfig(), UpdateOptions(max_grad_norm=0.0, **options),
        max_completion_length=20,
    )  # fmt: skip


def test_updater__each_prefix_goes_through_the_model_once() -> None:
    model = copy.deepcopy(tiny_qwen2()).train()
    rows = [row([*range(30), 40 + k, 41 + k], 30, k - 1.5) for k in range(4)]
    seen: list[tuple[int, ...]] = []
    hook = model.get_decoder().embed_tokens.register_forward_hook(
        lambda _, inputs, __: seen.append(tuple(inputs[0].shape))
    )
    for share, shape in ((True, (1, 38)), (False, (4, 32))):
        update = updater(model, share_prefixes=share)
        assert update.why_not_shared == ("" if share else "it is off")
        seen.clear()
        metrics = update(rows, np.random.default_rng(0))
        assert seen == [shape]
        assert metrics["update/computed_tokens"] == math.prod(shape)
        assert metrics["update/tokens"] == 4 * 32
        # Not those of rows that cannot move the policy.
        still = [*rows, row(list(range(50)), 1, 0.0)]
        assert update(still, np.random.default_rng(0))["update/tokens"] == 4 * 32
    hook.remove()


def test_updater__adapters_and_checkpointing(tiny_model: Callable[[bool], Path]) -> None:
    rows = rows_of(groups())
    results = []
    for share in (False, True):
        torch.manual_seed(0)
        model = load_policy(
            str(tiny_model(True)), device=CPU, lora=LoraOptions(r=4), gradient_checkpointing=True
        )
        update = updater(model, share_prefixes=share)
        assert update.why_not_shared == ("" if share else "it is off")
        update(rows, np.random.default_rng(0))
        results.append({n: p.detach().clone() for n, p in trainable(model).items()})
    for name, tensor in results[0].items():
        assert_close(results[1][name], tensor, rtol=0, atol=1e-6, msg=lambda m, n=name: n + m)


def test_updater__many_rows_of_one_prompt(policy: Any) -> None:
    draws = np.random.default_rng(0)
    rows = [
        row([5, 6, 7, *draws.integers(8, 11, size=draws.integers(1, 6)).tolist()], 3, float(a))
        for a in draws.normal(size=1000)
    ]
    # Copies with other advantages, and rows that are prefixes of others.
    assert len({tuple(each.ids) for each in rows}) < 500
    moved, metrics = step(policy, rows, WITH_KL["grpo"], 1000, share_prefixes=False)
    others, its = step(policy, rows, WITH_KL["grpo"], 256)
    assert_alike(others, moved, 1e-6)
    distinct = {tuple(each.ids[:k]) for each in rows for k in range(1, len(each.ids) + 1)}
    assert its.pop("update/computed_tokens") == len(distinct)
    assert metrics.pop("update/computed_tokens") == sum(len(each.ids) for each in rows)
    assert its == pytest.approx(metrics, rel=1e-6, abs=1e-8)
