"""`import llm` is quick, and its names are those of their modules."""

from __future__ import annotations

import subprocess
import sys

import pytest

import llm


def test_public_names__are_loaded_on_first_use() -> None:
    script = "import sys, llm; assert not {'torch', 'numpy'} & set(sys.modules); llm.TrainConfig"
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=60)


@pytest.mark.parametrize("name", llm.__all__)
def test_public_names__exist(name: str) -> None:
    assert getattr(llm, name).__name__ == name


def test_public_names__an_unknown_one_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'llm' has no attribute 'trainer_of'"):
        llm.trainer_of  # noqa: B018
