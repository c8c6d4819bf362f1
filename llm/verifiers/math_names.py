r"""Names that an answer gives to values: x = 1, y = 2; f'(x) = 2x; (B) 12."""

from __future__ import annotations

import re
from string import ascii_lowercase

_NAME = r"\s*\\?[a-zA-Z]+(?:_\{?\w+\}?)?\s*"
_NAMED = re.compile(rf"((?:{_NAME}=)+)([^=<>]+)")
_PRIMES = re.compile(r"(?<=[a-zA-Z)}])\s*('+|\^\s*\{?\s*(?:\\prime\s*)+\}?)")
_OF_X = r"(?:\s*\(\s*[a-z]\s*\))"
_FUNCTION = re.compile(rf"([a-zA-Z])({_PRIMES.pattern[_PRIMES.pattern.index('(') :]})?{_OF_X}?")
_LEIBNIZ = re.compile(
    rf"\\[dt]?frac\s*\{{\s*d\s*(?:\^\s*\{{?(\d)\}}?)?\s*([a-zA-Z])?{_OF_X}?\s*\}}"
    rf"\s*\{{\s*d\s*[a-z]\s*(?:\^\s*\{{?\d\}}?)?\s*\}}\s*([a-zA-Z]?){_OF_X}?"
)

_LABELLED = re.compile(  # (B) 12, \\textbf{(B)} 12, B. 12
    r"(?:\\(?:text|math)[a-z]*\s*\{\s*)?(?:\(([A-J])\)(?=[\s}])|([A-J])[.:)](?=\s))\s*\}?\s*"
    r"(?!\W*\(?[A-J]\b)((?:[\w$]|-?\\[a-z]|-\d)(?:(?!\b(?:or|and)\b|\([A-J]\)).)*)"
)


def sides_of(text: str) -> list[str]:
    r"""Sides of an equation; the signs in \sum_{k=1} and P(X=1) make none."""
    sides, depth = [""], 0
    for token in re.findall(r"\\.|[^\\]", text, re.DOTALL):
        depth += (token in "{([") - (token in "})]")
        if token == "=" and depth == 0:
            sides.append("")
        else:
            sides[-1] += token
    return sides


def primes(text: str) -> list[int]:
    """Orders of the derivatives f', f'' of an answer, or numbers of the primes of its names."""
    return sorted(p.count("'") + p.count("prime") for p in _PRIMES.findall(text))


def named(text: str) -> dict[str, str]:
    """Values by name of x = 1, y = 2 or x = y = 1; {} of another, or if a name is repeated."""
    parts = [_NAMED.fullmatch(part) for part in re.split(r"[,;]|\band\b", text) if part.strip()]
    pairs = [(name.strip(), part[2]) for part in parts if part for name in part[1].split("=")[:-1]]
    values = dict(pairs)
    return values if None not in parts and len(values) == len(pairs) > 1 else {}


def point(values: dict[str, str]) -> str:
    """Write x = 1, y = 2 as the point (1, 2); neighbours in the alphabet stand in its order."""
    letters = sorted(values)
    if "".join(letters) in ascii_lowercase:
        values = {letter: values[letter] for letter in letters}
    return f"({', '.join(values.values())})"


def _function(text: str) -> tuple[str, int, str]:
    """Name of the function that an equation defines, its order of derivation, and its formula.

    y and dy/dx are such names, x is none. The name is "" where no function is defined.
    """
    left, *right = sides_of(text)
    if len(right) != 1:
        return "", 0, text
    if leibniz := _LEIBNIZ.fullmatch(left.strip()):
        name = leibniz[2] or leibniz[3]
        return name, int(leibniz[1] or 1), right[0]
    function = _FUNCTION.fullmatch(left.strip())
    if function is None:
        return "", 0, text
    order = sum(primes(left))
    is_function = order or "(" in left or function[1] == "y"
    return (function[1], order, right[0]) if is_function else ("", 0, text)


def formulas(gold: str, answer: str) -> tuple[str, str] | None:
    """Formulas of one function whose names in the answers may differ; None of anything else.

    y may stand for any function, and a derivative is its own answer under any name. F(x) is not
    f(x): it may be an antiderivative.
    """
    (name, order, one), (other, other_order, two) = _function(gold), _function(answer)
    if name and order and len(sides_of(answer)) == 1:
        return one, answer
    if not (name and other and order == other_order) or (order == 0 and "y" not in (name, other)):
        return None
    return None if name != other and name.lower() == other.lower() else (one, two)


def choices(gold: str, answer: str) -> list[tuple[str, str]]:
    """Parts to compare if an answer is a choice with its text, as (B) 12: letters, texts or both.

    The other answer may be either of the two. The list is empty if there is no such answer.
    """
    labelled = [_LABELLED.fullmatch(text) for text in (gold, answer)]
    letters = [
        match[1] or match[2] if match else text if re.fullmatch("[A-J]", text) else ""
        for match, text in zip(labelled, (gold, answer), strict=True)
    ]
    texts = [
        match[3] if match else text for match, text in zip(labelled, (gold, answer), strict=True)
    ]
    if not any(labelled):
        return []
    pairs = [letters] * all(letters) + [texts] * (all(labelled) or not all(letters))
    return [(one, other) for one, other in pairs]
