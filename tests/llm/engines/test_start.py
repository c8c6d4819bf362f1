"""How engines start, and refuse to."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from contextlib import suppress
from typing import Any

import pytest
import torch
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

from llm.engines import EngineError, SamplingParams
from llm.engines.transformers import TransformersEngine
from llm.engines.vllm import _cure, _first_line
from llm.engines.vllm_process import devices, environment, starting


def test_a_model_without_a_cache_is_refused() -> None:
    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=8, n_embd=8, n_layer=1, n_head=1))
    engine = TransformersEngine(model)
    with pytest.raises(EngineError, match="OpenAIGPTLMHeadModel keeps no cache of keys and values"):
        engine.generate([[1, 2]], [SamplingParams(2)])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_swallowed_signal_ends_the_start_all_the_same(number: signal.Signals) -> None:
    def ask(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(number, ask)
    try:
        with (
            pytest.raises(InterruptedError),
            starting(),
            suppress(KeyboardInterrupt, InterruptedError),  # as vLLM does while it waits
        ):
            signal.raise_signal(number)
        assert signal.getsignal(number) is ask
    finally:
        signal.signal(number, before)


def test_a_handler_that_raises_nothing_stops_the_start() -> None:
    asked = []
    before = signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    try:
        with pytest.raises(KeyboardInterrupt), starting():
            signal.raise_signal(signal.SIGTERM)
        assert asked == [True]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_second_engine_that_sleeps_is_told_where_to_live() -> None:
    said = "CuMem allocator can only be used for one instance per process."
    assert _cure(AssertionError(said)).endswith("; set vllm.separate_process true")
    assert _cure(ValueError("CUDA out of memory")) == ""


def test_the_reason_of_a_refusal_is_its_first_line() -> None:
    class InvalidError(ValueError):  # as pydantic's, by which vLLM checks its settings
        def errors(self) -> list[dict[str, Any]]:
            return [{"loc": ("max_num_seqs",), "msg": "Input should be at least 1"}]

    assert (
        _first_line(InvalidError("1 error\nand more")) == "max_num_seqs: Input should be at least 1"
    )
    assert _first_line(RuntimeError("\n why\nwhere")) == "why"
    assert _first_line(RuntimeError()) == "RuntimeError"


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Four of them, and a job of two processes, of which we are the second."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    return monkeypatch


def test_each_process_has_an_engine_on_its_own_gpu(gpus: pytest.MonkeyPatch) -> None:
    name = "CUDA_VISIBLE_DEVICES"
    assert devices(None, 1) == {name: "1"}
    assert devices(2, 1) == {name: "3"}
    assert devices(0, 2) == {name: "2,3"}
    for first, number in ((3, 1), (1, 2)):
        with pytest.raises(ValueError, match=r"vllm.first_device: the engine of process 1 would"):
            devices(first, number)
    with pytest.raises(ValueError, match=r"vllm.tensor_parallel_size: an engine on 2 GPUs for"):
        devices(None, 2)
    gpus.setenv(name, "7,5")  # what we see are these
    assert devices(None, 1) == {name: "5"}
    gpus.delenv("LOCAL_WORLD_SIZE")
    gpus.delenv("LOCAL_RANK")
    assert devices(None, 2) == {}  # vLLM takes the first ones
    assert devices(1, 1) == {name: "5"}
    gpus.setattr(torch.cuda, "is_available", lambda: False)
    assert devices(1, 1) == {}


def test_vllm_does_not_see_what_torchrun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "7")
    before = dict(os.environ)
    with environment({"MORE": "1"}):
        assert os.environ["MORE"] == "1"
        assert not {"RANK", "TORCHELASTIC_RUN_ID"} & set(os.environ)
    assert dict(os.environ) == before


def test_processes_of_an_engine_do_not_hear_ctrl_c() -> None:
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    with starting():
        process.start()
    assert process.pid is not None
    try:
        os.kill(process.pid, signal.SIGINT)
        process.join(0.5)
        assert process.is_alive()
        # They are ended by SIGTERM.
        process.terminate()
        process.join(10)
        assert process.exitcode == -signal.SIGTERM
    finally:
        process.kill()
        process.join()
        process.close()
