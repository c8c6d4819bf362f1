"""Tensors that are the same to the bit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def bits(tensor: Tensor) -> bytes:
    flat = tensor.detach().resolve_conj().reshape(-1).contiguous()
    return flat.view(torch.uint8).numpy().tobytes()


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert bits(found[name]) == bits(tensor), name
