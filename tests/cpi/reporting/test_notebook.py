"""Results in notebooks: HTML, rows for tables of data, and pictures."""

from __future__ import annotations

from html import unescape
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

import cpi
import envs

mpl.use("Agg")
MDP = envs.lock_chain(3, 2)
UNIFORM = cpi.uniform_policy(MDP)
RUN = cpi.run_cpi(MDP, UNIFORM, iterations=3)
LEARNED = cpi.learn(MDP, "grpo", iterations=2, starts=4)
REPORT = cpi.check_bounds(MDP, UNIFORM, cpi.greedy_policy(cpi.evaluate(MDP, UNIFORM).Q))
CERTIFICATE = cpi.certify(MDP, UNIFORM, resets=20)


@pytest.mark.parametrize("result", [RUN, LEARNED, REPORT, CERTIFICATE], ids=lambda r: type(r))
def test_repr_html__is_the_text(result: Any) -> None:
    html = result._repr_html_()
    assert html.startswith("<pre style=") and html.endswith("</pre>")
    assert unescape(html[html.index(">") + 1 : -len("</pre>")]) == str(result)
    assert "<" not in html[html.index(">") + 1 : -len("</pre>")]


def test_records__are_rows_of_numbers_and_names() -> None:
    for result, count in ((RUN, 3), (LEARNED, 2), (REPORT, len(REPORT.rows))):
        records = result.records()
        assert len(records) == count
        for record in records:
            assert record.keys() == records[0].keys()
            assert all(isinstance(v, int | float | str | None) for v in record.values())
    assert [row["J"] for row in RUN.records()] == [row.J for row in RUN.iterations]
    assert LEARNED.records()[1]["episodes"] == LEARNED.progress[1].ledger.episodes


def test_plot__draws_the_returns() -> None:
    axes = plt.figure().subplots()
    assert RUN.plot(axes) is LEARNED.plot(axes) is axes
    ours, theirs = (line.get_xydata() for line in axes.lines)
    returns = [*(row.J for row in RUN.iterations), RUN.J]
    np.testing.assert_allclose(ours, np.column_stack([range(4), returns]))
    np.testing.assert_allclose(theirs[:, 0], [1, 2])
    assert axes.get_ylabel() == "J(π)"
    assert LEARNED.plot() is axes  # the current ones
    plt.close()
