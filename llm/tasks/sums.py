"""Sums of a few numbers, one step a line, after worked examples in plain text.

    Question: 3 + 5 + 2
    3 + 5 = 8
    8 + 2 = 10
    Answer: 10

For small pretrained models, which solve a few in a hundred.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from llm.tasks.prompts import Shot, prompt_of
from llm.tasks.task import Example, Split, Task

#: The first answer counts; after it a model may go on to a question of its own.
_ANSWER = re.compile(r"^Answer: (\d+)\s*$", re.MULTILINE)


class Sums(Task):
    """Sums of whole numbers, with reward 1 for the right answer.

    Parameters
    ----------
    min_terms, max_terms : int
        Numbers in a sum.
    largest : int
        Numbers are in 1 … largest.
    shots : int
        Worked examples before each question; none is a training or held-out problem.
    train, test : int
        Numbers of problems; all differ.
    seed : int
        Seed of the drawing of problems.

    Raises
    ------
    ValueError
        If a value is out of range, or there are fewer distinct sums.
    """

    delimiter = "\n"
    stop = ("Question",)

    def __init__(
        self,
        min_terms: int = 3,
        max_terms: int = 3,
        largest: int = 9,
        shots: int = 3,
        train: int = 400,
        test: int = 128,
        seed: int = 0,
    ) -> None:
        if not 2 <= min_terms <= max_terms or largest < 1:
            raise ValueError(
                f"min_terms={min_terms}, max_terms={max_terms}, largest={largest}: need "
                "2 ≤ min_terms ≤ max_terms and largest ≥ 1"
            )
        if train < 1 or test < 1 or shots < 0 or seed < 0:
            raise ValueError(
                f"train={train}, test={test}, shots={shots}, seed={seed}: train and test must be "
                "≥ 1, the others ≥ 0"
            )
        number = sum(largest**length for length in range(min_terms, max_terms + 1))
        if train + test + shots > number:
            raise ValueError(
                f"train={train}, test={test}: there are only {number} such sums; raise largest or "
                "max_terms"
            )
        self.terms, self.largest = (min_terms, max_terms), largest
        self.sizes, self.seed = (shots, test, train), seed

    @cached_property
    def _splits(self) -> dict[str, list[Example]]:
        rng = np.random.default_rng([self.seed, *self.terms])
        drawn: dict[tuple[int, ...], None] = {}  # in order of drawing
        shots, test, _ = self.sizes
        while len(drawn) < sum(self.sizes):
            length = int(rng.integers(self.terms[0], self.terms[1] + 1))
            drawn.setdefault(tuple(rng.integers(1, self.largest + 1, length).tolist()))
        sums = list(drawn)
        worked = [Shot(_question(terms), solution(terms)) for terms in sums[:shots]]

        def example(terms: tuple[int, ...]) -> Example:
            message = {"role": "user", "content": _question(terms)}
            prompt = prompt_of([message], False, "", "", self.delimiter, worked)
            return Example(" + ".join(map(str, terms)), prompt, terms, _question(terms))

        rest = [example(terms) for terms in sums[shots:]]
        return {"test": rest[:test], "train": rest[test:]}

    def examples(self, split: Split) -> Sequence[Example]:
        """See `Task.examples`."""
        return self._splits[split]

    def reward(self, example: Example, completion: str) -> float:
        """Return 1 if the first answer is the sum, else 0."""
        answer = _ANSWER.search(completion.replace("Question", "\n"))
        return float(answer is not None and int(answer[1]) == sum(example.data))


def _question(terms: Sequence[int]) -> str:
    return f"Question: {' + '.join(map(str, terms))}"


def solution(terms: Sequence[int]) -> str:
    """The worked solution of a sum."""
    lines, total = [], terms[0]
    for term in terms[1:]:
        lines.append(f"{total} + {term} = {total + term}")
        total += term
    return "\n".join([*lines, f"Answer: {total}"])
