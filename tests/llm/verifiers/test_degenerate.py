"""Readers of completions take linear time, on texts that make backtracking patterns quadratic."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from llm.resets.prompted import parse
from llm.tasks.delimiters import end_of_thought, without_delimiters
from llm.verifiers.answers import Choice, Exact, YesNo
from llm.verifiers.boxed import last_boxed
from llm.verifiers.code_blocks import program
from llm.verifiers.numeric import Numeric, number
from llm.verifiers.programs import same_output

LENGTH = 64_000
#: Maximum seconds per text. A quadratic reader takes 10 s to 60 s, a linear one 0.1 s.
LIMIT = 2.0

READERS: dict[str, Callable[[str], Any]] = {
    "choice": Choice().stated,
    "yes_no": YesNo().stated,
    "exact": lambda text: Exact()(["a"], [text]),
    "numeric": lambda text: Numeric()([5], [text]),
    "number": number,
    "last_boxed": last_boxed,
    "program": program,
    "same_output": lambda text: same_output("5", text),
    "without_delimiters": lambda text: without_delimiters(text, "</thought>"),
    "end_of_thought": lambda text: end_of_thought(text, "</thought>"),
    "step": lambda text: parse(text, 9),
}

#: Texts as (beginning, repeated part, end).
TEXTS = [
    # blanks
    ("", " ", "x"),
    ("", "\n", "x"),
    ("answer", " ", "x"),
    ("answer:", " ", "!"),
    ("answer is", " ", ""),
    ("Answer: B", " ", "x"),
    ("Answer: yes", " ", "x"),
    ("correct", " ", "x"),
    ("\\boxed", " ", "x"),
    ("\\boxed{1", " ", "!}"),
    ("\\frac1", " ", "x"),
    ("1", " ", "a!"),
    ("step", " ", "x"),
    ("```", " ", "`"),
    ("```python\n", "\t", "`"),
    # fences and marks
    ("", "`", "x`"),
    ("", "~", "x`"),
    ("```", "a", "`"),
    ("", "```\n", "`"),
    ("", "``` `\n", ""),
    ("", "*", "x"),
    ("answer", "*", "x"),
    ("**A ", "x", ""),
    ("", "**A ", ""),
    ("", "**yes ", ""),
    # quotes and backslashes
    ("```python\n", '"', "x"),
    ("```python\n", '\\"', ""),
    ("```python\n", "'\\", ""),
    ("```python\n", "a'\"", ""),
    ("```python\n", "\\'''\n", ""),
    ('```python\n"""', "\\", "x"),
    ("```python\n", "'''a", ""),
    ("", "```python\n\\'''\n```\n", ""),
    ("\\boxed{", "\\", ""),
    # braces
    ("", "{", "x"),
    ("", "\\boxed{", "}"),
    ("", "\\boxed{", ""),
    ("\\boxed{", "\\text{", "}"),
    ("\\boxed{", "}{", ""),
    # digits
    ("", "1", "x"),
    ("1.", "1", ".x"),
    ("\\boxed{", "1", "!}"),
    ("", "1 ", "x"),
    ("", ",111", "x"),
    ("\\boxed{", "1 ", "}"),
    ("answer is ", "1", " = "),
    ("", "\\frac1", ""),
    ("1e", "1", "x"),
    ("\\boxed{1", " a", "!}"),
    # words
    ("", "answer: ", "!"),
    ("", "answer\n ", "!"),
    ("answer is", " therefore", "!"),
    ("", "option: ", "!"),
    ("", "step ", "!"),
    ("", "</thought>", "x"),
    ("```\n", "`</thought>", "x"),
]


@pytest.mark.parametrize("text", TEXTS, ids=repr)
def test_readers__take_linear_time(text: tuple[str, str, str]) -> None:
    begin, part, end = text
    completion = begin + part * (LENGTH // len(part)) + end
    seconds_of = {}
    for name, read in READERS.items():
        start = time.process_time()
        read(completion)
        seconds_of[name] = time.process_time() - start
    assert {name: seconds for name, seconds in seconds_of.items() if seconds > LIMIT} == {}
