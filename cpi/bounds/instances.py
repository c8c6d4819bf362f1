"""Instances for `python -m cpi.bounds`: tight ones, chains, and seeded random MDPs.

Random problems rarely come near a bound and so hardly test its constant; tight instances do.
Random transition rows are small integer weights, normalised. They produce zeros, ties and
unreachable states, which smooth rows never do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

import envs
from cpi.bounds.check import STEPS, variations
from cpi.exact.improvement import default_tau, improvable_mask
from cpi.exact.policies import (
    greedy_policy,
    mixture,
    random_policy,
    uniform_policy,
)
from cpi.exact.update import Update
from cpi.exact.values import Evaluation, evaluate
from envs.tabular import FloatArray, TabularMDP

TIGHT_STEPS = (1e-3, 0.1, 0.5, 1.0)
#: Advantage, relative to its largest value, at which steps that are proportional to it are short.
SMALL = 1e-3

Labelled = Iterator[tuple[str, Update]]


def tight_instances() -> Labelled:
    """Instances on which a bound is an equality, over α, γ and H."""
    cases = [envs.tight_returns(), envs.tight_returns(8)]
    cases += [envs.tight_kl(discount) for discount in (0.001, 0.5)]
    for discount in (0.1, 0.5, 0.9, 0.99):
        masked, good = _discounted(envs.tight_masked(2), discount), envs.tight_good(2)
        leaving = dataclasses.replace(masked.mdp, start=np.eye(3)[1])
        cases += [
            envs.tight_cpi(discount),
            envs.tight_divergence(discount),
            envs.tight_once(discount, SMALL),
            masked,
            masked._replace(mdp=leaving, policy=masked.candidate, candidate=masked.policy),
            _discounted(good, discount),
        ]
    for horizon in (1, 2, 3, 8, 20):
        plain = envs.tight_cpi(0.5)
        plain = plain._replace(mdp=plain.mdp.with_time(horizon=horizon))
        cases += [envs.tight_masked(horizon), plain]
    for case in cases:
        for alpha in TIGHT_STEPS:
            yield from _updates(case, alpha, tau=0.25)
    # Bounds with a step of their own: the steps of `TIGHT_STEPS` would repeat the same check.
    certified = [envs.tight_masked(3, SMALL), envs.tight_returns(3, SMALL), _bonus(SMALL)]
    for case in certified:
        yield from _updates(case, TIGHT_STEPS[0], tau=None)
    for case in (envs.tight_good(2), _discounted(envs.tight_good(2), 0.99)):
        yield from _updates(case, TIGHT_STEPS[0], tau=1 - SMALL)


def _updates(case: envs.TightInstance, alpha: float, tau: float | None) -> Labelled:
    """The update of a tight instance, with random resets and with its weights."""
    base = evaluate(case.mdp, case.policy)
    for weights in (None, case.weights) if case.weights is not None else (None,):
        yield repr(case.mdp), Update(base, case.candidate, alpha, weights, tau=tau)


def _discounted(case: envs.TightInstance, discount: float) -> envs.TightInstance:
    """A finite-horizon instance with a discount, and without its weights of shape (H, S)."""
    return case._replace(mdp=case.mdp.with_time(discount=discount), weights=None)


def _bonus(bonus: float) -> envs.TightInstance:
    """`tight_cpi` with an advantage of `bonus`, hence a small step."""
    case = envs.tight_cpi(0.5)
    rewards = np.array([[0.5, 0.5 + bonus], [0.5, 0.0]])
    return case._replace(mdp=dataclasses.replace(case.mdp, rewards=rewards))


def chain_instances(tau: float | None = None) -> Labelled:
    """Chains, grids and trees, discounted and finite, from the uniform policy and others."""
    lock = envs.lock_chain(length=20, num_actions=4)
    success = np.full(20, 0.98)
    success[5] = 0.25
    problems: list[tuple[TabularMDP, FloatArray | None]] = [(lock, envs.lock_policy(success, 4))]
    problems += [
        (mdp, None)
        for mdp in (
            envs.lock_chain(length=5, num_actions=3),
            envs.deep_sea(size=6),
            envs.first_error_chain(length=8, recovery=0.0),
            envs.first_error_chain(length=8, recovery=0.4),
            envs.tree(depth=4, branching=2, seed=1),
            envs.garnet(num_states=12, num_actions=3, branching=3, seed=1, horizon=7),
            envs.kl_chain(num_states=6, discount=0.95),
            envs.kl_chain(num_states=6, discount=0.95).with_time(horizon=12),
            envs.lock_chain(length=5, num_actions=3).with_time(discount=0.9),
            envs.deep_sea(size=4).with_time(discount=0.9),
            envs.first_error_chain(length=5, recovery=0.3).with_time(discount=0.8),
            envs.tree(depth=3, branching=2, seed=2).with_time(discount=0.9),
            envs.garnet(num_states=12, num_actions=3, branching=3, seed=2, discount=0.97),
        )
    ]
    for mdp, policy in problems:
        base = evaluate(mdp, uniform_policy(mdp) if policy is None else policy)
        for candidate in candidates(base, tau, np.random.default_rng(0)):
            for update in variations(base, candidate, STEPS, None, threshold(base, tau)):
                yield mdp.name, update


def random_instances(seed: int, count: int, tau: float | None = None) -> Labelled:
    """Updates on `count` random finite-horizon MDPs and as many discounted ones.

    Every MDP has its own random stream, so a longer run starts with the instances of a shorter one.
    """
    for index in range(count):
        for kind in ("finite", "discounted"):
            rng = np.random.default_rng([seed, index, kind == "finite"])
            mdp = random_mdp(rng, finite=kind == "finite")
            timed = kind == "finite" and rng.random() < 0.5
            policy = random_policy(mdp, rng, time_dependent=timed)
            if rng.random() < 0.3:  # near-deterministic policies make small coverages
                policy = mixture(greedy_policy(policy), policy, 0.1)
            base = evaluate(mdp, policy)
            restart = rng.dirichlet(np.ones(mdp.num_states))
            for candidate in candidates(base, tau, rng):
                alpha = 1.0 if rng.random() < 0.3 else 10.0 ** rng.uniform(-3, 0)
                rules = list(random_weights(base, tau, rng))
                if kind == "discounted":  # two of them: random resets, and each other rule in turn
                    rules = [rules[0], rules[1 + index % (len(rules) - 1)]]
                for weights in rules:
                    label = f"random {kind} MDP, seed {seed}, index {index}"
                    level = threshold(base, tau)
                    yield label, Update(base, candidate, alpha, weights, level, restart)


def random_mdp(rng: np.random.Generator, *, finite: bool) -> TabularMDP:
    """A small MDP with integer-weight rows and rewards of any sign and offset."""
    num_states, num_actions = int(rng.integers(2, 9)), int(rng.integers(2, 5))
    counts = rng.integers(0, 4, size=(num_states, num_actions, num_states))
    counts *= rng.random(counts.shape) < 0.6
    counts[..., 0] += counts.sum(axis=-1) == 0
    transitions = counts / counts.sum(axis=-1, keepdims=True)
    rewards = rng.integers(-2, 3, size=(num_states, num_actions)) * rng.choice([0.1, 1.0, 5.0])
    start = rng.dirichlet(np.ones(num_states)) if rng.random() < 0.5 else np.eye(num_states)[0]
    horizon = int(rng.integers(1, 9)) if finite else None
    discount = None if finite else float(rng.choice([0.0, 0.3, 0.7, 0.9, 0.97]))
    return TabularMDP(transitions, rewards, start, horizon, discount, "random MDP")


def threshold(base: Evaluation, tau: float | None) -> float | None:
    """`tau` if given, else half the largest advantage in the states that the policy visits."""
    return default_tau(base) if tau is None else tau


def candidates(
    base: Evaluation, tau: float | None, rng: np.random.Generator
) -> Iterator[FloatArray]:
    """Candidate policies: greedy; greedy on I_τ with π elsewhere; random."""
    greedy = greedy_policy(base.Q)
    yield np.broadcast_to(greedy, base.A.shape)
    level = threshold(base, tau)
    if level is not None:
        improvable = improvable_mask(base, level)
        yield np.where(improvable[..., None], greedy, base.policy)
    yield random_policy(base.mdp, rng)


def random_weights(
    base: Evaluation, tau: float | None, rng: np.random.Generator
) -> Iterator[FloatArray | None]:
    """Reset weights: None (random resets), oracle resets, a noisy localizer, arbitrary weights."""
    yield None
    level = threshold(base, tau)
    if level is not None:
        improvable = improvable_mask(base, level)
        yield improvable.astype(np.float64)
        true_positive, false_positive = rng.random(2)
        yield np.where(improvable, true_positive, false_positive)
    yield rng.random(base.occupancy.shape) ** 2
