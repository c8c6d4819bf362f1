"""Verifier of numerical answers, within tolerances."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

from llm.verifiers.answers import AnswerVerifier
from llm.verifiers.boxed import last_boxed
from llm.verifiers.math_text import without_unicode

#: Relative error of a number that was computed in floating point.
ROUNDING = 1e-12

_POWERS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_WORD = rf"({'|'.join(_POWERS)})s?(?![\w-])"
_DIGITS = r"(?:\d{1,3}(?:(?:,|\{,\}|\\,)\d{3})+(?!\d)|\d+)(?:\.\d*(?!\d))?|\.\d+"
_TIMES_TEN = r"\s?(?:\\times|\\cdot|[*×·⋅x])\s?10"
_EXPONENT = r"\s?(?:(?:\^|\*\*)\s?(?:\{\s?[-+−]?\d+\s?\}|[-+−]?\d++)|[⁻¹²³⁰⁴-⁹]+)"
_SIGNED = (
    rf"[-+−]?\s?(?:\\?\$|[£€¥])?\s?(?:{_DIGITS})"
    rf"(?:[eE][-+]?\d+\b|(?:{_TIMES_TEN})?{_EXPONENT}|\s?{_WORD.replace('(', '(?:', 1)})?"
)
_FRAC = r"\\[dt]?frac\s*\{?[-−]?\d+\}?\s*\{?\d+\}?"
_BEGIN = r"(?<![\w.^])(?<!\^\{)"  # an exponent is no number by itself
_NUMBER = re.compile(
    rf"[-+−]?\s?{_FRAC}|{_BEGIN}[-+−]?\s?\d++(?:\s?{_FRAC}|\s[1-9]\d*+/\d+)"  # 1 1/2
    rf"|{_BEGIN}[-+−]?\s?\d*+[¼-¾⅐-⅞]|{_BEGIN}(?:{_SIGNED})(?:[,:/]\d+)*+"  # 3,5 is none
)
# A number near the beginning, unless it begins a calculation ("is 3 + 4 = 7").
_FIRST = re.compile(
    rf"[^\d\n.\\$+−¼-¾⅐-⅞-]{{0,40}}(?P<number>{_NUMBER.pattern})"
    r"(?!\s*(?:[+*/=×·÷^−]|-\s?\d|\\(?:times|cdot|div))|\.?\d)"
)
# Words before a number that deny it: "is not 7", "can't be $7$", "≠ 7".
_DENIAL = re.compile(
    r"(?:(?i:\bnot|n['’]t)(?:\s+be)?(?:\s+equal\s+to)?(?!\w)|≠|\\neq?(?!\w))[\s*_$({\[]*+$"
)
_SECOND = re.compile(rf"\s*,?\s*(?:or|and|to)\s+(?:{_NUMBER.pattern})")
_POWER = re.compile(r"([-+]?)([\d.]+)\^([-+]?\d+)")
_FRACTION = re.compile(
    r"([-+]?)(\d*) ?\\[dt]?frac ?(?:\{([-]?\d+)\}|(\d)) ?(?:\{([-]?\d+)\}|(\d))"
    r"|([-+]?)(\d+) ([1-9]\d*)/(\d+)"
)
_UNIT = re.compile(
    r"\\(?:text|mathrm|mbox|textbf|mathbf)\{([^{}]*)\}"
    r"|\^\{?\\circ\}?|\\?%|\\?\$|[£€¥°]|\\[!,;: ]|[*~\s]"
)


def number(text: str) -> int | float | None:
    r"""Parse a number, ignoring units, marks and thousands separators; None if it is no number.

    Integers are exact, however long. Blanks may separate thousands (12 000) or the parts of a mixed
    number (1 1/2); "5 6" is None.
    """
    text = without_unicode(text).replace("{,}", ",").strip()
    text = re.sub(r"(?<=\d)\s?\*\*\s?(?=[-+{\d])", "^", text)
    text = re.sub(r"(?<=\d)(?:\\,|\\!|,)(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"\^\s?\{\s?([-+]?\d+)\s?\}", r"^\1", text)
    text = re.sub(r"(?<=\d)\s*(?:\\times|\\cdot|[*x])\s*10\s*\^\s?([-+]?\d+)", r"e\1", text)
    text = re.sub(r"^[a-zA-Z]\s*=", "", text)  # x = 3
    text = " ".join(_UNIT.sub(lambda unit: f" {unit[1] or ''} ", text).split())
    text = re.sub(rf"(?<![/\d.])(\d[\d.]*)\s?{_WORD}", _in_digits, text)
    if re.match(r"[-+]? ?\d{1,3}(?: \d{3})+(?![\d/])", text):
        text = re.sub(r"(?<=\d) (?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<![\w.]) | (?![\w.])", "", text)
    text = re.sub(r"(?<=[\d}.])\s*[a-zA-Z]+(?:[ /]+[a-zA-Z]+)*(?:\s*\^\s*\{?\d\}?)?$", "", text)
    text = text.strip().removesuffix(".")
    try:
        power = _POWER.fullmatch(text)
        fraction = _FRACTION.fullmatch(text)
        if fraction:
            sign, whole, *parts = (part for part in fraction.groups() if part is not None)
            above, below = map(float, parts)
            value = float(f"{sign}1") * (float(whole or 0) + above / below)
        elif power:
            value = float(f"{power[1]}1") * float(power[2]) ** int(power[3])
        elif "/" in text:
            above, below = map(float, text.split("/"))
            value = above / below
        else:
            value = float(text) if re.fullmatch(r"[-+]?[\d.]+(?:[eE][-+]?\d+)?", text) else math.inf
    except (ValueError, ArithmeticError):
        return None
    if not math.isfinite(value):
        return None
    if abs(value) < 2**53:
        return int(value) if value.is_integer() else value
    if power:
        exact = re.fullmatch(r"\d+", power[2])
        return int(f"{power[1]}1") * int(power[2]) ** int(power[3]) if exact else value
    if fraction or "/" in text:
        return value
    return int(Decimal(text)) if int(Decimal(text)) == Decimal(text) else value


def _in_digits(match: re.Match[str]) -> str:
    """Write 5 million as 5e6."""
    return f"{match[1]}e{_POWERS[match[2]]} "


def _denied(number: re.Match[str]) -> bool:
    """Whether the words before a number deny it."""
    words = number.string[max(0, number.start() - 24) : number.start()]
    return _DENIAL.search(words) is not None


class Numeric(AnswerVerifier):
    r"""Reward 1 for a number within the tolerances.

    The stated answer is the last of `\boxed{…}`, `#### …` and "the answer is …" ("Answer: …");
    without any of these, the last number of the text that no "not" precedes. A number may be a
    fraction (3/4, `\frac34`) or a power (`5 \times 10^3`, `2^{10}`, 5 million), and may have
    thousands separators (1,234), an exponent, a currency, units and percent signs.
    Percent signs are dropped: 10% is 10. A box or `####` with no number, or several, is wrong, and
    so are "the answer is 7 or 8", 7,5 and 5:30.

    Parameters
    ----------
    relative, absolute : float
        An answer a is accepted for b if |a − b| ≤ max(relative·|b|, absolute). By default,
        `relative` is 0 between two integers. Else it is 1e-12, for floating-point rounding.
    explicit : bool
        Accept only numbers that are stated explicitly.

    Raises
    ------
    ValueError
        If a tolerance is negative or not finite.
    """

    _statement = re.compile(
        r"\\(?P<box>boxed|fbox)\s*\{|(?P<hashes>####)"
        r"|\b(?i:answer)\b[*_]*(?:\s+(?i:is)\b(?!\s+not\b)\s*:?|\s*[:=])"
        r"|<(?i:answer)>"
    )

    def __init__(
        self, relative: float | None = None, absolute: float = 0.0, explicit: bool = False
    ) -> None:
        for name, value in (("relative", relative), ("absolute", absolute)):
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"numeric: {name}={value}: a tolerance is ≥ 0 and finite")
        self.relative, self.absolute, self.explicit = relative, absolute, explicit

    def check_answer(self, answer: Any) -> None:
        """Raise a ValueError unless the answer is a number, or a text with one (`#### 72`)."""
        if self._value(answer) is None:
            raise ValueError(f"numeric: the answer {answer!r} is not a number")

    def _value(self, answer: Any) -> int | float | None:
        if isinstance(answer, bool) or not isinstance(answer, str | int | float):
            return None
        if isinstance(answer, float) and 2**53 <= abs(answer) < math.inf:
            return answer  # its digits are rounded
        text = str(answer)
        return number(text.rpartition("####")[2] if "####" in text else text)

    def stated(self, completion: str) -> str | None:
        """Return the text of the stated number; "" for two at once, None for none."""
        end = len(completion)
        for statement in reversed(list(self._statement.finditer(completion))):
            if statement["box"]:
                return last_boxed(completion)
            if statement["hashes"]:
                return completion[statement.end() :].partition("\n")[0]
            first = _FIRST.match(completion, statement.end())
            if first is not None:
                return "" if _SECOND.match(completion, first.end()) else first["number"]
            if _NUMBER.search(completion, statement.end(), end):
                break  # a calculation
            end = statement.start()
        if self.explicit:
            return None
        numbers = list(_NUMBER.finditer(completion))
        return next((m[0] for m in reversed(numbers) if not _denied(m)), None)

    def right(self, answer: Any, stated: str) -> bool:
        """Whether the stated number is within the tolerances."""
        value, gold = number(stated), self._value(answer)
        if value is None or gold is None:
            return False
        relative = self.relative
        if relative is None:
            relative = 0.0 if isinstance(value, int) and isinstance(gold, int) else ROUNDING
        return abs(value - gold) <= max(relative * abs(gold), self.absolute)
