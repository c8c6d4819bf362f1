"""Accuracy of localizers: by hand, by identity, and intervals over problems."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from llm.localize.data import LabelledSolutions, Solution
from llm.localize.report import LocalizationReport, Result, remarks, summarize
from llm.localize.verdicts import Verdict
from llm.tasks import Example, Task


def data(cases: Sequence[tuple[str, int, int | None]]) -> LabelledSolutions:
    """Solutions as (problem, number of steps, first error)."""
    solutions = [
        Solution(str(i), i, Example(str(i), problem, problem=problem), ["x"] * n, first)
        for i, (problem, n, first) in enumerate(cases)
    ]
    return LabelledSolutions("data", Task(), "\n", solutions, [], len(solutions))


def verdict(*weights: float, usable: bool = True, tokens: float = 3.0) -> Verdict:
    """Entry 0 is "no step is wrong"."""
    return Verdict(np.array(weights, dtype=float), usable, tokens)


CASES = data([("a", 4, 2), ("b", 2, 0), ("c", 3, 2), ("d", 2, None), ("e", 4, None), ("f", 2, 1)])
VERDICTS = [
    verdict(0, 0, 1, 2, 0),  # right: step 3
    verdict(0, 1, 1),  # a tie of two
    verdict(0, 2, 0, 0),  # two steps too early
    verdict(1, 0.5, 0),  # right: none
    verdict(0, 0, 1, 0, 0),
    verdict(1, 1, 1, usable=False, tokens=9),  # equal weights in training, no verdict here
]


def value(estimate: object) -> float:
    return float(getattr(estimate, "value"))  # noqa: B009 - it may be None for mypy


def test_summarize__by_hand() -> None:
    result = summarize(CASES, "prompted", VERDICTS, may_be_right=True)
    assert (result.wrong, result.right, result.problems) == (4, 2, 6)
    exact = (1 + 1 / 2 + 0 + 0) / 4
    assert value(result.exact) == pytest.approx(exact)
    assert value(result.within_1) == pytest.approx((1 + 1 + 0 + 0) / 4)
    assert value(result.at_or_before) == pytest.approx((1 + 1 / 2 + 1 + 0) / 4)
    assert value(result.drawn) == pytest.approx((2 / 3 + 1 / 2 + 0 + 1 / 2) / 4)
    assert value(result.over_chance) == pytest.approx(exact - (1 / 4 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert value(result.on_right) == 1 / 2
    assert value(result.f1) == pytest.approx(2 * exact * 0.5 / (exact + 0.5))
    assert (result.unusable, result.tokens) == (1 / 6, 4)


def test_summarize__none_is_no_step() -> None:
    # "None" on a wrong solution is neither near step 1 nor before it.
    result = summarize(data([("a", 2, 0)]), "prompted", [verdict(1, 0, 0)], may_be_right=True)
    assert [value(e) for e in (result.exact, result.within_1, result.at_or_before)] == [0, 0, 0]
    assert value(result.drawn) == 1 / 2
    assert result.on_right is None and result.f1 is None


def test_summarize__a_localizer_that_always_names_a_step() -> None:
    result = summarize(CASES, "surprisal", VERDICTS, may_be_right=False)
    assert result.on_right is None and result.f1 is None and result.exact is not None


def test_summarize__random_is_chance() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 9, 40).tolist()
    cases = data([(f"p{i}", n, int(rng.integers(n))) for i, n in enumerate(sizes)])
    equal = [verdict(0, *np.ones(n)) for n in sizes]
    result = summarize(cases, "random", equal, may_be_right=False)
    assert value(result.exact) == pytest.approx(np.mean([1 / n for n in sizes]))
    assert value(result.drawn) == pytest.approx(value(result.exact))
    assert result.over_chance is None  # an identity, no estimate


def test_summarize__intervals_are_over_problems() -> None:
    # Ten solutions of each problem, all alike: as uncertain as one of each.
    rng = np.random.default_rng(1)
    right = rng.random(12) < 0.5
    one = data([(f"p{i}", 2, 0) for i in range(12)])
    ten = data([(f"p{i}", 2, 0) for i in range(12) for _ in range(10)])
    hits = [verdict(0, float(hit), float(not hit)) for hit in right]
    first = summarize(one, "x", hits, False).exact
    second = summarize(ten, "x", [hit for hit in hits for _ in range(10)], False).exact
    assert first is not None and second is not None
    assert (second.value, second.low, second.high) == pytest.approx(
        (first.value, first.low, first.high)
    )
    # Drawing solutions would have an interval of about a third of that.
    assert second.high - second.low > 0.4


def test_report__tables_and_remarks() -> None:
    able = summarize(CASES, "prompted", VERDICTS, may_be_right=True)
    rng = np.random.default_rng(2)
    many = data([(f"p{i}", 4, 0) for i in range(40)])
    results: list[Result] = [able]
    for name, p in (("good", 0.9), ("bad", 0.02), ("guess", 0.25)):
        given = [verdict(0, *np.eye(4)[0 if rng.random() < p else 1]) for _ in range(40)]
        results.append(summarize(many._replace(name="many"), name, given, False))
    lines = remarks(results)
    assert lines[0].endswith("so that F1 is not defined: good, bad, guess.")
    assert "many: worse than a random step: bad." in lines
    assert "many: not shown to differ from a random step: guess." in lines
    report = LocalizationReport("m", None, "r", results, ["many: a [note]"], {}, {}, [])
    text = str(report)
    assert "m on data: 4 solutions with a wrong step" in text and "many: a [note]" in text
    assert "accuracy on 2 right solutions" in text and "0.375" in text
    assert max(map(len, text.splitlines())) <= 150
    record = report.to_json()
    assert record["results"][0]["exact"]["value"] == 0.375 and record["level"] == 0.95
    rows = [row for row in report.records() if row["localizer"] == "prompted"]
    exact = next(row for row in rows if row["measure"] == "exact")
    assert (exact["data"], exact["value"]) == ("data", 0.375) and exact["low"] < 0.375
    tokens = next(row for row in rows if row["measure"] == "tokens")
    assert (tokens["value"], tokens["low"]) == (4, None)
    assert "0.375" in report._repr_html_()
