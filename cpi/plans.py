"""How a method spends its rollouts: group plans, and the table of algorithms.

An algorithm is a plan and a reset rule. `ALGORITHMS` is read by both worlds; a `World` says which
oracle and which localizer they mean there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from cpi.resets import Localizer, OracleReset, RandomReset, ResetRule, SelfReset


@dataclass(frozen=True)
class GroupPlan:
    """Rollouts per start: a fresh group, and groups that share a reset prefix.

    Parameters
    ----------
    fresh : int
        Size of the fresh group. With 0, `resets` seed episodes are rolled out first, which are not
        trained on but counted.
    resets : int
        Number of reset groups.
    per_reset : int
        Size of each.
    seeds : {"failed", "any"}
        Which episodes may be reset: failures (RRPO, SRPO), or all (theory).
    choice : {"random", "deepest"}
        Which of them are, when there are more than `resets`: random ones (the paper), or those
        with the latest reset step (short continuations: equal tokens buy more of them).

    Raises
    ------
    ValueError
        If a number is negative or nothing would be trained on.
    """

    fresh: int
    resets: int = 0
    per_reset: int = 0
    seeds: Literal["failed", "any"] = "failed"
    choice: Literal["random", "deepest"] = "random"

    def __post_init__(self) -> None:
        for name in ("fresh", "resets", "per_reset"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"{name}: {value!r} is not a whole number ≥ 0")
        if (self.resets == 0) != (self.per_reset == 0):
            raise ValueError(
                f"resets={self.resets} and per_reset={self.per_reset}: give both, or neither"
            )
        if self.rollouts == 0:
            raise ValueError("fresh=0 and resets=0: nothing would be rolled out")
        if self.seeds not in ("failed", "any"):
            raise ValueError(f"seeds: {self.seeds!r} is neither 'failed' nor 'any'")
        if self.choice not in ("random", "deepest"):
            raise ValueError(f"choice: {self.choice!r} is neither 'random' nor 'deepest'")

    @property
    def rollouts(self) -> int:
        """Episodes trained on per start."""
        return self.fresh + self.resets * self.per_reset


class World(NamedTuple):
    """What a world brings to the table: its oracle, with its default mask, and its localizer."""

    oracle: OracleReset | None = None
    localizer: Localizer | None = None


class Algorithm(NamedTuple):
    """A plan, and the reset rule it means in a world."""

    plan: GroupPlan
    rule: Callable[[World], ResetRule]


def _self_reset(world: World) -> ResetRule:
    if world.localizer is None:
        raise ValueError("srpo needs a localizer, and this world names none")
    return SelfReset(world.localizer)


def _oracle(world: World) -> ResetRule:
    if world.oracle is None:
        raise ValueError("oracle needs an oracle, and this world names none")
    return world.oracle


def _random(world: World) -> ResetRule:
    return RandomReset()


ALGORITHMS: dict[str, Algorithm] = {
    "grpo": Algorithm(GroupPlan(fresh=8), _random),  # no resets, so the rule is never asked
    "rrpo": Algorithm(GroupPlan(fresh=4, resets=1, per_reset=4), _random),
    "srpo": Algorithm(GroupPlan(fresh=4, resets=1, per_reset=4), _self_reset),
    "oracle": Algorithm(GroupPlan(fresh=4, resets=1, per_reset=4), _oracle),
}
