"""Step rules against numerical maximisers of their bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

import envs
from cpi.bounds import REGISTRY
from cpi.bounds.bound import Bound
from cpi.conservative.loop import certificate
from cpi.conservative.step_sizes import (
    ANYWHERE,
    DISCOUNTED,
    FINITE,
    StepRule,
    full_step,
    kl_step,
    masked_maximiser,
    masked_step,
    returns_step,
    step_size,
)
from cpi.exact.policies import greedy_policy, uniform_policy
from cpi.exact.update import Update
from cpi.exact.values import evaluate
from envs import TabularMDP
from tests.cpi.worlds import interior_policy, world

#: The registry, by name.
BOUND = {bound.name: bound for bound in REGISTRY}


def update(mdp: TabularMDP, seed: int = 0, **more: Any) -> Update:
    """From an interior policy half-way to the greedy one: D < 2 and a ≠ max A."""
    base = evaluate(mdp, interior_policy(mdp, seed))
    greedy = np.broadcast_to(greedy_policy(base.Q), base.A.shape)
    return Update(base, 0.5 * base.policy + 0.5 * greedy, **more)


def masked_update(seed: int) -> Update:
    mdp = world(seed, horizon=4)
    weights = np.random.default_rng(seed).uniform(0, 1, (4, 5))
    return update(mdp, seed, weights=weights)


def numerical_maximiser(u: Update, statement: Bound, shortfall: float) -> float:
    """argmax over α of the bound's right side, with 𝔸 lowered by `shortfall`."""
    assert statement.first_order is not None

    def loss(alpha: float) -> float:
        at = replace(u, alpha=alpha)
        assert statement.first_order is not None
        known = statement.first_order(at) * (1 - shortfall)
        return -(statement.right(at) - statement.first_order(at) + known)

    return float(minimize_scalar(loss, bounds=(0, 1), options={"xatol": 1e-12}).x)


MAXIMISERS = {
    "kl-max": "CPI",
    "span-max": "CPI, span form",
    "uspi": "safe policy iteration",
    "cpo-max": "CPO",
    "masked-max": "masked CPI",
    "stepwise": "masked CPI, step by step",
}


@pytest.mark.parametrize("shortfall", [0.0, 0.6])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rule", MAXIMISERS)
def test_maximisers_maximise_their_bound(rule: str, seed: int, shortfall: float) -> None:
    """Also where the trusted advantage is below the true one."""
    finite = rule in FINITE
    u = masked_update(seed) if finite else update(world(seed, discount=0.9), seed)
    trusted = (u.masked_advantage if finite else u.advantage) * (1 - shortfall)
    alpha = step_size(rule, u, trusted)
    assert 0 < alpha and (alpha < 1 or not shortfall)
    expected = numerical_maximiser(u, BOUND[MAXIMISERS[rule]], shortfall)
    assert alpha == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_maximisers__no_grid_step_has_a_larger_certificate(seed: int) -> None:
    u = update(world(seed, discount=0.7), seed)
    for rule, name in MAXIMISERS.items():
        if rule in FINITE:
            continue
        right = BOUND[name].right
        best = right(replace(u, alpha=step_size(rule, u, u.advantage)))
        for alpha in np.linspace(0, 1, 41):
            assert right(replace(u, alpha=float(alpha))) <= best + 1e-12


#: Rules that are the quoted step of a bound → that bound.
QUOTED = {
    "kl": "CPI step",
    "uspi": "USPI step",
    "masked": "masked step",
    "stepwise": "masked step, step by step",
    "returns": "masked step, bounded returns",
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rule", QUOTED)
def test_quoted_steps_are_those_of_the_registry(rule: str, seed: int) -> None:
    """Their true gain is the left side of the bound, to rounding."""
    finite = rule in FINITE
    u = masked_update(seed) if finite else update(world(seed, discount=0.9), seed)
    alpha = step_size(rule, u, u.masked_advantage if finite else u.advantage)
    gain = u.gain_at(alpha, u.weights)
    check = BOUND[QUOTED[rule]].check(u)
    assert check is not None
    assert gain == pytest.approx(check.left, rel=1e-9)
    assert gain >= check.right > 0


def test_steps_by_hand() -> None:
    """On the needle: H = 3 and r = 1; discounted: γ = ½."""
    mdp = envs.needle(0.5, horizon=3, num_actions=2)
    finite = update(mdp)
    assert kl_step(update(mdp.with_time(discount=0.5)), 0.8) == pytest.approx(0.25 * 0.8 / 4)
    assert masked_step(finite, 0.9) == pytest.approx(0.1)
    assert masked_maximiser(finite, 0.9) == pytest.approx(0.15)
    width = float(np.ptp(finite.base.Q))
    assert returns_step(finite, 0.9) == pytest.approx(0.15 / width)
    assert 1 < width < 3


def test_steps_do_not_depend_on_the_unit_of_reward() -> None:
    for mdp, rules in (
        (world(1, discount=0.9), DISCOUNTED),
        (world(1, horizon=3), FINITE),
    ):
        ours, theirs = update(mdp), update(replace(mdp, rewards=7 * mdp.rewards))
        for name in rules:
            expected = step_size(name, ours, 0.01)
            assert step_size(name, theirs, 0.07) == pytest.approx(expected)
            assert expected < 1


@pytest.mark.parametrize(
    "rule", [*DISCOUNTED, *FINITE, "full", pytest.param(lambda u, advantage: 0.5, id="fixed")]
)
@pytest.mark.parametrize("advantage", [0.0, -1e-9, -5.0])
def test_step_size__zero_without_advantage(rule: str | StepRule, advantage: float) -> None:
    mdp = world(2, horizon=3) if rule in FINITE else world(2, discount=0.9)
    assert step_size(rule, update(mdp), advantage) == 0.0


@pytest.mark.parametrize("rule", [*DISCOUNTED, *FINITE])
def test_steps_are_clipped_at_1(rule: str) -> None:
    mdp = world(2, horizon=3) if rule in FINITE else world(2, discount=0.9)
    u = update(mdp)
    assert step_size(rule, u, 1e6) == 1.0
    assert 0 < step_size(rule, u, 1e-6) < 1e-3


def test_step_size__functions_are_clipped() -> None:
    u = update(world(2, horizon=3))
    assert step_size(lambda u, advantage: 3 * advantage, u, 0.2) == pytest.approx(0.6)
    assert step_size(lambda u, advantage: 3 * advantage, u, 0.4) == 1.0
    assert step_size(lambda u, advantage: -1.0, u, 0.4) == 0.0


def test_step_size__full_without_penalty() -> None:
    """γ = 0, a horizon of one step, and a = 0 everywhere have no penalty."""
    myopic = update(world(3, discount=0.0))
    for rule in ("kl-max", "span-max", "uspi", "cpo-max"):
        assert step_size(rule, myopic, 0.01) == 1.0
    for rule in ("masked-max", "stepwise", "certified"):
        assert step_size(rule, update(world(3, horizon=1)), 0.01) == 1.0
    base = evaluate(world(3, discount=0.9), uniform_policy(world(3, discount=0.9)))
    for rule in ("kl-max", "span-max", "uspi", "cpo-max"):
        assert step_size(rule, Update(base, base.policy), 1e-3) == 1.0


def test_span_maximiser__longer_than_kl_maximiser() -> None:
    """span(a) ≤ 2 max|a|, strictly where all of a have one sign."""
    u = update(world(4, discount=0.9))
    assert (u.a >= 0).all()
    assert step_size("span-max", u, u.advantage) > step_size("kl-max", u, u.advantage)


@pytest.mark.parametrize("rule", ["full", full_step])
def test_full_step__is_1(rule: str | StepRule) -> None:
    for mdp in (world(2, horizon=3), world(2, discount=0.9)):
        assert step_size(rule, update(mdp), 1e-3) == 1.0


@pytest.mark.parametrize("rule", [*FINITE, "nonsense", ""])
def test_step_size__finite_rules_are_refused_when_discounted(rule: str) -> None:
    with pytest.raises(ValueError, match=r"is none of certified, full, kl, .* discount=0\.9"):
        step_size(rule, update(world(2, discount=0.9)), 0.1)


@pytest.mark.parametrize("rule", [*DISCOUNTED, "nonsense"])
def test_step_size__discounted_rules_are_refused_with_a_horizon(rule: str) -> None:
    message = rf"'{rule}' is none of certified, full, masked, masked-max, stepwise, returns for .*"
    with pytest.raises(ValueError, match=message):
        step_size(rule, update(world(2, horizon=3)), 0.1)


def test_every_name_belongs_to_one_kind() -> None:
    assert not set(DISCOUNTED) & set(FINITE) and set(ANYWHERE) == {"certified", "full"}


def test_certified_maximiser__no_step_of_any_rule_certifies_more() -> None:
    """A chain's returns are bounded by r; on a Garnet their width is near Hr."""
    problems = (
        envs.lock_chain(6, 3),
        envs.garnet(num_states=10, seed=1, horizon=5),
        *(world(seed, horizon=5) for seed in range(2)),
    )
    better = set()
    for mdp in problems:
        base = evaluate(mdp, interior_policy(mdp, 1))
        greedy = np.broadcast_to(greedy_policy(base.Q), base.A.shape)
        for weights in (np.ones(base.A.shape[:2]), (base.A.max(axis=-1) > 0.1).astype(float)):
            u = Update(base, greedy, weights=weights * ~mdp.terminal)
            gains = {}
            for rule in (*FINITE, "certified"):
                alpha = step_size(rule, u, u.masked_advantage)
                gains[rule] = certificate(u, alpha, u.masked_advantage)
                assert u.gain_at(alpha, u.weights) >= gains[rule] > 0
            assert gains["certified"] == pytest.approx(max(gains.values()), rel=1e-12)
            assert gains["stepwise"] > gains["masked"]
            better.add(gains["returns"] > gains["stepwise"])
    assert better == {True, False}
