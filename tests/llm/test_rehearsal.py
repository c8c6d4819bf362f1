"""Rehearsal: texts of a file as rows, and their gradient in the optimizer's step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llm.logprobs import completion_logprobs
from llm.losses import LossConfig
from llm.models import SHIPPED
from llm.pretrain import REHEARSED, PretrainConfig, write_localizations
from llm.rehearsal import LOCALIZATIONS, Rehearsal, RehearsalOptions
from llm.rows import Row
from llm.update import UpdateOptions, Updater
from tests.llm.models import tiny_qwen2
from tests.llm.small import word_tokenizer

WORDS = ["a", "b", "c", "d"]
TEXTS = [("a b", "c"), ("b", "d a b"), ("a", "a"), ("c c c", "b d"), ("d", "c")]


def write(path: Path, texts: Any = TEXTS) -> str:
    path.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in texts))
    return str(path)


@pytest.fixture
def rehearsal(tmp_path: Path) -> Rehearsal:
    options = RehearsalOptions(write(tmp_path / "texts.jsonl"), weight=0.5, batch=3)
    return Rehearsal(options, word_tokenizer(WORDS), 32)


def updater(rehearsal: Rehearsal | None, size: int = 32) -> Updater:
    policy = tiny_qwen2()
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    options = UpdateOptions(per_device_train_batch_size=size, max_grad_norm=0)
    return Updater(
        policy, optimizer, schedule, LossConfig(), options, max_completion_length=8,
        rehearsal=rehearsal,
    )  # fmt: skip


def moved(update: Updater, rows: list[Row], seed: int = 0) -> tuple[dict[str, Any], Any]:
    """What a step of SGD with rate 1 subtracts is the gradient."""
    before = {name: p.detach().clone() for name, p in update.policy.named_parameters()}
    metrics = update(rows, np.random.default_rng(seed))
    return {n: before[n] - p.detach() for n, p in update.policy.named_parameters()}, metrics


def row(advantage: float) -> Row:
    ids = np.array([5, 6, 7, 8, 9])
    return Row(ids, 2, 5, np.zeros(3), advantage)


def test_a_row_is_learnt_after_its_prompt(rehearsal: Rehearsal) -> None:
    tokenizer = word_tokenizer(WORDS)
    for (prompt, completion), found in zip(TEXTS, rehearsal.rows, strict=True):
        assert tokenizer.decode(found.ids[: found.trained_from]) == prompt.replace(" ", "<unk>")
        assert found.trained == len(tokenizer(completion).input_ids)
        assert found.trained_to == len(found.ids)


def test_gradients_of_policy_and_texts_add_up(rehearsal: Rehearsal) -> None:
    rows = [row(1.0)]
    alone, _ = moved(updater(None), rows)
    both, metrics = moved(updater(rehearsal), rows, seed=7)
    model = tiny_qwen2()
    drawn = rehearsal.draw(np.random.default_rng(7))
    loss = torch.tensor(0.0)
    for text in drawn:
        ids = torch.tensor(text.ids)[None]
        mask = torch.zeros_like(ids, dtype=torch.bool)
        mask[0, text.trained_from :] = True
        loss = loss - completion_logprobs(model, ids, torch.ones_like(ids), mask).sum()
    loss = loss / sum(text.trained for text in drawn)
    loss.backward()
    assert metrics["rehearsal/loss"] == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(
            both[name] - alone[name], 0.5 * parameter.grad, atol=1e-6, rtol=1e-4
        )


def test_micro_batches_change_nothing(rehearsal: Rehearsal) -> None:
    one, _ = moved(updater(rehearsal, size=1), [row(1.0), row(-0.5)])
    all_, _ = moved(updater(rehearsal, size=8), [row(1.0), row(-0.5)])
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, all_[name], atol=1e-6, rtol=1e-4)


def test_texts_are_learnt_where_no_row_has_a_signal(rehearsal: Rehearsal) -> None:
    gradient, _ = moved(updater(rehearsal), [row(0.0)])
    assert any(g.abs().max() > 0 for g in gradient.values())


def test_draws_follow_the_generator(rehearsal: Rehearsal) -> None:
    def drawn(seed: int) -> list[tuple[int, ...]]:
        return [tuple(r.ids.tolist()) for r in rehearsal.draw(np.random.default_rng(seed))]

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(10)}) > 1
    assert len(set(drawn(3))) == 3  # no text twice


LONG = json.dumps({"prompt": "a", "completion": "b" * 40})
BAD = {
    "half a line": ('{"prompt": "a", "compl', r"texts.jsonl:1 is not a line"),
    "no completion": ('{"prompt": "a"}', r"texts.jsonl:1 is not a line"),
    "a list": ("[]", r"texts.jsonl:1 is not a line"),
    "nothing to learn": ('{"prompt": "a", "completion": ""}', r"has 1 and 0 tokens"),
    "too long": (LONG, r"at most 32 fit"),
    "empty": ("", r"is empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_named(case: str, tmp_path: Path) -> None:
    text, message = BAD[case]
    path = tmp_path / "texts.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Rehearsal(RehearsalOptions(str(path)), word_tokenizer(WORDS), 32)


def test_a_missing_file_and_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match=r"there is no file '/no/such.jsonl'"):
        Rehearsal(RehearsalOptions("/no/such.jsonl"), word_tokenizer(WORDS), 32)
    for options in ({"weight": -1.0}, {"weight": float("nan")}, {"batch": 0}):
        with pytest.raises(ValueError, match=r"rehearsal.weight="):
            RehearsalOptions("x", **options)  # type: ignore[arg-type]


def test_the_base_model_brings_the_texts_of_its_recipe(tmp_path: Path) -> None:
    write_localizations(PretrainConfig(), tmp_path / LOCALIZATIONS)
    own = SHIPPED["chain-base"] / LOCALIZATIONS
    assert own.read_text() == (tmp_path / LOCALIZATIONS).read_text()
    assert len(own.read_text().splitlines()) == REHEARSED
