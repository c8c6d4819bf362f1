"""Rewritten notations of answers: counts, bounds, times of day, units, names, arguments."""

from __future__ import annotations

import itertools
import math

import pytest

from llm.verifiers.math_equal import equal
from llm.verifiers.math_names import choices, formulas, named
from llm.verifiers.math_notation import (
    number,
    with_braces,
    with_counts,
    with_plain_words,
    with_values,
    without_and,
)
from llm.verifiers.math_units import plain_unit, same_time, units


@pytest.mark.parametrize(
    "form", ["C({n},{k})", "_{{{n}}}C_{{{k}}}", "{{}}^{{{n}}}C_{k}", "C_{{{n}}}^{{{k}}}", "{n}C{k}"]
)
def test_with_counts__combinations_and_permutations(form: str) -> None:
    for n, k in [(5, 0), (5, 2), (10, 3), (12, 11)]:
        text = form.format(n=n, k=k)
        assert equal(str(math.comb(n, k)), text), text
        assert equal(str(math.perm(n, k)), text.replace("C", "P")), text
    assert equal("8100", "P(10,2)^2") and equal(r"\frac{3}{28}", r"\frac{C(3,2)}{C(8,2)}")


@pytest.mark.parametrize("text", ["C(2,5)", "P(x,3)", "C(0,-1)", "3C", "1C2_{16}", "C_3"])
def test_with_counts__points_and_products_remain(text: str) -> None:
    assert with_counts(text) == text


def test_with_values__double_factorial() -> None:
    for n in range(1, 12):  # n!! (n − 1)!! = n!
        assert equal(f"{n}! / {n - 1}!!", f"{n}!!")
        assert equal(f"{n}!!", f"{n}!") == (n < 3)
    assert not equal("720", "3!!") and equal("720", "(3!)!")
    assert not equal("n!!", "n!") and not equal("n!!", "(n!)!")


def test_with_values__ordinal_numbers_have_the_usual_ending() -> None:
    endings = {1: "st", 2: "nd", 3: "rd", 4: "th", 11: "th", 12: "th", 21: "st", 113: "th"}
    for value, ending in endings.items():
        for form in ("{}^{{{}}}", "{}{}", r"{}^\text{{{}}}", r"{}^{{\text{{{}}}}}"):
            assert with_values(form.format(value, ending)) == str(value)
        others = set(endings.values()) - {ending}
        assert all(with_values(f"{value}^{{{other}}}") != str(value) for other in others)
    assert with_values(r"\frac{7th}{2}") == r"\frac{7}{2}"
    assert with_values("7^{t}") == "7^{t}"


@pytest.mark.parametrize(
    ("text", "braced"),
    [
        (r"\frac\pi3", r"\frac{\pi}{3}"),
        (r"\frac12", r"\frac{1}{2}"),
        (r"\frac123", r"\frac{1}{2}3"),
        (r"\frac{\sqrt3}2", r"\frac{\sqrt{3}}{2}"),
        (r"\frac1{\sqrt[3]2}", r"\frac{1}{\sqrt[3]{2}}"),
        (r"\sqrt\frac42", r"\sqrt{\frac{4}{2}}"),
        (r"x^\frac12", r"x^{\frac{1}{2}}"),
        (r"\binom52", r"\binom{5}{2}"),
        (r"\sqrt\left(2\right)", r"\sqrt\left(2\right)"),
        (r"\frac{1", r"\frac{1"),
    ],
)
def test_with_braces__arguments(text: str, braced: str) -> None:
    assert with_braces(text) == braced == with_braces(braced)


LOW = [("x > 2", "x > 5", "<"), ("x \\ge 2", "x \\geq 5", "\\le"), ("2 < x", "5 < x", "<")]
HIGH = [("x < 5", "<"), ("5 \\ge x", "\\le"), ("x \\leqslant 5", "\\le")]


@pytest.mark.parametrize("joint", [" and ", ", and ", ", ", r" \land "])
def test_without_and__is_the_intersection(joint: str) -> None:
    for (low, _, left), (high, right) in itertools.product(LOW, HIGH):
        interval = f"2 {left} x {right} 5"
        assert without_and(low + joint + high) == without_and(high + joint + low) == interval
        brackets = ("[" if left != "<" else "(") + "2, 5" + ("]" if right != "<" else ")")
        assert equal(brackets, low + joint + high)


def test_without_and__a_comma_between_bounds_that_exclude_each_other_means_or() -> None:
    union = r"(-\infty,2)\cup(5,\infty)"
    assert equal(union, "x<2, x>5") and not equal(union, "x<2 and x>5")
    assert without_and(r"x<-\sqrt2, x>\sqrt2") == r"x<-\sqrt2 or  x>\sqrt2"
    for text in ("x>2 and y<5", "x>2 or x<5", "x>2 and x>5", "1<x<2 and x<3", "x=2 and x<5"):
        assert without_and(text) == text


def test_same_time__of_all_times_of_a_day() -> None:
    for minutes in range(0, 24 * 60, 7):
        hour, minute = divmod(minutes, 60)
        half, other = ("p", "a") if hour >= 12 else ("a", "p")
        clock = f"{(hour - 1) % 12 + 1}:{minute:02}"
        assert same_time(f"{clock} {half}m", rf"{clock} \text{{ {half.upper()}.M.}}")
        assert same_time(f"{clock} {half}m", f"{clock}{other}m") is False
        assert same_time(f"{clock} {half}m", clock)
        assert same_time(f"{hour}:{minute:02}", f"{clock} {half}m")
        late = f"{hour + 12 if hour < 12 else hour - 12}:{minute:02}"
        is_24_hours = not 1 <= int(late.split(":")[0]) <= 12
        assert same_time(late, f"{clock} {half}m") is not is_24_hours
    assert same_time("12:00 noon", "12 p.m.") and same_time("12 midnight", "0:00 am")
    assert same_time("6:30", "18:30") is same_time("2", "3") is None
    assert same_time("6.5", "6:30 pm") is False  # 3am is a product
    assert same_time("3", "3am") is None and same_time("3", "3 am")


def test_units__names_symbols_and_powers() -> None:
    def found(text: str) -> list[str]:
        return units(plain_unit(text))

    speed = ["m", "s", "2"]
    assert found(r"3 \mathrm{ m} / \mathrm{s}^{2}") == found(r"3\text{ m/s}^2") == speed
    assert found(r"5 \mathrm{kg}\cdot\mathrm{m}") == ["kg", "m"]
    assert found(r"5\text{ kJ}") == found("5 kilojoules") == ["kilojoule"]
    assert found("5 square feet") == found(r"5\text{ ft}^2") == ["ft", "2"]
    assert found("60 mph") == found("60 miles per hour") == ["mi", "h"]
    assert found(r"\$5") == found("5 dollars") == ["dollar"]
    assert found("5N") == found("5 apples") == []


def test_names__of_values_and_functions() -> None:
    assert named("m=n=3") == {"m": "3", "n": "3"} and named("x=2+1=3") == named("m=3") == {}
    assert formulas("f'(x)=2x", r"\frac{dy}{dx}=3x") == ("2x", "3x")
    assert formulas(r"\frac{d^2y}{dx^2}=2", "y''=3") == ("2", "3")
    assert formulas("y=2x", "f(x)=3x") == ("2x", "3x")
    for answer in ("f(x)=2x", "f''(x)=2x", "F'(x)=2x", r"\frac{d^2y}{dx^2}=2x", "x=2x"):
        assert formulas("f'(x)=2x", answer) is None
    assert formulas("f(x)=2x", "g(x)=2x") is formulas("x=3", "y=3") is None


def test_choices__letters_and_texts() -> None:
    assert choices(r"\textbf{(B)} 12", "B") == [("B", "B")]
    assert choices("12", "(B) 12") == [("12", "12")]
    assert choices("(B) 12", r"\text{(B) }13") == [("B", "B"), ("12", "13")]
    for answer in ("(B) or (C)", "(B)", "B", "(A)(B)", "(B) + 2"):
        assert choices("B", answer) == []
    assert not equal("B", "(B) or (C)")


def test_with_plain_words__empty_set_reals_ratios() -> None:
    assert with_plain_words(r"\left\{ \right\}") == with_plain_words(r"x\in\emptyset")
    assert with_plain_words("all real numbers except 2") == r"\mathbb{R}\setminus\{2\}"
    assert with_plain_words("3 to 4") == "3:4"
    assert with_plain_words("(A), (C) and (D)") == "A, C, D"
    assert with_plain_words(r"3\mu m") == r"3\mu m"


def test_number__plain_numbers_only() -> None:
    assert number("-1/4") == number(r"-\frac{1}{4}") == number("-.25") == -1 / 4
    assert number("1/0") is number("1,000") is number("x") is number("") is None
