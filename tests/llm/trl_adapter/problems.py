"""Chain reasoning as a TRL data set, with reward and checker functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cpi.core.episodes import Episode
from llm.models.shipped import SHIPPED
from llm.tasks import ChainReasoning

TASK = ChainReasoning(length=3, train=64)
EXAMPLES = {example.prompt: example for example in TASK.examples("train")}


def problems(number: int) -> Any:
    """A data set of `number` prompts."""
    from datasets import Dataset

    return Dataset.from_dict({"prompt": list(EXAMPLES)[:number]})


def answers(number: int) -> list[tuple[str, str]]:
    """`number` prompts, each with the last step of its solution."""
    return [(prompt, TASK.solution(EXAMPLES[prompt])[-1]) for prompt in list(EXAMPLES)[:number]]


def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(SHIPPED["chain-base"]), padding_side="left")


def correct(prompts: Any, completions: Any, **columns: Any) -> list[float]:
    """1 if every step is right."""
    return [TASK.reward(EXAMPLES[p], text) for p, text in zip(prompts, completions, strict=True)]


def ask(row: Any, thoughts: Sequence[str]) -> str:
    """The localization request that the base model was pre-trained on."""
    return TASK.localization_prompt(EXAMPLES[row["prompt"]], thoughts)


def errors(row: Any, thoughts: Sequence[str]) -> Any:
    return TASK.errors(EXAMPLES[row["prompt"]], thoughts)


def find_errors(row: Any, episode: Episode) -> Any:
    """Indices of the wrong thoughts of an episode."""
    return np.flatnonzero(errors(row, [thought.text for thought in episode.steps]))
