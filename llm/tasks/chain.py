"""Chain reasoning as a task: the arithmetic of `envs.reasoning`, one thought a line."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from envs.reasoning import VERIFY, ChainTask, Problem
from llm.tasks.task import Example, Split, Task

#: What asks a model that was pre-trained on it for the first wrong step of what stands before.
QUESTION = "?\n"


class ChainReasoning(Task):
    r"""Chains of modular arithmetic; the model answers `\boxed{9}` after one value a line.

    Parameters
    ----------
    modulus : int
    operations : sequence of str
        See `envs.reasoning.ChainTask`.
    length : int
        Steps of each problem.
    verify : {"steps", "answer"}
        Reward 1 if every step is right, or if the last value is.
    train, test : int
        Numbers of problems; the two sets are disjoint.
    seed : int
        Draws them.

    Raises
    ------
    ValueError
        If there are fewer different problems than `train` + `test`, or a value is out of range.
    """

    delimiter = "\n"
    stop = ("}",)
    has_checker = True

    def __init__(
        self,
        modulus: int = 10,
        operations: Sequence[str] = ("+3", "-4", "*3"),
        length: int = 5,
        verify: str = "steps",
        train: int = 512,
        test: int = 128,
        seed: int = 0,
    ) -> None:
        self.chain = ChainTask(modulus, tuple(operations))
        if verify not in VERIFY:
            raise ValueError(f"verify: {verify!r} is not one of {', '.join(map(repr, VERIFY))}")
        if length < 1 or train < 1 or test < 1:
            raise ValueError(f"length={length}, train={train}, test={test}: each must be ≥ 1")
        number = modulus * len(self.chain.operations) ** length
        if number < train + test:
            raise ValueError(
                f"train={train}, test={test}: there are only {number} problems of length {length}"
            )
        self.length, self.judged = length, verify
        self.sizes, self.seed = {"train": train, "test": test}, seed

    @cached_property
    def _splits(self) -> dict[str, list[Example]]:
        rng = np.random.default_rng([self.seed, self.length])
        found: dict[Problem, None] = {}  # in order of drawing
        while len(found) < sum(self.sizes.values()):
            found.setdefault(self.chain.sample(rng, self.length))
        examples = [
            Example(self.chain.render(problem).strip(), self.chain.render(problem), problem)
            for problem in found
        ]
        return {"train": examples[: self.sizes["train"]], "test": examples[self.sizes["train"] :]}

    def examples(self, split: Split) -> Sequence[Example]:
        """See `Task.examples`."""
        return self._splits[split]

    def reward(self, example: Example, completion: str) -> float:
        """1 for a solution that `ChainTask.verify` passes."""
        return float(self.chain.verify(example.data, completion, self.judged))

    def errors(self, example: Example, thoughts: Sequence[str]) -> NDArray[np.bool_]:
        """The first wrong thought; later ones cannot be judged apart from it."""
        errors = np.zeros(len(thoughts), dtype=np.bool_)
        values = self.chain.parse_steps(example.data, "".join(thoughts))
        first = self.chain.first_error(example.data, values)
        if first is not None and first <= len(thoughts):
            errors[first - 1] = True
        return errors

    def solution(self, example: Example) -> list[str]:
        """The right thoughts."""
        problem = example.data
        values = self.chain.solution(problem)
        texts = [self.chain.render_steps(problem, values[:k]) for k in range(len(values) + 1)]
        return [text[len(before) :] for before, text in itertools.pairwise(texts)]

    def localization_prompt(self, example: Example, thoughts: Sequence[str]) -> str:
        r"""The problem, the solution, and `?`; the answer is a box with the number of the step."""
        solution = "".join(thoughts)
        return self.chain.render(example.data) + solution.rstrip("\n") + "\n" + QUESTION

    def follow_up(self, example: Example, request: str) -> str:
        """The problem again, on a line of its own: all that the model knows to answer."""
        return "\n" + self.chain.render(example.data)
