"""The paper's published numbers, shown beside results on the same tasks.

From Samanta et al. (2026), arXiv 2605.25507: means over ten benchmarks, and LiveCodeBench v6
medium. Models, hardware and prompts differ, as do the problems where a benchmark is a random draw.
So the numbers show the order of magnitude to expect and do not compare methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

#: The ten benchmarks whose mean is published, by their names for `--task`.
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


#: Arguments of a task, and of its verifier, that do not change the benchmark.
IGNORED, IGNORED_OF_VERIFIERS = {"verifier_args", "train"}, {"allow_code", "jobs", "workers"}


@dataclass(frozen=True)
class Published:
    """A published measure: the mean over some tasks, in percent, by method.

    `verifier_args` are the arguments with which the verifier computes the same measure.
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
    """A mean reward in [0, 1], and the arguments of the task."""

    reward: float
    task_args: Mapping[str, Any]

    def matches(self, paper: Published) -> bool:
        """Whether the benchmark is the paper's; another random draw is another benchmark."""
        args = dict(self.task_args.get("verifier_args", {}))
        args = {name: value for name, value in args.items() if name not in IGNORED_OF_VERIFIERS}
        return self.task_args.keys() <= IGNORED and args == paper.verifier_args


def comparisons(measured: Mapping[str, Measured]) -> list[tuple[Published, float]]:
    """Published measures whose tasks were all measured, each with the mean of the rewards.

    Parameters
    ----------
    measured : mapping of task to Measured
        Results on all test problems of each task.
    """
    return [
        (paper, sum(measured[name].reward for name in paper.tasks) / len(paper.tasks))
        for paper in PUBLISHED
        if all(name in measured and measured[name].matches(paper) for name in paper.tasks)
    ]
