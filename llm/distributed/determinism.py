"""Bitwise deterministic updates, on GPUs too.

Some of torch's GPU operations add numbers in the order in which threads finish: the backward pass
of attention, sums by index. Their deterministic variants may be slower.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def prepare(device: torch.device) -> None:
    """Set the cuBLAS workspace; cuBLAS reads it once, before its first product."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Allow only deterministic operations on a GPU.

    Raises
    ------
    ValueError
        If an operation of the model has no deterministic variant, or cuBLAS was used before
        `prepare`.
    """
    if device.type != "cuda":  # CPU operations are deterministic
        yield
        return
    options: Any = torch.utils.deterministic
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        options.fill_uninitialized_memory,  # a debugging aid that costs memory traffic
    )
    torch.use_deterministic_algorithms(True)
    options.fill_uninitialized_memory = False
    try:
        yield
    except RuntimeError as error:
        message = str(error)
        if "CUBLAS_WORKSPACE_CONFIG" in message:
            cause = "cuBLAS was used before; set CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment"
        elif "does not have a deterministic implementation" in message:
            cause = message.partition(",")[0]
        else:
            raise
        raise ValueError(
            f"update.full_determinism: {cause}; or give false, and another --output: the run then "
            "works, but is not bitwise reproducible"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        options.fill_uninitialized_memory = before[2]
