"""Group plans (how a method spends its rollouts), and the table of algorithms.

An algorithm is a plan and a reset rule. `ALGORITHMS` holds for tabular and language-model worlds; a
`World` supplies the oracle and the localizer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from cpi.core.resets import (
    Localizer,
    OracleReset,
    RandomReset,
    ResetRule,
    SelfReset,
)
from envs.checks import check_whole


@dataclass(frozen=True)
class GroupPlan:
    """Rollouts per start: a fresh group, and groups that share a reset prefix.

    Parameters
    ----------
    fresh : int
        Size of the fresh group. If it is 0, `resets` seed episodes are rolled out first; they
        count as cost and are not trained on.
    resets : int
        Number of reset groups.
    per_reset : int
        Size of each reset group.
    seeds : {"failed", "any"}
        Episodes that may be reset: failures (RRPO, SRPO), or all (theory).
    choice : {"random", "deepest"}
        Choice of `resets` among more such episodes: at random (the paper), or those with the
        latest reset step. Late resets have short continuations, so they cost fewer tokens.
    candidates : int
        The deepest are chosen among this many such episodes, drawn at random; 0 for all. The
        latest of many verdicts of a localizer that errs is often too late.
    retries : int
        0 for a fixed plan: every start has its reset groups. Above 0 the plan is *adaptive*: a
        start has a reset group only if its whole fresh group failed, and another one, from the
        episodes of the last, while that one fails too; at most `retries` of them.
    equal_cost : bool
        Adaptive plans: of the starts of a batch, roll out only as many as cost what the fresh
        groups of all would. An optimizer that normalizes its gradients moves by the step, not by
        the signal, so that dear steps make slow progress.

    Raises
    ------
    ValueError
        If a number is negative, nothing would be trained on, or an adaptive plan has no fresh
        group, several reset groups at a time, or resets of successes.
    """

    fresh: int
    resets: int = 0
    per_reset: int = 0
    seeds: Literal["failed", "any"] = "failed"
    choice: Literal["random", "deepest"] = "random"
    candidates: int = 0
    retries: int = 0
    equal_cost: bool = False

    def __post_init__(self) -> None:
        for name in ("fresh", "resets", "per_reset", "candidates", "retries"):
            object.__setattr__(self, name, check_whole(name, getattr(self, name)))
        if (self.resets == 0) != (self.per_reset == 0):
            raise ValueError(
                f"resets={self.resets} and per_reset={self.per_reset}: give both, or neither"
            )
        if self.most_rollouts == 0:
            raise ValueError("fresh=0 and resets=0: nothing would be rolled out")
        if self.seeds not in ("failed", "any"):
            raise ValueError(f"seeds: {self.seeds!r} is neither 'failed' nor 'any'")
        if self.choice not in ("random", "deepest"):
            raise ValueError(f"choice: {self.choice!r} is neither 'random' nor 'deepest'")
        if self.candidates and (self.choice != "deepest" or self.candidates < self.resets):
            raise ValueError(
                f"candidates: {self.candidates} needs choice='deepest' and at most as many resets; "
                f"here are choice={self.choice!r} and resets={self.resets}"
            )
        if self.retries and not (self.fresh and self.resets == 1 and self.seeds == "failed"):
            raise ValueError(
                f"retries: {self.retries} makes the plan adaptive, which needs a fresh group, "
                f"resets=1 and seeds='failed'; here are fresh={self.fresh}, resets={self.resets} "
                f"and seeds={self.seeds!r}"
            )
        if self.equal_cost and not self.retries:
            raise ValueError("equal_cost: it is for adaptive plans; give retries above 0")

    @property
    def localized(self) -> int:
        """Number of eligible episodes per start whose steps the rule weighs; 0 for all."""
        return self.candidates if self.choice == "deepest" else self.resets

    @property
    def rounds(self) -> int:
        """Number of times that resets are rolled out; at most, if the plan is adaptive."""
        return self.retries or int(self.resets > 0)

    @property
    def rollouts(self) -> int:
        """Number of trained episodes per start; the fewest, if the plan is adaptive."""
        return self.fresh + (0 if self.retries else self.resets * self.per_reset)

    @property
    def most_rollouts(self) -> int:
        """Largest number of trained episodes per start."""
        return self.fresh + self.rounds * self.resets * self.per_reset


class World(NamedTuple):
    """The oracle (with its default mask) and the localizer of a world; None if it has none."""

    oracle: OracleReset | None = None
    localizer: Localizer | None = None


def random_reset(world: World) -> ResetRule:
    """Reset to a uniformly random step."""
    return RandomReset()


def self_reset(world: World) -> ResetRule:
    """Reset by the weights of the world's localizer."""
    if world.localizer is None:
        raise ValueError("localizer: the algorithm needs one, and this world has none")
    return SelfReset(world.localizer)


def oracle_reset(world: World) -> ResetRule:
    """Reset by the weights of the world's oracle."""
    if world.oracle is None:
        raise ValueError("oracle: the algorithm needs one, and this world has none")
    return world.oracle


class PlanAndRule(NamedTuple):
    """A plan and a reset rule.

    Attributes
    ----------
    plan : GroupPlan
    rule : function
        Makes the reset rule from a `World`.
    needs : tuple of {"localizer", "oracle"}
        Parts of the world that the rule uses; other parts need not exist.
    about : str
        What the algorithm compares, for readers new to it.
    """

    plan: GroupPlan
    rule: Callable[[World], ResetRule] = random_reset
    needs: tuple[Literal["localizer", "oracle"], ...] = ()
    about: str = "whole completions, and continuations from resets, are compared within groups"


#: Plan of RRPO and SRPO in the paper: a fresh group of four, and one reset group of four.
_HALF = GroupPlan(fresh=4, resets=1, per_reset=4)
#: A whole group of GRPO, and where it fails up to four reset groups of four.
_ADAPTIVE = GroupPlan(8, 1, 4, choice="deepest", candidates=2, retries=4, equal_cost=True)

ALGORITHMS: dict[str, PlanAndRule] = {
    "grpo": PlanAndRule(
        GroupPlan(fresh=8),
        about="whole completions of a prompt are compared with one another",
    ),
    "rrpo": PlanAndRule(
        _HALF,
        about="failed completions are reset to a random step, and continuations from there are "
        "compared, beside whole completions",
    ),
    "srpo": PlanAndRule(
        _HALF,
        self_reset,
        ("localizer",),
        "failed completions are reset to the step that a localizer names as the first wrong one, "
        "and continuations from there are compared, beside whole completions",
    ),
    "oracle": PlanAndRule(
        _HALF,
        oracle_reset,
        ("oracle",),
        "failed completions are reset to a step that an oracle picks, and continuations from there "
        "are compared, beside whole completions",
    ),
    "adaptive": PlanAndRule(
        _ADAPTIVE,
        self_reset,
        ("localizer",),
        "whole completions of a prompt are compared; where all of them failed, one is reset to the "
        "step that a localizer names as the first wrong one, and continuations from there are "
        "compared, again from one of these while they fail too; fewer prompts then make a step",
    ),
}
