"""Tests that need a GPU: `pytest --gpu tests/llm`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llm.evaluate import __main__ as evaluate
from llm.exact import __main__ as exact
from llm.export import __main__ as export
from llm.models.logprobs import completion_logprobs
from llm.models.lora import LoraOptions, adapt
from llm.models.policy import trainable
from llm.planning.footprint import Footprint
from llm.runs import training_state
from tests.llm.algorithms.test_runs import COMMON, RUNS, TASK
from tests.llm.tiny_models import tiny_qwen2
from tests.llm.training_runs import assert_same_run, metrics, train

pytestmark = pytest.mark.gpu

ALGORITHMS = {
    **RUNS,
    "grpo": ["--algorithm=grpo", "--loss.beta=0.1", "--update.num_iterations=2"],
    "rrpo": ["--algorithm=rrpo", "--lora.r=4", "--gradient_checkpointing=true"],
    "srpo": ["--algorithm=srpo"],
    "surprisal": ["--algorithm=srpo", "--localizer=surprisal"],
    "exact": ["--algorithm=oracle", "--oracle.mask=improvable"],
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_train__run_is_evaluated_exported_and_read_out(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*COMMON, *ALGORITHMS[name]]
    assert train(Path("chain-base"), tmp_path / "run", TASK, *flags) == 0
    printed = capsys.readouterr().out
    assert "parity ok" in printed and "for bfloat16" in printed
    assert any(record["grad_norm"] > 0 for record in metrics(tmp_path / "run"))
    run = str(tmp_path / "run")
    assert evaluate.main([run, "--samples=4", "--correct=1", f"--output={tmp_path / 'e'}"]) == 0
    assert export.main([run, f"--out={tmp_path / 'model'}"]) == 0
    assert exact.main([run, "--samples=4"]) == 0


def test_completion_logprobs__gpu_equals_cpu() -> None:
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 63, (3, 40)))
    present, mask = torch.ones_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    present[0, -5:] = 0
    mask[:, 7:] = present[:, 7:].bool()
    results = {}
    for device in ("cpu", "cuda"):
        model = tiny_qwen2().to(device)
        inputs = [tensor.to(device) for tensor in (ids, present, mask)]
        logprobs = completion_logprobs(model, *inputs)
        logprobs.sum().backward()
        gradients = {
            name: p.grad.cpu() for name, p in trainable(model).items() if p.grad is not None
        }
        results[device] = logprobs.detach().cpu(), gradients
    (gpu, gpu_gradients), (cpu, cpu_gradients) = results["cuda"], results["cpu"]
    torch.testing.assert_close(gpu, cpu, rtol=0, atol=1e-4)
    for name, gradient in gpu_gradients.items():
        torch.testing.assert_close(gradient, cpu_gradients[name], rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--bf16=false"], ["--lora.r=4", "--lora.dropout=0.1"]])
def test_train__same_seed_gives_same_run_bit_for_bit(
    more: list[str], chain_base: Path, chain_args: dict[str, Any], tmp_path: Path
) -> None:
    for name in ("one", "other"):
        assert train(chain_base, tmp_path / name, chain_args, "--algorithm=srpo", *more) == 0
    assert_same_run(tmp_path / "one", tmp_path / "other")
    assert max(line["grad_norm"] for line in metrics(tmp_path / "one")[1:]) > 0


def test_rng_state__restores_the_gpu_generator() -> None:
    tensors, record = training_state.rng_state()
    drawn = torch.rand(3, device="cuda")
    assert not torch.equal(torch.rand(3, device="cuda"), drawn)
    training_state.set_rng_state(tensors, record)
    assert torch.equal(torch.rand(3, device="cuda"), drawn)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:Attempting to run cuBLAS"
)  # a warning of torch on the first call of a thread
@pytest.mark.parametrize("r", [0, 16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_footprint__update_takes_the_planned_memory(r: int, checkpointing: bool) -> None:
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        vocab_size=32_768,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=8,
        num_attention_heads=16,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
    )
    lora, dtype = LoraOptions(r=r), torch.bfloat16 if r else torch.float32
    planned = Footprint(config, lora, bf16=True).update(8, 64, 960, checkpointing)
    with torch.device("cuda"):
        policy = adapt(AutoModelForCausalLM.from_config(config, dtype=dtype), lora, checkpointing)
        ids = torch.randint(32_768, (8, 1024))
    policy.to("cuda")
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[:, 64:] = True
    for parameter in trainable(policy).values():
        parameter.grad = torch.zeros_like(parameter)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.autocast("cuda", torch.bfloat16):
        logprobs = completion_logprobs(policy, ids, torch.ones_like(ids), mask)
    logprobs.sum().backward()
    measured = torch.cuda.max_memory_allocated() - before
    assert 0.8 < planned / measured < 1.2
