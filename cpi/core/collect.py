"""Collection: roll out, choose where to reset, roll out again from there, group.

One call of the simulator for all fresh episodes (or seeds), one of the rule for all localizations,
one of the simulator for all resets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from cpi.core.episodes import Episode, Prefix, Simulator
from cpi.core.plans import GroupPlan
from cpi.core.resets import ResetRule, check_weights, pick
from envs.tabular import FloatArray


@dataclass
class Ledger:
    """What a collection cost; ledgers add up.

    `steps` are the units that simulators generate: environment steps, or tokens. Resets *drawn* are
    the seed episodes of which a step was asked for; *accepted* those of them that were reset.
    """

    episodes: int = 0
    steps: int = 0
    trained_episodes: int = 0
    trained_steps: int = 0
    localizer_cost: int = 0
    resets_drawn: int = 0
    resets_accepted: int = 0
    fallbacks: int = 0

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )

    def to_json(self) -> dict[str, int]:
        """Plain data."""
        return asdict(self)

    def generated(self, episodes: Sequence[Episode], *, trained: bool) -> None:
        """Count episodes that were rolled out."""
        steps = sum(episode.cost for episode in episodes)
        self.episodes += len(episodes)
        self.steps += steps
        if trained:
            self.trained_episodes += len(episodes)
            self.trained_steps += steps


@dataclass(frozen=True)
class Group:
    """Episodes that share a prefix and are compared with one another.

    `start` is the index of its start in the collection. `prefix` is what they share: steps up to
    `prefix.length` belong to it, later ones are the suffix that is trained on. `seed` is the
    episode that was cut, None for a fresh group.
    """

    start: int
    prefix: Prefix
    episodes: list[Episode]
    seed: Episode | None = None

    @property
    def returns(self) -> FloatArray:
        """Returns of the episodes, shape (G,)."""
        return np.array([episode.ret for episode in self.episodes])


class Collection(list[Group]):
    """The groups, in the order of their starts, fresh ones first; and what they cost."""

    def __init__(self, groups: Sequence[Group], ledger: Ledger) -> None:
        super().__init__(groups)
        self.ledger = ledger


def collect(
    simulator: Simulator,
    starts: Sequence[Any],
    plan: GroupPlan,
    rule: ResetRule | None,
    rng: np.random.Generator,
) -> Collection:
    """One batch of groups, `plan.rollouts` trained episodes per start.

    The fresh group is drawn first and stays whole: the episodes to reset are chosen among its
    failures without being taken out of it, so that it remains an i.i.d. sample. A reset that finds
    no episode to start from, or gets no step from the rule, is spent on a fresh group of the same
    size, apart from the first one (which is already known to be, say, all successes).

    Parameters
    ----------
    simulator : Simulator
    starts : sequence
        Start states or prompts, one plan each.
    plan : GroupPlan
    rule : ResetRule, optional
        Needed if the plan has resets.
    rng : numpy Generator
        The same generator state gives the same collection. The first trained groups take their
        randomness from one stream whatever the plan, so a single group that is reset to before
        its first step is the fresh group of GRPO, episode for episode.
    """
    # Not rng.spawn, which counts spawns beside the state: a restored state must give them again.
    first, second, seeding, choosing = (
        np.random.default_rng(seed) for seed in rng.integers(2**63, size=(4, 2))
    )
    ledger = Ledger()
    spent = rule.cost if rule is not None else 0
    fresh_starts = [Prefix(start) for start in starts]
    groups: list[list[Group]] = [[] for _ in starts]
    pools: list[list[Episode]] = [[] for _ in starts]
    if plan.fresh:
        pools = simulator.rollout(fresh_starts, plan.fresh, first)
        for number, episodes in enumerate(pools):
            groups[number].append(Group(number, fresh_starts[number], episodes))
            ledger.generated(episodes, trained=True)
    elif plan.resets:
        pools = simulator.rollout(fresh_starts, plan.resets, seeding)
        for episodes in pools:
            ledger.generated(episodes, trained=False)
    if plan.resets:
        if rule is None:
            raise ValueError(f"rule: {plan} has resets, so it needs a rule")
        cuts = _choose(pools, plan, rule, choosing, ledger)
        prefixes = [
            fresh_starts[number] if cut is None else cut[0].prefix(cut[1])
            for number, cuts_here in enumerate(cuts)
            for cut in cuts_here
        ]
        rolled = iter(simulator.rollout(prefixes, plan.per_reset, second if plan.fresh else first))
        shared = iter(prefixes)
        for number, cuts_here in enumerate(cuts):
            for cut in cuts_here:
                seed = None if cut is None else cut[0]
                group = Group(number, next(shared), next(rolled), seed)
                groups[number].append(group)
                ledger.generated(group.episodes, trained=True)
                ledger.resets_accepted += cut is not None
                ledger.fallbacks += cut is None
        ledger.localizer_cost += rule.cost - spent
    return Collection([group for here in groups for group in here], ledger)


#: A seed episode and how many of its steps to keep; None is a fresh start instead.
Cut = tuple[Episode, int] | None


def _choose(
    pools: Sequence[Sequence[Episode]],
    plan: GroupPlan,
    rule: ResetRule,
    rng: np.random.Generator,
    ledger: Ledger,
) -> list[list[Cut]]:
    """`plan.resets` cuts for each start, the missing ones None."""
    seeds: list[list[Episode]] = []
    for pool in pools:
        eligible = [e for e in pool if e.length and (e.failed or plan.seeds == "any")]
        order = rng.permutation(len(eligible))
        if plan.choice == "random":
            order = order[: plan.resets]
        seeds.append([eligible[i] for i in order])
    asked = [episode for here in seeds for episode in here]
    ledger.resets_drawn += len(asked)
    weights = check_weights(rule.weights(asked), asked, type(rule).__name__) if asked else []
    steps = iter(pick(weights, rng))
    cuts: list[list[Cut]] = []
    for here in seeds:
        found = [(episode, k) for episode, k in zip(here, steps, strict=False) if k is not None]
        if plan.choice == "deepest":
            found.sort(key=lambda cut: -cut[1])  # stable: ties stay in random order
        chosen: list[Cut] = [*found[: plan.resets]]
        cuts.append(chosen + [None] * (plan.resets - len(chosen)))
    return cuts
