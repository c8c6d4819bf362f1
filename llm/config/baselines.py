"""Options of the algorithms outside the plan-and-rule scheme.

`llm/algorithms/` explains the algorithms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llm.config.demand import Call, Demand, Rows

if TYPE_CHECKING:
    from llm.thoughts.options import SamplingOptions, ThoughtLimits


@dataclass(frozen=True)
class AlgorithmOptions:
    """Options of an algorithm with its own section in `TrainConfig`."""

    @property
    def rollouts(self) -> int:
        """Episodes trained on per prompt."""
        raise NotImplementedError

    @property
    def turns(self) -> int:
        """Completions per conversation."""
        return 1

    @property
    def needs_reference(self) -> bool:
        """Whether any row has a KL term of its own."""
        return False

    def check(self, sampling: SamplingOptions) -> None:
        """Refuse options that do not fit the limits of a completion.

        Raises
        ------
        ValueError
            Names the option.
        """

    def demand(self, limits: ThoughtLimits, request: int, share: float) -> Demand:
        """Generate calls and rows of one prompt; see `llm.planning.demand.demand`."""
        raise NotImplementedError


@dataclass(frozen=True)
class ScoreOptions(AlgorithmOptions):
    """SCoRe: pairs of attempts; see `llm.algorithms.score`.

    Parameters
    ----------
    attempts : int
        First attempts per prompt; each is followed by a second attempt.
    alpha : float
        Weight of the second attempt's bonus: alpha times its gain in reward over the first.
    stage1_steps : int
        Number of initial training steps that form stage I.
    kl : float
        Coefficient of the first attempts' KL term in stage I.
    """

    attempts: int = 4
    alpha: float = 10.0
    stage1_steps: int = 50
    kl: float = 0.1

    def __post_init__(self) -> None:
        _at_least("score", self, attempts=2, stage1_steps=0)
        _not_negative("score", self, "alpha", "kl")

    @property
    def rollouts(self) -> int:
        """Episodes trained on per prompt."""
        return 2 * self.attempts

    @property
    def turns(self) -> int:
        """Completions per conversation."""
        return 2

    @property
    def needs_reference(self) -> bool:
        """Whether any row has a KL term of its own: the rows of stage I."""
        return bool(self.stage1_steps and self.kl)

    def demand(self, limits: ThoughtLimits, request: int, share: float) -> Demand:
        """Generate calls and rows of one prompt; see `llm.planning.demand.demand`."""
        length = int(share * limits.longest)
        first = Call("first attempt", 1, self.attempts, 0, length)
        second = Call("second attempt", self.attempts, 1, length + request, length)
        return Demand([first, second], [first.rows, second.rows])


@dataclass(frozen=True)
class CritiqueGRPOOptions(AlgorithmOptions):
    """Critique-GRPO: answers and their refinements; see `llm.algorithms.critique_grpo`.

    Parameters
    ----------
    answers : int
        Answers per prompt; each is refined once.
    refinements : int
        Number of refinements trained on.
    gamma : float
        Constant of the shaping f(p) = p/(p + gamma) of a refinement's tokens.
    """

    answers: int = 7
    refinements: int = 1
    gamma: float = 0.1

    def __post_init__(self) -> None:
        _at_least("critique_grpo", self, answers=2, refinements=0)
        if self.refinements > self.answers:
            raise ValueError(
                f"critique_grpo.refinements: {self.refinements} are more than the {self.answers} "
                "answers, each of which is refined once"
            )
        if not 0 < self.gamma < math.inf:
            raise ValueError(f"critique_grpo.gamma: {self.gamma} is not a number > 0")

    @property
    def rollouts(self) -> int:
        """Episodes trained on per prompt."""
        return self.answers + self.refinements

    @property
    def turns(self) -> int:
        """Completions per conversation: an answer and its refinement."""
        return 2 if self.refinements else 1

    def demand(self, limits: ThoughtLimits, request: int, share: float) -> Demand:
        """Generate calls and rows of one prompt; see `llm.planning.demand.demand`."""
        length = int(share * limits.longest)
        answers = Call("answer", 1, self.answers, 0, length)
        if not self.refinements:
            return Demand([answers], [answers.rows])
        refined = Call("refinement", self.answers, 1, length + request, length)
        # Every answer is refined. Few refinements are trained on, and without the answer before.
        return Demand([answers, refined], [answers.rows, Rows(self.refinements, 0, length)])


@dataclass(frozen=True)
class SPOTreeOptions(AlgorithmOptions):
    """SPO-tree: a tree of segments; see `llm.algorithms.spo_tree`.

    Parameters
    ----------
    branches : list of int
        Segments from the prompt, from each segment of the first level, and so on.
    segment_tokens : int
        Tokens of a segment; a segment of the last level continues to the end.
    rho : float
        Tokens sampled with this probability or more are not trained on; above 1, all are.
    """

    branches: list[int] = field(default_factory=lambda: [6, 6, 6])
    segment_tokens: int = 64
    rho: float = 0.9

    def __post_init__(self) -> None:
        if not self.branches or min(self.branches) < 2:
            raise ValueError(
                f"spo_tree.branches: {self.branches} must be numbers ≥ 2, one a level; a "
                "segment without siblings has nothing to be compared with"
            )
        _at_least("spo_tree", self, segment_tokens=1)
        if not 0 < self.rho < math.inf:
            raise ValueError(f"spo_tree.rho: {self.rho} is not a number > 0")

    @property
    def rollouts(self) -> int:
        """Segments trained on per prompt, at least."""
        return self.branches[0]

    def check(self, sampling: SamplingOptions) -> None:
        """Refuse segments that leave no tokens for the last level."""
        levels = len(self.branches) - 1
        if self.segment_tokens * levels >= sampling.max_completion_length:
            raise ValueError(
                f"spo_tree.segment_tokens: {levels} levels of {self.segment_tokens} tokens leave "
                "nothing for the last of sampling.max_completion_length, "
                f"{sampling.max_completion_length}; give fewer, or fewer branches"
            )

    def demand(self, limits: ThoughtLimits, request: int, share: float) -> Demand:
        """Generate calls and rows of one prompt; see `llm.planning.demand.demand`."""
        length, nodes, calls = int(share * limits.max_completion_length), 1, list[Call]()
        for level, branches in enumerate(self.branches):
            before = level * self.segment_tokens
            remaining = max(0, length - before)
            last = level == len(self.branches) - 1
            new = remaining if last else min(self.segment_tokens, remaining)
            nodes *= remaining > 0  # 0 if all completions have ended before this level
            calls.append(Call(f"level {level + 1}", nodes, branches, before, new))
            nodes *= branches
        return Demand(calls, [call.rows for call in calls])


@dataclass(frozen=True)
class VinePPOOptions(AlgorithmOptions):
    """VinePPO: values of every prefix by rollouts; see `llm.algorithms.vineppo`.

    Parameters
    ----------
    completions : int
        Completions per prompt, which are trained on.
    samples : int
        Rollouts per prefix of a completion, the prompt included, that estimate its value.
    """

    completions: int = 8
    samples: int = 9

    def __post_init__(self) -> None:
        _at_least("vineppo", self, completions=1, samples=1)

    @property
    def rollouts(self) -> int:
        """Episodes trained on per prompt."""
        return self.completions

    def demand(self, limits: ThoughtLimits, request: int, share: float) -> Demand:
        """Generate calls and rows of one prompt; see `llm.planning.demand.demand`."""
        length, again = int(share * limits.longest), int(share * share * limits.longest)
        thoughts = max(1, int(share * limits.max_thoughts))
        trained = min(length, limits.max_thought_tokens)
        completions = Call("completion", 1, self.completions, 0, length)
        prefixes = 1 + self.completions * (thoughts - 1)
        values = Call("value", prefixes, self.samples, length - again, again)
        context = int(share * (length - trained))
        rows = Rows(self.completions * thoughts, context, trained, self.completions)
        return Demand([completions, values], [rows])


def _at_least(name: str, options: object, **minima: int) -> None:
    for option, minimum in minima.items():
        if getattr(options, option) < minimum:
            raise ValueError(
                f"{name}.{option}: {getattr(options, option)} is not a whole number ≥ {minimum}"
            )


def _not_negative(name: str, options: object, *names: str) -> None:
    for option in names:
        if not 0 <= getattr(options, option) < math.inf:
            raise ValueError(f"{name}.{option}: {getattr(options, option)} is not a number ≥ 0")
