"""Worker process that scores answers to problems of reasoning-gym.

Some of its scorers evaluate the answer as Python. Answers are a model's text, so here a list is
read as a literal, and a formula may hold nothing but numbers, names and common functions.
"""

from __future__ import annotations

import ast
import functools
import inspect
import json
import re
import sys
from typing import Any

from llm.tasks.reasoning_gym import make_dataset, score
from llm.verifiers.serving import work

_FORMULA = re.compile(r"[\w\s+\-*/^().,=!]*")
_CALL = re.compile(r"([^\W\d]\w*)\s*\(")
_ATTRIBUTE = re.compile(r"\.\s*[^\W\d]")
_FUNCTIONS = {
    *("sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan"),
    *("sinh", "cosh", "tanh", "exp", "log", "ln", "sqrt", "Abs"),
}


def is_formula(answer: str) -> bool:
    """Whether a text is a formula without attributes, texts and calls of other functions."""
    return bool(
        _FORMULA.fullmatch(answer)
        and "__" not in answer
        and not _ATTRIBUTE.search(answer)
        and _FUNCTIONS.issuperset(_CALL.findall(answer))
    )


def evaluates(source: str) -> bool:
    """Whether a module evaluates formulas with sympy."""
    return "parse_expr(" in source and "def parse_expr(" not in source


@functools.cache
def scorer(name: str, config: str) -> tuple[Any, bool]:
    """A data set, and whether its answers must be formulas."""
    dataset = make_dataset(name, json.loads(config), 0, 1)
    formulas = False
    for part in getattr(dataset, "datasets", {"": dataset}).values():
        module = sys.modules[type(part).__module__]
        source = inspect.getsource(module)
        if "eval(answer" in source:
            module.__dict__["eval"] = ast.literal_eval
        formulas = formulas or evaluates(source)
    return dataset, formulas


def judge(request: dict[str, Any]) -> dict[str, Any]:
    """Reply to a `llm.tasks.reasoning_gym.Scoring`."""
    dataset, formulas = scorer(request["name"], request["config"])
    answer = request["answer"]
    if formulas and not is_formula(answer):
        return {"reward": 0.0}
    try:
        return {"reward": score(dataset, request["entry"], answer)}
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # of a scorer, on an answer that it did not expect
        return {"reward": 0.0, "failure": f"{type(error).__name__} of the scorer"}


def main() -> None:
    """Run the worker."""
    import reasoning_gym  # noqa: F401

    work(judge, lambda: None)
