r"""Worker process that runs math-verify: JSON lines in, JSON lines out.

`llm.verifiers.maths` limits time by having this process killed. The time limit of math-verify is
off: its alarm cannot interrupt arithmetic of very large integers.

math-verify 0.9 misreads a few forms of answers. `llm.verifiers.math_text` rewrites them first,
`equal` compares some by itself, and `llm.verifiers.math_values` compares values.
tests/llm/verifiers/math_pairs.py lists the misreadings that remain.
"""

from __future__ import annotations

import json
import os
import re
import resource
import select
import signal
import sys
from typing import IO, Any

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

#: Seconds between two checks that the parent process is alive.
LOOK = 5.0

#: Compared at the start: the first pair of each kind loads modules, which must not count as time.
WARM = [("0.5", r"\sqrt{2}"), ("(x+1)^2", "x^2+1"), ("[1,2)", "1 < x < 2"), (r"\sin x", "y=3")]

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
    return gold == answer or equal(gold, answer)


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

    use_exact_values()
    gold = tidy(gold)
    config = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    if boxed:
        gold, answer = without_domain(gold, tidy(answer))
        plain = [_squeezed(TEXT.sub(r" \1 ", text)) for text in (gold, answer)]
        if plain[0] == plain[1]:
            return bool(gold)
        if compared := choices(gold, answer):
            return all(equal(*pair) for pair in compared)
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
            return all(a == b or (a != "" != b and equal(a, b)) for a, b in pairs)
        unions = [r"\cup" in text for text in (gold, answer)]
        if unions[0] != unions[1] and re.search(r"\bor\b", answer if unions[0] else gold):
            parts = [re.split(r"\bor\b|\\cup", text) for text in (gold, answer)]
            return len(parts[0]) == len(parts[1]) and all(
                any(equal(part, other) for other in parts[1]) for part in parts[0]
            )
        if (same := same_time(gold, answer)) is not None:
            return same
        values = [named(gold), named(answer)]
        if all(values):
            return values[0].keys() == values[1].keys() and all(
                equal(value, values[1][name]) for name, value in values[0].items()
            )
        if values[0] and not re.search("[,;]", gold) and not re.search("[,;=]", answer):
            return equal(next(iter(values[0].values())), answer)  # x = y = 3 is 3
        if values[0] or (values[1] and _bracket(gold) == "("):
            gold, answer = (
                point(v) if v else t for v, t in zip(values, (gold, answer), strict=True)
            )
            return equal(gold, answer)
        if formula := formulas(gold, answer):
            return equal(*formula)
        equations = [len(sides_of(text)) > 1 for text in (gold, answer)]
        if equations == [False, True] and _sides(answer) != [answer]:
            return all(equal(gold, side) for side in _sides(answer))
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
        if bare != [gold, answer] and equal(bare[0], bare[1]):
            return True  # 12.5% may be written 12.5
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


def _requests(supervisor: int) -> Any:
    """Requests from standard input, until it ends or the supervisor has exited."""
    pending = b""
    while os.getppid() == supervisor:
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
        Seconds for a pair. `maths` enforces it; if that has ended, an alarm ends this process.
    memory : int
        Maximum bytes of address space.
    replies : text file
    """
    print(json.dumps({"ready": os.getpid()}), file=replies, flush=True)
    for request in _requests(os.getppid()):
        signal.alarm(int(timeout) + 2)
        reply = judge(request)
        signal.alarm(0)
        is_large = _resident() > memory // 2
        # Then a new process with empty caches follows.
        last = is_large or reply.get("failure") == "memory"
        print(json.dumps(reply | {"id": request["id"], "last": last}), file=replies, flush=True)
        if last:
            os._exit(1)


def supervise(timeout: float, memory: int, replies: IO[str]) -> None:
    """Fork a process that serves, and another whenever one has died.

    A fork takes milliseconds, loading sympy seconds. SIGUSR1 kills the process that serves. It and
    this one end with their parent, or when standard input ends.
    """
    parent, child = os.getppid(), 0

    def kill(*_: Any) -> None:
        if child:
            os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGUSR1, kill)
    for gold, answer in WARM:
        equal(gold, answer)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while os.getppid() == parent:
        ended, alive = os.pipe()  # the child holds `alive`, so that its end can be read
        child = os.fork()
        if child == 0:
            os.close(ended)
            serve(timeout, memory, replies)
            os._exit(0)
        os.close(alive)
        while not select.select([ended], [], [], LOOK)[0]:
            if os.getppid() != parent:
                kill()
        died, child = child, 0
        _, status = os.waitpid(died, 0)
        os.close(ended)
        if status == 0:
            return


def main() -> None:
    """Serve on standard input and output; output of libraries goes to standard error."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import logging

    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the parent may ignore this signal
    supervise(float(sys.argv[1]), int(sys.argv[2]), replies)
