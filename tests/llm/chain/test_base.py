"""Base model of the package: its recipe, its size, and its known errors."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from envs.reasoning import ChainTask
from llm.chain.readout import read_out
from llm.engines import make_engine
from llm.engines.engine import SamplingParams
from llm.models.policy import load_policy, load_tokenizer
from llm.models.shipped import SHIPPED, locate
from llm.pretrain import PretrainConfig, sample_text
from llm.resets.prompted import parse
from llm.tasks import make_task
from llm.thoughts.simulator import Prompt, encode

BASE = SHIPPED["chain-base"]


def test_chain_base__checksum_and_recipe_match_defaults() -> None:
    recipe = json.loads((BASE / "recipe.json").read_text())
    weights = (BASE / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == recipe["sha256"]
    defaults = json.loads(json.dumps(asdict(PretrainConfig())))
    for name, value in defaults.items():
        if name != "output":
            assert recipe[name] == value, name
    assert recipe["commit"] and recipe["versions"]["torch"]
    assert sum(file.stat().st_size for file in BASE.iterdir()) < 4e6


def test_locate__prefers_a_folder_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert locate("chain-base") == str(BASE)
    assert locate("some/model") == "some/model"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chain-base").mkdir()
    assert locate("chain-base") == "chain-base"


@pytest.mark.parametrize("length", [3, 5, 8])
def test_chain_base__each_step_is_right_half_the_time(length: int) -> None:
    task = make_task("chain", length=length, train=40, test=40)
    policy, tokenizer = load_policy(str(BASE)).eval(), load_tokenizer(str(BASE))
    assert policy.num_parameters() <= 1_000_000
    prompts = [Prompt(encode(tokenizer, e.prompt), e) for e in task.examples("train")]
    q = read_out(scores(policy), tokenizer, task, prompts, torch.device("cpu")).q
    assert abs(q.mean() - 0.5) < 0.02
    assert np.abs(q - 0.5).max() < 0.35
    assert np.abs(q.mean(axis=0) - 0.5).max() < 0.05  # at every position


def scores(policy: Any) -> Any:
    from llm.models.logprobs import completion_logprobs

    return lambda b: completion_logprobs(policy, b.input_ids, b.attention_mask, b.mask)


def test_chain_base__localizes_errors_of_the_noisy_reasoner() -> None:
    # On traces as in pre-training, at least 80 %; always naming step 1 would be right in half.
    recipe = json.loads((BASE / "recipe.json").read_text())
    chain = ChainTask(recipe["modulus"], recipe["operations"])
    wrong = chain.wrong_values(recipe["seed"])
    rng = np.random.default_rng([recipe["seed"], 512])
    shortest, longest = recipe["lengths"]
    lengths = rng.integers(shortest, longest + 1, size=128)
    error_rate = recipe["error_rate"]
    texts = [sample_text(chain, int(n), error_rate, wrong, 1.0, rng) for n in lengths]
    tokenizer = load_tokenizer(str(BASE))
    engine = make_engine("transformers", str(BASE), bf16=False, seed=0)
    (stop,) = tokenizer("}").input_ids
    params = SamplingParams(24, temperature=0.0, stop_token_ids=(stop,))
    replies = engine.generate(
        [tokenizer(prompt).input_ids for prompt, _ in texts], [params] * len(texts)
    )
    hits = [
        parse(tokenizer.decode(reply.ids), 8) == parse(completion, 8)
        for (_, completion), (reply,) in zip(texts, replies, strict=True)
    ]
    first = np.mean([parse(completion, 8) == 1 for _, completion in texts])
    assert np.mean(hits) > 0.8 > first + 0.2
