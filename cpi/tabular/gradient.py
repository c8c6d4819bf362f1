"""Softmax policy gradients from groups: sampled, and exactly, mean and variance.

A policy π = softmax(θ), θ of shape (S, A), collects groups (`cpi.collect`) and moves along

    g = (1/N) Σ_groups Σ_i Â_i φ_i,     φ_i = Σ_{steps of the suffix} ∇_θ log π(a|s),

N the number of trained episodes, Â the advantage within the group. Steps of a shared prefix
contribute exactly nothing.

`exact_moments` gives E g and E‖g − E g‖² with no sampling error. Given the returns in a group, its
episodes are independent. It therefore suffices to sum over the counts of each return, with the mean
and the mean square of φ given that return. These come from enumerating single trajectories.

A reset group depends on the fresh group only through its seed episode ξ, a uniform draw among the
failures. The covariance of the two groups needs E[φ(ξ)·M(ξ)], where M(ξ) is the mean of the reset
group from ξ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpi.core.advantages import Scale, group_advantages
from cpi.core.collect import Group
from cpi.core.episodes import Episode, Prefix
from cpi.core.plans import GroupPlan
from cpi.core.resets import ResetRule, check_weights
from cpi.exact.policies import check_policy, check_rows
from cpi.tabular.simulator import least_success
from envs.tabular import FloatArray, TabularMDP

#: Largest number of trajectories; larger problems are refused.
MAX_PATHS = 100_000
#: Largest number of combinations of returns within a group.
MAX_TERMS = 200_000
#: Digits of the largest return to which returns are told apart.
DIGITS = 12


def _check_stationary(policy: FloatArray) -> None:
    if policy.ndim != 2:
        raise ValueError(f"policy: shape {policy.shape}; a softmax policy has shape (S, A)")


def _softmax(mdp: TabularMDP, policy: FloatArray) -> FloatArray:
    """The policy, checked: rows that sum to 1 and do not depend on the step."""
    checked = check_policy(mdp, policy)
    _check_stationary(checked)
    return checked


def softmax_policy(theta: ArrayLike) -> FloatArray:
    """π(a|s) ∝ exp θ(s, a), shape (S, A)."""
    logits = np.asarray(theta)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def score(policy: FloatArray, steps: NDArray[np.integer]) -> FloatArray:
    """Σ ∇_θ log π(a|s) over (state, action) steps of shape (n, 2); the result has shape (S, A)."""
    return np.asarray(scores(policy, [steps])[0])


def scores(policy: FloatArray, paths: Sequence[NDArray[np.integer]]) -> FloatArray:
    """`score` of each path, shape (T, S, A)."""
    paths = [np.asarray(steps, dtype=np.intp).reshape(-1, 2) for steps in paths]
    path = np.repeat(np.arange(len(paths)), [len(steps) for steps in paths])
    states, actions = np.concatenate(paths).T
    gradient = np.zeros((len(paths), *policy.shape))
    np.add.at(gradient, (path, states, actions), 1.0)
    np.add.at(gradient, (path, states), -policy[states])
    return gradient


def group_gradient(
    policy: FloatArray, groups: Sequence[Group], scale: Scale = "group"
) -> FloatArray:
    """The estimate g of shape (S, A) from one collection."""
    policy = check_rows(policy)
    _check_stationary(policy)
    gradient = np.zeros_like(policy)
    total = sum(len(group.episodes) for group in groups)
    advantages = group_advantages([group.returns for group in groups], scale)
    for group, weights in zip(groups, advantages, strict=True):
        for episode, advantage in zip(group.episodes, weights, strict=True):
            suffix = np.asarray(episode.steps)[group.prefix.length :]
            gradient += advantage / total * score(policy, suffix)
    return gradient


@dataclass(frozen=True, eq=False)
class Paths:
    """All trajectories from one (step, state): probability, return from there on, score, steps.

    `features` are flattened scores, shape (T, S·A); `steps` holds arrays (n, 2).
    """

    probability: FloatArray
    returns: FloatArray
    features: FloatArray
    steps: list[NDArray[np.intp]]

    @property
    def mean_length(self) -> float:
        """Expected number of steps."""
        return float(self.probability @ [len(steps) for steps in self.steps])

    @cached_property
    def rounded(self) -> FloatArray:
        """Returns to twelve digits of the largest one, shape (T,)."""
        largest = float(np.abs(self.returns).max())
        unit = 10.0 ** math.floor(math.log10(largest)) if largest else 1.0
        return np.asarray(np.round(self.returns / unit, DIGITS - 1) * unit)

    @cached_property
    def values(self) -> FloatArray:
        """Distinct returns but for rounding, shape (m,)."""
        return np.unique(self.rounded)

    @cached_property
    def joint(self) -> FloatArray:
        """P(path and return), shape (m, T): each path in the row of its return."""
        matches = self.rounded == self.values[:, None]
        return np.asarray(matches * self.probability)

    @cached_property
    def by_value(self) -> FloatArray:
        """P(path | return), shape (m, T)."""
        return np.asarray(self.joint / self.value_probability[:, None])

    @cached_property
    def value_probability(self) -> FloatArray:
        """P(return), shape (m,)."""
        return np.asarray(self.joint.sum(axis=1))

    def given_value(self, quantity: FloatArray) -> FloatArray:
        """E[quantity | return] for a quantity of shape (T, …); the result is (m, …)."""
        return np.asarray(np.tensordot(self.by_value, quantity, axes=1), dtype=np.float64)


def enumerate_paths(mdp: TabularMDP, policy: FloatArray, state: int, step: int = 0) -> Paths:
    """Every trajectory of positive probability from `state` at `step`, to the end of the episode.

    Raises
    ------
    ValueError
        If there are more than `MAX_PATHS`, or the MDP is discounted.
    """
    if mdp.horizon is None:
        raise ValueError(f"{mdp!r}: trajectories need a horizon; use mdp.with_time(horizon=H)")
    policy = check_rows(policy)
    _check_stationary(policy)

    @cache
    def moves(s: int) -> list[tuple[int, int, float, float, float]]:
        """Action, next state, their two probabilities and the reward, of each transition."""
        return [
            (int(a), int(following), float(policy[s, a]), float(q), float(mdp.rewards[s, a]))
            for a in np.flatnonzero(policy[s])
            for following, q in zip(*mdp.successors(s, int(a)), strict=True)
        ]

    probability: list[float] = []
    returns: list[float] = []
    steps: list[NDArray[np.intp]] = []
    stack: list[tuple[float, float, int, tuple[tuple[int, int], ...]]] = [(1.0, 0.0, state, ())]
    while stack:
        p, collected, s, taken = stack.pop()
        if step + len(taken) == mdp.horizon or mdp.terminal[s]:
            if len(steps) == MAX_PATHS:
                raise ValueError(f"{mdp!r}: over {MAX_PATHS} trajectories; shorten the horizon")
            probability.append(p)
            returns.append(collected)
            steps.append(np.array(taken, dtype=np.intp).reshape(-1, 2))
            continue
        for a, following, odds, q, reward in moves(s):
            stack.append((p * odds * q, collected + reward, following, (*taken, (s, a))))
    features = scores(policy, steps).reshape(len(steps), -1)
    return Paths(np.array(probability), np.array(returns), features, steps)


@dataclass(frozen=True, eq=False)
class Moments:
    """Exact moments of g for one plan and rule.

    Attributes
    ----------
    mean : array (S, A)
        E g.
    variance : float
        E‖g − E g‖², summed over the entries of θ.
    steps : float
        Expected environment steps generated, including seed episodes that are not trained on.
    episodes : float
        Expected number of trained episodes.
    """

    mean: FloatArray
    variance: float
    steps: float
    episodes: float

    def signal(self, gradient: FloatArray) -> float:
        """First-order gain in J per unit of ‖step‖: E g · ∇J / ‖∇J‖; nan where ∇J is 0."""
        size = float(np.linalg.norm(gradient))
        return float((self.mean * gradient).sum()) / size if size > 0 else math.nan

    def snr(self, gradient: FloatArray) -> float:
        """Signal over noise, E g · ∇J / (‖∇J‖ sqrt(variance)), of one collection per start.

        Averaging over B starts multiplies it by sqrt(B). Two methods are therefore equally reliable
        when the numbers of their collections have the ratio (snr₁/snr₂)². It is nan where ∇J or
        the noise is 0, as for a policy that never explores.
        """
        noise = math.sqrt(max(self.variance, 0.0))  # rounding can leave −1e−20
        return self.signal(gradient) / noise if noise > 0 else math.nan

    def alignment(self, gradient: FloatArray, starts: float) -> float:
        """Signal over the root mean square of signal and noise, averaging over `starts`; below 1.

        Adam and clipped gradients make updates of about equal length. Such an update gains as it is
        aligned: with x = starts · `snr`², by sqrt(x / (1 + x)). For small x that is the root of x,
        and near 1 more signal is of no use. E g across ∇J is left out: the policy of a table has
        parameters of its own for each state, and a model shares them.
        """
        x = starts * self.snr(gradient) ** 2
        return math.copysign(math.sqrt(x / (1 + x)), self.signal(gradient))


def policy_gradient(mdp: TabularMDP, policy: FloatArray) -> FloatArray:
    """∇_θ J of a softmax policy, shape (S, A), by enumeration: E[return · φ]."""
    policy = _softmax(mdp, policy)
    total = np.zeros(policy.size)
    for s in np.flatnonzero(mdp.start):
        paths = enumerate_paths(mdp, policy, int(s))
        total += mdp.start[s] * (paths.probability * paths.returns) @ paths.features
    return np.asarray(total.reshape(policy.shape))


def exact_moments(
    mdp: TabularMDP,
    policy: FloatArray,
    plan: GroupPlan,
    rule: ResetRule,
    *,
    scale: Scale = "group",
    success: float = 1.0,
) -> Moments:
    """E g, its variance and its cost for a collection from one start drawn from ρ.

    Of an adaptive plan, N in g is the expected number of trained episodes per start, to which the
    number of a large batch converges.

    Parameters
    ----------
    mdp : TabularMDP
        Finite horizon, small enough to enumerate.
    policy : array (S, A)
    plan : GroupPlan
        With `choice="random"`, unless it is adaptive.
    rule : ResetRule
    scale : {"group", "none"}
    success : float
        Smallest return of an episode that is not a failure.

    Raises
    ------
    ValueError
        If a fixed plan chooses the deepest reset or the scale is that of the batch: both make
        episodes dependent in ways that this sum does not cover. If the plan is adaptive and
        failures have several returns. Also if there are too many trajectories, the policy does not
        fit `mdp`, or a weight of the rule is not a finite number ≥ 0.
    """
    if (plan.choice != "random" and not plan.retries) or scale == "batch":
        raise ValueError(
            "exact moments cover scale 'group' or 'none', and choice='random' or adaptive plans"
        )
    policy = _softmax(mdp, policy)
    mean = np.zeros(policy.size)
    square = steps = episodes = 0.0
    for s in np.flatnonzero(mdp.start):
        if plan.retries:
            from cpi.tabular.adaptive import AdaptiveSums  # builds on this module

            sums = AdaptiveSums(mdp, policy, plan, rule, scale, least_success(mdp, success))
            m, sq, cost, trained = sums.from_start(int(s))
        else:
            part = _StartMoments(mdp, policy, int(s), plan, rule, scale, success)
            m, sq, cost = part.from_seeds() if plan.fresh == 0 else part.from_fresh()
            trained = plan.rollouts
        mean += mdp.start[s] * m
        square += mdp.start[s] * sq
        steps += mdp.start[s] * cost
        episodes += mdp.start[s] * trained
    mean, square = mean / episodes, square / episodes**2
    return Moments(mean.reshape(policy.shape), square - float(mean @ mean), steps, episodes)


def _check_size(size: int, paths: Paths) -> None:
    terms = math.comb(size + len(paths.values) - 1, size)
    if terms > MAX_TERMS:
        raise ValueError(
            f"a group of {size} with {len(paths.values)} distinct returns has {terms:,} outcomes, "
            f"more than {MAX_TERMS:,}: use smaller groups, or a world with fewer returns"
        )


def compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to write `total` as an ordered sum of `parts` counts."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in compositions(total - first, parts - 1):
            yield (first, *rest)


def multinomial(counts: Sequence[int], probability: FloatArray) -> float:
    """P(these counts) in Σ counts independent draws."""
    ways = math.factorial(sum(counts))
    for count in counts:
        ways //= math.factorial(count)
    return ways * float(np.prod(probability ** np.asarray(counts)))


def _advantages(paths: Paths, counts: Sequence[int], scale: Scale) -> FloatArray:
    """Â of an episode with each return, in a group with these counts; 0 where the count is 0."""
    group = np.repeat(paths.values, counts)
    first = np.minimum(np.cumsum(counts) - np.asarray(counts), len(group) - 1)
    return np.where(np.asarray(counts) > 0, group_advantages([group], scale)[0][first], 0.0)


def fresh_moments(paths: Paths, size: int, scale: Scale) -> tuple[FloatArray, float]:
    """E h and E‖h‖² of h = Σ_i Â_i φ_i over one i.i.d. group."""
    _check_size(size, paths)
    mu = paths.given_value(paths.features)
    squares = paths.given_value((paths.features**2).sum(axis=1))
    mean, square = np.zeros(mu.shape[1]), 0.0
    for counts in compositions(size, len(paths.values)):
        p = multinomial(counts, paths.value_probability)
        advantages = _advantages(paths, counts, scale)
        mean += p * (np.asarray(counts) * advantages) @ mu
        square += p * _square(np.asarray(counts), advantages, mu, squares)
    return mean, square


def _square(
    counts: FloatArray, advantages: FloatArray, mu: FloatArray, squares: FloatArray
) -> float:
    """E‖Σ_i Â_i φ_i‖² given the counts of returns; given these, episodes are independent."""
    total = (counts * advantages) @ mu
    variance = (counts * advantages**2) @ (squares - (mu**2).sum(axis=1))
    return float(total @ total + variance)


class _StartMoments:
    """Exact moments for one start state."""

    def __init__(
        self,
        mdp: TabularMDP,
        policy: FloatArray,
        start: int,
        plan: GroupPlan,
        rule: ResetRule,
        scale: Scale,
        success: float,
    ) -> None:
        self.plan, self.scale = plan, scale
        self.paths = paths = enumerate_paths(mdp, policy, start)
        least = least_success(mdp, success)
        failed = paths.values < least
        self.eligible = failed if plan.seeds == "failed" else np.ones_like(failed)
        if not plan.resets:
            return
        # The reset group from each seed episode ξ: E h, E‖h‖², expected cost.
        self.fallback = (*fresh_moments(paths, plan.per_reset, scale), paths.mean_length)
        origin = Prefix(start)
        episodes = [
            Episode(origin, steps, float(ret), bool(ret < least), len(steps))
            for steps, ret in zip(paths.steps, paths.returns, strict=True)
        ]
        cache: dict[tuple[int, int], tuple[FloatArray, float, float]] = {}
        means, squares, costs = [], [], []
        weights = check_weights(rule.weights(episodes), episodes, type(rule).__name__)
        for seed, w in zip(paths.steps, weights, strict=True):
            reset_groups = [(1.0, self.fallback)]
            if w.any():
                reset_groups = []
                w = w / w.max()  # as `pick` does: weights of any size, without overflow
                for k in np.flatnonzero(w):
                    key = (int(seed[k][0]), int(k))
                    if key not in cache:
                        tail = enumerate_paths(mdp, policy, *key)
                        moments = fresh_moments(tail, plan.per_reset, scale)
                        cache[key] = (*moments, tail.mean_length)
                    reset_groups.append((w[k] / w.sum(), cache[key]))
            means.append(sum(p * moments[0] for p, moments in reset_groups))
            squares.append(sum(p * moments[1] for p, moments in reset_groups))
            costs.append(sum(p * moments[2] for p, moments in reset_groups))
        reset_means = np.array(means)
        self.reset_mean = paths.given_value(reset_means)
        self.reset_square = paths.given_value(np.array(squares))
        self.reset_cost = paths.given_value(np.array(costs))
        self.product = paths.given_value((paths.features * reset_means).sum(axis=1))

    def from_fresh(self) -> tuple[FloatArray, float, float]:
        """E h, E‖h‖² and cost of a fresh group and the resets among its eligible episodes."""
        paths, plan = self.paths, self.plan
        _check_size(plan.fresh, paths)
        mu = paths.given_value(paths.features)
        squares = paths.given_value((paths.features**2).sum(axis=1))
        mean, square, cost = np.zeros(mu.shape[1]), 0.0, plan.fresh * paths.mean_length
        for counts in compositions(plan.fresh, len(paths.values)):
            p = multinomial(counts, paths.value_probability)
            advantages = _advantages(paths, counts, self.scale)
            fresh = (counts * advantages) @ mu
            mean += p * fresh
            square += p * _square(np.asarray(counts), advantages, mu, squares)
            if not plan.resets:
                continue
            pool = np.asarray(counts) * self.eligible
            m, sq, c = self._resets(pool)
            mean += p * m
            square += p * sq
            cost += p * c
            # Covariance with the fresh group: the seed's own score is one of its terms.
            used = min(plan.resets, int(pool.sum()))
            share = pool / max(pool.sum(), 1)
            others = fresh - advantages[:, None] * mu
            with_seed = (others * self.reset_mean).sum(axis=1) + advantages * self.product
            square += 2 * p * used * float(share @ with_seed)
            square += 2 * p * (plan.resets - used) * float(fresh @ self.fallback[0])
        return mean, square, cost

    def from_seeds(self) -> tuple[FloatArray, float, float]:
        """E h, E‖h‖² and cost of a plan without a fresh group; seed episodes add only to cost."""
        paths, plan = self.paths, self.plan
        _check_size(plan.resets, paths)
        mean, square = np.zeros(paths.features.shape[1]), 0.0
        cost = plan.resets * paths.mean_length
        for counts in compositions(plan.resets, len(paths.values)):
            p = multinomial(counts, paths.value_probability)
            m, sq, c = self._resets(np.asarray(counts) * self.eligible)
            mean, square, cost = mean + p * m, square + p * sq, cost + p * c
        return mean, square, cost

    def _resets(self, pool: FloatArray) -> tuple[FloatArray, float, float]:
        """E h, E‖h‖² and cost of all reset groups, given the eligible episodes of each return."""
        plan, total = self.plan, int(pool.sum())
        used = min(plan.resets, total)
        unused = plan.resets - used
        share = pool / max(total, 1)
        one_reset = share @ self.reset_mean
        mean = used * one_reset + unused * self.fallback[0]
        square = used * float(share @ self.reset_square) + unused * self.fallback[1]
        square += unused * (unused - 1) * float(self.fallback[0] @ self.fallback[0])
        square += 2 * used * unused * float(one_reset @ self.fallback[0])
        if used > 1:  # two seeds are different episodes: drawn without replacement
            sums = pool @ self.reset_mean
            pairs = float(sums @ sums) - float(pool @ (self.reset_mean**2).sum(axis=1))
            square += used * (used - 1) * pairs / (total * (total - 1))
        cost = used * float(share @ self.reset_cost) + unused * self.fallback[2]
        return mean, square, plan.per_reset * cost
