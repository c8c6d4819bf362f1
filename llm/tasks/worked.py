"""Worked solutions of problems of reasoning-gym, for `--task_args.worked llm.tasks.worked:NAME`.

Each is a function from an item of the data set to the text of its solution.
"""

from __future__ import annotations

from typing import Any


def chain_sum(item: dict[str, Any]) -> str:
    """Running totals of `4 - 1 - 7`, one a line, and the answer."""
    first, *rest = item["metadata"]["expression"].split()
    total, lines = int(first), []
    for sign, term in zip(rest[::2], map(int, rest[1::2]), strict=True):
        after = total + term if sign == "+" else total - term
        lines.append(f"{total} {sign} {term} = {after}")
        total = after
    return "\n".join([*lines, f"<answer>{total}</answer>"])
