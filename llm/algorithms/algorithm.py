"""Base class of the training algorithms, and what a run passes to its constructor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from llm.algorithms.batch import Batch
from llm.chain.readout import Readout
from llm.common.progress import Reporter
from llm.config.train import TrainConfig
from llm.tasks import Task
from llm.thoughts.simulator import Prompt, ThoughtSimulator


@dataclass(frozen=True)
class Setup:
    """Constructor argument of an algorithm.

    Attributes
    ----------
    config : TrainConfig
    simulator : ThoughtSimulator
        Samples completions and verifies them; also has engine, tokenizer and limits.
    task : Task
    prompts : sequence of Prompt
        The prompts of all training problems.
    read_out : function
        Computes the policy's exact values for some prompts, on chain reasoning.
    reporter : Reporter
        Shows progress and messages.
    """

    config: TrainConfig
    simulator: ThoughtSimulator
    task: Task
    prompts: Sequence[Prompt]
    read_out: Callable[[Sequence[Prompt]], Readout]
    reporter: Reporter


class Algorithm(ABC):
    """Base class: an algorithm makes the training batch of each step.

    All algorithms share the engine, losses, learning rate, ledger and evaluation. A class of your
    own is named by --algorithm module:Class; --algorithm_args are keyword arguments of its
    constructor.

    Attributes
    ----------
    about : str
        One sentence on the method, for model cards.
    request : str
        The message that asks for a second attempt, the longest if there are several; "" for none.
    """

    about: ClassVar[str] = ""
    request: ClassVar[str] = ""

    def __init__(self, setup: Setup) -> None:
        self.config, self.simulator, self.reporter = setup.config, setup.simulator, setup.reporter
        self.task, self.prompts = setup.task, setup.prompts

    @classmethod
    def check_task(cls, config: TrainConfig, task: Task) -> None:
        """Refuse a task that does not fit, before any model is loaded and in dry runs.

        Raises
        ------
        ValueError
            If the task lacks something; the message names alternatives.
        """

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts that cannot be trained on, before anything is sampled.

        Raises
        ------
        ValueError
            The message names the prompt.
        """

    @abstractmethod
    def batch(self, step: int, indices: Sequence[int], rng: np.random.Generator) -> Batch:
        """Sample the training batch of a step.

        The batch depends only on the arguments and on the engine's weights.

        Parameters
        ----------
        step : int
            Counted from 1.
        indices : sequence of int
            The step's problems, as indices into `prompts`.
        rng : numpy Generator
            Seeded by (seed, step).
        """
