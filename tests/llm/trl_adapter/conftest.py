"""TRL, imported quietly."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import pytest


@pytest.fixture(scope="module", autouse=True)
def trl() -> Any:
    """TRL, which would import vLLM, whichever it finds, and complain about its version."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if "vllm" not in sys.modules:
            patch.setitem(sys.modules, "vllm", None)
        import trl

        trl.GRPOTrainer, trl.GRPOConfig  # noqa: B018 - both are imported when they are first named
    return trl
