"""Checks of runs and dry runs before anything is sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from llm.algorithms import algorithm_class
from llm.tasks import Example, Task
from llm.thoughts.simulator import Prompt

if TYPE_CHECKING:
    from llm.config.train import TrainConfig


def check_task(
    config: TrainConfig, task: Task, examples: Mapping[str, Sequence[Example]] | None
) -> None:
    """Refuse settings that the task does not support.

    Parameters
    ----------
    config : TrainConfig
    task : Task
    examples : mapping of split to its examples, optional
        None if they are unavailable.

    Raises
    ------
    ValueError
        The message names alternatives.
    """
    algorithm_class(config).check_task(config, task)
    if examples is None:
        return
    if not examples["train"]:
        raise ValueError(f"task: {task} has no training problems")
    if config.evaluation.steps and not examples["test"]:
        raise ValueError(
            f"evaluation.steps: {config.evaluation.steps}, but {task} has no test problems; "
            "give it some, or set evaluation.steps to 0"
        )


def check_lengths(
    prompts: Sequence[Prompt], max_completion_length: int, max_model_len: int
) -> None:
    """Refuse prompts that leave no room for a completion.

    Parameters
    ----------
    prompts : sequence of Prompt
    max_completion_length : int
        Maximum number of tokens of a completion.
    max_model_len : int
        Maximum number of tokens of the model's context.

    Raises
    ------
    ValueError
        The message names the prompt.
    """
    for prompt in prompts:
        if not prompt.ids:
            raise ValueError(f"task: the prompt of {prompt.example.id!r} has no token")
        if len(prompt.ids) + max_completion_length > max_model_len:
            raise ValueError(
                f"sampling.max_completion_length: {max_completion_length} and the "
                f"{len(prompt.ids)} tokens of prompt {prompt.example.id!r} are more than the "
                f"model's {max_model_len}; lower it or drop the prompt"
            )
