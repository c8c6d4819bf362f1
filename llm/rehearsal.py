"""Rehearsal: texts that are learnt beside reinforcement learning, so that a skill is not lost.

A model that is trained to solve alone may forget how to find its errors, on which SRPO relies. So
every optimizer step may add the likelihood of some texts of that skill to its loss, as replay does
in continual learning. They are the user's: no ground truth of the problems at hand is among them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm.models import locate
from llm.rows import Row
from llm.thoughts import encode

#: In the folder of a base model.
LOCALIZATIONS = "localizations.jsonl"


@dataclass(frozen=True)
class RehearsalOptions:
    """Texts to learn beside reinforcement learning.

    Parameters
    ----------
    file : str
        JSON lines, each with "prompt" (text, or chat messages) and "completion"; or a base model of
        `llm.pretrain`, which has some. By default none.
    weight : float
        Of their mean negative log-likelihood per token, beside the policy's loss.
    batch : int
        Texts an optimizer step.
    """

    file: str = ""
    weight: float = 1.0
    batch: int = 32

    def __post_init__(self) -> None:
        if not 0 <= self.weight < float("inf") or self.batch < 1:
            raise ValueError(
                f"rehearsal.weight={self.weight}, batch={self.batch}: the weight must be a number "
                "≥ 0 (0 turns rehearsal off), the batch ≥ 1"
            )


class Rehearsal:
    """The texts of a file, as rows of tokens.

    Parameters
    ----------
    options : RehearsalOptions
    tokenizer : Transformers tokenizer
    max_length : int
        Most tokens of a text.

    Raises
    ------
    ValueError
        If the file is missing or empty, or a line is not a text, or too long; names the line.
    """

    def __init__(self, options: RehearsalOptions, tokenizer: Any, max_length: int) -> None:
        self.options = options
        path = Path(locate(options.file))
        if path.is_dir():
            path = path / LOCALIZATIONS
        if not path.is_file():
            raise ValueError(f"rehearsal.file: there is no file {str(path)!r}")
        self.rows = [
            _row(line, tokenizer, max_length, f"{path}:{number}")
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        ]
        if not self.rows:
            raise ValueError(f"rehearsal.file: {path} is empty")

    def draw(self, rng: np.random.Generator) -> Sequence[Row]:
        """Some of the texts, all different as long as there are enough."""
        most = min(self.options.batch, len(self.rows))
        return [self.rows[i] for i in rng.choice(len(self.rows), size=most, replace=False)]


def _row(line: str, tokenizer: Any, max_length: int, place: str) -> Row:
    try:
        record = json.loads(line)
        prompt, completion = record["prompt"], record["completion"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f'rehearsal.file: {place} is not a line {{"prompt": …, "completion": …}}'
        ) from None
    before = encode(tokenizer, prompt)
    after = tokenizer(completion, add_special_tokens=False).input_ids
    ids = np.array([*before, *after], dtype=np.int64)
    if not before or not after or len(ids) > max_length:
        raise ValueError(
            f"rehearsal.file: {place} has {len(before)} and {len(after)} tokens; both parts need "
            f"at least one, and together at most {max_length} fit the model"
        )
    return Row(ids, len(before), len(ids), np.zeros(len(after)), 0.0)
