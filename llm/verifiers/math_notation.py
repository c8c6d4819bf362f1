r"""Rewrites rarer notations as the LaTeX that math-verify reads; used by `math_text.tidy`."""

from __future__ import annotations

import math
import re
from fractions import Fraction

#: Commands whose arguments may stand without braces: two for the first group, one for the second.
_MACRO = re.compile(r"\\(?:([dtc]?frac|[dt]?binom)|(sqrt)(?:\s*\[[^\[\]]*\])?)(?![a-zA-Z])")
#: An argument without braces: a digit, a letter or a command with its own arguments in braces.
_TOKEN = re.compile(r"\w|\\(?!left|right)[a-zA-Z]+(?:\[[^\[\]]*\])?")
_TAKES_BRACES = re.compile(r"\\(?:[dtc]?frac|[dt]?binom|sqrt|text|math|overline)")

_INDEX = r"\{?\s*([^\W_]+)\s*\}?"
_LETTER = r"\{?(?:\\(?:mathrm|text)\s*\{)?\s*([CP])\s*\}{0,2}"
#: Numbers of combinations and permutations: n before the letter or "", the letter, the rest.
_COUNTS = [
    re.compile(rf"(?<![\w}}])(?:\{{\s*\}}\s*)?[_^]\s*{_INDEX}\s*{_LETTER}\s*_\s*{_INDEX}"),  # _5C_2
    re.compile(r"(?<![\w.\\])(\d+)\s?([CP])\s?(\d+)(?![\w.])"),  # 5C2
    re.compile(rf"(?<![\w}}\\])()([CP])\s*_\s*{_INDEX}\s*\^\s*{_INDEX}"),  # C_5^2
    re.compile(r"(?<![a-zA-Z\\])()([CP])\s*\(([^(),]+),([^(),]+)\)"),  # C(5, 2)
]
_DOUBLE_FACTORIAL = re.compile(r"(?<![\d.])(\d{1,3})\s*!\s*!(?!\s*!)")
_ORDINAL = re.compile(
    r"(\d+)\s*(?:\^\s*)?(\{?\s*(?:\\(text(?:rm|superscript)?|mathrm)\s*\{)?)\s*(st|nd|rd|th)"
    r"(\}{0,2})(?![a-zA-Z])"
)
_SET = re.compile(r"\\mathbb\s*\{([RZ])\}\s*[\^_]\s*(?:\{([^{}]*)\}|([+-]))")
_HALF_LINES = {
    "+": r"(0,\infty)", ">0": r"(0,\infty)", "-": r"(-\infty,0)", "<0": r"(-\infty,0)",
    r"\ge0": r"[0,\infty)", r"\le0": r"(-\infty,0]",
}  # fmt: skip

_ALL_REALS = r"(?:[a-z] is )?(?:all|any) reals?(?: (?:numbers?|values?))?(?: of [a-z])?"
_IN_TEXT = r"(?:\\(?:text|mathrm)\s*\{\s*)?"
_CIRCLE = r"(?<=\d)\s*\^\s*(?:\\circ|\{\s*\\circ\s*\})\s*"
_PLAIN_WORDS = [
    (r"\\varnothing|^\\(?:left\s*\\)?\{\s*\\(?:right\s*\\)?\}$", r"\\emptyset"),
    (r"^[a-z]\s*\\in\s*(?=\\emptyset$)", ""),
    (rf"^{_IN_TEXT}{_ALL_REALS}\s*\}}?$", r"\\mathbb{R}"),
    (rf"^{_IN_TEXT}(?:all |any )integers?\s*\}}?$", r"\\mathbb{Z}"),
    (rf"^{_ALL_REALS}\s+(?:except|but)(?: for)?\s+([^{{}}]+)$", r"\\mathbb{R}\\setminus\\{\1\\}"),
    (
        rf"(?:,|\bfor\b|\bwhere\b)\s*(?:any |all |every )?([a-z])\s*{_IN_TEXT}(?:is |are )?"
        r"(?:an |any )?integers?\s*\}?$",
        r", \1 \\in \\mathbb{Z}",
    ),
    (r"^(\d+)\s*(?:\s|\\text\s*\{\s*)to(?![a-z])\s*\}?\s*(\d+)$", r"\1:\2"),
    (rf"(?<=\d)\s*{_IN_TEXT}([kM]?)\s*\}}?\s*\\Omega$", r" \\text{\1ohm}"),
    # 3 µm; 3\mu m is a product
    (rf"(?<=\d)(?:\s+\\mu\s*|\s*\\mu\s*(?=\\)){_IN_TEXT}([a-zA-Z])\s*\}}?$", r" \\text{u\1}"),
    (rf"{_CIRCLE}{_IN_TEXT}C\s*\}}?$", " celsius"),
    (rf"{_CIRCLE}{_IN_TEXT}F\s*\}}?$", " fahrenheit"),
]
_PLAIN_WORDS_PATTERNS = [(re.compile(pattern), text) for pattern, text in _PLAIN_WORDS]
_CHOICES = re.compile(
    r"(?:\\text[a-z]*\s*\{\s*)?\(?[A-J]\)?(?:\s*(?:,?\s*\band\b|,)\s*\(?[A-J]\)?)+\s*\}?"
)

_AND = re.compile(r"(,?\s*(?:\band\b|\\land(?![a-z])|\\wedge(?![a-z]))|[,;])")
_RELATION = re.compile(r"(.*?)(<|>|\\[lg]eq?(?:slant)?(?![a-zA-Z]))(.*)")
_VARIABLE = re.compile(r"[a-zA-Z]|\\(?:alpha|beta|gamma|theta|lambda|phi|omega)")
_NUMBER = re.compile(
    r"([+-]?)\s*(?:\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}|(\d+(?:\.\d+)?|\.\d+)(?:(?<!\.)/(\d+))?)"
)


def number(text: str) -> Fraction | None:
    """Value of a plain number; most answers are, and math-verify takes 20 ms for each."""
    match = _NUMBER.fullmatch(text)
    if match is None or (match[3] or match[5] or "1").strip("0") == "":
        return None
    value = Fraction(match[2] or match[4]) / int(match[3] or match[5] or 1)
    return -value if match[1] == "-" else value


def with_braces(text: str) -> str:
    r"""Put the arguments of fractions, binomials and roots in braces: `\frac\pi3`, `x^\frac12`."""
    for macro in reversed(list(_MACRO.finditer(text))):
        at, arguments = macro.end(), list[str]()
        for _ in range(2 if macro[1] else 1):
            while text[at : at + 1].isspace():
                at += 1
            end = _end_of_group(text, at) if text[at : at + 1] == "{" else _end_of_token(text, at)
            if end == at:
                break
            arguments.append(text[at:end] if text[at] == "{" else f"{{{text[at:end]}}}")
            at = end
        else:
            whole = macro[0] + "".join(arguments)
            is_index = text[: macro.start()].rstrip().endswith(("^", "_"))
            whole = f"{{{whole}}}" if is_index else whole
            text = text[: macro.start()] + whole + text[at:]
    return text


def _end_of_group(text: str, start: int) -> int:
    """End of the group in braces that starts here; its start if it is never closed."""
    depth = 0
    for brace in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.end()
    return start


def _end_of_token(text: str, start: int) -> int:
    token = _TOKEN.match(text, start)
    if token is None:
        return start
    end = token.end()
    while _TAKES_BRACES.match(token[0]) and text[end : end + 1] == "{":
        after = _end_of_group(text, end)
        if after == end:
            return start
        end = after
    return end


def with_counts(text: str) -> str:
    r"""Write `C(5,2)`, `_5C_2`, `C_5^2` as binomials, the same with P as quotients of factorials.

    `C(2,5)` and `P(x,5)` remain: they may be points.
    """

    def counted(match: re.Match[str]) -> str:
        n, k = (part.strip() for part in [match[1], *match.groups()[2:]] if part)
        if n.isdigit() and k.isdigit() and int(k) <= int(n):
            rest = int(n) - int(k)
            return rf"\binom{{{n}}}{{{k}}}" if match[2] == "C" else rf"\frac{{{n}!}}{{{rest}!}}"
        is_unknown = match[2] == "C" and re.search("[a-z]", n) and "\\" not in n + k
        return rf"\binom{{{n}}}{{{k}}}" if is_unknown else match[0]

    for pattern in _COUNTS:
        text = pattern.sub(counted, text)
    return text


def with_values(text: str) -> str:
    r"""Write 5!! as 15, the ordinal number `7^{th}` as 7, and `\mathbb{R}^+` as an interval.

    `7^{st}` is no ordinal number but a power.
    """
    text = _DOUBLE_FACTORIAL.sub(lambda m: f"{{{math.prod(range(int(m[1]), 0, -2))}}}", text)
    return _SET.sub(_half_line, _ORDINAL.sub(_cardinal, text))


def _cardinal(ordinal: re.Match[str]) -> str:
    digits, opening, command, suffix, closing = ordinal.groups()
    teen = digits[-2:-1] == "1"
    usual = "th" if teen else {"1": "st", "2": "nd", "3": "rd"}.get(digits[-1], "th")
    left = len(closing) - opening.count("{")  # braces opened before the number
    return digits + "}" * left if left >= 0 and (command or suffix == usual) else ordinal[0]


def _half_line(match: re.Match[str]) -> str:
    sign = re.sub(r"\\([lg]e)q(?:slant)?", r"\\\1", (match[2] or match[3] or "").replace(" ", ""))
    if match[1] == "Z" and sign in ("+", ">0"):
        return r"\mathbb{N}"
    return _HALF_LINES.get(sign, match[0]) if match[1] == "R" else match[0]


def with_plain_words(text: str) -> str:
    r"""Write an empty set as `\emptyset`, "all real numbers" as ℝ, 3 to 4 as 3:4, µ and Ω as units.

    "(A) and (C)" becomes the list A, C.
    """
    for pattern, replacement in _PLAIN_WORDS_PATTERNS:
        text = pattern.sub(replacement, text)
    return ", ".join(re.findall("[A-J]", text)) if _CHOICES.fullmatch(text) else text


def without_and(text: str) -> str:
    """Write x > 1 and x < 3 as 1 < x < 3.

    A comma may mean *and* or *or*. If both bounds cannot hold, as in x < 1, x > 3, it means *or*.
    """
    parts = _AND.split(text)
    bounds = [bound for bound in map(_bound, parts[::2]) if bound]
    if len(parts) != 3 or len(bounds) != 2 or bounds[0][0] != bounds[1][0]:
        return text
    (name, is_lower, first, low), (_, other, second, high) = bounds
    if is_lower == other:
        return text
    values = number(low), number(high)
    if not is_lower:
        first, low, second, high = second, high, first, low
        values = values[::-1]
    apart = not is_lower if None in values else values[0] >= values[1]  # type: ignore[operator]
    if apart and parts[1] in ",;":
        return f"{parts[0]} or {parts[2]}"
    return f"{low} {first} {name} {second} {high}"


def _bound(text: str) -> tuple[str, bool, str, str] | None:
    """Variable, whether the bound is a lower one, its sign (< or ≤), and its value."""
    relation = _RELATION.fullmatch(text)
    if relation is None or _RELATION.fullmatch(relation[3]):
        return None
    left, sign, right = (part.strip() for part in relation.groups())
    above = sign == ">" or sign.startswith(r"\g")
    sign = sign if sign in "<>" else r"\le"
    sign = "<" if sign == ">" else sign
    if _VARIABLE.fullmatch(left):
        return left, above, sign, right
    return (right, not above, sign, left) if _VARIABLE.fullmatch(right) else None
