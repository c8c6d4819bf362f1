"""Resets in a real `trl.GRPOTrainer`, on the chain-reasoning model that comes with the package."""

from __future__ import annotations

import copy
import itertools
import json
import math
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cpi
import llm.trl_adapter
from cpi.collect import Collection
from cpi.episodes import Episode
from llm.losses import LossConfig
from llm.models import SHIPPED
from llm.rows import make_rows
from llm.trl_adapter import ResetRollouts
from llm.update import UpdateOptions, Updater
from tests.llm.trl_problems import answers, ask, correct, errors, find_errors, problems, tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:You are using 'rollout_func':UserWarning")

CPU = torch.device("cpu")
BASE = str(SHIPPED["chain-base"])
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def trl() -> Any:
    """TRL, which would import vLLM, whichever it finds, and complain about its version."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if "vllm" not in sys.modules:
            patch.setitem(sys.modules, "vllm", None)
        import trl

        trl.GRPOTrainer, trl.GRPOConfig  # noqa: B018 - both are imported when they are first named
    return trl


def base_model() -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    model.generation_config.eos_token_id = [1, tokenizer().convert_tokens_to_ids("}")]
    return model


def srpo(**changes: Any) -> ResetRollouts:
    options: dict[str, Any] = {"delimiter": "\n", "localization_prompt": ask, "errors": errors}
    return ResetRollouts(changes.pop("algorithm", "srpo"), **options | changes)


class Watch:
    """A trainer, what its rollout function gave, and what it then trained on."""

    def __init__(
        self,
        resets: ResetRollouts,
        folder: Path,
        *,
        model: Any = None,
        prompts: int = 8,
        data: Any = None,
        reward_funcs: Any = correct,
        optimizer: Any = None,
        more: dict[str, Any] | None = None,
        **config: Any,
    ) -> None:
        from trl import GRPOConfig, GRPOTrainer

        watch = self
        self.resets, self.calls, self.inputs, self.scores = resets, [], [], []
        self.collections: list[Collection] = []

        class Watched(GRPOTrainer):
            def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
                found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
                if torch.is_grad_enabled():
                    for scores in found[:2]:
                        scores.retain_grad()
                    watch.scores.append(found[:2])
                return found

            def _compute_loss(self, model: Any, inputs: Any) -> Any:
                watch.inputs.append(inputs)
                return super()._compute_loss(model, inputs)

        def rollout(prompts: Any, trainer: Any) -> Any:
            output = resets(prompts, trainer)
            watch.calls.append((prompts, output))
            if trainer.model.training:
                assert resets.collection is not None
                watch.collections.append(resets.collection)
            return output

        defaults: dict[str, Any] = {
            "output_dir": str(folder),
            "num_generations": 4,
            "shuffle_dataset": False,
            "per_device_train_batch_size": 16,
            "max_completion_length": 24,
            "max_steps": 1,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "dataloader_pin_memory": False,
            "logging_steps": 1,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
        }
        self.trainer = Watched(
            model=base_model() if model is None else model,
            processing_class=tokenizer(),
            reward_funcs=reward_funcs,
            args=GRPOConfig(**defaults | config),
            train_dataset=resets.dataset(problems(prompts)) if data is None else data,
            rollout_func=rollout,
            optimizers=(optimizer, None),
            **more or {},
        )

    def train(self) -> Watch:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            self.trainer.train()
        finally:
            torch.set_num_threads(threads)
        return self

    def logged(self, name: str) -> list[float]:
        return [entry[name] for entry in self.trainer.state.log_history if name in entry]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        model = self.trainer.model
        return {name: p.detach().clone() for name, p in model.named_parameters()}


def mask(inputs: Any) -> torch.Tensor:
    """What of the completions TRL trains on."""
    return (inputs["completion_mask"] * inputs["tool_mask"]).bool()


def rows_of(inputs: Any) -> list[tuple[tuple[int, ...], int, float]]:
    """Each row that TRL trained on: its completion, how much of it is masked, its advantage."""
    rows = []
    for number, ids in enumerate(inputs["completion_ids"]):
        there = inputs["completion_mask"][number].bool()
        tools = inputs["tool_mask"][number][there]
        kept = int((tools == 0).sum())
        assert not tools[:kept].any() and tools[kept:].all()  # a prefix, nothing else
        advantage = float(inputs["advantages"][number])
        rows.append((tuple(ids[there].tolist()), kept, advantage))
    return rows


def first_thought(episodes: Sequence[Episode]) -> list[Any]:
    return [np.eye(1, episode.length)[0] for episode in episodes]


# --- what is trained on ---


@pytest.mark.parametrize(
    "config",
    [
        {"loss_type": "dapo"},
        {"loss_type": "grpo", "beta": 0.1, "entropy_coef": 0.01},
        {"loss_type": "dapo", "num_iterations": 2, "top_entropy_quantile": 0.5},
    ],
)
def test_shared_prefixes_get_exactly_zero_gradient(tmp_path: Path, config: Any) -> None:
    watch = Watch(srpo(), tmp_path, max_steps=2, **config).train()
    masked = 0
    for inputs, scores in zip(watch.inputs, watch.scores, strict=True):
        trained = mask(inputs)
        for values in scores:  # log-probs, entropies
            if values.grad is not None:
                assert not values.grad[~trained].any()
        moves = (inputs["advantages"] != 0)[:, None] & trained
        if config["loss_type"] == "dapo" and "num_iterations" not in config:
            assert scores[0].grad[moves].all()
        shared = inputs["completion_mask"].bool() & ~trained
        masked += int((shared & (inputs["advantages"] != 0)[:, None]).sum())
    assert masked > 10


def test_groups_stay_whole_and_are_compared_apart(tmp_path: Path) -> None:
    # Three prompts a generation, split over six micro-batches, which two optimizer steps share.
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
        for at in range(0, 24, 4):
            group = slice(at, at + 4)
            assert len(set(prompts[at - at % 8 : at - at % 8 + 8])) == 1
            ids = [tuple(i) for i in output["completion_ids"][group]]
            kept = [m.count(0) for m in output["env_mask"][group]]
            # Fresh first; then a group that shares the tokens that are masked, and no more is.
            assert len(set(kept)) == 1 and (kept[0] == 0 or at % 8 == 4)
            assert len({i[: kept[0]] for i in ids}) == 1
            texts = tokenizer().batch_decode(ids, skip_special_tokens=True)
            rewards = np.array(correct(prompts[group], texts))
            spread = rewards.std(ddof=1) + 1e-4
            advantages = (rewards - rewards.mean()) / spread if rewards.std() else 0 * rewards
            expected += list(zip(ids, kept, advantages.tolist(), strict=True))
        found = [row for i in watch.inputs[6 * number : 6 * number + 6] for row in rows_of(i)]
        for one, other in zip(sorted(found), sorted(expected), strict=True):
            assert one[:2] == other[:2] and one[2] == pytest.approx(other[2], abs=1e-5)
        informative += [row for row in found if row[1] and row[2]]
    assert informative
    assert len(set(seen)) == 6  # no prompt came twice


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_gradient_is_that_of_our_own_trainer(tmp_path: Path, loss_type: Any) -> None:
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
    update = Updater(
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


def test_resets_to_the_first_thought_are_grpo(tmp_path: Path) -> None:
    # One group each: the reset ones' seeds are drawn beside it, and nothing of them is kept.
    config = {"max_steps": 2, "learning_rate": 1e-3}
    grpo = srpo(algorithm="grpo", plan=cpi.GroupPlan(fresh=4))
    resets = srpo(localizer=first_thought, plan=cpi.GroupPlan(0, resets=1, per_reset=4))
    one = Watch(grpo, tmp_path, **config).train()
    other = Watch(resets, tmp_path, **config).train()
    assert resets.ledger.resets_accepted > 4 and grpo.ledger.resets_accepted == 0
    for (_, a), (_, b) in zip(one.calls, other.calls, strict=True):
        assert a == b
    assert all(torch.equal(a, other.weights[name]) for name, a in one.weights.items())


def test_two_groups_from_the_start_are_trained_on_whole(tmp_path: Path) -> None:
    watch = Watch(srpo(localizer=first_thought), tmp_path).train()
    assert watch.logged("ledger/resets_accepted") == [2]
    (inputs,) = watch.inputs
    assert inputs["tool_mask"].all()
    assert watch.logged("reset/empty_prefix_rate") == [1.0]


def test_it_learns(tmp_path: Path) -> None:
    watch = Watch(srpo(), tmp_path, prompts=64, max_steps=11, per_device_train_batch_size=128)
    rewards = watch.train().logged("fresh/reward")
    assert len(rewards) == 11
    assert np.mean(rewards[:3]) < 0.35 and np.mean(rewards[-3:]) > 0.6


# --- what is sampled ---


def test_samples_are_the_models_at_the_trainers_temperature(tmp_path: Path) -> None:
    for temperature in (1.0, 0.6):
        watch = Watch(srpo(), tmp_path, temperature=temperature).train()
        (inputs,), ((logps, _),) = watch.inputs, watch.scores
        there = inputs["completion_mask"].bool()
        assert there.sum() > 60
        # Also of the prefix: kept from the seed, and scored by TRL as if it were trained on.
        torch.testing.assert_close(
            inputs["sampling_per_token_logps"][there], logps.detach()[there], rtol=0, atol=1e-5
        )


def test_adapters_and_gradient_checkpointing(tmp_path: Path) -> None:
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

    # Samples are of the adapted model, without the dropout that training goes on with.
    output = watch.resets(watch.calls[-1][0], trainer)
    assert trainer.model.training
    for prompt, ids, logprobs in zip(
        *(output[name] for name in ("prompt_ids", "completion_ids", "logprobs")), strict=True
    ):
        trainer.model.eval()
        found = scores([prompt + ids])[0, len(prompt) - 1 :]
        torch.testing.assert_close(found, torch.tensor(logprobs), rtol=0, atol=1e-5)
        trainer.model.train()
        assert not torch.allclose(scores([prompt + ids])[0, len(prompt) - 1 :], found, atol=1e-2)
        with trainer.model.disable_adapter():
            trainer.model.eval()
            assert not torch.allclose(scores([prompt + ids])[0, -len(ids) :], found, atol=1e-2)


def test_same_seed_same_run_and_no_draw_twice(tmp_path: Path) -> None:
    # Two generations an optimizer step, all of one prompt.
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


def test_chat_prompts_are_the_same_in_messages(tmp_path: Path) -> None:
    plain = Watch(srpo(), tmp_path).train()
    heard = []

    def listen(prompts: Any, completions: Any, **columns: Any) -> Any:
        heard.append(completions[0])
        texts = [completion[0]["content"] for completion in completions]
        return correct([prompt[0]["content"] for prompt in prompts], texts)

    def ask_chat(row: Any, thoughts: Any) -> Any:
        return ask({"prompt": row["prompt"][0]["content"]}, thoughts)

    chat = tokenizer()
    chat.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    resets = srpo(localization_prompt=ask_chat, errors=None)
    messages = problems(8).map(lambda row: {"prompt": [{"role": "user", "content": row["prompt"]}]})
    talk = Watch(resets, tmp_path, data=resets.dataset(messages), reward_funcs=listen)
    talk.trainer.processing_class.chat_template = chat.chat_template
    talk.train()
    for (_, a), (_, b) in zip(plain.calls, talk.calls, strict=True):
        assert a == b
    assert len(heard) == 3  # fresh, resets, and both by TRL
    assert all(len(c) == 1 and c[0]["role"] == "assistant" for c in heard)


@pytest.mark.parametrize("algorithm", ["rrpo", "oracle", "srpo"])
def test_where_resets_land(tmp_path: Path, algorithm: Any) -> None:
    localizer = "checker" if algorithm == "srpo" else "prompted"
    watch = Watch(
        srpo(algorithm=algorithm, localizer=localizer), tmp_path, per_device_train_batch_size=64
    ).train()
    (collection,) = watch.collections
    asked = [group for group in collection if group.seed is not None]
    assert len(asked) >= 6
    for group in asked:
        fresh = collection[2 * group.start].episodes
        assert any(group.seed is episode for episode in fresh)  # where it stays
        assert group.seed.ret < 1 and group.prefix.steps == group.seed.steps[: group.prefix.length]
    exact = [
        group.prefix.length == find_errors(group.prefix.start.example.data, group.seed)[0]
        for group in asked
        if group.seed is not None
    ]
    assert all(exact) == (algorithm != "rrpo")
    assert watch.logged("localize/exact") == [pytest.approx(np.mean(exact))]
    assert watch.logged("ledger/localizer_cost") == [0]


def test_a_prompt_without_a_failure_gets_fresh_ones(tmp_path: Path) -> None:
    def praise(completions: Any, **columns: Any) -> list[float]:
        return [1.0] * len(completions)

    watch = Watch(srpo(), tmp_path, reward_funcs=praise).train()
    assert watch.logged("ledger/fallbacks") == [2]
    assert watch.inputs[0]["tool_mask"].all()
    assert watch.logged("frac_reward_zero_std") == [1.0]
    assert not watch.logged("reset/position") and not watch.logged("localize/parse_failure_rate")


def test_a_failure_is_a_weighted_sum_below_success(tmp_path: Path) -> None:
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
    assert not any(episode.failed for episode in episodes)  # 0.5 is not below, None says nothing


def test_columns_reach_the_rewards_with_their_prompt(tmp_path: Path) -> None:
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
    # What it logs is logged for the rows that TRL trains on, once.
    logs = watch.trainer._logs
    assert list(logs["extra"]["answer"]) == [f"for {prompt}" for prompt in logs["prompt"]]
    assert watch.logged("asked") == [16]


def test_several_passes_over_a_generation(tmp_path: Path) -> None:
    watch = Watch(srpo(), tmp_path, num_iterations=2, max_steps=4).train()
    assert len(watch.calls) == 2 and len(watch.inputs) == 4
    assert watch.inputs[0] is watch.inputs[1]
    assert watch.logged("ledger/trained_episodes") == [16, 32]


def test_evaluation_is_one_fresh_completion_a_row(tmp_path: Path) -> None:
    watch = Watch(
        srpo(),
        tmp_path,
        num_generations_eval=2,
        per_device_eval_batch_size=4,
        more={"eval_dataset": problems(5)},
    )
    found = watch.trainer.evaluate()
    assert 0 <= found["eval_reward"] <= 1
    sizes = [len(prompts) for prompts, _ in watch.calls]
    assert sum(sizes) == 10
    assert all(all(m) for _, output in watch.calls for m in output["env_mask"])
    assert watch.resets.ledger == cpi.Ledger() and watch.resets.collection is None


# --- metrics ---


def test_metrics_are_those_of_the_collection(tmp_path: Path) -> None:
    watch = Watch(srpo(), tmp_path, max_steps=2, per_device_train_batch_size=32).train()
    tokens = 0
    for step, groups in enumerate(watch.collections):
        again = [group for group in groups if group.seed is not None]
        fresh = [
            episode.ret for group in groups if group.seed is None for episode in group.episodes
        ]
        assert watch.logged("fresh/reward")[step] == pytest.approx(np.mean(fresh))
        position = [g.prefix.length / g.seed.length for g in again if g.seed is not None]
        assert watch.logged("reset/position")[step] == pytest.approx(np.mean(position))
        tokens += sum(episode.cost for group in groups for episode in group.episodes)
        assert watch.logged("ledger/steps")[step] == tokens
        trained = sum(episode.cost for group in groups for episode in group.episodes) / 32
        assert watch.logged("completions/mean_length")[step] == pytest.approx(trained)
    assert watch.resets.ledger.steps == tokens
    assert watch.logged("localize/parse_failure_rate") == [0.0, 0.0]  # it was pre-trained on this
    assert watch.logged("ledger/localizer_cost")[1] > 0
    assert all(math.isfinite(v) for e in watch.trainer.state.log_history for v in e.values())


# --- the data set ---


def test_dataset_is_shuffled_in_pairs() -> None:
    data = problems(20)
    found = srpo().dataset(data, seed=3)["prompt"]
    assert list(found[::2]) == list(found[1::2])
    assert sorted(found[::2]) == sorted(data["prompt"]) and list(found[::2]) != list(data["prompt"])
    assert list(srpo().dataset(data, seed=3)["prompt"]) == list(found)
    assert list(srpo().dataset(data, seed=4)["prompt"]) != list(found)
    three = srpo(plan=cpi.GroupPlan(2, resets=2, per_reset=2)).dataset(data)["prompt"]
    assert len(three) == 60 and len(set(three[:3])) == 1


def test_dataset_refuses_what_it_could_not_find_again() -> None:
    from datasets import Dataset

    twice = Dataset.from_dict({"prompt": ["a", "b", "a"], "answer": [1, 2, 1]})
    assert len(srpo().dataset(twice)) == 6
    twice = Dataset.from_dict({"prompt": ["a", "b", "a"], "answer": [1, 2, 3]})
    with pytest.raises(ValueError, match=r"dataset: rows 0 and 2 have one prompt but different"):
        srpo().dataset(twice)
    for wrong in (Dataset.from_dict({"text": ["a"]}), ["a"], problems(4).to_iterable_dataset()):
        with pytest.raises(ValueError, match="with a column 'prompt'"):
            srpo().dataset(wrong)


# --- refusals ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "ppo"}, "algorithm: 'ppo' is none of grpo, rrpo, srpo, oracle"),
        ({"localizer": "psychic"}, "localizer: 'psychic' is none of prompted, surprisal"),
        ({"localizer": "checker", "errors": None}, "errors: none given"),
        ({"algorithm": "oracle", "errors": None}, "errors: none given"),
        ({"plan": cpi.GroupPlan(8, 1, 4)}, "plan: groups of 8 and 4"),
    ],
)
def test_options_that_mean_nothing(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        srpo(**options)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_generations": 8}, "num_generations: 8, but a group of the plan has 4"),
        ({"shuffle_dataset": True}, "shuffle_dataset: True parts the groups"),
        ({"scale_rewards": "batch"}, "scale_rewards: 'batch' scales"),
        (
            {"multi_objective_aggregation": "normalize_then_sum"},
            "multi_objective_aggregation: 'normalize_then_sum' scales",
        ),
        ({"per_device_train_batch_size": 4}, "completions at once, not a multiple of the 8"),
        ({"top_k": 5}, "top_k: 5 does not go with resets"),
        ({"min_p": 0.1}, "min_p: 0.1 does not"),
        ({"repetition_penalty": 1.1}, "repetition_penalty: 1.1 does not"),
        ({"generation_kwargs": {"num_beams": 2}}, "generation_kwargs: .* does not"),
        ({"use_transformers_continuous_batching": True}, "batching: True does not"),
    ],
)
def test_settings_that_do_not_go_with_resets(tmp_path: Path, config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Watch(srpo(), tmp_path, **config).train()


@pytest.mark.parametrize(
    ("of", "name", "value", "message"),
    [
        (
            "args",
            "use_vllm",
            True,
            "use_vllm: True does not go with resets; leave it off, and give",
        ),
        ("trainer", "tools", [len], "tools: .*leave them out"),
        ("trainer", "_is_vlm", True, "images: True does not"),
        ("trainer", "is_fsdp_enabled", True, "fsdp: True does not .* use DDP"),
        ("trainer", "is_deepspeed_enabled", True, "deepspeed: True does not .* use DDP"),
    ],
)
def test_trainers_that_need_what_is_not_here(
    tmp_path: Path, of: str, name: str, value: Any, message: str
) -> None:
    trainer = Watch(srpo(), tmp_path).trainer
    setattr(trainer.args if of == "args" else trainer, name, value)
    with pytest.raises(ValueError, match=message):
        trainer.rollout_func(["a"] * 8, trainer)


def test_data_that_does_not_go_with_resets(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train_dataset: completions 0 to 7 .* not of one prompt"):
        Watch(srpo(), tmp_path, data=problems(8)).train()
    doubled = problems(8).select(np.repeat(np.arange(8), 2))
    with pytest.raises(ValueError, match=r"train_dataset: ResetRollouts\.dataset has not seen"):
        Watch(srpo(), tmp_path, data=doubled).train()


def test_other_versions_of_trl_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm.trl_adapter.settings.version", lambda name: "1.17.0")
    with pytest.raises(ValueError, match=r"trl: this is 1\.17\.0, .*; pip install 'trl>=1\.16"):
        Watch(srpo(), tmp_path).train()


# --- the whole ---


def test_the_example_of_the_docstring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, code = (llm.trl_adapter.__doc__ or "").split("::\n", 1)
    lines = itertools.takewhile(lambda line: not line or line.startswith("    "), code.split("\n"))
    code = "\n".join(line[4:] for line in lines)
    assert code.count("GRPOConfig(") == 1
    quick = "max_steps=1, use_cpu=True, per_device_train_batch_size=16, max_completion_length=24, "
    quick += "report_to='none', disable_tqdm=True, dataloader_pin_memory=False, "
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    base_model().save_pretrained("model")
    tokenizer().save_pretrained("model")
    lines = [json.dumps({"prompt": prompt, "answer": answer}) for prompt, answer in answers(8)]
    Path("problems.jsonl").write_text("\n".join(lines))
    names: dict[str, Any] = {}
    exec(code.replace("GRPOConfig(", "GRPOConfig(" + quick), names)
    trainer = names["trainer"]
    assert trainer.state.global_step == 1 and trainer.rollout_func is names["resets"]
    assert names["resets"].ledger.trained_episodes == 16
    assert names["resets"].ledger.resets_accepted == 2


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    command += ["-m", "tests.llm.trl_process", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    for process in (first, second):
        assert [len(step) for step in process["groups"]] == [4, 4]  # two prompts, both groups
    assert not {g["prompt"] for step in first["groups"] for g in step} & {
        g["prompt"] for step in second["groups"] for g in step
    }
    assert first["weights"] == second["weights"] != first["before"]
    # Advantages are those of each process's own groups.
    for process in (first, second):
        expected = [
            advantage
            for step in process["groups"]
            for group in cpi.group_advantages([g["returns"] for g in step])
            for advantage in group
        ]
        assert sorted(process["advantages"]) == pytest.approx(sorted(expected), abs=1e-5)
    # Costs are summed over processes, metrics averaged.
    costs = [g["cost"] for p in (first, second) for step in p["groups"] for g in step]
    assert first["ledger"] == second["ledger"] and first["ledger"]["trained_episodes"] == 64
    assert first["ledger"]["steps"] == sum(costs)
    assert first["correction_rate"] == pytest.approx(
        np.mean([process["corrected"][0] for process in (first, second)])
    )


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_samples_for_it(tmp_path: Path) -> None:
    from llm.engines.vllm import VLLMEngine

    engine = VLLMEngine(BASE)
    try:
        watch = Watch(srpo(engine=engine), tmp_path, max_steps=2, learning_rate=1e-2).train()
        for inputs, (logps, _) in zip(watch.inputs, watch.scores, strict=True):
            there = inputs["completion_mask"].bool()
            torch.testing.assert_close(
                inputs["sampling_per_token_logps"][there], logps.detach()[there], rtol=0, atol=1e-4
            )
        assert watch.resets.ledger.resets_accepted
    finally:
        engine.close()
