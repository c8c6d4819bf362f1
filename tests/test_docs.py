"""The script of docs/ runs, and prints what `cpi` computes."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

import cpi

SCRIPT = Path(__file__).parents[1] / "docs" / "own_mdp.py"


def test_own_mdp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names = runpy.run_path(str(SCRIPT))
    names["plt"].close("all")
    printed = capsys.readouterr().out
    assert (tmp_path / "own_mdp.png").read_bytes().startswith(b"\x89PNG")
    base, tau = names["evaluation"], names["tau"]
    # Right in the middle cell gains .6 of the chance .8² to finish from the next; one step in n
    # is there with probability .8².
    assert base.J == pytest.approx(0.8**4 * 0.4)
    assert base.A.max(axis=-1)[2, 2] == pytest.approx(0.6 * 0.8**2)
    assert f"p_π(0.2) = {0.8**2 / 5:.3f}" in printed
    (gain,) = re.findall(r"at least ([\d.]+) with probability 0.95", printed)
    runs = re.findall(r"certified gain ([\d.]+)", printed)
    exact = cpi.run_cpi(names["mdp"], names["policy"], resets=cpi.oracle_resets(tau), iterations=1)
    assert 0 < float(gain) < exact.iterations[0].certificate and len(runs) == 2
