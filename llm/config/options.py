"""Options of a training run that belong to no other room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PlanOptions:
    """Overrides of the algorithm's plan; see `cpi.GroupPlan`.

    Parameters
    ----------
    fresh : int, optional
        Size of the fresh group (num_generations of GRPO).
    resets : int, optional
        Reset groups a prompt.
    per_reset : int, optional
        Size of each.
    seeds : {"failed", "any"}, optional
        Which episodes may be reset.
    choice : {"random", "deepest"}, optional
        Which of them are.
    """

    fresh: int | None = None
    resets: int | None = None
    per_reset: int | None = None
    seeds: Literal["failed", "any"] | None = None
    choice: Literal["random", "deepest"] | None = None


@dataclass(frozen=True)
class EvaluationOptions:
    """Evaluation on held-out problems.

    Parameters
    ----------
    steps : int
        Evaluate every so many steps, before the first and after the last; 0 never.
    problems : int
        How many of the task's test problems.
    samples : int
        Completions of each; pass@1 and pass@samples are estimated from them.
    """

    steps: int = 10
    problems: int = 128
    samples: int = 4

    def __post_init__(self) -> None:
        if self.steps < 0 or self.problems < 1 or self.samples < 1:
            raise ValueError(
                f"evaluation.steps={self.steps}, problems={self.problems}, samples={self.samples}: "
                "steps must be ≥ 0 (0 turns evaluation off), the others ≥ 1"
            )
