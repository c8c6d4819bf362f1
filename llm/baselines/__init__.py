"""Baselines that are no plan and rule: what they sample and train on; all else is the trainer's.

Engine, losses, learning rate, ledger and evaluation are those of every run. A baseline makes the
`llm.batch.Batch` of a step from the step's prompts and a generator that is keyed by the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from llm.baselines.critique_grpo import CritiqueGRPO
from llm.baselines.score import Score
from llm.baselines.spo_tree import SPOTree
from llm.batch import Batch
from llm.progress import Reporter
from llm.thoughts import Prompt, ThoughtSimulator

if TYPE_CHECKING:
    from llm.config import TrainConfig


class Baseline(Protocol):
    """What makes batches.

    Attributes
    ----------
    request : str
        The words that ask for a second attempt, the longest if there are several; "" for none.
    """

    request: str

    def __init__(
        self, simulator: ThoughtSimulator, config: TrainConfig, reporter: Reporter
    ) -> None: ...

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts that it could not train on, before anything is sampled."""
        ...

    def batch(self, step: int, prompts: Sequence[Prompt], rng: np.random.Generator) -> Batch:
        """What a step trains on: a function of these, and of the engine's weights."""
        ...


BASELINES: dict[str, type[Baseline]] = {
    "score": Score,
    "critique_grpo": CritiqueGRPO,
    "spo_tree": SPOTree,
}
