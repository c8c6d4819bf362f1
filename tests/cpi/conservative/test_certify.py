"""`certify`: coverage over a thousand seeds, and its tasks, rules and errors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

import envs
from cpi.conservative.black_box import BlackBox
from cpi.conservative.certificate import Certificate
from cpi.conservative.certify import certify
from cpi.conservative.measure import choose_and_measure, every_step
from cpi.conservative.reset_weights import ResetWeights, oracle_resets, random_resets, self_resets
from cpi.conservative.resets import draw_resets
from cpi.exact.policies import PolicyError, mixture, uniform_policy
from cpi.exact.update import Update
from cpi.exact.values import evaluate
from envs import TabularMDP
from envs.gym import TabularEnv
from tests.cpi.conservative.problems import ENDING, WEIGHTS
from tests.cpi.worlds import interior_policy, world

DELTA = 0.2
SEEDS = 1000


class Problem(NamedTuple):
    """An MDP, a policy, a reset rule, and a number of resets that certifies some steps."""

    mdp: TabularMDP
    policy: Any
    rule: ResetWeights
    resets: int
    policy_class: Any
    #: Parts whose estimates do not vary.
    known: tuple[str, ...] = ()


def tight(horizon: int) -> Problem:
    instance = envs.tight_masked(horizon)
    rule = lambda evaluation: instance.weights  # noqa: E731
    return Problem(instance.mdp, instance.policy, rule, 40, "shared", ("penalty",))


def weak_lock() -> Problem:
    mdp = envs.lock_chain(4, 2)
    policy = envs.lock_policy([0.9, 0.3, 0.9, 0.9], 2)
    return Problem(mdp, policy, self_resets(0.2, 0.7, 0.8), 400, "per_state")


def needle() -> Problem:
    mdp = envs.needle(0.5, horizon=2, num_actions=2)
    return Problem(mdp, uniform_policy(mdp), oracle_resets(0.2), 120, "per_state", ("penalty",))


def garnet() -> Problem:
    mdp = envs.garnet(4, 2, 2, seed=3, horizon=3)
    return Problem(mdp, uniform_policy(mdp), random_resets, 800, "per_state", ("p_w",))


PROBLEMS = {"tight": tight(2), "lock": weak_lock(), "needle": needle(), "garnet": garnet()}


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_certify__violations_over_1000_seeds(problem: Problem) -> None:
    """Each part holds with its part of δ, and the gain with δ; the estimates themselves do not."""
    mdp, policy, rule, resets, policy_class, known = problem
    base = evaluate(mdp, policy)
    weights = rule(base) * ~mdp.terminal
    accepted = base.occupancy * weights
    p_w = float(accepted.sum())
    rows = every_step(base.policy, len(accepted))
    h, H = np.arange(len(accepted)), len(accepted)
    disturbed = mdp.reward_width * (H - h) * (H + h - 1) / 2
    B = float(accepted.sum(axis=1) @ disturbed) / p_w
    violated, naive, gains = [], [], []
    for seed in range(SEEDS):
        data = draw_resets(base, weights, np.random.default_rng(seed), accepted=resets)
        found = choose_and_measure(data, rows, policy_class, mdp.reward_range).certificate(DELTA)
        advantage = float((accepted[..., None] * found.candidate * base.A).sum()) / p_w
        new = mixture(rows, found.candidate, found.alpha, weights)
        gain = evaluate(mdp, new).J - base.J if found.alpha else 0.0
        low, high = found.p_w_interval
        violated.append(
            (
                found.gain > gain + 1e-12,
                found.lower > advantage + 1e-12,
                p_w < low - 1e-12 or p_w > high + 1e-12,
                found.penalty < B - 1e-12,
            )
        )
        naive.append(
            (
                found.advantage > advantage + 1e-12,
                found.p_w > p_w + 1e-12,
                disturbed[data.step].mean() < B - 1e-12,
            )
        )
        gains.append(found.gain)
    rates = np.mean(violated, axis=0)
    assert (rates <= np.array([1, 1 / 2, 1 / 2, 1 / 4]) * DELTA).all(), rates
    # Power of the test: without their radii the same bounds fail, but for what is known exactly.
    failures = dict(zip(("advantage", "p_w", "penalty"), np.mean(naive, axis=0), strict=True))
    assert all((rate > DELTA) != (part in known) for part, rate in failures.items()), failures
    assert np.mean(np.array(gains) > 0) > 0.2


DISCOUNTED = {
    "tight": (envs.tight_masked(2).mdp.with_time(discount=0.5), envs.tight_masked(2).policy, None),
    "ending": (ENDING.with_time(discount=0.6), interior_policy(ENDING, 3)[0], WEIGHTS[0]),
    "uniform": (world(3, 4, 2, discount=0.7), np.full((4, 2), 0.5), np.array([1, 0, 0.5, 1])),
}


@pytest.mark.parametrize("problem", DISCOUNTED.values(), ids=DISCOUNTED)
def test_certify__discounted_violations_over_400_seeds(problem: Any) -> None:
    mdp, policy, weights = problem
    base, gamma = evaluate(mdp, policy), mdp.discount
    weights = np.ones(mdp.num_states) if weights is None else weights
    mass = base.occupancy * weights * ~mdp.terminal
    p_w, width = mass.sum(), mdp.reward_width / (1 - gamma)
    violated, naive, certified = [], [], 0
    for seed in range(400):
        found = certify(mdp, policy, lambda _: weights, delta=DELTA, resets=600, seed=seed)
        moved = np.abs(found.candidate - policy).sum(axis=-1) / 2
        share = mass @ moved / p_w
        B = 2 * gamma * width * moved.max() * share / (1 - gamma)
        advantage = mass @ (found.candidate * base.A).sum(axis=-1) / p_w
        gain = evaluate(mdp, mixture(policy, found.candidate, found.alpha, weights)).J - base.J
        low, high = found.p_w_interval
        off = p_w < low - 1e-12 or p_w > high + 1e-12
        violated.append(
            (found.gain > gain + 1e-12, found.lower > advantage, off, found.penalty < B - 1e-9)
        )
        naive.append(found.advantage > advantage)
        certified += found.gain > 0
    assert (np.mean(violated, axis=0) <= np.array([1, 1 / 2, 1 / 2, 1 / 4]) * DELTA).all()
    assert np.mean(naive) > DELTA and certified > 200


def test_certify__the_gain_is_violated_without_the_radius() -> None:
    """On the tight instance the bound is the gain, so that any optimism shows."""
    mdp, policy, rule, resets, policy_class, _ = PROBLEMS["tight"]
    base = evaluate(mdp, policy)
    weights = rule(base)
    wrong = 0
    for seed in range(200):
        data = draw_resets(base, weights, np.random.default_rng(seed), accepted=resets)
        rows = every_step(base.policy, 2)
        evidence = choose_and_measure(data, rows, policy_class, mdp.reward_range)
        p_w, mean = len(data) / data.drawn, float(evidence.samples.mean())
        alpha = min(1.0, mean / 2)  # B = 1
        claimed = 2 * p_w * (alpha * mean - alpha**2)
        wrong += claimed > Update(base, evidence.candidate).gain_at(alpha, weights) + 1e-12
    assert wrong > 2 * DELTA * 200


# Tasks and rules.


def test_certify__an_mdp() -> None:
    mdp, policy, rule, *_ = PROBLEMS["needle"]
    found = certify(mdp, policy, rule, delta=0.1, resets=2000, seed=3)
    assert isinstance(found, Certificate)
    base = evaluate(mdp, policy)
    data = draw_resets(base, rule(base), np.random.default_rng(3), accepted=2000)
    rows = every_step(base.policy, 2)
    same = choose_and_measure(data, rows, "per_state", mdp.reward_range).certificate(0.1)
    assert found.to_json() == same.to_json()
    assert found.gain > 0 and found.accepted == 2000 and found.delta == 0.1
    update = Update(base, found.candidate, weights=rule(base))
    assert found.gain < update.gain_at(found.alpha, rule(base))


@pytest.mark.parametrize("length", [8, 12, 20])
def test_certify__rare_improvable_states(length: int) -> None:
    """J(π) = 4^-length, and the oracle accepts the last states of a lock alone."""
    mdp = envs.lock_chain(length, 4)
    base, rule = evaluate(mdp, uniform_policy(mdp)), oracle_resets(0.375)
    found = certify(mdp, base.policy, rule, resets=1000)
    update = Update(base, found.candidate, found.alpha, rule(base))
    low, high = found.p_w_interval
    assert low < update.p_w < high
    assert 0 < found.gain <= update.gain


def test_certify__a_range_of_returns_certifies_more() -> None:
    """The lock pays once, at the end: H rewards would pay 4."""
    mdp, policy, *_ = PROBLEMS["lock"]
    wide = certify(mdp, policy, resets=4000)
    narrow = certify(mdp, policy, resets=4000, returns=(0.0, 1.0))
    assert wide.form != narrow.form == "returns" and narrow.penalty == 3.0
    assert narrow.advantage == pytest.approx(wide.advantage, abs=0.05)
    assert narrow.gain > wide.gain >= 0
    with pytest.raises(ValueError, match=r"returns: 1 from step \d on is outside the range"):
        certify(mdp, policy, resets=4000, returns=(0.0, 0.5))


def test_certify__a_black_box_is_certified_as_its_mdp() -> None:
    """Means over seeds agree: the same is sampled, from w as a function of step and state."""
    mdp = world(5, horizon=3)
    policy = interior_policy(mdp, 2)
    weights = np.random.default_rng(4).uniform(0.2, 1.0, (3, 5))
    box = BlackBox(TabularEnv(mdp), 3, mdp.reward_range)
    ours, theirs = (
        [certify(*task, resets=100, delta=0.5, seed=seed) for seed in range(25)]
        for task in (
            (mdp, policy, lambda evaluation: weights),
            (box, policy, lambda step, state: weights[step, state]),
        )
    )
    for name in ("advantage", "lower", "p_w", "penalty"):
        one, two = (np.array([getattr(c, name) for c in found]) for found in (ours, theirs))
        error = np.sqrt((one.var(ddof=1) + two.var(ddof=1)) / 25)
        assert abs(one.mean() - two.mean()) <= 4 * error + 1e-12, name


def test_certify__a_discounted_black_box_is_certified_as_its_mdp() -> None:
    mdp = world(5, discount=0.5)
    policy = interior_policy(mdp, 2)
    box = BlackBox(TabularEnv(mdp), None, mdp.reward_range, discount=0.5)
    weights = np.random.default_rng(4).uniform(0.2, 1.0, 5)
    ours, theirs = (
        [certify(*task, resets=100, delta=0.5, seed=seed) for seed in range(15)]
        for task in (
            (mdp, policy, lambda evaluation: weights),
            (box, policy, lambda state: weights[state]),
        )
    )
    for name in ("advantage", "lower", "p_w", "penalty"):
        one, two = (np.array([getattr(c, name) for c in found]) for found in (ours, theirs))
        error = np.sqrt((one.var(ddof=1) + two.var(ddof=1)) / 15)
        assert abs(one.mean() - two.mean()) <= 4 * error + 1e-12, name
    assert ours[0].candidate.shape == theirs[0].candidate.shape == (5, 3)
    assert Certificate.to_json(theirs[0])["candidate"] == theirs[0].candidate.tolist()
    with pytest.raises(PolicyError, match=r"policy: shape \(2, 5, 3\), expected \(S, A\)$"):
        certify(box, np.broadcast_to(policy, (2, 5, 3)))


def test_certify__a_range_of_discounted_returns_certifies_more() -> None:
    """The last step alone pays, and the robot stays at its goal: returns are in [0, 1]."""
    mdp = envs.lock_chain(2, 2).with_time(discount=0.8)
    policy = uniform_policy(mdp)
    wide = certify(mdp, policy, resets=4000)
    narrow = certify(mdp, policy, resets=4000, returns=(0.0, 1.0))
    assert (wide.form, narrow.form) == ("masked", "returns")
    assert narrow.penalty == pytest.approx(wide.penalty / 5) and narrow.gain > wide.gain > 0
    with pytest.raises(ValueError, match=r"returns: .* is outside the range"):
        certify(mdp, policy, resets=4000, returns=(0.0, 0.5))


def test_certify__accepts_everything_by_default() -> None:
    mdp = envs.needle(0.5, horizon=2, num_actions=2)
    box = BlackBox(TabularEnv(mdp), 2, (0.0, 1.0))
    for task in (mdp, box):
        found = certify(task, uniform_policy(mdp), resets=60, policy_class="shared")
        assert found.accepted == found.drawn == 60
        assert (found.candidate == found.candidate[0, 0]).all()  # one action everywhere


def test_certify__small_number_types_do_not_overflow() -> None:
    """Draws of 100 resets do not fit into int8."""
    mdp = envs.needle(0.1, horizon=2, num_actions=2)
    number: Any = np.int8(100)
    policy = uniform_policy(mdp)
    drawn = [certify(mdp, policy, oracle_resets(0.1), resets=n).drawn for n in (number, 100)]
    assert drawn[0] == drawn[1] > 127
    box = BlackBox(TabularEnv(mdp), number, (0.0, 1.0), most_draws=number)
    assert (type(box.horizon), type(box.most_draws)) == (int, int)


def test_certify__invalid_values_are_refused() -> None:
    mdp = envs.needle(0.5, horizon=2, num_actions=2)
    policy = uniform_policy(mdp)
    box = BlackBox(TabularEnv(mdp), 2, (0.0, 1.0), most_draws=40)
    wrong: Any = "tabular"
    with pytest.raises(ValueError, match="resets: 3 is not a whole number ≥ 4"):
        certify(mdp, policy, resets=3)
    with pytest.raises(ValueError, match="policy_class: 'tabular' is neither"):
        certify(mdp, policy, policy_class=wrong)
    with pytest.raises(ValueError, match=r"delta: 0 is not in \(0, 1\)"):
        certify(mdp, policy, delta=0)
    box_of: Any = TabularEnv(mdp)
    with pytest.raises(ValueError, match=r"task: .* make a BlackBox\(environment"):
        certify(box_of, policy)
    for returns in ((np.nan, 1.0), (1.0, 0.0), (0.0,), 1.0, (0.0, np.inf)):
        bad: Any = returns
        with pytest.raises(ValueError, match=r"returns: .* two finite numbers with low ≤ high"):
            certify(mdp, policy, returns=bad)
    bad = "ab"
    with pytest.raises(ValueError, match="returns: not an array of real numbers"):
        certify(mdp, policy, returns=bad)
    with pytest.raises(PolicyError, match="policy: shape"):
        certify(mdp, policy[:2])
    with pytest.raises(PolicyError, match=r"policy: shape \(3, 3, 2\), expected \(S, A\) or \(2, "):
        certify(box, np.broadcast_to(policy, (3, 3, 2)))
    rows = np.full((2, mdp.num_states), 1 / mdp.num_states)
    with pytest.raises(PolicyError, match=r"policy: shape .* for 2 states, the environment has 3"):
        certify(box, rows)
    rows = np.full((mdp.num_states, 3), 1 / 3)
    with pytest.raises(PolicyError, match=r"policy: shape .* for 3 actions, the environment has 2"):
        certify(box, rows)
    with pytest.raises(ValueError, match=r"rule: must lie in \[0, 1\], found 2"):
        certify(box, policy, lambda step, state: 2.0)
    with pytest.raises(ValueError, match="rule: accepts no state at any step"):
        certify(box, policy, lambda step, state: 0.0)
    with pytest.raises(ValueError, match="rule: accepted 0 of 40 draws, fewer than 4"):
        certify(box, policy, lambda step, state: 1e-12)
    with pytest.raises(ValueError, match="p_w = 0"):
        certify(mdp, policy, oracle_resets(9.0))


@pytest.mark.parametrize("rule", [oracle_resets(0.1), self_resets(0.1, 0.5, 0.5), oracle_resets])
def test_certify__a_black_box_has_no_oracle(rule: Any) -> None:
    mdp = world(1, horizon=2)
    box = BlackBox(TabularEnv(mdp), 2, mdp.reward_range)
    with pytest.raises(ValueError, match=r"^rule: oracle and self resets need the values"):
        certify(box, uniform_policy(mdp), rule)
