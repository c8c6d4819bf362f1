r"""Rewrites answers in Unicode, plain text or unusual LaTeX as the LaTeX that math-verify reads."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from llm.verifiers.math_notation import (
    with_braces,
    with_counts,
    with_plain_words,
    with_values,
    without_and,
)

_SIGNS = {
    "‐": "-", "‑": "-", "‒": "-", "–": "-", "—": "-", "−": "-", "⁄": "/", "∕": "/", "÷": "/",
    "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "∙": r"\cdot ", "•": r"\cdot ",
    "±": r"\pm ", "∓": r"\mp ", "∞": r"\infty ", "√": "sqrt", "∛": "cbrt", "°": r"^\circ ",
    "º": r"^\circ ", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ",
    "≈": r"\approx ", "∈": r"\in ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ",
    "∖": r"\setminus ", "→": r"\to ", "⟶": r"\to ", "⇒": r"\Rightarrow ", "∀": r"\forall ",
    "∃": r"\exists ", "…": r"\ldots ", "⋯": r"\cdots ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}",
    "ℚ": r"\mathbb{Q}", "ℕ": r"\mathbb{N}", "ℂ": r"\mathbb{C}",
    "µ": r" \mu ", "\N{OHM SIGN}": r"\Omega ", "℃": r"^\circ C", "℉": r"^\circ F",
}  # fmt: skip
_SIGNS_TABLE = str.maketrans(_SIGNS)
_FORMS = re.compile("[²³¹⁰⁴-ⁿⁱ]+|[₀-₎]+|[¼-¾⅐-⅞]|[Α-Ωα-ω]")

_NAMES = (
    "pi|alpha|beta|gamma|theta|lambda|phi|omega|sqrt|exp|ln|log|arcsin|arccos|arctan|sinh|cosh|tanh"
    "|sin|cos|tan|cot|sec|csc"
)
#: Forms that are rewritten first, in this order.
_PLAIN = [
    (r"^\s*(\*{1,2}|_{2})([^*]+)\1\s*$", r"\2"),  # bold
    (r"\\(?:text)?color\s*\{[a-zA-Z]+\}|\\[hv]?phantom\s*\{[^{}]*\}", ""),
    (r"\\(?:boldsymbol|bm|pmb|underline)\s*(?=\{)", ""),
    (r"\\hat\s*\{?\s*\\?([ijk])(?:math)?\s*\}?", r"\\mathbf{\1}"),
    (
        r"\\mathbf\s*\{\s*(?:\\mathbf\s*\{)?\s*([a-zA-Z])\s*\}{1,2}",
        r" \1",
    ),  # math-verify drops 2\mathbf{j} to 2
    (r"\*\*", "^"),
    (r"\*", r"\\cdot "),
    (r"<=>", r"\\iff "),
    (r"<=", r"\\le "),
    (r">=", r"\\ge "),
    (r"!=", r"\\ne "),
    (r"=>|->", r"\\to "),
    (rf"(?<![a-zA-Z\\])({_NAMES})(?![a-zA-Z])", r"\\\1 "),
    (r"(?<![a-zA-Z\\])cbrt(?![a-zA-Z])", r"\\sqrt[3] "),
    (r"\\log\s*_\s*\{?\s*e\b\s*\}?", r"\\ln "),
    (r"(?<![a-zA-Z\\])(?:infinity|inf|oo)(?![a-zA-Z])", r"\\infty "),
    (r"\\exp\s*(?=\()", "e^"),
    (r"(\\sqrt(?:\[\w+\])?)\s+(\d+(?:\.\d+)?|[a-zA-Z])", r"\1{\2}"),
    (r"\\(?:mathbb|Bbb)\s*\{?\s*([A-Z])\s*\}?", r"\\mathbb{\1}"),
]
#: Words for powers of ten, after a number.
_POWERS = {
    "tenth": -1, "hundredth": -2, "thousandth": -3,
    "hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12,
}  # fmt: skip
_POWER = re.compile(rf"(?<=[\d}}])\s*({'|'.join(_POWERS)})s?(?![a-zA-Z])")
#: Words for fractions; a quarter after a number may be a coin.
_PARTS = {
    "half": 2, "halve": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7,
    "eighth": 8, "ninth": 9, "twelfth": 12,
}  # fmt: skip
_PART = re.compile(rf"(?<=[\d}}])\s*({'|'.join(_PARTS)})s?(?![a-zA-Z])")
_SMALL = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_COMMA = r"(?:,\s*\\!\s*|\{,\}\s*)"
_SET = (
    r"(?:\\left\s*)?\\\{\s*([a-z])\s*(?:\\in\s*\\mathbb\{R\}\s*)?"
    r"(?:\\mid(?![a-zA-Z])|:|(?:\\middle\s*)?\|)\s*"
    r"(?=[^{}]*(?:[<>]|\\[lg]eq?(?![a-zA-Z])))(?=[^{}]*\1)([^{},]+?)\s*(?:\\right\s*)?\\\}"
)
_TIDY = [
    (rf"(?<=\d){_COMMA}(?=(?:\d{{2,3}}{_COMMA})*\d{{3}}(?!\d))", ""),  # 1{,}234, 1{,}23{,}456
    (r"(?<=\d)(?:\\[,;:! ]|~)(?=\d{3}(?!\d))", ""),  # 1\,234
    (r"(?<=\d)\{,\}(?=\d+(?![\d{]))", "."),  # 3{,}14
    (r"\\\\\s*\[[\d.]+\s*[a-z]{2}\]", r"\\\\"),  # a matrix row's \\[1ex]
    (r"~|(?<!\\)\\[,;:! ]", " "),
    (r"\\langle(?![a-zA-Z])", "("),
    (r"\\rangle(?![a-zA-Z])", ")"),
    (r"\\backslash(?![a-zA-Z])", r"\\setminus "),
    (r"\((\d[\dA-F]*)\)(?=\s*_)", r"\1"),
    (r"^\s*(?=[<>]|\\(?:leq?|geq?|neq?)(?![a-zA-Z]))", "x "),  # \\neq 17 is not 17
    (r"[£€¥¢]", ""),
    (r"(?<=\d)[eE]([+-]?\d+)(?![\d.])", r"\\times 10^{\1}"),
    (r"^(-?)\s*(\d+) +(\d+)/(\d+)(?=$| +[a-zA-Z\\])", r"\1\2\\frac{\3}{\4}"),
    (r"\s*[.,;]\s*$", ""),
    (r"^(?:\\text(?:bf|rm)?\s*\{\s*)?\(([A-Z])\)\s*\}?$", r"\1"),  # a choice
    (r"^\(\s*-\s*\\infty\s*,\s*\+?\s*\\infty\s*\)$", r"\\mathbb{R}"),
    (r"(?<=\d)\s*\(?\s*base\s+(\w+)\s*\)?$", r"_{\1}"),
    (r"\s*(?:%|\\%|\\text\s*\{\s*percent\s*\}|\bpercent\b)$", r"\\%"),
    (r"(\d*\.\d*)\\dot\s*\{?(\d)\}?(?:(\d*)\\dot\s*\{?(\d)\}?)?", r"\1\\overline{\2\3\4}"),
    (r"^(-?\d*\.\d*)\((\d+)\)$", r"\1\\overline{\2}"),
    (rf"^{_SET}$", r"\2"),  # {x : x > 1}
]
_PLAIN_PATTERNS = [(re.compile(pattern), text) for pattern, text in _PLAIN]
_TIDY_PATTERNS = [(re.compile(pattern), text) for pattern, text in _TIDY]
_SYNONYMS = {
    r"\emptyset": "no solution",
    "none": "no solution",
    "dne": "does not exist",
    "infinitely many solution": "infinitely many",
}
_NO_SOLUTION = re.compile(r"(?:there (?:is|are) |has )?no (?:real )?(?:solution|root)(?: exist)?")
_DOMAIN = re.compile(
    r"(?:[,;]|\b(?:for|where)\b(?: (?:any|all|every|some)\b)?)?"
    r"\s*\(?\s*\b(?P<name>[a-z])\s*\\in\s*\\mathbb\{(?P<set>[ZN])\}\)?$"
)
_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,]*\d)")
_SPACED = re.compile(r"^-?\d{1,3}(?: \d{3})+(?![\d/])")
_RECURRING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar)\s*\{?(\d+)\}?")
_BASE_WORD = re.compile(
    rf"(?<=\d)\s*_\s*\{{?\s*(?:\\text\s*\{{)?\s*(?:base\s*\}}?\s*)?({'|'.join(_SMALL)}|\d+)\s*\}}{{0,2}}(?![a-z])"
)
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*\{?\s*\\circ\s*\}?")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_GREATER = re.compile(r"(>|\\geq?(?:slant)?(?![a-zA-Z]))")

TEXT = re.compile(r"\\(?:text(?:bf|it|rm|sf|tt)?|emph|math(?:rm|sf|tt)|mbox)\s*\{([^{}]*)\}")
#: Words and signs that change the meaning of what stands beside them.
STRUCTURE = re.compile(
    r"(?P<dots>\\[lcd]?dots[a-z]?(?![a-zA-Z])|\.{3,})"
    r"|(?P<arrow>\\(?:to|mapsto|implies|iff|(?:long|Long)?(?:left|Left)?[rR]ightarrow)(?![a-zA-Z]))"
    r"|(?P<word>\\(?:forall|exists)(?![a-zA-Z])"
    r"|\b(?:if|when|unless|for|where|otherwise|except|not|but)\b)"
)
_MORE_THAN_A_UNIT = re.compile(
    r"\d|\\(?:Omega|mu)"
    rf"|\b(?:or|and|{'|'.join((*_POWERS, *_PARTS))})s?\b|^[A-Z]\b.*,|{STRUCTURE.pattern}"
)


def tidy(text: str) -> str:
    r"""Rewrite forms of an answer that math-verify misreads.

    These are Unicode signs; plain text such as `sqrt(2)/2` and `x**2`; thousands separators; 1.2e3,
    1 3/4 and 5 million; recurring decimals; number words; currency signs, percents, and a final
    full stop. ± is expanded to the two answers. Text that math-verify would drop like a unit is
    kept: `17 \text{ or 18}`. Commands of style and colour are dropped.
    """
    text = without_unicode(text)
    text = TEXT.sub(
        lambda match: f" {match[1]} " if _MORE_THAN_A_UNIT.search(match[1]) else match[0], text
    ).strip()
    for pattern, replacement in _PLAIN_PATTERNS:
        text = pattern.sub(replacement, text)
    text = with_values(with_counts(with_braces(_braces(text.strip()))))
    for pattern, replacement in _TIDY_PATTERNS:
        text = pattern.sub(replacement, text)
    text = with_plain_words(text)
    text = _SPACED.sub(lambda match: match[0].replace(" ", ""), text)
    if re.search(r",\s|;|\b(?:and|or)\b", text) or not re.search(r"[(\[{]", text):
        text = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)
    text = _POWER.sub(lambda match: rf"\times 10^{{{_POWERS[match[1]]}}}", text)
    text = _PART.sub(lambda match: rf"\cdot \frac{{1}}{{{_PARTS[match[1]]}}}", text)
    text = _RECURRING.sub(_fraction, text)
    text = _BASE_WORD.sub(lambda match: f"_{{{number_word(match[1])}}}", text)
    if _TRIGONOMETRIC.search(text):
        text = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    if r"\pm" in text and "," not in text:
        upper = text.replace(r"\pm", "+").replace(r"\mp", "-")
        text = f"{upper}, " + text.replace(r"\pm", "-").replace(r"\mp", "+")
    return number_word(_ascending(without_and(text)))


def without_domain(gold: str, answer: str) -> tuple[str, str]:
    r"""Drop the domain of an integer that both answers have, and give it one name.

    `n\pi, n \in \mathbb{Z}` equals `k\pi, k \in \mathbb{Z}`.
    """
    one, other = _DOMAIN.search(gold), _DOMAIN.search(answer)
    if one is None or other is None or one["set"] != other["set"]:
        return gold, answer
    name = rf"(?<![a-zA-Z\\]){other['name']}(?![a-zA-Z])"
    return gold[: one.start()], re.sub(name, one["name"], answer[: other.start()])


def without_unicode(text: str) -> str:
    """Replace mathematical signs beyond ASCII by LaTeX: x² by x^{2}, ½ by a fraction."""
    if text.isascii():
        return text
    text = _FORMS.sub(_form, text).translate(_SIGNS_TABLE)
    return unicodedata.normalize("NFKC", text)


def _form(match: re.Match[str]) -> str:
    kind = unicodedata.decomposition(match[0][0]).partition(" ")[0]
    plain = unicodedata.normalize("NFKC", match[0]).translate(_SIGNS_TABLE)
    if kind == "<super>":
        return f"^{{{plain}}}"
    if kind == "<sub>":
        return f"_{{{plain}}}"
    if kind == "<fraction>":
        above, below = plain.split("/")
        return rf"\frac{{{above}}}{{{below}}}"
    _, size, *_, name = unicodedata.name(match[0][0]).split()
    return rf"\{name.lower() if size == 'SMALL' else name.capitalize()} "


def _braces(text: str) -> str:
    r"""Replace parentheses after ^, _ and \sqrt by braces: x^(1/2) is x^{1/2}."""
    chars, opened = list(text), list[int]()
    for at, char in enumerate(text):
        if char == "(":
            opened.append(at)
        elif char == ")" and opened:
            start = opened.pop()
            before = text[max(0, start - 12) : start].rstrip()
            if re.search(r"(?:[\^_]|\\sqrt(?:\[\w+\])?)$", before):
                chars[start], chars[at] = "{", "}"
    return "".join(chars)


def _fraction(decimal: re.Match[str]) -> str:
    whole, fixed, period = decimal.groups()
    scale = 10 ** len(fixed)
    value = Fraction(int(whole or 0) * scale + int(fixed or 0), scale)
    value += Fraction(int(period), scale * (10 ** len(period) - 1))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _ascending(text: str) -> str:
    """Write 3 > x > 1 as 1 < x < 3."""
    parts = _GREATER.split(text)
    if len(parts) != 5 or re.search(r"[<,=]|\\le", text):
        return text
    turned = ["<" if part == ">" else r" \le " for part in parts[1::2]]
    return f"{parts[4]}{turned[1]}{parts[2]}{turned[0]}{parts[0]}"


def number_word(text: str) -> str:
    """Write the number of an answer that is one in words: below a hundred, or two thirds."""
    word = TEXT.sub(r"\1", text).strip().lower()
    tens, _, ones = word.replace("-", " ").partition(" ")
    if word in _SMALL:
        return str(_SMALL.index(word))
    if tens in _SMALL and (below := (_PARTS | {"quarter": 4}).get(ones.removesuffix("s"))):
        return rf"\frac{{{_SMALL.index(tens)}}}{{{below}}}"
    if tens in _TENS and (not ones or ones in _SMALL[1:10]):
        return str(10 * _TENS.index(tens) + 20 + (_SMALL.index(ones) if ones else 0))
    return text


def words(text: str) -> str:
    r"""Return an answer in words in lower case and in the singular; "" if it is not words.

    math-verify would read `Monday` as the product m·o·n·d·a·y, equal to any order of its letters.
    Words stand in `\text{}` or have four letters or more, or are no, yes or odd; `abc` may be a
    product.
    """
    plain = TEXT.sub(r"\1", text).strip(" .")
    if not re.fullmatch(r"[A-Za-z][A-Za-z' -]*|\\emptyset", plain):
        return ""
    has_words = plain != text or re.search(r"(?i)[a-z]{4}|^(?:no|yes|odd)$", plain)
    normal = " ".join(re.sub(r"(?<=[a-z]{3})s$", "", plain.lower()).split()) if has_words else ""
    normal = " and ".join(sorted(re.sub("^(?:an?|the|all) ", "", normal).split(" and ")))
    return "no solution" if _NO_SOLUTION.fullmatch(normal) else _SYNONYMS.get(normal, normal)
