"""The interface between algorithms and the trainer."""

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
    """What a run gives its algorithm.

    Attributes
    ----------
    config : TrainConfig
    simulator : ThoughtSimulator
        Samples completions and verifies them; also has engine, tokenizer and limits.
    task : Task
    prompts : sequence of Prompt
        Of all training problems.
    read_out : function
        The policy's exact values for some prompts, on chain reasoning.
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
    """Makes the batch that a training step trains on.

    Engine, losses, learning rate, ledger and evaluation are those of every run. A class of your own
    is named by --algorithm module:Class; --algorithm_args are keyword arguments of its constructor.

    Attributes
    ----------
    about : str
        The method in a sentence, for a model card.
    request : str
        The words that ask for a second attempt, the longest if there are several; "" for none.
    """

    about: ClassVar[str] = ""
    request: ClassVar[str] = ""

    def __init__(self, setup: Setup) -> None:
        self.config, self.simulator, self.reporter = setup.config, setup.simulator, setup.reporter
        self.task, self.prompts = setup.task, setup.prompts

    @classmethod
    def check_task(cls, config: TrainConfig, task: Task) -> None:
        """Refuse a task, before any model is loaded; a dry run asks the same.

        Raises
        ------
        ValueError
            If the task lacks something; says what else would do.
        """

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts that it could not train on, before anything is sampled.

        Raises
        ------
        ValueError
            Names the prompt.
        """

    @abstractmethod
    def batch(self, step: int, indices: Sequence[int], rng: np.random.Generator) -> Batch:
        """What a step trains on: a function of these, and of the engine's weights.

        Parameters
        ----------
        step : int
            Counted from 1.
        indices : sequence of int
            The step's problems, places in `prompts`.
        rng : numpy Generator
            Keyed by (seed, step).
        """
