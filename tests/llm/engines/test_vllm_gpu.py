"""vLLM on a GPU: sleep mode, and training runs that share the GPU with the engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llm.engines import EngineError, SamplingParams
from llm.engines.vllm import VLLMEngine
from tests.llm.algorithms.test_runs import COMMON, TASK
from tests.llm.engines.test_vllm import new_weights, requests, worst
from tests.llm.tiny_models import VLLM, tiny_qwen2
from tests.llm.training_runs import metrics, train

pytestmark = [pytest.mark.gpu, pytest.mark.vllm]

#: Tolerance of float32 log-probs in nats; attention multiplies in TF32 on a GPU.
CLOSE = 1e-2


def free() -> int:
    torch.cuda.synchronize()
    return torch.cuda.mem_get_info()[0]


def test_sleep__frees_memory_and_keeps_weights(
    tiny_model: Callable[[bool], Path],
) -> None:
    engine = VLLMEngine(tiny_model(True), **VLLM, separate_process=True)
    try:
        assert worst(tiny_qwen2(), engine) < CLOSE
        taken = VLLM["gpu_memory_utilization"] * torch.cuda.get_device_properties(0).total_memory
        before = free()
        engine.sleep()
        engine.sleep()
        assert free() - before > 0.5 * taken
        with pytest.raises(EngineError, match=r"is asleep; call wake\(\) first"):
            engine.generate([[1]], [SamplingParams(1)])
        engine.wake()
        assert worst(tiny_qwen2(), engine) < CLOSE
        for seed in (5, 6):
            engine.sync_weights(new_weights(seed))
            assert worst(tiny_qwen2(seed=seed), engine) < CLOSE
            engine.sleep()
            engine.wake()
            assert worst(tiny_qwen2(seed=seed), engine) < CLOSE
        assert len(engine.generate([[1]], requests()[:1])[0]) == 2
    finally:
        engine.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ["--vllm.enforce_eager=true"],
        ["--vllm.enforce_eager=true", "--vllm.separate_process=true"],
        ["--vllm.enforce_eager=true", "--vllm.separate_process=true", "--lora.r=4"],
        # Compiled engines, and sending adapters only: not yet run on a GPU.
        ["--vllm.separate_process=true"],
        ["--vllm.separate_process=true", "--lora.r=8", "--vllm.lora=true"],
    ],
)
def test_training_run__parity_and_gradients(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*COMMON, "--engine=vllm", "--vllm.gpu_memory_utilization=0.1"]
    assert train(Path("chain-base"), tmp_path / "run", TASK, *flags, *more) == 0
    printed = capsys.readouterr().out
    assert "parity ok" in printed and "for bfloat16" in printed
    assert any(record["grad_norm"] > 0 for record in metrics(tmp_path / "run"))
