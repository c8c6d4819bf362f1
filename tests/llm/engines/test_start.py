"""How engines start, and refuse to."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from contextlib import suppress
from typing import Any

import pytest
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

from llm.engines import EngineError, SamplingParams
from llm.engines.transformers import TransformersEngine
from llm.engines.vllm import _first_line
from llm.engines.vllm_process import starting


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


def test_the_reason_of_a_refusal_is_its_first_line() -> None:
    class InvalidError(ValueError):  # as pydantic's, by which vLLM checks its settings
        def errors(self) -> list[dict[str, Any]]:
            return [{"loc": ("max_num_seqs",), "msg": "Input should be at least 1"}]

    assert (
        _first_line(InvalidError("1 error\nand more")) == "max_num_seqs: Input should be at least 1"
    )
    assert _first_line(RuntimeError("\n why\nwhere")) == "why"
    assert _first_line(RuntimeError()) == "RuntimeError"


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
