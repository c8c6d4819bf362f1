r"""Worker process that runs math-verify: JSON lines in, JSON lines out.

`llm.verifiers.maths` limits time by killing this process. The time limit of math-verify is off: its
alarm cannot interrupt arithmetic of very large integers.

math-verify 0.9 misreads a few forms of answers. `tidy`, `words` and `equal` rewrite or compare
these forms first. tests/llm/verifiers/math_pairs.py lists the misreadings that remain.
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

#: Seconds between two checks that the parent process is alive.
LOOK = 5.0

#: Compared at the start: the first pair of each kind loads modules, which must not count as time.
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
    r"""Rewrite forms of an answer that math-verify misreads.

    These are thousands separated by thin spaces, 1.2e3, 1 3/4, recurring decimals, `\varnothing`,
    currency signs, percents, and a final full stop. ± is expanded to the two answers. Text that
    math-verify would drop like a unit is kept: `17 \text{ or 18}`.
    """
    text = _TEXT.sub(
        lambda match: f" {match[1]} " if _MORE_THAN_A_UNIT.search(match[1]) else match[0], text
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
    r"""Return an answer in words in lower case; "" for an answer that is not words.

    math-verify would read `Monday` as the product m·o·n·d·a·y, equal to any order of its letters.
    Words stand in `\text{}` or have four letters or more; `abc` may be a product.
    """
    plain = _TEXT.sub(r"\1", text)
    if not re.fullmatch(r"[A-Za-z][A-Za-z' -]*", plain):
        return ""
    has_words = plain != text or re.search("[A-Za-z]{4}", plain)
    return " ".join(plain.lower().split()) if has_words else ""


def _bracket(text: str) -> str:
    """Opening bracket around a whole answer with no brackets inside, or ""."""
    plain = _COMMAND.sub("", text.replace(r"\{", "{").replace(r"\}", "}")).replace(" ", "")
    return plain[0] if re.fullmatch(r"[{(\[][^{}()\[\]]*[})\]]", plain) else ""


def _keep_variables(text: str, letters: set[str]) -> str:
    """Mark a variable after a number, as in 3t, so that it is not dropped like a unit."""
    last = _LAST_LETTERS.search(text)
    if last is None or last[1] in _UNITS or not set(last[1]) <= letters:
        return text
    return text[: last.start()] + "{" + last[1] + "}"


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
            return True  # 12.5% may be written 12.5
        letters = set(_COMMAND.sub("", _TEXT.sub("", gold)))
        gold, answer = (_keep_variables(text, letters) for text in (gold, answer))
        answer = rf"\boxed{{{answer}}}"
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


def judge(request: dict[str, Any]) -> dict[str, Any]:
    """Reply to a request (gold, answer, boxed): whether the answers are equal, or a failure."""
    try:
        return {"equal": equal(request["gold"], request["answer"], request["boxed"])}
    except MemoryError:
        return {"failure": "memory"}
    except RecursionError:
        return {"failure": "nested too deeply"}


def _requests(parent: int) -> Any:
    """Requests from standard input, until it ends or the parent has exited."""
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
    """Resident memory of this process in bytes."""
    try:
        with open("/proc/self/statm") as status:
            return int(status.read().split()[1]) * resource.getpagesize()
    except OSError:  # no /proc: use the peak, which on Linux would include the parent's memory
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak * (1 if sys.platform == "darwin" else 1024)


def serve(timeout: float, memory: int, replies: IO[str]) -> None:
    """Answer requests until there are no more, or this process uses too much memory.

    Parameters
    ----------
    timeout : float
        Seconds for a pair. The parent enforces it; without a parent, an alarm ends this process.
    memory : int
        Maximum bytes of address space.
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
        is_large = _resident() > memory // 2
        reply["last"] = is_large or reply.get("failure") == "memory"  # restart with empty caches
        print(json.dumps(reply), file=replies, flush=True)
        if reply["last"]:
            return


def main() -> None:
    """Serve on standard input and output; output of libraries goes to standard error."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import logging

    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the parent may ignore this signal
    serve(float(sys.argv[1]), int(sys.argv[2]), replies)
