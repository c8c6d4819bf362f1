"""Fixture that imports TRL without vLLM."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import pytest


@pytest.fixture(scope="module", autouse=True)
def trl() -> Any:
    """TRL with vLLM hidden; TRL would import any version of it and warn."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if "vllm" not in sys.modules:
            patch.setitem(sys.modules, "vllm", None)
        import trl

        trl.GRPOTrainer, trl.GRPOConfig  # noqa: B018 - TRL imports both on first access
    return trl
