"""Bit-exact comparison of tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def bits(tensor: Tensor) -> bytes:
    flat = tensor.detach().resolve_conj().reshape(-1).contiguous()
    return flat.view(torch.uint8).numpy().tobytes()


def assert_same(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        assert actual[name].shape == tensor.shape, name
        assert bits(actual[name]) == bits(tensor), name
