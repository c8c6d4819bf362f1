"""Fields and templates of prompts, extraction of answers, conditions on rows."""

from __future__ import annotations

from typing import Any

import pytest

from llm.tasks.declaration import Declaration
from llm.tasks.rows import RowError
from llm.tasks.schema import Schema, condition


def schema(prompt: Any = "q", answer: str = "a", extract: str = "") -> Schema:
    return Schema(
        Declaration("mine", path="x", prompt=prompt, answer=answer, extract=extract, test=1)
    )


@pytest.mark.parametrize(
    ("prompt", "row", "text"),
    [
        ("q", {"q": " Why?\n"}, "Why?"),
        ("q.deep", {"q": {"deep": "Why?"}}, "Why?"),
        ("{q} {n}", {"q": "Why", "n": 3}, "Why 3"),
        ("{q} {n}", {"q": "Why", "n": 0.5}, "Why 0.5"),
        (r"\frac{1}{2} {q} \{x\}", {"q": "?"}, r"\frac{1}{2} ? \{x\}"),
        ("{q}", {"q": "{n}", "n": "no template"}, "{n}"),
        (["q", "c"], {"q": "Why?", "c": {"label": ["A", "B"], "text": ["x", "y "]}},
         "Why?\n\nA. x\nB. y"),
        (["q", "c"], {"q": "Why?", "c": [{"label": "1", "text": "x"}, {"label": "2", "text": 3}]},
         "Why?\n\n1. x\n2. 3"),
        (["q", "c"], {"q": "Why?", "c": ["x", "y"]}, "Why?\n\nA. x\nB. y"),
        (["q", "Code:\n{s}"], {"q": "Why?", "s": ""}, "Why?"),
        (["q", "Code:\n{s}"], {"q": "Why?", "s": "x"}, "Why?\n\nCode:\nx"),
    ],
)  # fmt: skip
def test_problem__fields_and_templates(prompt: Any, row: dict[str, Any], text: str) -> None:
    assert schema(prompt).problem(row) == text


@pytest.mark.parametrize(
    ("extract", "value", "answer"),
    [
        ("", "x", "x"),
        ("", 3, 3),
        ("", False, False),
        ("after ####", "1 #### 2\n#### 72 \n", "72"),
        ("boxed", r"\boxed{1} and \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"regex \((\w)\)", "(a) or (b)", "b"),
        ("json", '{"a": [1]}', {"a": [1]}),
    ],
)
def test_answer__extracts_the_part(extract: str, value: Any, answer: Any) -> None:
    assert schema(extract=extract).answer({"a": value}) == answer
    nested = schema(answer="deep.a", extract=extract)
    assert nested.answer({"deep": {"a": value}}) == answer


@pytest.mark.parametrize(
    ("extract", "value", "message"),
    [
        ("", None, "field 'a' is missing"),
        ("after ####", "none", "field 'a' has no answer by extract 'after ####': 'none'"),
        ("after ####", "none ####", "field 'a' has no answer"),
        ("after ####", 3, "field 'a' is a int, not text"),
        ("boxed", r"\boxed{1} \boxed{2", "field 'a' has no answer by extract 'boxed'"),
        ("boxed", "x" * 999, "'…" + "x" * 60),
        (r"regex \((\w)\)", "a", "field 'a' has no answer"),
        ("json", "{", "field 'a' is not JSON"),
        ("json", 3, "field 'a' is not JSON"),
    ],
)
def test_answer__missing_answers_are_bad_rows(extract: str, value: Any, message: str) -> None:
    with pytest.raises(RowError) as raised:
        schema(extract=extract).answer({"a": value})
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("required", "fitting", "others"),
    [
        ("x", ["x"], ["y", "", None, " x"]),
        (3, [3, "3"], [4, "33", None]),
        (["a", 2], ["a", 2, "2"], ["b", None]),
        ({"matches": "^a"}, ["ab", " ab"], ["ba", "", None]),
        ({"not_matches": "^a"}, ["ba", ""], ["ab", None]),
        ({"integer": True}, ["3", "-12", "1,234", 7], ["1,23", "3.0", "x", "", None]),
        ({"integer": False}, ["x", "3.0"], ["3", None]),
        ({"balanced": True}, ["{(x)}", ""], ["{", "(]", None]),
        ({"matches": "a", "integer": False}, ["a"], ["b", "1"]),
    ],
)
def test_condition__accepts_matching_values_only(
    required: Any, fitting: list[Any], others: list[Any]
) -> None:
    fits = condition("f", required)
    assert [fits(value) for value in fitting] == [True] * len(fitting)
    assert [fits(value) for value in others] == [False] * len(others)
