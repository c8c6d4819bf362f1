"""A folder that has the name of a package of this project says so when the other is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("namesake", ["cpi", "envs"])
def test_import__a_namesake_is_named(namesake: str, tmp_path: Path) -> None:
    folder = tmp_path / namesake
    folder.mkdir()
    (folder / "__init__.py").touch()
    result = subprocess.run(
        [sys.executable, "-c", "import cpi, envs"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert str(folder) in result.stderr
    assert f"is not the package {namesake} of credit-resets; rename that folder" in result.stderr


def test_import__no_warning_without_a_namesake(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", "import cpi, envs, cpi.run, envs.gym"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=tmp_path, env=env, check=True)
