"""The names that `--algorithm` takes.

A plan-and-rule algorithm is a line of `cpi.ALGORITHMS`. Any other is a class, named here by its
import path, so that settings can be read without loading it.
"""

from __future__ import annotations

from cpi.core.plans import ALGORITHMS

#: Outside the plan-and-rule scheme: name → `module:Class`, an `llm.algorithms.Algorithm`.
CLASSES: dict[str, str] = {
    "score": "llm.algorithms.score:Score",
    "critique_grpo": "llm.algorithms.critique_grpo:CritiqueGRPO",
    "spo_tree": "llm.algorithms.spo_tree:SPOTree",
}


def check_algorithm(name: str) -> None:
    """Refuse a name that is in no table and is no import path.

    Raises
    ------
    ValueError
        Lists the names.
    """
    if name not in ALGORITHMS and name not in CLASSES and ":" not in name:
        names = ", ".join([*ALGORITHMS, *CLASSES])
        raise ValueError(f"algorithm: {name!r} is none of {names}, nor module:Class of your own")
