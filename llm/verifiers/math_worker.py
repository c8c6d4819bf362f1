r"""The process in which math-verify runs: JSON lines in, JSON lines out.

It may be killed at any time, which is how `llm.verifiers.maths` limits time. math-verify's own
limit is off: it is an alarm, whose exception long arithmetic of big numbers never sees.

math-verify 0.9 judges well; what this module mends before it asks, each in `tidy`, `words` or
`equal`, are misreadings of single forms. Those it leaves are in tests/llm/verifiers/math_pairs.py.
"""

from __future__ import annotations

import json
import os
import re
import resource
import select
import signal
import sys
from fractions import Fraction
from typing import IO, Any

#: Seconds between two looks at whether the parent lives.
LOOK = 5.0

#: Judged at the start: the first of each kind loads and fills caches, which is nobody's time.
WARM = [("0.5", r"\frac12"), ("(x+1)^2", "x^2+1"), ("[1,2)", "1 < x < 2"), (r"\sin x", "y=3")]

_TIDY = [
    (r"(?:\\[,;:! ]|~)(?=\d{3}(?!\d))", ""),  # 1\,234
    (r"~|\\[,;:!]", " "),
    (r"\\varnothing", r"\\emptyset"),
    (r"[£€¥]", ""),
    (r"(?<=\d)[eE]([+-]?\d+)(?![\d.])", r"\\times 10^{\1}"),
    (r"^(-?)\s*(\d+) +(\d+)/(\d+)$", r"\1\2\\frac{\3}{\4}"),
    (r"\s*[.,;]\s*$", ""),
    (r"\s*(?:%|\\%|\\text\s*\{\s*percent\s*\}|\bpercent\b)$", r"\\%"),
]
_TIDY_PATTERNS = [(re.compile(pattern), text) for pattern, text in _TIDY]
_RECURRING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar)\s*\{?(\d+)\}?")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{([^{}]*)\}")
_MORE_THAN_A_UNIT = re.compile(r"\d|\b(?:or|and)\b")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_LAST_LETTERS = re.compile(r"(?<=[\d}])([a-zA-Z]{1,2})$")
_UNITS = {"cm", "mm", "km", "kg", "ft", "lb", "hr"}


def tidy(text: str) -> str:
    r"""The answer with forms rewritten that math-verify misreads.

    Thousands apart by thin spaces, 1.2e3, 1 3/4, recurring decimals, `\varnothing`, signs of
    currency, percents, a full stop at the end, ± as the two answers that it means, and text that
    would be dropped like a unit, `17 \text{ or 18}`.
    """
    text = _TEXT.sub(
        lambda found: f" {found[1]} " if _MORE_THAN_A_UNIT.search(found[1]) else found[0], text
    ).strip()
    for pattern, replacement in _TIDY_PATTERNS:
        text = pattern.sub(replacement, text)
    text = _RECURRING.sub(_fraction, text)
    if r"\pm" in text and "," not in text:
        upper = text.replace(r"\pm", "+").replace(r"\mp", "-")
        text = f"{upper}, " + text.replace(r"\pm", "-").replace(r"\mp", "+")
    return text


def _fraction(decimal: re.Match[str]) -> str:
    whole, fixed, period = decimal.groups()
    scale = 10 ** len(fixed)
    value = Fraction(int(whole or 0) * scale + int(fixed or 0), scale)
    value += Fraction(int(period), scale * (10 ** len(period) - 1))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def words(text: str) -> str:
    r"""The answer in small letters if it is made of words, or "".

    Else `Monday` is m·o·n·d·a·y, which any order of its letters is, too. Words are in `\text{}`, or
    a letter run of four or more: `abc` may be a product.
    """
    plain = _TEXT.sub(r"\1", text)
    if not re.fullmatch(r"[A-Za-z][A-Za-z' -]*", plain):
        return ""
    known = plain != text or re.search("[A-Za-z]{4}", plain)
    return " ".join(plain.lower().split()) if known else ""


def _bracket(text: str) -> str:
    """The bracket around all of an answer without others in it, or ""."""
    plain = _COMMAND.sub("", text.replace(r"\{", "{").replace(r"\}", "}")).replace(" ", "")
    return plain[0] if re.fullmatch(r"[{(\[][^{}()\[\]]*[})\]]", plain) else ""


def _keep_variables(text: str, letters: set[str]) -> str:
    """The answer with a variable behind a number, 3t, told apart from a unit, which is dropped."""
    last = _LAST_LETTERS.search(text)
    if last is None or last[1] in _UNITS or not set(last[1]) <= letters:
        return text
    return text[: last.start()] + "{" + last[1] + "}"


def _exact(parsed: Any) -> Any:
    """What was parsed with decimals as fractions, and i as √−1.

    math-verify compares floating-point numbers: to six places, or so that 4.85·10⁵ is not 485000.
    It takes i for a symbol, real or not by how it was written.
    """
    from sympy import Basic, Float, I, MatrixBase, Rational, Symbol
    from sympy.core.relational import Relational

    if not isinstance(parsed, Basic | MatrixBase):
        return parsed
    if hasattr(parsed, "_unsorted_args"):  # math-verify's own sets, which know the order
        return parsed.func(*map(_exact, parsed._unsorted_args))
    if isinstance(parsed, Relational):  # or 2 + 0.5 = 2.5 would become "true"
        return parsed.func(_exact(parsed.lhs), _exact(parsed.rhs), evaluate=False)
    values: dict[Any, Any] = {number: Rational(str(number)) for number in parsed.atoms(Float)}
    values |= {symbol: I for symbol in parsed.atoms(Symbol) if symbol.name == "i"}
    return parsed.xreplace(values) if values else parsed


def _parsed(text: str, config: Any) -> list[Any]:
    from math_verify import parse

    found = parse(text, config, parsing_timeout=None, raise_on_error=True)
    return [_exact(part) for part in found]


def equal(gold: str, answer: str, boxed: bool = True) -> bool:
    r"""Whether an answer is the gold one.

    Parameters
    ----------
    gold : str
        LaTeX or plain text; it decides what is a unit and what a variable, a list or a set.
    answer : str
    boxed : bool
        The answer is all of the text, as in a box; else math-verify finds it in the text.

    Raises
    ------
    MemoryError, RecursionError
        When it could not be judged. Any other trouble is a wrong answer.
    """
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, verify

    gold = tidy(gold)
    config = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    if boxed:
        answer = tidy(answer)
        if gold == answer:
            return bool(gold)
        if words(gold):
            return words(gold) == words(answer)
        kinds = {_bracket(gold), _bracket(answer)}
        if "{" in kinds and kinds & {"(", "["}:
            return False  # a set is neither a point nor an interval
        bare = [text.removesuffix(r"\%").rstrip() for text in (gold, answer)]
        if bare != [gold, answer] and equal(bare[0], bare[1]):
            return True  # 12.5% is called 12.5
        letters = set(_COMMAND.sub("", _TEXT.sub("", gold)))
        gold, answer = (_keep_variables(text, letters) for text in (gold, answer))
        answer = rf"\boxed{{{answer}}}"
    try:
        golds, answers = _parsed(rf"\boxed{{{gold}}}", config), _parsed(answer, config)
        return bool(
            verify(
                golds,
                answers,
                allow_set_relation_comp=True,  # 1 < x < 2 is (1, 2), whichever is the gold one
                timeout_seconds=None,
                raise_on_error=True,
            )
        )
    except (MemoryError, RecursionError):
        raise
    except Exception:  # what sympy raises for two things that cannot be compared
        return False


def judge(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to a request with gold, answer and boxed: whether they are equal, or a failure."""
    try:
        return {"equal": equal(request["gold"], request["answer"], request["boxed"])}
    except MemoryError:
        return {"failure": "memory"}
    except RecursionError:
        return {"failure": "nested too deeply"}


def _requests(parent: int) -> Any:
    """Lines of standard input, until it ends or the parent has died."""
    pending = b""
    while os.getppid() == parent:
        if not select.select([0], [], [], LOOK)[0]:
            continue
        data = os.read(0, 1 << 16)
        if not data:
            return
        *lines, pending = (pending + data).split(b"\n")
        yield from map(json.loads, lines)


def _resident() -> int:
    """Bytes of this process that are in memory."""
    try:
        with open("/proc/self/statm") as status:
            return int(status.read().split()[1]) * resource.getpagesize()
    except OSError:  # elsewhere the most there ever were; on Linux that starts from the parent's
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024)


def serve(timeout: float, memory: int, replies: IO[str]) -> None:
    """Answer requests until there are no more, or this process has grown too large.

    Parameters
    ----------
    timeout : float
        Seconds; the parent kills sooner, and an alarm ends this process if there is none.
    memory : int
        Bytes of address space.
    replies : text file
    """
    parent = os.getppid()
    for gold, answer in WARM:
        equal(gold, answer)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for request in _requests(parent):
        signal.alarm(int(timeout) + 2)
        reply = judge(request)
        signal.alarm(0)
        grown = _resident() > memory // 2
        reply["last"] = grown or reply.get("failure") == "memory"  # caches are full: start afresh
        print(json.dumps(reply), file=replies, flush=True)
        if reply["last"]:
            return


def main() -> None:
    """Serve on standard input and output; what libraries print goes to standard error."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import logging

    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the parent may have ignored it
    serve(float(sys.argv[1]), int(sys.argv[2]), replies)
