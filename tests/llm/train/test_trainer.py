"""The training loop: random numbers keyed by step, weights of the engine, and its end."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cpi.core.collect import Ledger
from llm.common.random_streams import LOCALIZE, generator
from llm.config.train import parse_config
from llm.engines.engine import MAX_SEED
from llm.learner.parity import ParityError, off_policy
from llm.models.policy import merged_state_dict
from llm.runs.rollout_records import read_rollouts, rollout_files
from llm.train.trainer import Trainer

Make = Callable[..., Trainer]


@pytest.fixture
def make(chain_base: Path, chain_args: dict[str, Any], tmp_path: Path) -> Iterator[Make]:
    """Makes trainers with the given flags, on one thread."""
    trainers: list[Trainer] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def trainer(*flags: str, folder: str = "run", **task: Any) -> Trainer:
        (tmp_path / folder).mkdir()
        argv = [
            "--config=chain", f"--model={chain_base}", f"--output={tmp_path / folder}",
            f"--task_args={yaml.safe_dump({**chain_args, **task})}", "--prompts_per_step=4",
            "--optimizer.learning_rate=1e-3", "--evaluation.steps=0", "--evaluation.problems=4",
            *flags,
        ]  # fmt: skip
        trainers.append(Trainer(parse_config(argv, "x")))
        return trainers[-1]

    yield trainer
    for created in trainers:
        created.close()
    torch.set_num_threads(threads)


def sampled(trainer: Trainer) -> list[list[list[int]]]:
    """The tokens of each step's continuations, in the order of their groups."""
    return [
        [each["ids"] for group in read_rollouts(path) for each in group["continuations"]]
        for path in rollout_files(trainer.config.folder).values()
    ]


@pytest.mark.parametrize("flags", [["--algorithm=grpo"], ["--algorithm=rrpo", "--lora.r=4"]])
def test_train_step__engine_gets_the_new_weights(flags: list[str], make: Make) -> None:
    trainer = make(*flags)
    start = merged_state_dict(trainer.learner.policy, torch.float32)
    start = {name: tensor.clone() for name, tensor in start.items()}
    for _ in range(2):
        trainer.train_step()
        trainer.check_parity()
    trainer.sampler.engine.sync_weights(start)
    with pytest.raises(ParityError):  # the check can fail
        trainer.check_parity()


def test_run__each_step_has_its_own_random_numbers(make: Make) -> None:
    # One problem and constant weights: steps differ only by their random numbers.
    flags = ["--algorithm=grpo", "--steps=3", "--optimizer.learning_rate=0"]
    trainer = make(*flags, train=1)
    trainer.run()
    first, second, third = sampled(trainer)
    assert first != second != third != first
    again = make(*flags, folder="again", train=1)
    again.run()
    assert sampled(again) == [first, second, third]
    other = make(*flags, "--seed=1", folder="other", train=1)
    other.run()
    assert sampled(other)[0] != first


def test_evaluate__same_random_numbers_at_every_step(make: Make) -> None:
    trainer = make("--algorithm=grpo", "--optimizer.learning_rate=0", test=8)
    before = trainer.evaluate(0)
    trainer.train_step()
    assert trainer.evaluate(1) == before
    assert trainer.evaluate(7) == before
    assert 0 < before["eval/pass@1"] < 1


def test_finished__localizations_count_towards_the_budget(make: Make) -> None:
    trainer = make("--token_budget=10", "--steps=5")
    for ledger, finished in [
        (Ledger(steps=9), False),
        (Ledger(steps=10), True),
        (Ledger(steps=4, localizer_cost=5), False),
        (Ledger(steps=4, localizer_cost=6), True),
    ]:
        trainer.ledger = ledger
        assert trainer.finished == finished
    trainer.ledger, trainer.step = Ledger(), 5
    assert trainer.finished


def test_run__ends_after_the_step_that_spends_the_budget(make: Make) -> None:
    trainer = make("--token_budget=1", "--steps=5", "--evaluation.steps=4")
    records = trainer.run()
    assert [record["step"] for record in records] == [0, 1]
    assert "eval/pass@1" in records[1]  # after the last step
    assert (trainer.config.folder / "checkpoints/step-000001").is_dir()


@pytest.mark.parametrize("lora", [0, 4])
def test_reference__stays_at_the_initial_policy(lora: int, make: Make) -> None:
    trainer = make("--algorithm=grpo", "--loss.beta=0.1", f"--lora.r={lora}", "--steps=3")
    first, *rest = trainer.run()
    assert abs(first["kl"]) < 1e-8
    assert all(record["kl"] > 1e-6 for record in rest)


def test_scheduler__ends_with_the_last_optimizer_step(make: Make) -> None:
    trainer = make(
        "--algorithm=grpo", "--steps=2", "--update.num_iterations=2",
        "--update.steps_per_generation=2", "--optimizer.lr_scheduler_type=linear",
    )  # fmt: skip
    rates = [record["learning_rate"] for record in trainer.run()]
    assert rates == pytest.approx([1e-3 * (8 + 7 + 6 + 5) / 32, 1e-3 * (4 + 3 + 2 + 1) / 32])


def test_metrics__counts_of_episodes_and_tokens(make: Make) -> None:
    trainer = make("--algorithm=grpo", "--steps=2", "--save_steps=1")
    records = trainer.run()
    (prompt,) = {len(each.ids) for each in trainer.sampler.train}
    for record, steps in zip(records, (1, 2), strict=True):
        tokens = [len(ids) for step in sampled(trainer)[:steps] for ids in step]
        assert record["ledger/episodes"] == len(tokens) == steps * 4 * 8
        assert record["ledger/steps"] == sum(tokens)
        assert record["num_tokens"] == sum(tokens) + len(tokens) * prompt


def watch(engine: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...]]]:
    """The calls of an engine from now on: names and arguments."""
    calls: list[tuple[str, tuple[Any, ...]]] = []

    def watched(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            calls.append((name, args))
            return method(*args)

        return called

    for name in ("generate", "sync_weights", "sleep", "wake"):
        monkeypatch.setattr(engine, name, watched(name, getattr(engine, name)))
    return calls


def test_train_step__weights_reach_an_engine_that_is_awake(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make("--algorithm=grpo")
    calls = watch(trainer.sampler.engine, monkeypatch)
    trainer.train_step()
    assert [name for name, _ in calls] == ["generate", "sleep", "wake", "sync_weights"]


def test_evaluate__prompts_are_held_out(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make("--algorithm=grpo", test=4)
    calls = watch(trainer.sampler.engine, monkeypatch)
    trainer.evaluate(0)
    ((_, (prompts, _)),) = calls
    test, train = ({p.ids for p in part} for part in (trainer.sampler.test, trainer.sampler.train))
    assert {tuple(prompt) for prompt in prompts} == test
    assert not test & train


def test_batch__localizer_has_its_own_temperature_stop_tokens_and_stream(
    make: Make, chain_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "with two EOS tokens"
    shutil.copytree(chain_base, model)
    settings = json.loads((model / "generation_config.json").read_text())
    eos = settings["eos_token_id"]
    settings["eos_token_id"] = [eos, eos + 1]
    (model / "generation_config.json").write_text(json.dumps(settings))
    flags = ["--algorithm=srpo", f"--model={model}", "--localization.temperature=0.3"]
    trainer = make(*flags, "--sampling.temperature=0.9", "--localization.max_tokens=7")
    calls = watch(trainer.sampler.engine, monkeypatch)
    trainer.batch(1)
    (_, fresh), (_, replies), (_, resets) = (args for _, args in calls)
    assert {p.temperature for p in replies} == {0.3} and {p.max_tokens for p in replies} == {7}
    assert {p.temperature for p in (*fresh, *resets)} == {0.9}
    for params in (*fresh, *replies, *resets):
        assert {eos, eos + 1} <= set(params.stop_token_ids)
    stream = generator(0, 1, LOCALIZE)
    assert [p.seed for p in replies] == stream.integers(MAX_SEED, size=len(replies)).tolist()


def test_train_step__is_a_function_of_seed_step_and_weights(make: Make) -> None:
    flags = ["--algorithm=grpo", "--lora.r=2", "--lora.dropout=0.5"]
    one, other = make(*flags), make(*flags, folder="other")
    first = one.train_step()
    torch.manual_seed(99)  # as a user's code might
    second = other.train_step()
    assert first["grad_norm"] == second["grad_norm"] > 0


def test_save__limit_and_schedule_of_a_resumed_run(make: Make, tmp_path: Path) -> None:
    flags = ["--algorithm=grpo", "--optimizer.lr_scheduler_type=linear", "--steps=5"]
    trainer = make(*flags, "--save_total_limit=2")
    rates = []
    for _ in range(3):
        rates.append(trainer.train_step()["learning_rate"])
        path = trainer.save()
    kept = sorted(folder.name for folder in path.parent.iterdir())
    assert kept == ["step-000002", "step-000003"]
    resumed = Trainer(trainer.config, resume=path)
    try:
        rates.append(resumed.train_step()["learning_rate"])
    finally:
        resumed.close()
    assert rates == pytest.approx([1e-3, 8e-4, 6e-4, 4e-4])


def test_train_step__dropout_is_off_or_warned_of(
    make: Make, chain_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy = tmp_path / "noisy"
    shutil.copytree(chain_base, noisy)
    settings = json.loads((noisy / "config.json").read_text())
    (noisy / "config.json").write_text(json.dumps({**settings, "attention_dropout": 0.5}))
    ratio = "sampling/importance_sampling_ratio/mean"
    for disabled in (True, False):
        flags = ["--algorithm=grpo", f"--model={noisy}", f"--disable_dropout={disabled}"]
        trainer = make(*flags, folder=f"disabled {disabled}")
        first, second = trainer.train_step(), trainer.train_step()
        warnings = capsys.readouterr().out.count("warning: step 1: the update's log-probs are not")
        for metrics in (first, second):
            assert (metrics[ratio] == pytest.approx(1, abs=1e-5)) == disabled
        assert warnings == (0 if disabled else 1)


@pytest.mark.parametrize(
    ("metrics", "off"),
    [
        ({}, False),
        ({"importance_sampling_ratio": 0.81, "sampling_logp_difference": 0.099}, False),
        ({"importance_sampling_ratio": 0.79}, True),
        ({"importance_sampling_ratio": 1.26}, True),
        ({"importance_sampling_ratio": math.nan}, True),
        ({"sampling_logp_difference": 0.101}, True),
    ],
)
def test_off_policy__limits(metrics: dict[str, float], off: bool) -> None:
    assert bool(off_policy({f"sampling/{k}/mean": v for k, v in metrics.items()})) == off
