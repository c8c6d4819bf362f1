"""Options of a training run: overrides of the plan, and evaluation."""

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
        Reset groups per prompt.
    per_reset : int, optional
        Size of each reset group.
    seeds : {"failed", "any"}, optional
        Episodes that may be reset.
    choice : {"random", "deepest"}, optional
        Which of these episodes are reset.
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
        Steps between evaluations, also before the first step and after the last; 0 for none.
    problems : int
        Number of test problems of the task.
    samples : int
        Completions per problem; pass@1 and pass@samples are estimated from them.
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
