"""What a run refuses before anything is sampled; a dry run asks the same."""

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
    """Refuse what the task cannot do.

    Parameters
    ----------
    config : TrainConfig
    task : Task
    examples : mapping of split to its examples, optional
        None if they are out of reach.

    Raises
    ------
    ValueError
        Says what else would do.
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


def check_lengths(prompts: Sequence[Prompt], most: int, room: int) -> None:
    """Refuse prompts that leave no room for a completion.

    Parameters
    ----------
    prompts : sequence of Prompt
    most : int
        Tokens of a completion.
    room : int
        Tokens that the model takes.

    Raises
    ------
    ValueError
        Names the prompt.
    """
    for prompt in prompts:
        if not prompt.ids:
            raise ValueError(f"task: the prompt of {prompt.example.id!r} has no token")
        if len(prompt.ids) + most > room:
            raise ValueError(
                f"sampling.max_completion_length: {most} and the {len(prompt.ids)} tokens of "
                f"prompt {prompt.example.id!r} are more than the model's {room}; lower it or drop "
                "the prompt"
            )
