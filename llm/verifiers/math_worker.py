r"""Worker process that runs math-verify.

The time limit of math-verify is off: its alarm cannot interrupt arithmetic of very large integers.
"""

from __future__ import annotations

from typing import Any

from llm.verifiers.math_equal import equal
from llm.verifiers.serving import work

#: Compared at the start: the first pair of each kind loads modules, which must not count as time.
WARM = [("0.5", r"\sqrt{2}"), ("(x+1)^2", "x^2+1"), ("[1,2)", "1 < x < 2"), (r"\sin x", "y=3")]


def judge(request: dict[str, Any]) -> dict[str, Any]:
    """Reply to a request (gold, answer, boxed): reward 1 if the answers are equal."""
    return {"reward": float(equal(request["gold"], request["answer"], request["boxed"]))}


def main() -> None:
    """Run the worker."""
    work(judge, lambda: [equal(gold, answer) for gold, answer in WARM])
