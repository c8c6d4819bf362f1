"""The names that `--algorithm` takes.

A plan-and-rule algorithm is an entry of `cpi.ALGORITHMS`. Any other algorithm is a class. It is
listed here by its import path, so that settings can be read without importing it.
"""

from __future__ import annotations

from cpi.core.plans import ALGORITHMS

#: Algorithms outside the plan-and-rule scheme: name → `module:Class` of an `Algorithm`.
CLASSES: dict[str, str] = {
    "score": "llm.algorithms.score:Score",
    "critique_grpo": "llm.algorithms.critique_grpo:CritiqueGRPO",
    "spo_tree": "llm.algorithms.spo_tree:SPOTree",
    "vineppo": "llm.algorithms.vineppo:VinePPO",
}


def check_algorithm(name: str) -> None:
    """Refuse a name that is in neither table and is no import path.

    Raises
    ------
    ValueError
        Lists the valid names.
    """
    if name not in ALGORITHMS and name not in CLASSES and ":" not in name:
        names = ", ".join([*ALGORITHMS, *CLASSES])
        raise ValueError(f"algorithm: {name!r} is none of {names}, nor module:Class of your own")
