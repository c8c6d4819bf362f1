"""The same bits every time, on a GPU too.

Some of torch's operations there add up in the order in which threads happen to come: the backward
pass of attention, sums by index. They have siblings that do not, and may take longer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def prepare(device: torch.device) -> None:
    """What cuBLAS reads once, before its first product."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Let torch run only those operations on a GPU that give the same bits every time.

    Raises
    ------
    ValueError
        If there is none for what the model does, or cuBLAS was used before `prepare`.
    """
    if device.type != "cuda":  # a CPU's are
        yield
        return
    options: Any = torch.utils.deterministic
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        options.fill_uninitialized_memory,  # a check for faults, at the price of memory traffic
    )
    torch.use_deterministic_algorithms(True)
    options.fill_uninitialized_memory = False
    try:
        yield
    except RuntimeError as error:
        said = str(error)
        if "CUBLAS_WORKSPACE_CONFIG" in said:
            cause = "cuBLAS was used before; set CUBLAS_WORKSPACE_CONFIG=:4096:8 in the environment"
        elif "does not have a deterministic implementation" in said:
            cause = said.partition(",")[0]
        else:
            raise
        raise ValueError(
            f"update.full_determinism: {cause}; or give false, and another --output: the run works "
            "then, and its bits differ from one time to the next"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        options.fill_uninitialized_memory = before[2]
