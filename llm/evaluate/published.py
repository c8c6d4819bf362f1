"""The paper's published numbers, to hold one's own against where the task is the same.

Of Samanta et al. (2026), arXiv 2605.25507: averages over its ten benchmarks, and LiveCodeBench v6
medium. Other models, other hardware, other prompts, and other problems where a benchmark is a draw
from a data set: they say what order of size to expect and nothing about a method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

#: The ten whose mean is published, by the name that `--task` takes.
TEN = (
    "numina_olympiads",
    "acereason_math",
    "hmmt_nov_2025",
    "math_level5",
    "commonsense_qa",
    "strategy_qa",
    "sciknoweval_chemistry",
    "sciknoweval_physics",
    "sciknoweval_biology",
    "sciknoweval_materials",
)


#: Arguments of a task, and of its verifier, that change nothing of what is measured.
HARMLESS, HARMLESS_OF_VERIFIERS = {"verifier_args", "train"}, {"allow_code", "jobs", "workers"}


@dataclass(frozen=True)
class Published:
    """A published measure: the mean over some tasks, in percent, by method.

    `verifier_args` are what makes a verifier of ours measure the same.
    """

    measure: str
    model: str
    tasks: tuple[str, ...]
    percent: dict[str, float]
    verifier_args: dict[str, Any] = field(default_factory=dict)


PUBLISHED = (
    Published(
        "mean of 10 benchmarks",
        "Qwen2.5-14B-Instruct",
        TEN,
        {"GRPO": 42.8, "RRPO": 44.3, "SRPO": 46.3},
    ),
    Published(
        "mean of 10 benchmarks",
        "OLMo-3-7B-Instruct",
        TEN,
        {"GRPO": 41.5, "RRPO": 41.9, "SRPO": 45.8},
    ),
    Published(
        "LiveCodeBench v6 medium, tests passed, step 11",
        "of the paper",
        ("livecodebench_v6_medium",),
        {"base": 7.6, "GRPO": 23.1, "RRPO": 24.5, "SRPO": 29.8},
        {"reward": "fraction"},
    ),
)


class Measured(NamedTuple):
    """A mean reward in [0, 1], and the arguments that the task was given."""

    reward: float
    task_args: Mapping[str, Any]

    def is_that_of(self, paper: Published) -> bool:
        """Whether it measures what the paper does: another draw is another benchmark."""
        own = dict(self.task_args.get("verifier_args", {}))
        own = {name: value for name, value in own.items() if name not in HARMLESS_OF_VERIFIERS}
        return self.task_args.keys() <= HARMLESS and own == paper.verifier_args


def comparisons(measured: Mapping[str, Measured]) -> list[tuple[Published, float]]:
    """Published measures of which all tasks are here, and the mean of our rewards on them.

    Parameters
    ----------
    measured : mapping of task to Measured
        On all of its test problems.
    """
    return [
        (paper, sum(measured[name].reward for name in paper.tasks) / len(paper.tasks))
        for paper in PUBLISHED
        if all(name in measured and measured[name].is_that_of(paper) for name in paper.tasks)
    ]
