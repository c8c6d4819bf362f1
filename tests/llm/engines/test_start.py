"""Start of engines: errors, signals, devices and environment."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from contextlib import suppress
from typing import Any

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM, OpenAIGPTConfig, OpenAIGPTLMHeadModel

from llm.engines import EngineError, SamplingParams
from llm.engines.live import LiveEngine
from llm.engines.transformers import TransformersEngine
from llm.engines.vllm import _advice, _first_line
from llm.engines.vllm_process import devices, environment, socket_settings, starting
from llm.models.lora import LoraOptions, adapt


def test_transformers_engine__model_without_cache_is_an_error() -> None:
    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=8, n_embd=8, n_layer=1, n_head=1))
    engine = TransformersEngine(model)
    with pytest.raises(EngineError, match="OpenAIGPTLMHeadModel keeps no cache of keys and values"):
        engine.generate([[1, 2]], [SamplingParams(2)])


@pytest.mark.parametrize("engine_class", [TransformersEngine, LiveEngine])
@pytest.mark.parametrize("adapters", [0, 2])
def test_transformers_engine__recurrent_layers_are_an_error(
    engine_class: Any, adapters: int
) -> None:
    model = MambaForCausalLM(MambaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1))
    with pytest.raises(ValueError, match="MambaForCausalLM has recurrent layers"):
        engine_class(adapt(model, LoraOptions(r=adapters, target_modules=["in_proj"])))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_starting__swallowed_signal_ends_the_start(number: signal.Signals) -> None:
    def handler(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(number, handler)
    try:
        with (
            pytest.raises(InterruptedError),
            starting(lambda pid: None),
            suppress(KeyboardInterrupt, InterruptedError),  # as vLLM does while it waits
        ):
            signal.raise_signal(number)
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


def test_socket_settings__only_where_the_paths_fit() -> None:
    folder = "/tmp/" + "é" * 30
    assert socket_settings(folder) == {"VLLM_RPC_BASE_PATH": folder}
    assert socket_settings(folder + "é") == {}


def test_starting__handler_without_error_ends_the_start() -> None:
    calls = []
    before = signal.signal(signal.SIGTERM, lambda *_: calls.append(True))
    try:
        with pytest.raises(KeyboardInterrupt), starting(lambda pid: None):
            signal.raise_signal(signal.SIGTERM)
        assert calls == [True]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_advice__second_engine_with_sleep_mode() -> None:
    message = "CuMem allocator can only be used for one instance per process."
    assert _advice(AssertionError(message)).endswith("; set vllm.separate_process true")
    assert _advice(ValueError("CUDA out of memory")) == ""


def test_first_line__of_plain_and_pydantic_errors() -> None:
    class InvalidError(ValueError):  # like pydantic's, which validates vLLM's settings
        def errors(self) -> list[dict[str, Any]]:
            return [{"loc": ("max_num_seqs",), "msg": "Input should be at least 1"}]

    assert (
        _first_line(InvalidError("1 error\nand more")) == "max_num_seqs: Input should be at least 1"
    )
    assert _first_line(RuntimeError("\n why\nwhere")) == "why"
    assert _first_line(RuntimeError()) == "RuntimeError"


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Four GPUs, and rank 1 of a job of two processes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    return monkeypatch


def test_devices__each_rank_has_its_own_gpus(gpus: pytest.MonkeyPatch) -> None:
    name = "CUDA_VISIBLE_DEVICES"
    assert devices(None, 1) == {name: "1"}
    assert devices(2, 1) == {name: "3"}
    assert devices(0, 2) == {name: "2,3"}
    for first, number in ((3, 1), (1, 2)):
        with pytest.raises(ValueError, match=r"vllm.first_device: the engine of process 1 would"):
            devices(first, number)
    with pytest.raises(ValueError, match=r"vllm.tensor_parallel_size: an engine on 2 GPUs for"):
        devices(None, 2)
    gpus.setenv(name, "7,5")  # the visible GPUs
    assert devices(None, 1) == {name: "5"}
    gpus.delenv("LOCAL_WORLD_SIZE")
    gpus.delenv("LOCAL_RANK")
    assert devices(None, 2) == {}  # vLLM uses the first GPUs
    assert devices(1, 1) == {name: "5"}
    gpus.setattr(torch.cuda, "is_available", lambda: False)
    assert devices(1, 1) == {}


def test_environment__hides_torchrun_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "7")
    before = dict(os.environ)
    with environment({"MORE": "1"}):
        assert os.environ["MORE"] == "1"
        assert not {"RANK", "TORCHELASTIC_RUN_ID"} & set(os.environ)
    assert dict(os.environ) == before


def test_starting__engine_processes_ignore_ctrl_c() -> None:
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    started: list[int] = []
    with starting(started.append):
        process.start()
    assert process.pid is not None and started == [process.pid]
    try:
        os.kill(process.pid, signal.SIGINT)
        process.join(0.5)
        assert process.is_alive()
        # SIGTERM still ends them.
        process.terminate()
        process.join(10)
        assert process.exitcode == -signal.SIGTERM
    finally:
        process.kill()
        process.join()
        process.close()
