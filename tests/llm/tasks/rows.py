"""Rows in the schemas of the declared data sets, and functions that write them to files."""

from __future__ import annotations

import base64
import csv
import json
import pickle
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def packed(cases: Any) -> str:
    """Encode hidden tests as LiveCodeBench does."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


def _choices(i: int) -> Row:
    return {"label": list("ABCD"), "text": [str(i), str(i + 1), str(i + 2), str(i + 3)]}


def _numina(i: int) -> Row:
    problem, solution = f"What is {i} + {i}?", f"Twice {i} is $\\boxed{{{2 * i}}}$."
    messages = [{"role": "user", "content": problem}, {"role": "assistant", "content": solution}]
    row = {"source": "olympiads", "problem": problem, "solution": solution, "messages": messages}
    others = {
        1: {"source": "cn_k12"},
        2: {"solution": "It is proved. $\\blacksquare$"},
        3: {"solution": r"$\boxed{\text{no such number}}$"},
        4: {"solution": r"$\boxed{x > y}$"},
        5: {"solution": r"$\boxed{12 cm}$"},
        6: {"solution": r"$\boxed{" + "1" * 61 + "}$"},
        7: {"solution": r"$\boxed{(1, 2}$"},
        8: {"solution": r"$\boxed{. 8}$"},
        9: {"solution": r"$\boxed{-\frac{18}{1}}$"},
    }
    return {**row, **others.get(i, {})}


def _code(i: int) -> Row:
    stdin = i % 2 == 0
    name = {} if stdin else {"func_name": "double"}
    kind = "stdin" if stdin else "functional"
    cases = [{"input": f"{k}\n" if stdin else f"{k}", "output": f"{2 * k + i}", "testtype": kind}
             for k in (1, 5, 30)]  # fmt: skip
    starter = "class Solution:\n    def double(self, n: int) -> int:\n        "
    return {
        "question_title": f"double-{i}",
        "question_content": f"Read n, print 2n + {i}.",
        "platform": "atcoder" if stdin else "leetcode",
        "question_id": f"abc{i}",
        "contest_id": "abc",
        "contest_date": "2025-01-04T00:00:00",
        "starter_code": "" if stdin else starter,
        "difficulty": "easy" if i % 5 == 4 else "medium",
        "public_test_cases": json.dumps(cases[:1]),
        "private_test_cases": packed(cases[1:]) if i % 3 else json.dumps(cases[1:]),
        "metadata": json.dumps(name),
    }


def _program(row: Row) -> str:
    i = row["question_title"].removeprefix("double-")
    if row["starter_code"]:
        body = f"{row['starter_code']}return 2 * n + {i}\n"
    else:
        body = f"print(2 * int(input()) + {i})\n"
    return f"Doubling does it.</thought>\n```python\n{body}```"


def _science(domain: str) -> Callable[[int], Row]:
    def make(i: int) -> Row:
        row = {
            "question": f"Which number is one more than {i}?",
            "choices": _choices(i),
            "answerKey": "B",
            "answer": "",
            "type": "mcq-4-choices",
            "domain": domain,
            "details": {"level": "L3", "task": "sums", "subtask": "one", "source": "made up"},
        }
        others: dict[int, Row] = {
            1: {"domain": "Astronomy"},
            2: {"details": {**row["details"], "level": "L1"}},
            3: {"type": "open-ended-qa", "answerKey": "", "answer": "4", "choices": _choices(0)},
        }
        return {**row, **others.get(i, {})}

    return make


def _box(row: Row) -> str:
    return str(row["solution"])


#: By task: the function that makes row i, the right completion of a row, a wrong completion.
SCHEMAS: dict[str, tuple[Callable[[int], Row], Callable[[Row], str], str]] = {
    "numina_olympiads": (_numina, _box, r"\boxed{-1/7}"),
    "math_level5": (
        lambda i: {
            "problem": f"Compute $\\frac{{{i}}}{{4}}$.",
            "level": "Level 3" if i % 5 == 4 else "Level 5",
            "type": "Algebra",
            "solution": f"It is $\\boxed{{\\frac{{{i}}}{{4}}}}$.",
        },
        lambda row: f"\\boxed{{{int(row['problem'].split('{')[1].split('}')[0]) / 4}}}",
        r"\boxed{-0.1}",
    ),
    "gsm8k": (
        lambda i: {
            "question": f"Ann has {i} pears, and Bo has 1,000 more. How many has Bo?",
            "answer": f"Bo has {i} + 1000 = <<{i}+1000={i + 1000}>>{i + 1000}.\n#### {i + 1000:,}",
        },
        lambda row: f"\\boxed{{{row['answer'].split('#### ')[1].replace(',', '')}}}",
        r"\boxed{1}",
    ),
    "acereason_math": (
        lambda i: {"problem": f"Find x, if x − {i} = 1/2.", "answer": f"{i}.5"},
        lambda row: f"x</thought>\\boxed{{\\frac{{{int(float(row['answer']) * 2)}}}{{2}}}}",
        r"\boxed{0}",
    ),
    "hmmt_nov_2025": (
        lambda i: {
            "problem_idx": i,
            "problem": f"Compute $\\sqrt{{{i * i}}}$.",
            "answer": str(i),
            "problem_type": ["Algebra"],
        },
        lambda row: f"\\boxed{{{row['answer']}.0}}",
        r"\boxed{99}",
    ),
    "commonsense_qa": (
        lambda i: {
            "id": f"id{i:03}",
            "question": f"Where would you find {i} forks?",
            "question_concept": "fork",
            "choices": {"label": list("ABCDE"), "text": ["sky", "kitchen", "sea", "ice", "sun"]},
            "answerKey": "B",
        },
        lambda row: r"A kitchen.</thought>\boxed{B}",
        r"\boxed{A}",
    ),
    "strategy_qa": (
        lambda i: {
            "qid": f"q{i}",
            "term": "six",
            "description": "number",
            "question": f"Is {i} less than six?",
            "answer": i < 6,
            "facts": "One is less than six.",
        },
        lambda row: r"\boxed{Yes}" if row["answer"] else r"\boxed{no}",
        r"\boxed{perhaps}",
    ),
    "livecodebench_v6_medium": (_code, _program, "```python\nprint(0)\n```"),
    **{
        f"sciknoweval_{name}": (_science(domain), lambda row: r"\boxed{B}", r"\boxed{C}")
        for name, domain in (
            ("biology", "Biology"),
            ("chemistry", "Chemistry"),
            ("physics", "Physics"),
            ("materials", "Material"),
        )
    },
}


def write(path: Path, rows: Sequence[Row]) -> Path:
    """Write rows in the format given by the suffix of the file."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path
