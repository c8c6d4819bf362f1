"""Chain-reasoning task: the arithmetic of `envs.reasoning`, one thought per line."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from envs.reasoning import VERIFY, ChainTask, Problem
from llm.tasks.task import Example, Split, Task

#: Request for the first wrong step of the preceding solution, for models pre-trained on it.
QUESTION = "?\n"


class ChainReasoning(Task):
    r"""Chains of modular arithmetic; a completion has one value per line, then `\boxed{9}`.

    Parameters
    ----------
    modulus : int
    operations : sequence of str
        See `envs.reasoning.ChainTask`.
    length : int
        Steps of each problem.
    verify : {"steps", "answer"}
        Reward 1 if every step is correct, or if the last value is correct.
    train, test : int
        Numbers of problems; the two sets are disjoint.
    seed : int
        Seed of the drawing of problems.

    Raises
    ------
    ValueError
        If there are fewer distinct problems than `train` + `test`, or a value is out of range.
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
        self.length, self.verify_mode = length, verify
        self.sizes, self.seed = {"train": train, "test": test}, seed

    @cached_property
    def _splits(self) -> dict[str, list[Example]]:
        rng = np.random.default_rng([self.seed, self.length])
        drawn: dict[Problem, None] = {}  # in order of drawing
        while len(drawn) < sum(self.sizes.values()):
            drawn.setdefault(self.chain.sample(rng, self.length))
        examples = [
            Example(self.chain.render(problem).strip(), self.chain.render(problem), problem)
            for problem in drawn
        ]
        return {"train": examples[: self.sizes["train"]], "test": examples[self.sizes["train"] :]}

    def examples(self, split: Split) -> Sequence[Example]:
        """See `Task.examples`."""
        return self._splits[split]

    def reward(self, example: Example, completion: str) -> float:
        """Return 1 if `ChainTask.verify` accepts the completion, else 0."""
        return float(self.chain.verify(example.data, completion, self.verify_mode))

    def errors(self, example: Example, thoughts: Sequence[str]) -> NDArray[np.bool_]:
        """Mark the first wrong thought; later thoughts build on it and are not marked."""
        errors = np.zeros(len(thoughts), dtype=np.bool_)
        values = self.chain.parse_steps(example.data, "".join(thoughts))
        first = self.chain.first_error(example.data, values)
        if first is not None and first <= len(thoughts):
            errors[first - 1] = True
        return errors

    def solution(self, example: Example) -> list[str]:
        """Return the thoughts of the correct solution."""
        problem = example.data
        values = self.chain.solution(problem)
        texts = [self.chain.render_steps(problem, values[:k]) for k in range(len(values) + 1)]
        return [text[len(before) :] for before, text in itertools.pairwise(texts)]

    def reference(self, example: Example) -> str:
        """Return the correct solution in one line."""
        return " ".join(thought.strip() for thought in self.solution(example))

    def localization_prompt(self, example: Example, thoughts: Sequence[str]) -> str:
        r"""Return the problem, the solution, and `?`; the reply is a box with a step number."""
        solution = "".join(thoughts)
        return self.chain.render(example.data) + solution.rstrip("\n") + "\n" + QUESTION

    def follow_up(self, example: Example, request: str) -> str:
        """Return the problem again, on a new line: the only prompt that a chain model can read."""
        return "\n" + self.chain.render(example.data)
