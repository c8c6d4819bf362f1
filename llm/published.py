"""The paper's published numbers, to hold one's own against where the task is the same.

Of Samanta et al. (2026), arXiv 2605.25507: averages over its ten benchmarks, and LiveCodeBench v6
medium. Other models, other hardware, other prompts, and other problems where a benchmark is a draw
from a data set: they say what order of size to expect and nothing about a method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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


#: Arguments of a task that leave its test problems as they are.
HARMLESS = {"verifier_args", "train"}


@dataclass(frozen=True)
class Published:
    """A published measure: the mean over some tasks, in percent, by method."""

    measure: str
    model: str
    tasks: tuple[str, ...]
    percent: dict[str, float]


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
    ),
)


def comparisons(rewards: Mapping[str, float]) -> list[tuple[Published, float]]:
    """Published measures of which all tasks are here, and the mean of our rewards on them.

    Parameters
    ----------
    rewards : mapping of task to mean reward
        In [0, 1].
    """
    return [
        (paper, sum(rewards[name] for name in paper.tasks) / len(paper.tasks))
        for paper in PUBLISHED
        if all(name in rewards for name in paper.tasks)
    ]
