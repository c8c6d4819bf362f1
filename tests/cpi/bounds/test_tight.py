"""Bounds that are attained: on these instances a smaller constant would be a violation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

import envs
from cpi.bounds import REGISTRY, Check, Update
from cpi.exact.values import evaluate
from envs import TightInstance

BY_NAME = {bound.name: bound for bound in REGISTRY}
TINY = 1e-4


def check(name: str, case: TightInstance, alpha: float, weights: object = None) -> Check:
    mask = None if weights is None else np.asarray(weights)
    result = BY_NAME[name].check(
        Update(evaluate(case.mdp, case.policy), case.candidate, alpha, mask)
    )
    assert result is not None
    return result


def finite(case: TightInstance, horizon: int) -> TightInstance:
    return case._replace(mdp=case.mdp.with_time(horizon=horizon))


ALPHAS = [0.01, 0.1, 0.5, 0.9, 1.0]


@pytest.mark.parametrize("discount", [0.1, 0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("name", ["CPI", "CPI, span form"])
def test_cpi_is_an_equality(name: str, alpha: float, discount: float) -> None:
    result = check(name, envs.tight_cpi(discount), alpha)
    assert abs(result.slack) <= result.rounding
    assert result.penalty_ratio == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("discount", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    "name", ["safe policy iteration", "CPO", "CPO, span form", "CPI", "CPI, span form"]
)
def test_two_policy_bounds_are_attained_by_small_steps(name: str, discount: float) -> None:
    # The bounds replace 1 − γ(1−α) by 1 − γ, so they lose γα/(1−γ) of the penalty and no more.
    result = check(name, envs.tight_cpi(discount), TINY)
    assert 1.0 - 1e-6 <= result.penalty_ratio <= 1.0 + 1.1 * discount * TINY / (1 - discount)


@pytest.mark.parametrize("discount", [0.1, 0.5, 0.9])
def test_occupancy_shift_is_attained_by_small_steps(discount: float) -> None:
    result = check("occupancy shift", envs.tight_cpi(discount), TINY)
    assert 1.0 <= result.tightness <= 1.0 + 1.1 * discount * TINY / (1 - discount)


@pytest.mark.parametrize("discount", [0.1, 0.5, 0.9])
def test_trpo_constant_is_the_smallest(discount: float) -> None:
    result = check("TRPO, TV form", envs.tight_divergence(discount), TINY)
    assert 1.0 <= result.penalty_ratio <= 1.0 + discount * TINY / (1 - discount)


@pytest.mark.parametrize("discount", [0.1, 0.5, 0.9])
def test_value_form_is_attained_by_small_steps(discount: float) -> None:
    case = envs.tight_masked(2)
    case = case._replace(mdp=case.mdp.with_time(discount=discount))
    result = check("safe policy iteration, value form", case, TINY)
    assert 1.0 - 1e-6 <= result.penalty_ratio <= 1.0 + 2 * discount * TINY / (1 - discount)


@pytest.mark.parametrize("bonus", [1e-2, 1e-3, 1e-4])
def test_uspi_step_is_attained_for_a_small_advantage(bonus: float) -> None:
    # With r(i, 2) = ½ + bonus the advantage, hence the step, is small, and half of the first-order
    # gain is lost, exactly as 𝔸²/(2γDΔ) says.
    case = envs.tight_cpi(0.5)
    rewards = case.mdp.rewards.copy()
    rewards[0, 1] = 0.5 + bonus
    case = case._replace(mdp=dataclasses.replace(case.mdp, rewards=rewards))
    result = check("USPI step", case, 1.0)
    assert 1.0 <= result.penalty_ratio <= 1.0 + 2 * bonus
    assert 1.0 - 2 * bonus <= result.tightness <= 1.0


MASKED = ["masked CPI", "masked CPI, step by step", "masked CPI, span form"]


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("name", MASKED)
def test_masked_bounds_are_equalities_at_two_steps(name: str, alpha: float) -> None:
    case = envs.tight_masked(2)
    result = check(name, case, alpha, case.weights)
    assert abs(result.slack) <= result.rounding
    assert result.penalty_ratio == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("horizon", [3, 5, 8, 20])
@pytest.mark.parametrize("name", MASKED)
def test_masked_bounds_are_attained_by_small_steps(name: str, horizon: int) -> None:
    case = envs.tight_masked(horizon)
    result = check(name, case, TINY, case.weights)
    assert 1.0 - 1e-6 <= result.penalty_ratio <= 1.0 + horizon * TINY


@pytest.mark.parametrize("horizon", [2, 3, 5, 8, 20])
@pytest.mark.parametrize("name", ["random resets", "masked CPI, step by step"])
def test_random_reset_penalty_is_attained_by_small_steps(name: str, horizon: int) -> None:
    result = check(name, envs.tight_masked(horizon), TINY)
    assert 1.0 - 1e-6 <= result.penalty_ratio <= 1.0 + horizon * TINY


@pytest.mark.parametrize("horizon", [2, 3, 5, 20])
@pytest.mark.parametrize(
    "name", ["masked CPI, ε form", "masked CPI, weighted form", "masked CPI, span form"]
)
def test_epsilon_form_is_attained_by_small_steps(name: str, horizon: int) -> None:
    result = check(name, finite(envs.tight_cpi(0.5), horizon), TINY)
    assert 1.0 - 1e-6 <= result.penalty_ratio <= 1.0 + horizon * TINY


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["masked CPI, bounded returns", "masked CPI, ε form"])
def test_bounded_returns_form_is_an_equality_at_two_steps(
    name: str, weighted: bool, alpha: float
) -> None:
    case = envs.tight_returns()
    result = check(name, case, alpha, case.weights if weighted else None)
    assert abs(result.slack) <= result.rounding
    assert result.penalty_ratio == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("horizon", [3, 5, 8, 20])
@pytest.mark.parametrize("weighted", [False, True])
def test_bounded_returns_form_is_attained_by_small_steps(weighted: bool, horizon: int) -> None:
    case = envs.tight_returns(horizon)
    result = check("masked CPI, bounded returns", case, TINY, case.weights if weighted else None)
    assert 1.0 - 1e-6 <= result.penalty_ratio <= 1.0 + horizon * TINY


@pytest.mark.parametrize("horizon", [1, 2, 3, 5, 10])
@pytest.mark.parametrize(
    ("name", "instance"),
    [
        ("masked step", envs.tight_masked),
        ("masked step, step by step", envs.tight_masked),
        ("masked step, bounded returns", envs.tight_returns),
    ],
)
def test_masked_steps_are_attained_for_a_small_advantage(
    name: str, instance: Callable[[int, float], TightInstance], horizon: int
) -> None:
    if name == "masked step, step by step" and horizon == 1:
        return  # it has no penalty
    case = instance(horizon, TINY)
    update = Update(evaluate(case.mdp, case.policy), case.candidate, 1.0, case.weights)
    bound = BY_NAME[name]
    assert 1.0 - TINY <= bound.right(update) / bound.left(update) <= 1.0 + 1e-6


@pytest.mark.parametrize("discount", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    "name",
    [
        "masked CPI, discounted",
        "masked CPI, discounted, returns",
        "masked CPI, discounted, pair form",
        "masked CPI, discounted, weighted",
        "masked CPI, discounted, span form",
    ],
)
def test_discounted_masked_bounds_are_attained_by_small_steps(name: str, discount: float) -> None:
    case = envs.tight_masked(2)
    case = case._replace(mdp=case.mdp.with_time(discount=discount))
    result = check(name, case, TINY)
    assert 1.0 - 1e-6 <= result.penalty_ratio <= 1.0 + 3 * TINY / (1 - discount)


@pytest.mark.parametrize("discount", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_discounted_span_form_is_that_of_kakade_and_langford(alpha: float, discount: float) -> None:
    case = envs.tight_cpi(discount)
    masked = check("masked CPI, discounted, span form", case, alpha)
    assert masked.right == pytest.approx(check("CPI, span form", case, alpha).right, rel=1e-12)
    assert abs(masked.slack) <= masked.rounding


@pytest.mark.parametrize("discount", [0.1, 0.5, 0.9])
def test_pair_form_is_attained_where_a_state_is_accepted_once(discount: float) -> None:
    """No accepted visit can be lost to an earlier switch: the other forms charge twice as much."""
    case = envs.tight_once(discount, 0.5)
    result = check("masked CPI, discounted, pair form", case, TINY, case.weights)
    assert 1.0 - 1e-6 <= result.penalty_ratio <= 1.0 + 2 * TINY / (1 - discount)
    result = check("masked CPI, discounted", case, TINY, case.weights)
    assert result.penalty_ratio == pytest.approx(2.0, rel=2 * TINY / (1 - discount))


@pytest.mark.parametrize("discount", [0.5, 0.9])
def test_pair_step_is_attained_for_a_small_advantage(discount: float) -> None:
    case = envs.tight_once(discount, 1e-3)
    result = check("masked step, discounted, pair form", case, 1.0, case.weights)
    assert 1.0 - 1e-3 <= result.tightness <= 1.0


@pytest.mark.parametrize("discount", [0.001, 0.01, 0.5])
@pytest.mark.parametrize(
    ("name", "power"),
    [("TRPO, KL form by Pinsker", 1.0), ("TRPO, KL form of trajectories", 0.5)],
)
def test_kl_forms_are_attained_by_small_steps_and_discounts(
    name: str, power: float, discount: float
) -> None:
    result = check(name, envs.tight_kl(discount), 1e-3)
    assert result.penalty_ratio == pytest.approx((1 - discount) ** -power, rel=1e-5)


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("name", ["termination", "termination, restart form"])
def test_termination_is_an_equality_where_the_policy_leaves_at_once(
    name: str, discount: float
) -> None:
    """π leaves "off", where the optimal policy stays and is paid 1 a step."""
    mdp = envs.tight_masked(2).mdp.with_time(discount=discount)
    mdp = dataclasses.replace(mdp, start=np.eye(3)[1])
    update = Update(evaluate(mdp, np.array([1, 1, 1])), np.tile([1.0, 0.0], (3, 1)))
    result = BY_NAME[name].check(update)
    assert result is not None
    assert (result.left, result.right) == pytest.approx((1 / (1 - discount), 1 / (1 - discount)))


NEAR_1 = 1 - 1e-6


def good(name: str, alpha: float = 0.5, **time: float) -> Check:
    """A check on `tight_good`, with τ just below the advantage, which is 1."""
    case = envs.tight_good(2)
    mdp = case.mdp.with_time(**time)  # type: ignore[arg-type]
    result = BY_NAME[name].check(
        Update(evaluate(mdp, case.policy), case.candidate, alpha, tau=NEAR_1)
    )
    assert result is not None
    return result


@pytest.mark.parametrize("name", ["CPI-RR", "CPI-CARO", "localizer"])
def test_theorem_1_is_at_most_four_sevenths_of_the_gain(name: str) -> None:
    assert good(name, horizon=2).tightness == pytest.approx(4 / 7, rel=1e-5)


def test_seven_eighths_is_attained_at_two_steps() -> None:
    assert good("localizer, nowhere worse", horizon=2).tightness == pytest.approx(1, rel=1e-5)


def test_full_oracle_steps_are_attained() -> None:
    assert good("full oracle step", horizon=2).tightness == pytest.approx(1, rel=1e-5)
    discounted = good("full oracle step, discounted", discount=0.9)
    assert discounted.tightness == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("name", ["CPI-RR", "CPI-CARO", "localizer"])
def test_discounted_theorem_1_is_attained_where_all_visits_are_improvable(
    name: str, discount: float
) -> None:
    """p = 1 − γ: a visit is the last with the probability 1 − γ and with that of a switch."""
    result = good(f"{name}, discounted", min(0.3, 1 - discount), discount=discount)
    assert result.tightness == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("late", [0, 1, 5, 20])
def test_discounted_localizer_is_attained_at_every_precision(late: int) -> None:
    """w ≡ 1 on a chain that is improvable from step n on: q = γ^n. Every switch ends, as γ → 1."""
    over = late + 1
    state = np.arange(over + 1)
    stay = np.where(state < late, state + 1, state)
    rewards = np.zeros((over + 1, 2))
    rewards[late, 1] = 1.0
    transitions = np.eye(over + 1)[np.stack([stay, np.full(over + 1, over)], axis=1)]
    mdp = envs.TabularMDP(transitions, rewards, np.eye(over + 1)[0], discount=0.99)
    base = evaluate(mdp, np.zeros(over + 1, dtype=int))
    update = Update(base, np.tile([0.0, 1.0], (over + 1, 1)), 0.005, tau=NEAR_1)
    assert update.precision == pytest.approx(0.99**late)
    result = BY_NAME["localizer, discounted"].check(update)
    assert result is not None
    assert 0.99 <= result.tightness <= 1


def test_step_by_step_penalty_at_w_1_is_the_random_reset_penalty() -> None:
    for horizon in (1, 2, 5, 9):
        case = envs.tight_masked(horizon)
        timed = check("masked CPI, step by step", case, 0.3)
        assert timed.right == pytest.approx(check("random resets", case, 0.3).right)


def test_epsilon_form_with_max_of_w_a_is_false() -> None:
    """Fractional weights need max_{w>0}|a|, not max|w a|: H = 2, w = 1 and then ω.

    π stays in "on" and π' leaves it, so that a_1 = ±ε/ω after a first step with a_0 = 0. Both terms
    of the loss are then α² ε, while H(H−1) p_w max|w a| α² is only α² (1 + ω) ε.
    """
    omega, big = 0.1, 10.0  # ε = ω · big = 1
    on, off = 1, 2
    transitions = np.zeros((3, 2, 3))
    transitions[0, 0, on] = transitions[0, 1, off] = 1.0
    transitions[on, :, on] = transitions[off, :, off] = 1.0
    rewards = np.array([[big, 0.0], [0.0, big], [big, 0.0]])
    mdp = envs.TabularMDP(transitions, rewards, np.eye(3)[0], horizon=2)
    weights = np.array([np.eye(3)[0], np.full(3, omega)])
    stay, leave = np.tile([1.0, 0.0], (3, 1)), np.tile([0.0, 1.0], (3, 1))
    for alpha in (0.01, 0.5, 1.0):
        update = Update(evaluate(mdp, stay), leave, alpha, weights)
        loss = 2 * update.alpha * (update.p_w * update.masked_advantage) - update.gain
        assert update.p_w == pytest.approx((1 + omega) / 2)
        assert np.abs(update.w * update.a).max() == pytest.approx(1.0)
        wrong = alpha**2 * 2 * update.p_w * np.abs(update.w * update.a).max()
        assert loss == pytest.approx(2 * alpha**2)
        assert loss > wrong * 1.5
        right = BY_NAME["masked CPI, ε form"].check(update)
        assert right is not None and not right.violated
        weighted = BY_NAME["masked CPI, weighted form"].check(update)
        assert weighted is not None
        assert weighted.left == pytest.approx(weighted.right, abs=1e-12)
