"""Both sides of every bound against numbers computed by hand on the two-step fixtures.

Each right side below is a small fraction that a reader can check with pencil and paper. A wrong
constant in any bound, tight or not, changes it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

import envs
from cpi.bounds import REGISTRY, Update
from cpi.exact.policies import greedy_policy
from cpi.exact.values import evaluate

BY_NAME = {bound.name: bound for bound in REGISTRY}


def two_state_update() -> Update:
    """γ = ½, α = ½: V = 1 in both states, a = (½, −½), d^π = (1, 0), R = 1.

    π_new has a_new = (¼, −¼), TV = ½, D = 1; π' has D = 2, Δ = 1. Restarting from μ = (½, ½), π
    stays where it is, so d^{π,μ} = μ, while π* visits both states equally often: all ratios are 1.
    """
    case = envs.tight_cpi(0.5)
    base = evaluate(case.mdp, case.policy)
    return Update(base, case.candidate, alpha=0.5, restart=np.array([0.5, 0.5]))


DISCOUNTED = {
    "performance difference": (1 / 6, 1 / 6),
    "CPI": (1 / 6, 1 / 6),
    "CPI, span form": (1 / 6, 1 / 6),
    "CPI step": (31 / 1056, 1 / 64),  # α = 1/32
    "safe policy iteration": (1 / 6, 0.0),
    "safe policy iteration, value form": (1 / 6, -1.0),  # max Q = 3/2
    "USPI step": (0.15, 0.125),  # α = ¼
    "TRPO, TV form": (1 / 6, -0.5),
    "TRPO, KL form": (1 / 6, 0.5 - 4 * math.log(2)),
    "TRPO, KL form by Pinsker": (1 / 6, 0.5 - 2 * math.log(2)),
    "TRPO, KL form of trajectories": (1 / 6, 0.5 - math.sqrt(2) * math.log(2)),
    "CPO": (1 / 6, 0.0),
    "CPO, span form": (1 / 6, 0.0),
    "occupancy shift": (2 / 3, 1.0),
    "termination": (0.5, 0.5),  # OPT = ¼
    "termination, restart form": (0.5, 1.0),
    "masked CPI, discounted": (1 / 6, -3 / 2),  # W = 2
    "masked CPI, discounted, returns": (1 / 6, -1 / 2),  # B = 1
    "masked CPI, discounted, pair form": (1 / 6, -1 / 2),  # 2 + 2 visits
    "masked CPI, discounted, weighted": (1 / 6, 0.0),
    "masked CPI, discounted, span form": (1 / 6, 1 / 6),  # γ E[γ^T] = 1/3
    "masked step, discounted": (31 / 1056, 1 / 60),  # α = 1/32
    "masked step, discounted, returns": (15 / 272, 1 / 30),  # α = 1/16
    "masked step, discounted, pair form": (7 / 72, 1 / 16),  # α = 1/8
}


@pytest.mark.parametrize("name", DISCOUNTED)
def test_discounted_bounds__sides_by_hand(name: str) -> None:
    check = BY_NAME[name].check(two_state_update())
    assert check is not None
    assert (check.left, check.right) == pytest.approx(DISCOUNTED[name], abs=1e-14)


def off_the_way_update() -> Update:
    """γ = ½, α = ½, w = (½, 1), r(j, 2) = −1: a, TV and D are largest where π never goes.

    π stays in i: V = 1, d^π = (1, 0), a = (½, −3/2), R = 2, max|A| = 3/2, TV = (¼, ½), D = 1,
    a_new = (⅛, −¾). π' has D = 2, Δ = 2. In j both mixtures have the value −½. The one without
    weights loses 1/6; π_new loses 1/10 and is in j a fifth of the time.
    """
    case = envs.tight_cpi(0.5)
    rewards = case.mdp.rewards.copy()
    rewards[1, 1] = -1.0
    base = evaluate(dataclasses.replace(case.mdp, rewards=rewards), case.policy)
    weights = np.array([0.5, 1.0])
    return Update(base, case.candidate, 0.5, weights, restart=np.array([0.5, 0.5]))


#: The bounds of the mixture π_α have no weights; those of two policies compare π with π_new.
OFF_THE_WAY = {
    "performance difference": (-1 / 10, -1 / 10),
    "CPI": (-1 / 6, -1 / 2),  # ε of the visited state alone would promise +1/6
    "CPI, span form": (-1 / 6, -1 / 6),
    "CPI step": (61 / 4160, 1 / 128),  # α = 1/64
    "safe policy iteration": (-1 / 10, -5 / 8),
    "USPI step": (5 / 72, 1 / 16),  # α = 1/8
    "TRPO, TV form": (-1 / 10, -11 / 4),
    "TRPO, KL form": (-1 / 10, 0.25 - 12 * math.log(2)),
    "TRPO, KL form by Pinsker": (-1 / 10, 0.25 - 6 * math.log(2)),
    "TRPO, KL form of trajectories": (-1 / 10, 0.25 - math.sqrt(18) * math.log(2)),
    "CPO": (-1 / 10, -1 / 2),  # ε of the visited state alone would promise +1/8
    "CPO, span form": (-1 / 10, -3 / 16),
    "occupancy shift": (2 / 5, 1 / 2),
    "termination": (0.5, 0.5),
    "termination, restart form": (0.5, 1.0),
    # p_w = ½, 𝔸_w = ½, W = 4, B = 2; switching in i with α/2 and in j with α gains
    # (α/2) (1 − 3α) / (1 + α/2).
    "masked CPI, discounted": (-1 / 10, -7 / 4),
    "masked CPI, discounted, returns": (-1 / 10, -3 / 4),
    "masked CPI, discounted, pair form": (-1 / 10, -1 / 2),  # ½ + 1 visits
    "masked CPI, discounted, weighted": (-1 / 10, -1 / 2),
    "masked CPI, discounted, span form": (-1 / 10, -1 / 10),  # γ E[γ^T] = 1/5
    "masked step, discounted": (61 / 8256, 1 / 240),  # α = 1/64
    "masked step, discounted, returns": (29 / 2080, 1 / 120),  # α = 1/32
    "masked step, discounted, pair form": (3 / 100, 1 / 48),  # α = 1/12
}


@pytest.mark.parametrize("name", OFF_THE_WAY)
def test_discounted_bounds__sides_where_the_largest_a_is_not_visited(name: str) -> None:
    check = BY_NAME[name].check(off_the_way_update())
    assert check is not None and not check.violated
    assert (check.left, check.right) == pytest.approx(OFF_THE_WAY[name], abs=1e-14)


def half_improvable_update() -> Update:
    """γ = ½, α = ½, start (½, ½), w = (⅘, ⅕), τ = ¼; π' differs from π in i alone: a = (½, 0).

    I_τ = {i}, p = ½, p_w = ½, recall and precision are ⅘. A switch in i with probability s gains
    ½ · ½s/(1 − ½(1−s)), because π stays where it starts.
    """
    case = envs.tight_cpi(0.5)
    mdp = dataclasses.replace(case.mdp, start=np.array([0.5, 0.5]))
    return Update(evaluate(mdp, case.policy), np.eye(2)[[1, 0]], 0.5, np.array([0.8, 0.2]), 0.25)


IMPROVABLE = {
    "first switch, discounted": (1 / 7, 1 / 7),
    "full oracle step, discounted": (1 / 4, 1 / 8),
    "CPI-RR, discounted": (1 / 258, 2 ** (-1 / 64) / 516),  # α = 1/128, w ≡ 1
    "CPI-CARO, discounted": (1 / 130, 1 / 260),  # α = 1/64, w = (1, 0)
    "localizer, discounted": (1 / 7, 4 / 75),  # x = 1
    "visit probability, discounted": (1 / 2, 1.0),
    "masked CPI, discounted, weighted": (1 / 7, 0.0),  # max|w·a| = ⅖
}


@pytest.mark.parametrize("name", IMPROVABLE)
def test_discounted_bounds__sides_of_an_improvable_set(name: str) -> None:
    check = BY_NAME[name].check(half_improvable_update())
    assert check is not None and not check.violated
    assert (check.left, check.right) == pytest.approx(IMPROVABLE[name], abs=1e-14)


def test_uspi_step__clipped_to_the_full_step() -> None:
    case = envs.tight_cpi(0.0)  # no future: no curvature
    check = BY_NAME["USPI step"].check(Update(evaluate(case.mdp, case.policy), case.candidate))
    assert check is not None
    assert (check.left, check.right) == pytest.approx((0.5, 0.5))


def masked_update(
    rule: str, alpha: float = 0.5, tau: float | None = None, restart: object = None
) -> Update:
    """H = 2, r = 1: a_0 = (2, −2, 0), a_1 = (1, −1, 0); π stays in "on", d = ½ at both steps.

    The fixture's weights accept (0, on) and both "off": p_w = ½, 𝔸_w = 2. "partial" moves only the
    improvable states, towards greedy; with τ = 1.5 that is (0, on) alone.
    """
    case = envs.tight_masked(2)
    base = evaluate(case.mdp, case.policy)
    improvable = base.A.max(axis=-1) > (np.inf if tau is None else tau)
    partial = np.where(improvable[..., None], greedy_policy(base.Q), base.policy)
    first_only = np.zeros((2, 3))
    first_only[0, 0] = 1.0
    weights = {
        "fixture": case.weights,
        "first only": first_only,
        "noisy": np.where(improvable, 0.8, 0.2),
        "noisy, partial": np.where(improvable, 0.8, 0.2),
    }
    candidate = partial if "partial" in rule else case.candidate
    mu = None if restart is None else np.asarray(restart)
    return Update(base, candidate, alpha, weights.get(rule), tau, mu)


RESTART = (0.5, 0.25, 0.25)  # stays put under π: ratios 2 at step 0, 4 at step 1; OPT 1 and ½
FINITE = {
    "performance difference, finite": (masked_update("fixture"), 0.75, 0.75),
    "masked CPI": (masked_update("fixture"), 0.75, 0.75),
    "masked CPI, step by step": (masked_update("fixture"), 0.75, 0.75),
    "random resets": (masked_update("all"), 1.0, 1.0),  # 𝔸 = 3/2
    "masked CPI, ε form": (masked_update("fixture"), 0.75, 0.5),  # ε = 2
    "masked CPI, weighted form": (masked_update("fixture"), 0.75, 0.0),  # one later step
    "masked CPI, bounded returns": (masked_update("fixture"), 0.75, 0.5),  # R = 2
    "masked CPI, span form": (masked_update("fixture"), 0.75, 0.75),
    "masked step": (masked_update("fixture"), 0.75, 0.75),  # α = ½
    "masked step, bounded returns": (masked_update("fixture"), 7 / 16, 3 / 8),  # α = ¼
    "masked step, step by step": (masked_update("fixture"), 1.0, 1.0),  # D = 2, α = 1
    "first switch": (masked_update("first only"), 1.0, 1.0),
    "full oracle step": (masked_update("all", tau=1.5), 2.0, 1.5),
    "CPI-RR": (masked_update("partial", tau=1.5), 0.375, 9 / 64),  # p = ½, α = 3/16
    "CPI-CARO": (masked_update("partial", tau=1.5), 0.75, 9 / 32),  # α = 3/8
    "localizer": (masked_update("noisy, partial", tau=1.5), 0.48, 0.18),  # t = q = .8, α = .3
    "localizer, nowhere worse": (masked_update("noisy, partial", tau=1.5), 0.48, 0.315),
    "visit probability": (masked_update("all", tau=0.75), 1.0, 2.0),
    "coverage, finite": (masked_update("all", restart=RESTART), 2.0, 6.0),
    "PSDP": (masked_update("all", restart=RESTART), 2.0, 4.0),
}


@pytest.mark.parametrize("name", FINITE)
def test_finite_bounds__sides_by_hand(name: str) -> None:
    update, left, right = FINITE[name]
    check = BY_NAME[name].check(update)
    assert check is not None
    assert (check.left, check.right) == pytest.approx((left, right), abs=1e-14)


def steep_update() -> Update:
    """`masked_update("fixture")` with r(off, 2) = −1: a_0 = (2, −3, 0), a_1 = (1, −2, 0), r = 2.

    π never goes off. The mixture is there at the second step with probability ½.
    """
    case = envs.tight_masked(2)
    rewards = case.mdp.rewards.copy()
    rewards[1, 1] = -1.0
    base = evaluate(dataclasses.replace(case.mdp, rewards=rewards), case.policy)
    return Update(base, case.candidate, 0.5, case.weights)


#: Bounds of the mixture without weights, or with 1[I_τ], whatever the weights of the update are,
#: and bounds with the largest |a| where π never goes.
WEIGHTS_ASIDE = {
    "random resets": (masked_update("fixture"), 1.0, 1.0),
    "full oracle step": (masked_update("noisy", tau=1.5), 2.0, 1.5),
    "CPI-RR": (masked_update("noisy, partial", tau=1.5), 0.375, 9 / 64),
    "CPI-CARO": (masked_update("noisy, partial", tau=1.5), 0.75, 9 / 32),
    "masked CPI, ε form": (steep_update(), 0.5, 0.25),  # ε = 3; where π goes it is 2
    "masked CPI, bounded returns": (steep_update(), 0.5, 0.25),  # R = 3
    "masked CPI, span form": (steep_update(), 0.5, 0.5),  # span 2 at step 1, from a = 0 and −2
}


@pytest.mark.parametrize("name", WEIGHTS_ASIDE)
def test_finite_bounds__sides_with_weights_and_unvisited_states(name: str) -> None:
    update, left, right = WEIGHTS_ASIDE[name]
    check = BY_NAME[name].check(update)
    assert check is not None and not check.violated
    assert (check.left, check.right) == pytest.approx((left, right), abs=1e-14)


def test_hand_computed__bounds_are_in_the_registry() -> None:
    assert {*DISCOUNTED, *IMPROVABLE, *FINITE} == set(BY_NAME)


def test_quantities_of_the_noisy_localizer() -> None:
    update = masked_update("noisy", tau=1.5)
    assert (update.p, update.p_w, update.recall, update.precision) == pytest.approx(
        (0.5, 0.5, 0.8, 0.8)
    )
    assert update.p_w == pytest.approx(update.p * update.recall / update.precision)


NOT_APPLICABLE = {
    "CPI-RR": masked_update("all", tau=1.5),  # π' is worse in "off"
    "localizer": masked_update("noisy", tau=1.5),
    "localizer, nowhere worse": masked_update("noisy", tau=1.5),
    "localizer, discounted": dataclasses.replace(half_improvable_update(), alpha=0.6),  # α > 1−γ
    "first switch, discounted": two_state_update(),  # j is accepted, reached, and worse
    "CPI-RR, discounted": dataclasses.replace(two_state_update(), tau=0.25),
    "CPI-CARO, discounted": two_state_update(),  # no τ
    "full oracle step, discounted": dataclasses.replace(two_state_update(), tau=5.0),
    "visit probability, discounted": two_state_update(),
    "CPI-CARO": masked_update("all"),  # no τ
    "full oracle step": masked_update("all", tau=5.0),  # nothing improvable
    "first switch": masked_update("fixture"),  # "off" is accepted, reached, and worse
    "coverage, finite": masked_update("all"),  # π never reaches "off", π* does
    "PSDP": masked_update("all"),
    "termination": Update(two_state_update().base, two_state_update().candidate),
    "TRPO, KL form": Update(two_state_update().base, two_state_update().candidate, alpha=1.0),
}


@pytest.mark.parametrize("name", NOT_APPLICABLE)
def test_bound_check__none_where_the_hypothesis_fails(name: str) -> None:
    assert BY_NAME[name].check(NOT_APPLICABLE[name]) is None


def slightly_worse_update(loss: float) -> Update:
    """H = 1: the candidate wins ½ in the improvable state and loses `loss` in the other."""
    rewards = np.array([[0.0, 0.5, 0.0], [0.0, -1.0, -loss]])
    mdp = envs.TabularMDP(np.full((2, 3, 2), 0.5), rewards, np.array([0.5, 0.5]), horizon=1)
    return Update(evaluate(mdp, np.array([0, 0])), np.array([1, 2]), 0.5, tau=0.25)


@pytest.mark.parametrize(
    "name", ["CPI-RR", "localizer", "localizer, nowhere worse", "first switch"]
)
def test_bounds_of_a_candidate_that_is_nowhere_worse__rounding_apart(name: str) -> None:
    assert BY_NAME[name].check(slightly_worse_update(1e-17)) is not None
    for loss in (1e-2, 5e-3, 1e-6, 1e-12):
        assert BY_NAME[name].check(slightly_worse_update(loss)) is None


def test_first_switch__rounding_in_a_is_no_loss() -> None:
    """Five actions of probability 1/5 and equal values: a = −2e-16, not 0."""
    mdp = envs.needle(0.3, horizon=3, num_actions=5)
    base = evaluate(mdp, np.full((3, 5), 1 / 5))
    candidate = np.where([[True], [False], [False]], greedy_policy(base.Q[0]), base.policy)
    update = Update(base, candidate, 0.5)
    assert -1e-14 < update.a.min() < 0
    check = BY_NAME["first switch"].check(update)
    assert check is not None and not check.violated


@pytest.mark.parametrize("time", [{"horizon": 1}, {"discount": 0.0}], ids=str)
def test_density_ratio__rare_states_count(time: Any) -> None:
    """One episode in 2,000 starts where there is 1 to win; of the restarts one in 100,000."""
    start, restart = np.array([1 - 5e-4, 5e-4]), np.array([1 - 1e-5, 1e-5])
    rewards = np.array([[0.0, 0.0], [0.0, 1.0]])
    mdp = envs.TabularMDP(np.full((2, 2, 2), 0.5), rewards, start, **time)
    update = Update(evaluate(mdp, np.array([0, 0])), np.array([0, 1]), restart=restart)
    names = ["coverage, finite", "PSDP"] if "horizon" in time else ["termination"]
    for name in names:
        check = BY_NAME[name].check(update)
        assert check is not None and not check.violated
        assert (check.left, check.right) == pytest.approx((5e-4, 5e-4))


def test_density_ratio__rounding_is_no_visit() -> None:
    """BiCGSTAB leaves 1e-20 in states that the optimal policy never reaches."""
    mdp = envs.garnet(400, 2, 2, seed=1, discount=0.9, sparse=True)
    mdp = dataclasses.replace(mdp, start=np.eye(400)[0])
    base = evaluate(mdp, np.full((400, 2), 0.5))
    update = Update(base, base.policy)
    best = update.best.occupancy
    assert ((best > 0) & (best < 1e-14)).any()
    visited = np.where(best > 1e-14, best, 0.0)
    assert update.density_ratio(visited).max() == 1.0


def test_localizer__a_candidate_may_be_worse_where_no_state_is_accepted() -> None:
    base = slightly_worse_update(0.5)
    update = dataclasses.replace(base, weights=np.array([1.0, 0.0]))
    assert BY_NAME["localizer"].check(update) is None
    assert BY_NAME["localizer, nowhere worse"].check(update) is not None


def test_pair_step__needs_a_step_of_at_most_1() -> None:
    case = envs.tight_cpi(0.05)  # nearly no future
    update = Update(evaluate(case.mdp, case.policy), case.candidate)
    assert BY_NAME["masked step, discounted, pair form"].check(update) is None
    myopic = Update(evaluate(case.mdp.with_time(discount=0.0), case.policy), case.candidate)
    assert BY_NAME["masked step, discounted, pair form"].check(myopic) is None


@pytest.mark.parametrize(
    "name",
    [
        "CPI step",
        "USPI step",
        "masked step, discounted",
        "masked step, discounted, returns",
        "masked step, discounted, pair form",
    ],
)
def test_step_bounds__need_a_positive_advantage(name: str) -> None:
    update = two_state_update()
    assert BY_NAME[name].check(Update(update.base, update.base.policy)) is None


@pytest.mark.parametrize("name", ["masked step", "masked step, bounded returns"])
def test_masked_step_bounds__need_a_positive_advantage(name: str) -> None:
    update = masked_update("fixture")
    assert BY_NAME[name].check(Update(update.base, update.base.policy)) is None
