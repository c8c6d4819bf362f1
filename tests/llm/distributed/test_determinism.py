from __future__ import annotations

import pytest
import torch

from llm.distributed.determinism import deterministic

GPU, CPU = torch.device("cuda"), torch.device("cpu")


def state() -> tuple[bool, bool, bool]:
    fill: bool = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch_ = torch.are_deterministic_algorithms_enabled()
    return torch_, torch.is_deterministic_algorithms_warn_only_enabled(), fill


@pytest.mark.parametrize("before", [False, True])
def test_deterministic__gpu_settings_are_set_and_restored(before: bool) -> None:
    torch.use_deterministic_algorithms(before, warn_only=before)
    try:
        initial = state()
        with deterministic(GPU):
            assert state() == (True, False, False)
        assert state() == initial
        with pytest.raises(KeyError), deterministic(GPU):
            raise KeyError
        assert state() == initial
    finally:
        torch.use_deterministic_algorithms(False)


def test_deterministic__cpu_settings_unchanged() -> None:
    initial = state()
    with deterministic(CPU):
        assert state() == initial


def test_deterministic__error_names_operation_and_cure() -> None:
    message = (
        "cumsum_cuda_kernel does not have a deterministic implementation, but you set "
        "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this"
    )
    cure = r"^update\.full_determinism: cumsum_cuda_kernel does not have .*; or give false"
    with pytest.raises(ValueError, match=cure), deterministic(GPU):
        raise RuntimeError(message)
    message = (
        "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)` "
        "or ..., but this operation is not deterministic because it uses CuBLAS and you have CUDA "
        ">= 10.2. To enable it set an environment variable: CUBLAS_WORKSPACE_CONFIG=:4096:8"
    )
    cure = r"^update\.full_determinism: cuBLAS was used before; set CUBLAS_WORKSPACE_CONFIG=:4096:8"
    with pytest.raises(ValueError, match=cure), deterministic(GPU):
        raise RuntimeError(message)
    with pytest.raises(RuntimeError, match="CUDA error"), deterministic(GPU):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
