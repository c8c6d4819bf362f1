"""Figure T1: the sufficient number of resets, drawing files of `cpi.bounds`, verdicts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from paper_figures import t1_resets_needed as t1
from paper_figures.__main__ import HOME
from paper_figures.framework.figure import read

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("gap", [1.0, 0.1, 0.01])
def test_sufficient_resets__solves_bernstein(gap: float) -> None:
    n, log = t1.sufficient_resets(gap, horizon=3, num_actions=4, delta=0.1), math.log(2 * 4 / 0.1)
    deviation = math.sqrt(2 * 4 * 3**2 * log / n) + 4 * 3 * log / (3 * n)
    assert deviation == pytest.approx(gap / 2)


def test_sufficient_resets__inverse_square_for_small_gaps() -> None:
    few, many = (t1.sufficient_resets(gap, 3, 3, 0.1) for gap in (1e-3, 1e-4))
    assert many / few == pytest.approx(100, rel=0.01)


def test_main__draws_a_file_of_cpi_bounds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = read(HOME / "results", t1.FIGURE).data
    path = tmp_path / "bounds.json"
    path.write_text(json.dumps({"theorem1": data}))
    assert t1.main([str(path)]) == 0
    assert (tmp_path / "bounds.png").read_bytes().startswith(PNG)
    rr = {"theorem1": {**data, "rr": {"resets_interval": []}}}
    for other in ({}, [], {"theorem1": None}, {"theorem1": {}}, rr):
        path.write_text(json.dumps(other))
        assert t1.main([str(path)]) == 2
        assert "no experiment on Theorem 1 in it" in capsys.readouterr().err
    assert t1.main([str(tmp_path / "none.json")]) == 2


def test_claims__verdicts_follow_the_fitted_exponents() -> None:
    data = read(HOME / "results", t1.FIGURE).data
    wrong = json.loads(json.dumps(data))
    wrong["rr"]["resets_slope_interval"] = [-1.5, -1.2]
    wrong["caro"]["true_gain"][0] = 0.0
    wrong["caro_total"]["resets_slope_interval"] = [-0.2, 0.1]
    kept = [claim.verdict for claim in t1.claims(data)]
    assert "does not hold here" not in kept
    changed = [claim.verdict for claim in t1.claims(wrong)]
    assert changed == ["does not hold here"] * 3 + kept[3:]
    assert "refused" in t1.claims(data)[0].caveat
    assert "refused" not in t1.claims(wrong)[0].caveat
