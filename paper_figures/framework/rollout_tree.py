"""Draw a reset group as a tree; `llm.show` prints such trees as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_figures.framework.style import marks

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_tree(ax: Axes, record: Mapping[str, Any]) -> None:
    """Draw prompt and shared thoughts, then a branch per seed episode and continuation."""
    kept, seed = len(record["prefix"]), record["seed"]
    branches = [
        {"head": "seed", "thoughts": seed["thoughts"][kept:], "foot": f"reward {seed['reward']:g}"}
    ]
    for number, each in enumerate(record["continuations"], 1):
        foot = f"reward {each['reward']:g}\nÂ = {each['advantage']:+.2f}".replace("-", "−")
        branches.append({"head": f"{number}", "thoughts": each["thoughts"], "foot": foot})
    columns = np.arange(len(branches), dtype=float)
    middle = float(columns.mean())
    box = {"boxstyle": "round,pad=0.3", "lw": 0.6}

    def node(x: float, y: float, text: str, **look: Any) -> None:
        ax.text(x, y, text, ha="center", va="center", bbox=box | look, fontsize=7, zorder=3)

    y = 0.0
    node(middle, y, f"problem {record['prompt'].strip()}", fc="white", ec="black")
    for k, thought in enumerate(record["prefix"], 1):
        ax.plot([middle, middle], [y, y - 1], color="0.6", lw=0.8, zorder=1)
        y -= 1
        node(middle, y, f"{k}:  {thought.strip()}", fc="0.9", ec="0.6")
    ax.text(middle + 0.5, (y - 1) / 2 - 0.1, "shared prefix,\nnothing trained", fontsize=7,
            color="0.35", va="center")  # fmt: skip
    fork = y - 0.75
    ax.plot([middle, middle], [y, fork], color="0.6", lw=0.8, zorder=1)
    ax.plot([columns[0], columns[-1]], [fork, fork], color="0.6", lw=0.8, zorder=1)
    reset_note = f"reset before step {kept + 1}, which the model named; it is the first error"
    ax.text(middle, fork + 0.13, reset_note, ha="center", fontsize=7, style="italic",
            bbox={"fc": "white", "ec": "none", "pad": 0.5}, zorder=4)  # fmt: skip
    for x, branch in zip(columns, branches, strict=True):
        branch_y, trained = fork, branch["head"] != "seed"
        ax.text(x, fork - 0.22, branch["head"], ha="center", va="center", fontsize=7,
                bbox={"fc": "white", "ec": "none", "pad": 0.5}, zorder=3)  # fmt: skip
        right = "reward 1" in branch["foot"]
        for k, thought in enumerate(branch["thoughts"], kept + 1):
            ax.plot([x, x], [branch_y, branch_y - 1], color="0.6", lw=0.8, zorder=1)
            branch_y -= 1
            wrong = not trained and k == seed["first_error"]
            look: dict[str, Any] = {"fc": "white", "ec": "0.6", "ls": "--"}
            if trained:
                colour = marks("oracle" if right else "deepest")["color"]
                look = {"fc": "white", "ec": colour, "lw": 1.4 if right else 0.8}
            node(x, branch_y, f"{k}:  {answer(thought)}" + (" ✗" if wrong else ""), **look)
        ax.text(x, branch_y - 0.75, branch["foot"], ha="center", va="center", fontsize=7,
                weight="bold" if right else "normal")  # fmt: skip
    ax.set_xlim(columns[0] - 0.6, columns[-1] + 0.6)
    ax.set_ylim(fork - len(branches[1]["thoughts"]) - 1.2, 0.5)
    ax.set_title("(c) one group", loc="left")
    ax.axis("off")


def answer(thought: str) -> str:
    r"""The answer in a thought: 4 for `\boxed{4}`."""
    return thought.strip().removeprefix("\\boxed{").rstrip("}")
