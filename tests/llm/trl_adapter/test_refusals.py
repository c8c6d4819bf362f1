"""`ResetRollouts.dataset`, and refusals of incompatible settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cpi
from tests.llm.trl_adapter.problems import (
    problems,
)
from tests.llm.trl_adapter.watch import (
    Watch,
    srpo,
)

pytestmark = pytest.mark.filterwarnings("ignore:You are using 'rollout_func':UserWarning")


# --- the data set ---


def test_dataset__shuffled_with_groups_together() -> None:
    data = problems(20)
    rows = srpo().dataset(data, seed=3)["prompt"]
    assert list(rows[::2]) == list(rows[1::2])
    assert sorted(rows[::2]) == sorted(data["prompt"]) and list(rows[::2]) != list(data["prompt"])
    assert list(srpo().dataset(data, seed=3)["prompt"]) == list(rows)
    assert list(srpo().dataset(data, seed=4)["prompt"]) != list(rows)
    three = srpo(plan=cpi.GroupPlan(2, resets=2, per_reset=2)).dataset(data)["prompt"]
    assert len(three) == 60 and len(set(three[:3])) == 1


def test_dataset__ambiguous_prompts_and_other_types_are_refused() -> None:
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
        ({"algorithm": "ppo"}, f"algorithm: 'ppo' is none of {', '.join(cpi.ALGORITHMS)}"),
        (
            {"localizer": "psychic"},
            "localizer: 'psychic' is none of prompted, step_logprob, surprisal",
        ),
        ({"localizer": "checker", "errors": None}, "errors: none given"),
        ({"algorithm": "oracle", "errors": None}, "errors: none given"),
        ({"plan": cpi.GroupPlan(8, 1, 4)}, "plan: groups of 8 and 4"),
        ({"algorithm": "adaptive"}, "plan: an adaptive plan has groups where others fail"),
    ],
)
def test_reset_rollouts__invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        srpo(**options)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_generations": 8}, "num_generations: 8, but a group of the plan has 4"),
        ({"shuffle_dataset": True}, "shuffle_dataset: True separates the groups"),
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
def test_reset_rollouts__incompatible_config_is_refused(
    tmp_path: Path, config: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Watch(srpo(), tmp_path, **config).train()


@pytest.mark.parametrize(
    ("owner", "name", "value", "message"),
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
def test_reset_rollouts__unsupported_trainer_is_refused(
    tmp_path: Path, owner: str, name: str, value: Any, message: str
) -> None:
    trainer = Watch(srpo(), tmp_path).trainer
    setattr(trainer.args if owner == "args" else trainer, name, value)
    with pytest.raises(ValueError, match=message):
        trainer.rollout_func(["a"] * 8, trainer)


def test_reset_rollouts__data_not_from_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train_dataset: completions 0 to 7 .* not of one prompt"):
        Watch(srpo(), tmp_path, data=problems(8)).train()
    doubled = problems(8).select(np.repeat(np.arange(8), 2))
    with pytest.raises(ValueError, match=r"train_dataset: ResetRollouts\.dataset has not seen"):
        Watch(srpo(), tmp_path, data=doubled).train()


def test_reset_rollouts__other_trl_versions_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm.trl_adapter.settings.version", lambda name: "1.17.0")
    with pytest.raises(ValueError, match=r"trl: this is 1\.17\.0, .*; pip install 'trl>=1\.16"):
        Watch(srpo(), tmp_path).train()
