"""Verifier of mathematical answers, which runs math-verify in worker processes."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from llm.verifiers.answers import last_match, last_statement
from llm.verifiers.boxed import has_box, last_boxed
from llm.verifiers.verifier import Verification
from llm.verifiers.workers import WorkerPool

#: Maximum characters of an answer: longer texts are no answers, but may keep a worker busy.
LONGEST = 1000
#: Characters at the end of a completion that are searched for an answer without a box.
TAIL = 1000

_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
_DISPLAY = re.compile(r"^\\[\[(]\s*(.*?)\s*\\[\])]$", re.DOTALL)
_SENTENCE = re.compile(
    r"(?i)(?<![a-z\\])(?:because|since|as|which|so|then|thus|that|this|we|is|are|the|i)(?![a-z])"
)


class Pair(NamedTuple):
    """Request to a worker; see `llm.verifiers.math_equal.equal`."""

    gold: str
    answer: str
    boxed: bool


class MathVerifier(WorkerPool):
    r"""Reward 1 for a mathematical answer equal to the gold answer: `0.25` for `\frac14`.

    The stated answer is the last `\boxed{…}` (`llm.verifiers.boxed`). Values are compared, not
    forms: an answer may be unsimplified. Decimals are exact: 0.333 is not 1/3. A and a are two
    letters. A unit may be missing but not wrong; the same holds for degree, dollar, a.m. and p.m.
    10% equals 0.1, and also 10: graders of MATH drop the sign, which many of its gold answers to
    "what percent" lack. A list `1, 2` is a set, in any order. (1, 2) is a point or an interval;
    (1, 2), [1, 2] and {1, 2} all differ. If the gold answer is no equation, `x = 3` counts as its
    right-hand side; `x = 1, y = 2` equals the point (1, 2).

    On an answer like `9^{9^{9^9}}` sympy can hang or exhaust memory. math-verify therefore runs in
    worker processes, which are killed when a pair takes too long. Such a pair has reward 0 and a
    failure: "timeout", "crash", "memory", "nested too deeply" or "too long".

    Parameters
    ----------
    timeout : float
        Seconds for one pair.
    workers : int
        Number of processes. They start with the first call. They end with `close`, with this
        process, or when the verifier is garbage-collected.
    memory : int
        MiB of address space of each worker.
    require_box : bool
        Count a completion without a box as wrong. If false, the answer is what follows the last
        "answer is", "Answer:" or `<answer>` up to the end of the line, or the line below a heading
        "Answer", or else the last text in bold, or else the whole completion. If that is a
        sentence, math-verify searches the last 1,000 characters for the last formula or number.

    Raises
    ------
    ValueError
        If math-verify is not installed or an option is out of range.
    """

    def __init__(
        self,
        timeout: float = 5.0,
        workers: int = 2,
        memory: int = 2048,
        require_box: bool = True,
    ) -> None:
        if timeout <= 0 or workers < 1:
            raise ValueError(f"math: timeout={timeout}, workers={workers}: must be > 0 and ≥ 1")
        if memory < 256:
            raise ValueError(f"math: memory={memory}: MiB for sympy and its work; give 256 or more")
        if importlib.util.find_spec("math_verify") is None:
            raise ValueError("math: math-verify is not installed; pip install 'credit-resets[llm]'")
        super().__init__(timeout, workers, memory, "llm.verifiers.math_worker")
        self.require_box = require_box

    def check_answer(self, answer: Any) -> None:
        r"""Raise a ValueError unless the answer is a number or a non-empty text.

        Of a text with boxes, such as a whole solution, the last box is the answer.
        """
        if isinstance(answer, bool) or not isinstance(answer, str | int | float):
            kind = type(answer).__name__
            raise ValueError(f"math: the answer {answer!r} is a {kind}, not text or a number")
        if isinstance(answer, float) and not math.isfinite(answer):
            raise ValueError(f"math: the answer {answer!r} is not a finite number")
        gold = _gold(answer)
        if not gold:
            raise ValueError(f"math: the answer {answer!r} is empty, or its box is never closed")
        if len(gold) > LONGEST:
            raise ValueError(
                f"math: an answer of {len(gold)} characters, {gold[:40]!r}…, is too long to "
                f"verify; at most {LONGEST}"
            )

    def __call__(self, answers: Sequence[Any], completions: Sequence[str]) -> list[Verification]:
        """Verify completions; see the class.

        Raises
        ------
        RuntimeError
            If a worker does not start.
        """
        pairs = [self._pair(a, c) for a, c in zip(answers, completions, strict=True)]
        # Completions of a group often share an answer.
        requests = [p for p in pairs if p and max(map(len, p[:2])) <= LONGEST]
        by_pair: dict[Pair | None, Verification] = {None: Verification(0.0)}
        by_pair.update(self.verify_all(requests))
        return [by_pair.get(pair, Verification(0.0, "too long")) for pair in pairs]

    def _pair(self, answer: Any, completion: str) -> Pair | None:
        boxed = last_boxed(completion)
        if boxed:
            return Pair(_gold(answer), boxed, True)
        if self.require_box or has_box(completion) or not completion.strip():
            return None
        bold = last_match(_BOLD, completion)
        text = last_statement(completion) or (bold[1] if bold else completion)
        text = text.strip("*_$ \n").rstrip(".*_$")
        text = _DISPLAY.sub(r"\1", text)
        is_answer = len(text) < 200 and "\n" not in text and not _SENTENCE.search(text)
        return Pair(_gold(answer), text if is_answer else completion[-TAIL:], is_answer)


def _gold(answer: Any) -> str:
    text = str(answer).strip()
    boxed = last_boxed(text)
    return (boxed or "") if has_box(text) else text.strip("$ ")
