"""Rollouts for TRL: samples, resets, rewards and metrics."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cpi
from tests.llm.trl_adapter.problems import (
    ask,
    correct,
    find_errors,
    problems,
    tokenizer,
)
from tests.llm.trl_adapter.watch import (
    Watch,
    srpo,
)

pytestmark = pytest.mark.filterwarnings("ignore:You are using 'rollout_func':UserWarning")


# --- samples ---


def test_rollouts__logprobs_follow_trainer_temperature(tmp_path: Path) -> None:
    for temperature in (1.0, 0.6):
        watch = Watch(srpo(), tmp_path, temperature=temperature).train()
        (inputs,), ((logps, _),) = watch.inputs, watch.scores
        present = inputs["completion_mask"].bool()
        assert present.sum() > 60
        # The prefix is included: its log-probs come from the seed, and TRL scores it as well.
        torch.testing.assert_close(
            inputs["sampling_per_token_logps"][present], logps.detach()[present], rtol=0, atol=1e-5
        )


def test_rollouts__no_logprobs_of_truncated_distributions(tmp_path: Path) -> None:
    watch = Watch(srpo(), tmp_path, top_p=0.8).train()
    (inputs,) = watch.inputs
    assert "sampling_per_token_logps" not in inputs and inputs["completion_mask"].sum() > 60


def test_rollouts__lora_is_sampled_without_dropout(tmp_path: Path) -> None:
    from peft import LoraConfig

    watch = Watch(
        srpo(),
        tmp_path,
        max_steps=3,
        learning_rate=1e-2,
        gradient_checkpointing=True,
        more={"peft_config": LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear")},
    )
    trainer, before = watch.trainer, watch.weights
    watch.train()
    moved = {name for name, value in watch.weights.items() if not torch.equal(value, before[name])}
    assert moved and all("lora_" in name for name in moved)

    def scores(ids: list[list[int]]) -> torch.Tensor:
        tokens = torch.tensor(ids)
        with torch.no_grad():
            table = trainer.model(tokens, use_cache=False).logits.log_softmax(-1)
        return table[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]

    # Samples come from the adapted model without dropout; training then restores dropout.
    output = watch.resets(watch.calls[-1][0], trainer)
    assert trainer.model.training
    for prompt, ids, logprobs in zip(
        *(output[name] for name in ("prompt_ids", "completion_ids", "logprobs")), strict=True
    ):
        trainer.model.eval()
        actual = scores([prompt + ids])[0, len(prompt) - 1 :]
        torch.testing.assert_close(actual, torch.tensor(logprobs), rtol=0, atol=1e-5)
        trainer.model.train()
        assert not torch.allclose(scores([prompt + ids])[0, len(prompt) - 1 :], actual, atol=1e-2)
        with trainer.model.disable_adapter():
            trainer.model.eval()
            assert not torch.allclose(scores([prompt + ids])[0, -len(ids) :], actual, atol=1e-2)


def test_rollouts__same_seed_repeats_run_and_calls_differ(tmp_path: Path) -> None:
    # Two generations per optimizer step, all for the same prompt.
    config = {"max_steps": 2, "gradient_accumulation_steps": 2, "steps_per_generation": 1}

    def outputs(seed: int) -> list[Any]:
        resets = srpo()
        data = resets.dataset(problems(1).select([0] * 4))
        options = config | {"per_device_train_batch_size": 8, "seed": seed}
        return [o for _, o in Watch(resets, tmp_path, data=data, **options).train().calls]

    one, again, other = outputs(0), outputs(0), outputs(1)
    assert one == again
    assert one != other
    assert len({str(output["completion_ids"]) for output in one}) == len(one) == 4


def test_rollouts__chat_messages_give_same_samples(tmp_path: Path) -> None:
    plain = Watch(srpo(), tmp_path).train()
    recorded = []

    def record_and_score(prompts: Any, completions: Any, **columns: Any) -> Any:
        recorded.append(completions[0])
        texts = [completion[0]["content"] for completion in completions]
        return correct([prompt[0]["content"] for prompt in prompts], texts)

    def ask_chat(row: Any, thoughts: Any) -> Any:
        return ask({"prompt": row["prompt"][0]["content"]}, thoughts)

    chat = tokenizer()
    chat.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    resets = srpo(localization_prompt=ask_chat, errors=None)
    messages = problems(8).map(lambda row: {"prompt": [{"role": "user", "content": row["prompt"]}]})
    chat_watch = Watch(
        resets, tmp_path, data=resets.dataset(messages), reward_funcs=record_and_score
    )
    chat_watch.trainer.processing_class.chat_template = chat.chat_template
    chat_watch.train()
    for (_, a), (_, b) in zip(plain.calls, chat_watch.calls, strict=True):
        assert a == b
    assert len(recorded) == 3  # fresh, resets, and both by TRL
    assert all(len(c) == 1 and c[0]["role"] == "assistant" for c in recorded)


@pytest.mark.parametrize("algorithm", ["rrpo", "oracle", "srpo"])
def test_rollouts__reset_location_by_algorithm(tmp_path: Path, algorithm: Any) -> None:
    localizer = "checker" if algorithm == "srpo" else "prompted"
    watch = Watch(
        srpo(algorithm=algorithm, localizer=localizer), tmp_path, per_device_train_batch_size=64
    ).train()
    (collection,) = watch.collections
    resets = [group for group in collection if group.seed is not None]
    assert len(resets) >= 6
    for group in resets:
        fresh = collection[2 * group.start].episodes
        assert any(group.seed is episode for episode in fresh)  # the seed stays in its fresh group
        assert group.seed.ret < 1 and group.prefix.steps == group.seed.steps[: group.prefix.length]
    exact = [
        group.prefix.length == find_errors(group.prefix.start.example.data, group.seed)[0]
        for group in resets
        if group.seed is not None
    ]
    assert all(exact) == (algorithm != "rrpo")
    assert watch.logged("localize/exact") == [pytest.approx(np.mean(exact))]
    assert watch.logged("ledger/localizer_cost") == [0]


def test_rollouts__prompt_without_failure_falls_back_to_fresh(tmp_path: Path) -> None:
    def praise(completions: Any, **columns: Any) -> list[float]:
        return [1.0] * len(completions)

    watch = Watch(srpo(), tmp_path, reward_funcs=praise).train()
    assert watch.logged("ledger/fallbacks") == [2]
    assert watch.inputs[0]["tool_mask"].all()
    assert watch.logged("frac_reward_zero_std") == [1.0]
    assert not watch.logged("reset/position") and not watch.logged("localize/parse_failure_rate")


def test_rollouts__failed_if_weighted_reward_below_success(tmp_path: Path) -> None:
    def length(completions: Any, **columns: Any) -> list[float | None]:
        return [None if number == 0 else 1.0 for number in range(len(completions))]

    def wrong(completions: Any, **columns: Any) -> list[float | None]:
        return [None if number == 0 else -2.0 for number in range(len(completions))]

    watch = Watch(
        srpo(success=0.5),
        tmp_path,
        reward_funcs=[length, wrong],
        reward_weights=[1.0, 0.25],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trl.trainer.grpo_trainer.logger.warning", lambda *args: None)
        watch.train()
    episodes = [episode for group in watch.collections[0][::2] for episode in group.episodes]
    assert [episode.ret for episode in episodes] == [0.0] + [0.5] * 7
    assert not any(episode.failed for episode in episodes)  # 0.5 is not below 0.5; None is unscored


def test_rollouts__reward_functions_receive_columns(tmp_path: Path) -> None:
    checked = []

    def compare(prompts: Any, completions: Any, answer: Any, log_extra: Any, **columns: Any) -> Any:
        checked.extend(answer[i] == f"for {prompt}" for i, prompt in enumerate(prompts))
        log_extra("answer", answer)
        columns["log_metric"]("asked", len(prompts))
        return correct(prompts, completions)

    resets = srpo()
    data = problems(8).map(lambda row: {"answer": f"for {row['prompt']}"})
    watch = Watch(resets, tmp_path, data=resets.dataset(data), reward_funcs=compare).train()
    assert len(checked) == 8 + 8 + 16 and all(checked)
    # Its logs appear once, for the rows that TRL trains on.
    logs = watch.trainer._logs
    assert list(logs["extra"]["answer"]) == [f"for {prompt}" for prompt in logs["prompt"]]
    assert watch.logged("asked") == [16]


def test_rollouts__generation_is_reused_over_iterations(tmp_path: Path) -> None:
    watch = Watch(srpo(), tmp_path, num_iterations=2, max_steps=4).train()
    assert len(watch.calls) == 2 and len(watch.inputs) == 4
    assert watch.inputs[0] is watch.inputs[1]
    assert watch.logged("ledger/trained_episodes") == [16, 32]


def test_rollouts__evaluation_samples_one_fresh_completion_per_row(tmp_path: Path) -> None:
    watch = Watch(
        srpo(),
        tmp_path,
        num_generations_eval=2,
        per_device_eval_batch_size=4,
        more={"eval_dataset": problems(5)},
    )
    metrics = watch.trainer.evaluate()
    assert 0 <= metrics["eval_reward"] <= 1
    sizes = [len(prompts) for prompts, _ in watch.calls]
    assert sum(sizes) == 10
    assert all(all(m) for _, output in watch.calls for m in output["env_mask"])
    assert watch.resets.ledger == cpi.Ledger() and watch.resets.collection is None


# --- metrics ---


def test_metrics__equal_those_of_collection(tmp_path: Path) -> None:
    watch = Watch(srpo(), tmp_path, max_steps=2, per_device_train_batch_size=32).train()
    tokens = 0
    for step, groups in enumerate(watch.collections):
        resets = [group for group in groups if group.seed is not None]
        fresh = [
            episode.ret for group in groups if group.seed is None for episode in group.episodes
        ]
        assert watch.logged("fresh/reward")[step] == pytest.approx(np.mean(fresh))
        position = [g.prefix.length / g.seed.length for g in resets if g.seed is not None]
        assert watch.logged("reset/position")[step] == pytest.approx(np.mean(position))
        tokens += sum(episode.cost for group in groups for episode in group.episodes)
        assert watch.logged("ledger/steps")[step] == tokens
        trained = sum(episode.cost for group in groups for episode in group.episodes) / 32
        assert watch.logged("completions/mean_length")[step] == pytest.approx(trained)
    assert watch.resets.ledger.steps == tokens
    assert watch.logged("localize/parse_failure_rate") == [
        0.0,
        0.0,
    ]  # the base model was pre-trained on this request
    assert watch.logged("ledger/localizer_cost")[1] > 0
    assert all(math.isfinite(v) for e in watch.trainer.state.log_history for v in e.values())
