"""SmolLM2-135M-Instruct of `make real-model`: training, engines, resuming and export.

Few tokens, and as few runs: each takes two steps of SRPO, and several tests look at it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from llm.config.train import TrainConfig, parse_config
from llm.learner import parity
from llm.models.policy import load_tokenizer
from llm.runs.folder import begin_run
from llm.tasks import Example, Task
from llm.thoughts.simulator import encode
from llm.train.trainer import Trainer
from tests.conftest import REAL_MODEL
from tests.llm.training_runs import assert_same_run

pytestmark = [pytest.mark.real_model, pytest.mark.slow]

#: Full weights through the chat template; adapters on plain text.
FULL = ["--task_args.chat", "true"]
LORA = ["--task_args.chat", "false", "--lora.r", "4"]
VLLM = ["--engine=vllm", "--vllm.max_model_len=128", "--vllm.max_num_seqs=8"]

Trained = tuple[TrainConfig, list[dict[str, float]]]
Train = Callable[..., Trained]


class Parities(Task):
    """Rewards an even number of characters: half the completions, whatever the model says."""

    delimiter = " "

    def __init__(self, chat: bool) -> None:
        self.chat = chat

    def examples(self, split: str) -> list[Example]:
        texts = ["2 + 3 =", "7 - 5 ="]
        return [
            Example(text, [{"role": "user", "content": text}] if self.chat else text)
            for text in texts
        ]

    def reward(self, example: Example, completion: str) -> float:
        return float(len(completion) % 2 == 0)


@pytest.fixture(scope="module", autouse=True)
def few_tokens() -> Iterator[None]:
    """Parity of six tokens a prompt, and one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "PROBE_TOKENS", 6)
        yield
    torch.set_num_threads(threads)


def config(folder: Path, *flags: str) -> TrainConfig:
    return parse_config(
        [
            *("--model", str(REAL_MODEL), "--output", str(folder)),
            *("--task", "tests.llm.test_real_model:Parities"),
            *("--algorithm", "srpo", "--localizer", "surprisal", "--optimizer.learning_rate=1e-3"),
            *("--steps=2", "--prompts_per_step=2", "--plan.fresh=2", "--plan.per_reset=2"),
            *("--sampling.max_completion_length=8", "--evaluation.steps=0", "--save_steps=1"),
            *flags,
        ],
        "x",
    )


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains once for the given flags; adapters are saved, full weights are gigabytes."""

    @functools.cache
    def run(*flags: str) -> Trained:
        settings = config(tmp_path_factory.mktemp("run"), *flags)
        trainer = Trainer(settings)
        try:
            if settings.lora.r:
                begin_run(settings, 0)
                steps = trainer.run()
            else:
                steps = [trainer.train_step(), trainer.train_step()]
            trainer.check_parity()
        finally:
            trainer.close()
        return settings, steps

    return run


def test_folder__is_an_ordinary_model() -> None:
    assert "quantization_config" not in json.loads((REAL_MODEL / "config.json").read_text())
    assert "Apache License" in (REAL_MODEL / "LICENSE").read_text()
    tokenizer = load_tokenizer(str(REAL_MODEL))
    pieces = tokenizer.convert_ids_to_tokens(encode(tokenizer, "12 + 7\n"))
    assert pieces == ["1", "2", "Ġ+", "Ġ", "7", "Ċ"]
    chat = tokenizer.decode(encode(tokenizer, [{"role": "user", "content": "Hi"}]))
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


ENGINES = pytest.mark.parametrize(
    "engine", [[], pytest.param(VLLM, marks=pytest.mark.vllm)], ids=["transformers", "vllm"]
)


@ENGINES
@pytest.mark.parametrize("flags", [FULL, LORA], ids=["full", "lora"])
def test_srpo__two_steps_on_policy(flags: list[str], engine: list[str], train: Train) -> None:
    _, steps = train(*flags, *engine)  # parity before and after is checked there, or raises
    assert [step["step"] for step in steps] == [1, 2]
    for step in steps:
        assert step["sampling/sampling_logp_difference/mean"] <= parity.FLOAT32
        assert step["grad_norm"] > 0
    assert any("reset/reward" in step for step in steps)


@ENGINES
def test_parity__bfloat16(
    engine: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "PROBE_TOKENS", 16)
    Trainer(config(tmp_path, *LORA, *engine, "--bf16", "true")).close()  # raises if it fails


def test_resume__bit_for_bit(train: Train, tmp_path: Path) -> None:
    settings, _ = train(*LORA)
    checkpoint = settings.folder / "checkpoints" / "step-000001"
    (tmp_path / "run").mkdir()
    for name in ("metrics.jsonl", "rollouts/step-000001.jsonl"):  # an interrupted run has them
        target = tmp_path / "run" / name
        target.parent.mkdir(exist_ok=True)
        text = (settings.folder / name).read_text()
        target.write_text(text.splitlines(keepends=True)[0] if name == "metrics.jsonl" else text)
    again = Trainer(config(tmp_path / "run", *LORA), resume=checkpoint)
    try:
        again.run()
    finally:
        again.close()
    assert_same_run(settings.folder, again.config.folder)


def test_export__answers_like_the_policy(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    from llm.export import __main__ as export
    from llm.runs.saved_model import find_model

    monkeypatch.setattr(export, "PROMPTS", 1)
    monkeypatch.setattr("llm.export.check.PROBE_TOKENS", 2)
    settings, _ = train(*LORA)
    out = tmp_path / "out"
    assert export.main([str(settings.folder), "--out", str(out)]) == 0
    tokenizer = load_tokenizer(str(out))
    ids = torch.tensor([encode(tokenizer, "2 + 3 =")])

    def scores(model: Any) -> torch.Tensor:
        with torch.no_grad():
            return model.eval()(ids).logits[0, -1].float().log_softmax(-1)

    exported = scores(AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32))
    saved = find_model(str(settings.folder))
    trained = scores(saved.policy(torch.device("cpu"), False))
    base = scores(AutoModelForCausalLM.from_pretrained(REAL_MODEL, dtype=torch.float32))
    assert (exported - trained).abs().max() < 0.1
    assert (exported - base).abs().max() > (exported - trained).abs().max()
