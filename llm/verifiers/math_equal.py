r"""Whether two mathematical answers are equal.

math-verify 0.9 misreads a few forms of answers. `llm.verifiers.math_text` rewrites them first,
`equal` compares some by itself, and `llm.verifiers.math_values` compares values.
tests/llm/verifiers/math_pairs.py lists the misreadings that remain.
"""

from __future__ import annotations

import re
from typing import Any

from llm.verifiers.math_names import choices, formulas, named, point, primes, sides_of
from llm.verifiers.math_notation import number
from llm.verifiers.math_text import (
    STRUCTURE,
    TEXT,
    number_word,
    tidy,
    without_domain,
    words,
)
from llm.verifiers.math_units import UNIT, plain_unit, same_time, units, without_unit
from llm.verifiers.math_values import use_exact_values

_COMMAND = re.compile(r"\\[a-zA-Z]+")
_BASE = re.compile(r"(?<![\w\\])\d[\dA-F]*\s*_\s*\{?\s*(?:\\text\s*\{)?\s*(?:base\s*)?(\w+)")
#: The end of an answer that breaks off; 0^+ and Z_+ are complete.
_UNFINISHED = re.compile(
    r"(?:(?<![\^_{\s])\s*[-+*/=<>^_]|\\(?:cdot|times|div|pm|mp|leq?|geq?|neq?|in|cup|cap)\s*)$"
)
_RELATION = re.compile(r"[<>]|\\[lg]eq?(?:slant)?(?![a-zA-Z])")
#: A greatest common divisor or least common multiple of something unknown.
_GCD = re.compile(
    r"\\(?:gcd|lcm|operatorname\s*\{(?:gcd|lcm)\})\s*(?:\\left\s*)?\([^()]*?(?<![a-zA-Z\\])[a-zA-Z](?![a-zA-Z])"
)
_CASES = re.compile(r"\\begin\s*\{d?cases\}(.*)\\end\s*\{d?cases\}", re.DOTALL)
_CONDITION = re.compile(r"^\s*(?:if|when|for)\b")
_VALUE = re.compile(
    r"(?=.*\d)(?:[\d\s.,+\-*/^(){}!_|]|\\(?:[dt]?frac|sqrt|cdot|times|div|left|right|pi|log|ln|sin"
    r"|cos|tan|binom)(?![a-zA-Z]))+"
)


def _bracket(text: str) -> str:
    """Opening bracket around a whole answer with no brackets inside, or ""."""
    plain = _COMMAND.sub("", text.replace(r"\{", "{").replace(r"\}", "}")).replace(" ", "")
    return plain[0] if re.fullmatch(r"[{(\[][^{}()\[\]]*[})\]]", plain) else ""


def _is_list(text: str) -> bool:
    """Whether an answer is a list of single values, perhaps in braces."""
    return "," in text and (_bracket(text) == "{" or not re.search(r"[(\[]", text))


def _squeezed(text: str) -> str:
    """Remove white space, except between digits."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


def _sides(text: str) -> list[str]:
    """Values of a chain of equalities, each of which must be the answer; the answer if it is none.

    A name may stand first, as in x = 2 + 3 = 5.
    """
    if re.search(r"[,;<>]|\\(?:le|ge|ne|leq|geq|neq|approx)(?![a-zA-Z])|\b(?:or|and)\b", text):
        return [text]
    sides = [side.strip() for side in sides_of(text) if side.strip()] or [text]
    values = [side for side in sides if not re.fullmatch(r"\\?[a-zA-Z]+", side)]
    if len(values) == len(sides) > 1 and not _VALUE.fullmatch(sides[0]):
        return sides[1:]  # the first is a longer name
    return values or sides[-1:]


def _pieces(text: str) -> tuple[list[str], list[tuple[str | None, str | None]]]:
    """Parts between the words and signs of `STRUCTURE`, and which these are."""
    marks = list(STRUCTURE.finditer(text))
    ends = [0, *(mark.end() for mark in marks)], [*(mark.start() for mark in marks), len(text)]
    parts = [text[a:b].strip(" ,:") for a, b in zip(*ends, strict=True)]
    ordered = [f"({part})" if "," in part and not _bracket(part) else part for part in parts]
    return ordered, [(mark.lastgroup, mark["word"]) for mark in marks]


def _cases(text: str) -> list[list[str]]:
    """Rows of a function by cases, each a value and its condition."""
    cases = _CASES.search(text)
    rows = [row.split("&") for row in re.split(r"\\\\", cases[1])] if cases else []
    return [[_CONDITION.sub("", cell).strip(" ,;.") for cell in row] for row in rows if any(row)]


def _same_rows(gold: list[list[str]], answer: list[list[str]]) -> bool:
    """Whether two functions by cases have the same rows, in any order."""

    def same(one: list[str], other: list[str]) -> bool:
        return len(one) == len(other) and all(map(_same_cell, one, other))

    return len(gold) == len(answer) and all(any(same(g, a) for a in answer) for g in gold)


def _same_cell(gold: str, answer: str) -> bool:
    """Whether two values or conditions agree; words, which math-verify drops, as text."""
    gold, answer = (" ".join(TEXT.sub(r" \1 ", cell).split()) for cell in (gold, answer))
    if re.search(r"(?<![\\a-zA-Z])[a-z]{2,}", gold + " " + answer):
        return _squeezed(gold) == _squeezed(answer)
    return gold == answer or _equal(gold, answer)


def _exact(parsed: Any) -> Any:
    """Replace decimals by fractions, and the symbol i by √−1.

    math-verify compares floating-point numbers to six places, and 4.85·10⁵ differs from 485000. It
    reads i as a symbol, whose assumptions depend on its notation.
    """
    from sympy import Basic, Float, I, MatrixBase, Rational, Symbol
    from sympy.core.relational import Relational

    if not isinstance(parsed, Basic | MatrixBase):
        return parsed
    if hasattr(parsed, "_unsorted_args"):  # an ordered set of math-verify
        return parsed.func(*map(_exact, parsed._unsorted_args))
    if isinstance(parsed, Relational):  # if evaluated, 2 + 0.5 = 2.5 becomes "true"
        return parsed.func(_exact(parsed.lhs), _exact(parsed.rhs), evaluate=False)
    values: dict[Any, Any] = {number: Rational(str(number)) for number in parsed.atoms(Float)}
    values |= {symbol: I for symbol in parsed.atoms(Symbol) if symbol.name == "i"}
    return parsed.xreplace(values) if values else parsed


def _parsed(text: str, config: Any) -> list[Any]:
    from math_verify import parse

    expressions = parse(text, config, parsing_timeout=None, raise_on_error=True)
    return [_exact(expression) for expression in expressions]


def equal(gold: str, answer: str, boxed: bool = True) -> bool:
    r"""Whether an answer is mathematically equal to the gold answer.

    Parameters
    ----------
    gold : str
        LaTeX or plain text; decides whether letters are units or variables, and what is a list.
    answer : str
    boxed : bool
        The answer is the whole text, as in a box; otherwise math-verify searches the text.

    Raises
    ------
    MemoryError, RecursionError
        If the pair cannot be verified. After any other error the answer counts as wrong.
    """
    use_exact_values()
    return _equal(gold, answer) if boxed else _verified(tidy(gold), answer)


def _equal(gold: str, answer: str) -> bool:
    """Whether two whole answers are equal."""
    numbers = [number(text.strip()) for text in (gold, answer)]
    if None not in numbers:
        return numbers[0] == numbers[1]  # most answers are plain numbers
    gold, answer = without_domain(tidy(gold), tidy(answer))
    plain = [_squeezed(TEXT.sub(r" \1 ", text)) for text in (gold, answer)]
    if plain[0] == plain[1]:
        return bool(gold)
    if compared := choices(gold, answer):
        return all(_equal(*pair) for pair in compared)
    if re.fullmatch("[a-zA-Z]", gold) and re.fullmatch("[a-zA-Z]", answer):
        return False  # math-verify takes E for the number e
    if words(gold):
        return words(gold) == words(r"\text{" + TEXT.sub(r"\1", answer) + "}")
    if _UNFINISHED.search(answer):
        return False
    rows = [_cases(gold), _cases(answer)]
    if any(rows):
        return _same_rows(*rows)
    if STRUCTURE.search(gold) or STRUCTURE.search(answer):
        (golds, marks), (answers, others) = _pieces(gold), _pieces(answer)
        if marks != others:
            return False
        pairs = zip(golds, answers, strict=True)
        return all(a == b or (a != "" != b and _equal(a, b)) for a, b in pairs)
    unions = [r"\cup" in text for text in (gold, answer)]
    if unions[0] != unions[1] and re.search(r"\bor\b", answer if unions[0] else gold):
        parts = [re.split(r"\bor\b|\\cup", text) for text in (gold, answer)]
        return len(parts[0]) == len(parts[1]) and all(
            any(_equal(part, other) for other in parts[1]) for part in parts[0]
        )
    if (same := same_time(gold, answer)) is not None:
        return same
    values = [named(gold), named(answer)]
    if all(values):
        return values[0].keys() == values[1].keys() and all(
            _equal(value, values[1][name]) for name, value in values[0].items()
        )
    if values[0] and not re.search("[,;]", gold) and not re.search("[,;=]", answer):
        return _equal(next(iter(values[0].values())), answer)  # x = y = 3 is 3
    if values[0] or (values[1] and _bracket(gold) == "("):
        gold, answer = (point(v) if v else t for v, t in zip(values, (gold, answer), strict=True))
        return _equal(gold, answer)
    if formula := formulas(gold, answer):
        return _equal(*formula)
    equations = [len(sides_of(text)) > 1 for text in (gold, answer)]
    if equations == [False, True] and _sides(answer) != [answer]:
        return all(_equal(gold, side) for side in _sides(answer))
    sides = [text if all(equations) else sides_of(text)[-1] for text in (gold, answer)]
    if primes(sides[0]) != primes(sides[1]):
        return False  # math-verify drops them
    bases = [list(map(number_word, _BASE.findall(text))) for text in (gold, answer)]
    if all(bases) and bases[0] != bases[1]:
        return False
    kinds = [_bracket(gold), _bracket(answer)]
    if all(kinds) and kinds[0] != kinds[1]:
        return False  # sets, points and closed intervals differ
    relations = [_RELATION.search(text) is not None for text in (gold, answer)]
    if relations[0] != relations[1] and _is_list(answer if relations[0] else gold):
        return False  # math-verify takes 2, 3 for 2 < x < 3
    if ("!!" in gold) != ("!!" in answer):
        return False  # math-verify takes n!! for (n!)!
    if any(_GCD.search(text) for text in (gold, answer)):
        return False  # math-verify takes n for a polynomial: gcd(6, n) would be 1
    if kinds == ["", "("] and re.fullmatch(
        r"[^=()\[\]]*,[^=()\[\]]*", gold
    ):  # a list is ordered if the answer is
        gold = f"({gold})"
    bare = [text.replace(r"\%", "").rstrip() for text in (gold, answer)]
    if bare != [gold, answer] and _equal(bare[0], bare[1]):
        return True  # 12.5% may be written 12.5
    if (bare[0] == gold) != (bare[1] == answer) and "," not in gold:
        return _equal(
            *(b if b == t else f"({b})/100" for b, t in zip(bare, (gold, answer), strict=True))
        )
    gold, answer = map(plain_unit, (gold, answer))
    known = [units(text) for text in (gold, answer)]
    in_degrees = r"\pi" in gold and ["degree"] in known  # then none is radians
    if known[0] != known[1] and (all(known) or in_degrees):
        return False
    letters = set(_COMMAND.sub("", TEXT.sub("", UNIT.sub("", gold))))
    gold, answer = (without_unit(text, letters) for text in (gold, answer))
    numbers = [number(text) for text in (gold, answer)]
    if None not in numbers:
        return numbers[0] == numbers[1]
    return _verified(gold, rf"\boxed{{{answer}}}")


def _verified(gold: str, answer: str) -> bool:
    """Whether math-verify finds two answers equal; the second one may be a text with a box."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, verify

    config = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    try:
        golds, answers = _parsed(rf"\boxed{{{gold}}}", config), _parsed(answer, config)
        return bool(
            verify(
                golds,
                answers,
                allow_set_relation_comp=True,  # 1 < x < 2 equals (1, 2), in either order
                timeout_seconds=None,
                raise_on_error=True,
            )
        )
    except (MemoryError, RecursionError):
        raise
    except Exception:  # raised by sympy for incomparable expressions
        return False
