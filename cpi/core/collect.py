"""Collection of groups: fresh rollouts, which failed ones are reset, and rollouts from there.

The simulator is called once for all fresh episodes (or seed episodes) and once for all resets. The
rule is called once for all seed episodes. An adaptive plan has several rounds of resets, each with
these two calls for all starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from cpi.core.episodes import Episode, Prefix, Simulator
from cpi.core.plans import GroupPlan
from cpi.core.resets import ResetRule, check_weights, pick
from envs.tabular import FloatArray


@dataclass
class Ledger:
    """Costs of a collection; ledgers add up.

    `steps` counts the units that simulators generate: environment steps, or tokens. `resets_drawn`
    counts the seed episodes whose steps the rule weighed, `resets_accepted` those that were reset.
    `fallbacks` counts the fresh groups that replaced a reset.
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
        """Add the cost of episodes that were rolled out."""
        steps = sum(episode.cost for episode in episodes)
        self.episodes += len(episodes)
        self.steps += steps
        if trained:
            self.trained_episodes += len(episodes)
            self.trained_steps += steps


@dataclass(frozen=True)
class Group:
    """Episodes that share a prefix and are compared with one another.

    `start` is the index of their start in the collection. Steps up to `prefix.length` are shared;
    later steps are the suffix, which is trained on. `seed` is the seed episode that was cut, None
    for a fresh group.
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
    """Groups in the order of their starts, fresh ones first, and the ledger of their costs."""

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
    """Roll out one batch of groups.

    Seed episodes are chosen among the failures of the fresh group. They stay in it, so that it
    remains an i.i.d. sample. Where there is no seed episode, or the rule accepts none of its steps,
    the reset is replaced by a *fallback*: a further fresh group of the same size. It is kept apart
    from the first one, whose outcome (say, all successes) caused the fallback.

    An adaptive plan resets only starts whose last group failed as a whole, and has no fallbacks. If
    it has `equal_cost`, a quarter of the starts comes first, and the others only as far as the cost
    of that quarter lets them.

    Parameters
    ----------
    simulator : Simulator
    starts : sequence
        Start states or prompts, one plan each.
    plan : GroupPlan
    rule : ResetRule, optional
        Needed if the plan has resets.
    rng : numpy Generator
        The same generator state gives the same collection. The first trained groups use the same
        random stream under every plan. A single group that is reset to before its first step
        therefore equals the fresh group of GRPO, episode for episode.
    """
    if not plan.equal_cost:
        return _collect(simulator, starts, plan, rule, rng)
    pilot = -(-len(starts) // 4)
    first = _collect(simulator, starts[:pilot], plan, rule, rng)
    number = affordable(first, len(starts), pilot)
    if number == pilot:
        return first
    second = _collect(simulator, starts[pilot:number], plan, rule, rng)
    others = [replace(group, start=pilot + group.start) for group in second]
    return Collection([*first, *others], first.ledger + second.ledger)


def affordable(pilot: Collection, starts: int, rolled_out: int) -> int:
    """Number of starts that cost as much as the fresh groups of all of them; at least the pilot."""
    fresh = sum(e.cost for group in pilot if group.seed is None for e in group.episodes)
    cost = pilot.ledger.steps + pilot.ledger.localizer_cost
    return max(rolled_out, round(starts * fresh / cost)) if cost else starts


def _collect(
    simulator: Simulator,
    starts: Sequence[Any],
    plan: GroupPlan,
    rule: ResetRule | None,
    rng: np.random.Generator,
) -> Collection:
    # Not rng.spawn: its counter is not part of the state, so a restored state would not repeat it.
    first, second, seeding, choosing = (
        np.random.default_rng(seed) for seed in rng.integers(2**63, size=(4, 2))
    )
    ledger = Ledger()
    cost_before = rule.cost if rule is not None else 0
    fresh_starts = [Prefix(start) for start in starts]
    groups: list[list[Group]] = [[] for _ in starts]
    if plan.fresh:
        sampled = simulator.rollout(fresh_starts, plan.fresh, first)
        for number, episodes in enumerate(sampled):
            groups[number].append(Group(number, fresh_starts[number], episodes))
            ledger.generated(episodes, trained=True)
    elif plan.resets:
        sampled = simulator.rollout(fresh_starts, plan.resets, seeding)
        for episodes in sampled:
            ledger.generated(episodes, trained=False)
    if plan.resets:
        if rule is None:
            raise ValueError(f"rule: {plan} has resets, so it needs a rule")
        pools = dict(enumerate(sampled))
        for _ in range(plan.rounds):
            if plan.retries:
                pools = {n: pool for n, pool in pools.items() if all(e.failed for e in pool)}
            cuts = _choose(list(pools.values()), plan, rule, choosing, ledger)
            chosen = [
                (number, cut)
                for number, cuts_of_start in zip(pools, cuts, strict=True)
                for cut in cuts_of_start
                if cut is not None or not plan.retries
            ]
            if plan.retries and not chosen:
                break
            prefixes = [
                fresh_starts[number] if cut is None else cut[0].prefix(cut[1])
                for number, cut in chosen
            ]
            rolled = simulator.rollout(prefixes, plan.per_reset, second if plan.fresh else first)
            pools = {}
            for (number, cut), prefix, episodes in zip(chosen, prefixes, rolled, strict=True):
                seed = None if cut is None else cut[0]
                groups[number].append(Group(number, prefix, episodes, seed))
                pools[number] = episodes
                ledger.generated(episodes, trained=True)
                ledger.resets_accepted += cut is not None
                ledger.fallbacks += cut is None
        ledger.localizer_cost += rule.cost - cost_before
    return Collection([group for groups_of_start in groups for group in groups_of_start], ledger)


#: A seed episode and how many of its steps to keep; None is a fallback.
Cut = tuple[Episode, int] | None


def _choose(
    pools: Sequence[Sequence[Episode]],
    plan: GroupPlan,
    rule: ResetRule,
    rng: np.random.Generator,
    ledger: Ledger,
) -> list[list[Cut]]:
    """Choose `plan.resets` cuts for each start; None where there is no episode or step to reset."""
    seeds: list[list[Episode]] = []
    for pool in pools:
        eligible = [e for e in pool if e.length and (e.failed or plan.seeds == "any")]
        order = rng.permutation(len(eligible))
        order = order[: plan.localized or None]
        seeds.append([eligible[i] for i in order])
    all_seeds = [episode for seeds_of_start in seeds for episode in seeds_of_start]
    ledger.resets_drawn += len(all_seeds)
    weights: list[FloatArray] = []
    if all_seeds:
        weights = check_weights(rule.weights(all_seeds), all_seeds, type(rule).__name__)
    steps = iter(pick(weights, rng))
    cuts: list[list[Cut]] = []
    for seeds_of_start in seeds:
        picked = zip(seeds_of_start, steps, strict=False)
        possible = [(episode, k) for episode, k in picked if k is not None]
        if plan.choice == "deepest":
            possible.sort(key=lambda cut: -cut[1])  # stable: ties stay in random order
        chosen: list[Cut] = [*possible[: plan.resets]]
        cuts.append(chosen + [None] * (plan.resets - len(chosen)))
    return cuts
