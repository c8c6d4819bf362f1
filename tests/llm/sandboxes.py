"""Tests that run programs of models need a sandbox, which not every machine has for every user."""

from __future__ import annotations

import pytest

from llm.verifiers.sandbox import find_sandbox


def skip_without_sandbox() -> None:
    """Skip a test where no kind of isolation works, with the reason."""
    try:
        find_sandbox()
    except ValueError as error:
        pytest.skip(str(error))
