"""Conservative policy iteration: certificates, records and stopping rules."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import envs
from cpi.bounds import REGISTRY
from cpi.conservative.certify import certify
from cpi.conservative.choosers import Choice, exact_greedy, sampled
from cpi.conservative.loop import Run, certificate, run_cpi
from cpi.conservative.reset_weights import ResetWeights, oracle_resets, random_resets, self_resets
from cpi.conservative.step_sizes import step_size
from cpi.exact.optimal import optimal
from cpi.exact.policies import (
    PolicyError,
    check_policy,
    greedy_policy,
    mixture,
    uniform_policy,
)
from cpi.exact.update import Update
from cpi.exact.values import Evaluation, evaluate
from envs import TabularMDP
from tests.cpi.worlds import interior_policy, rounding, world

BOUND = {bound.name: bound for bound in REGISTRY}
TAU = 0.15


def ending() -> tuple[TabularMDP, Any]:
    """A chain that ends two steps before the horizon, and a policy that errs."""
    mdp = envs.first_error_chain(4, recovery=0.3).with_time(horizon=6)
    right = np.linspace(0.5, 0.8, mdp.num_states)
    return mdp, np.stack([right, 1 - right], axis=1)


def needle() -> tuple[TabularMDP, Any]:
    mdp = envs.needle(0.3, horizon=3, num_actions=3)
    return mdp, uniform_policy(mdp)


def any_world() -> tuple[TabularMDP, Any]:
    mdp = world(1, horizon=4)
    return mdp, interior_policy(mdp, 1)


PROBLEMS = {"ending": ending(), "needle": needle(), "any": any_world()}
each_problem = pytest.mark.parametrize(("mdp", "policy"), PROBLEMS.values(), ids=PROBLEMS)
RESETS: dict[str, ResetWeights] = {
    "random": random_resets,
    "oracle": oracle_resets(TAU),
    "self": self_resets(TAU, precision=0.8, recall=0.6),
}
each_reset = pytest.mark.parametrize("resets", RESETS.values(), ids=RESETS)


class Recorder:
    """The exact chooser, with a record of its calls and choices."""

    def __init__(self) -> None:
        self.calls: list[tuple[Evaluation, Any]] = []
        self.choices: list[Choice] = []

    def __call__(self, evaluation: Evaluation, weights: Any, rng: np.random.Generator) -> Choice:
        self.calls.append((evaluation, weights))
        self.choices.append(exact_greedy(evaluation, weights, rng))
        return self.choices[-1]

    def updates(self, run: Run) -> list[Update]:
        return [
            Update(evaluation, choice.candidate, row.alpha, weights)
            for (evaluation, weights), choice, row in zip(
                self.calls, self.choices, run.iterations, strict=True
            )
        ]


# Certificates.


#: A recorded certificate is the best of these bounds.
FINITE = ("masked CPI", "masked CPI, step by step", "masked CPI, bounded returns")
DISCOUNTED = (
    "masked CPI, discounted, span form",
    "masked CPI, discounted, pair form",
    "safe policy iteration",
    "CPO, span form",
)


@pytest.mark.parametrize("step", ["masked", "masked-max", "returns", "stepwise", "certified"])
@each_reset
@each_problem
def test_every_gain_is_at_least_its_certificate(
    mdp: TabularMDP, policy: Any, resets: ResetWeights, step: str
) -> None:
    chooser = Recorder()
    run = run_cpi(mdp, policy, resets=resets, chooser=chooser, step=step, iterations=6, tau=TAU)
    assert len(run.iterations) == 6 and run.stopped == "all 6 iterations done"
    quoted = {
        "masked": "masked step",
        "returns": "masked step, bounded returns",
        "stepwise": "masked step, step by step",
    }
    for row, update in zip(run.iterations, chooser.updates(run), strict=True):
        assert row.gain > 0
        assert row.gain == pytest.approx(update.gain, abs=rounding(mdp))
        rights = [BOUND[name].right(update) for name in FINITE]
        assert row.certificate == pytest.approx(max(rights), rel=1e-9)
        assert row.gain >= row.certificate - rounding(mdp) and row.certificate > 0
        if step in quoted:
            assert row.certificate >= BOUND[quoted[step]].right(update) - rounding(mdp)
        assert row.alpha == step_size(step, update, row.lower)


@each_reset
@each_problem
def test_run_cpi__records_exact_quantities(
    mdp: TabularMDP, policy: Any, resets: ResetWeights
) -> None:
    chooser = Recorder()
    run = run_cpi(mdp, policy, resets=resets, chooser=chooser, iterations=4, tau=TAU)
    J = evaluate(mdp, policy).J
    for number, (row, update) in enumerate(zip(run.iterations, chooser.updates(run), strict=True)):
        base = update.base
        assert row.iteration == number
        assert row.J == pytest.approx(J, abs=rounding(mdp))
        alive = base.occupancy * ~mdp.terminal
        improvable = base.A.max(axis=-1) > TAU
        assert row.p == pytest.approx(float((base.occupancy * improvable).sum()))
        accepted = np.asarray(resets(base)) * alive
        assert row.p_w == pytest.approx(float(accepted.sum()))
        expected = float((accepted * base.A.max(axis=-1)).sum() / accepted.sum())
        assert row.advantage == row.lower == pytest.approx(expected)
        J += row.gain
        new = mixture(base.policy, update.candidate, row.alpha, resets(base))
        check_policy(mdp, new)
    assert run.J == pytest.approx(J, abs=rounding(mdp))
    assert evaluate(mdp, run.policy).J == pytest.approx(run.J, abs=rounding(mdp))


@each_problem
def test_returns_increase_and_a_full_step_reaches_the_optimum(mdp: TabularMDP, policy: Any) -> None:
    run = run_cpi(mdp, policy, step="full", iterations=20)
    J = [row.J for row in run.iterations]
    assert (np.diff(J) > -rounding(mdp)).all() and J[0] < run.J
    assert run.J == pytest.approx(evaluate(mdp, optimal(mdp).policy).J, abs=rounding(mdp))
    assert "too small" in run.stopped and len(run.iterations) < 20
    assert run.iterations[-1].alpha == 0 and run.iterations[-1].gain == 0


def test_oracle_resets_are_certified_more_than_random_ones() -> None:
    """By 1/p on the needle, where the candidate gains nowhere else."""
    mdp, policy = PROBLEMS["needle"]
    rows = {
        name: run_cpi(mdp, policy, resets=resets, iterations=1, tau=0.5).iterations[0]
        for name, resets in (("random", random_resets), ("oracle", oracle_resets(0.5)))
    }
    assert rows["oracle"].p == pytest.approx(0.3)
    assert rows["oracle"].certificate / rows["random"].certificate == pytest.approx(1 / 0.3)
    assert rows["oracle"].gain > rows["random"].gain


def test_certificate__by_hand() -> None:
    """α H p_w 𝔸 − ½ α² r D: p_w = 0.3, H = 3, r = 1, D = 0.3 (3·2 + 2·3 + 1·4)."""
    mdp, policy = PROBLEMS["needle"]
    base = evaluate(mdp, policy)
    weights = np.tile([1.0, 0.0, 0.0], (3, 1))
    update = Update(base, greedy_policy(base.Q), weights=weights)
    assert certificate(update, 0.1, 0.5) == pytest.approx(0.3 * (0.15 - 0.08))
    assert certificate(update, 0.0, 0.5) == 0.0
    assert certificate(update, 0.5, 0.5) == pytest.approx(0.3 * (0.75 - 2.0))


@pytest.mark.parametrize("resets", [oracle_resets(0.4), self_resets(0.4, 0.8, 0.6)])
def test_run_cpi__p_is_recorded_at_the_level_of_its_resets(resets: ResetWeights) -> None:
    """The largest advantages of the states lie between 0.2 and 1, so that p depends on τ."""
    mdp, policy = PROBLEMS["any"]
    base = evaluate(mdp, policy)
    best = base.A.max(axis=-1)
    coverages = [float(base.occupancy[best > tau].sum()) for tau in (0.0, 0.4, 0.6)]
    assert coverages[0] > coverages[1] > coverages[2] > 0
    for tau, expected in ((None, coverages[1]), (0.6, coverages[2]), (0.0, coverages[0])):
        (row,) = run_cpi(mdp, policy, resets=resets, tau=tau, iterations=1).iterations
        assert row.p == pytest.approx(expected)
    (row,) = run_cpi(mdp, policy, iterations=1).iterations
    assert row.p == pytest.approx(coverages[0])  # random resets have no level


# Certified from sampled resets alone.


class SampledRecorder:
    """A sampled chooser, with a record of its choices."""

    def __init__(self, **options: Any) -> None:
        self.chooser = sampled(6000, "per_state", **options)
        self.choices: list[Choice] = []

    def __call__(self, evaluation: Evaluation, weights: Any, rng: np.random.Generator) -> Choice:
        self.choices.append(self.chooser(evaluation, weights, rng))
        return self.choices[-1]


@pytest.mark.parametrize("bound", ["bernstein", "none"])
@each_reset
def test_run_cpi__certified_from_resets_alone(resets: ResetWeights, bound: Any) -> None:
    """Whatever the chooser trusts, `certified` is for iteration k at 6δ/(π²k²)."""
    mdp, policy = PROBLEMS["needle"]
    chooser = SampledRecorder(bound=bound)
    run = run_cpi(mdp, policy, resets=resets, chooser=chooser, iterations=3, delta=0.2)
    assert len(run.iterations) == 3
    levels = 0.2 * 6 / np.pi**2 / np.array([1, 4, 9])
    for row, choice, level in zip(run.iterations, chooser.choices, levels, strict=True):
        assert choice.evidence is not None
        assert row.certified == pytest.approx(choice.evidence.certificate(level, row.alpha).gain)
        assert row.lower == choice.lower
        assert row.certified < row.gain
    assert 0.2 * 6 / np.pi**2 * (1 / np.arange(1.0, 1e6) ** 2).sum() == pytest.approx(0.2)


@each_reset
def test_run_cpi__sampled_steps_are_those_that_resets_alone_certify(resets: ResetWeights) -> None:
    mdp, policy = PROBLEMS["needle"]
    chooser = SampledRecorder(bound="none")
    run = run_cpi(mdp, policy, resets=resets, chooser=chooser, step="sampled", iterations=3)
    for number, (row, choice) in enumerate(zip(run.iterations, chooser.choices, strict=True)):
        assert choice.evidence is not None
        best = choice.evidence.certificate(0.05 * 6 / np.pi**2 / (number + 1) ** 2)
        found = row.alpha, row.lower, row.certified
        assert found == pytest.approx((best.alpha, best.lower, best.gain))
        assert 0 < row.certified < row.certificate < row.gain
        assert row.lower < choice.lower == row.advantage


def test_run_cpi__sampled_steps_stop_where_resets_certify_nothing() -> None:
    mdp, policy = PROBLEMS["needle"]
    chooser = sampled(40, "per_state", bound="none")
    run = run_cpi(mdp, policy, resets=oracle_resets(TAU), chooser=chooser, step="sampled")
    (row,) = run.iterations
    assert row.alpha == row.certified == row.gain == 0 and row.advantage > 0 > row.lower
    assert "too small" in run.stopped
    with pytest.raises(ValueError, match="step: 'sampled' needs a chooser that samples resets"):
        run_cpi(mdp, policy, step="sampled")
    with pytest.raises(ValueError, match=r"delta: 0 is not in \(0, 1\)"):
        run_cpi(mdp, policy, delta=0)


def test_run_cpi__an_exact_choice_is_certified_by_its_certificate() -> None:
    for mdp, policy in (PROBLEMS["any"], (world(1, discount=0.9), None)):
        start = interior_policy(mdp, 1) if policy is None else policy
        run = run_cpi(mdp, start, iterations=3)
        assert all(row.certified == row.certificate > 0 for row in run.iterations)


# Discounted worlds.

#: Step rule → the bound that certifies it at the α taken.
CERTIFIED = {
    "kl": "CPI step",
    "kl-max": "CPI",
    "span-max": "CPI, span form",
    "uspi": "USPI step",
    "cpo-max": "CPO",
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("step", CERTIFIED)
def test_discounted_gains_are_at_least_what_their_bound_certifies(step: str, seed: int) -> None:
    mdp = world(seed, discount=0.9)
    chooser = Recorder()
    run = run_cpi(mdp, interior_policy(mdp, seed), chooser=chooser, step=step, iterations=5)
    assert run.iterations
    for row, update in zip(run.iterations, chooser.updates(run), strict=True):
        certified = BOUND[CERTIFIED[step]].right(update)
        rights = [BOUND[name].right(update) for name in DISCOUNTED]
        assert row.certificate == pytest.approx(max(rights), rel=1e-9, abs=rounding(mdp))
        assert row.advantage == pytest.approx(update.advantage, abs=rounding(mdp))
        if row is run.iterations[-1] and row.advantage < rounding(mdp):
            assert row.alpha == 0  # the iteration has converged
            continue
        assert row.gain >= row.certificate - rounding(mdp)
        assert row.certificate >= certified - rounding(mdp) and certified > 0
        assert row.alpha == step_size(step, update, row.advantage) > 0
    assert run.J > evaluate(mdp, interior_policy(mdp, seed)).J


def test_the_default_steps_are_the_certified_ones() -> None:
    mdp = world(1, discount=0.9)
    policy = interior_policy(mdp, 1)
    for problem in ((mdp, policy), PROBLEMS["any"]):
        ours, theirs = (
            run_cpi(*problem, step=step, iterations=2).iterations for step in (None, "certified")
        )
        assert ours == theirs


discounted_masks = pytest.mark.parametrize(
    "resets", [oracle_resets(0.4), self_resets(0.4, 0.9, 0.5)], ids=["oracle", "self"]
)


@pytest.mark.parametrize("seed", range(3))
@discounted_masks
def test_discounted_masked_gains_are_at_least_their_certificate(
    resets: ResetWeights, seed: int
) -> None:
    mdp = world(seed, discount=0.9)
    chooser = Recorder()
    run = run_cpi(mdp, interior_policy(mdp, seed), resets=resets, chooser=chooser, iterations=5)
    assert run.iterations
    for row, update in zip(run.iterations, chooser.updates(run), strict=True):
        rights = [BOUND[name].right(update) for name in DISCOUNTED]
        assert 0 < row.certificate == pytest.approx(max(rights), rel=1e-9)
        assert row.gain == pytest.approx(update.gain, abs=rounding(mdp))
        assert row.gain >= row.certificate
        assert row.p_w == pytest.approx(update.p_w) and row.p_w < 0.95
        assert row.alpha == step_size("certified", update, row.lower)


def test_discounted_oracle_resets_end_where_all_advantages_are_below_tau() -> None:
    mdp = envs.needle(0.3, horizon=3, num_actions=3).with_time(discount=0.95)
    run = run_cpi(mdp, uniform_policy(mdp), resets=oracle_resets(0.4), iterations=500)
    assert "nothing improvable" in run.stopped and 1 < len(run.iterations) < 500
    assert 0.3 < evaluate(mdp, run.policy).A.max() <= 0.4


def test_discounted_oracle_resets_are_certified_more_than_random_ones() -> None:
    """By more than the true gain differs: of all visits only a tenth are to the needle."""
    mdp = envs.needle(0.1, horizon=3, num_actions=3).with_time(discount=0.9)
    rows = {
        name: run_cpi(mdp, uniform_policy(mdp), resets=rule, iterations=1, tau=0.5).iterations[0]
        for name, rule in (("random", random_resets), ("oracle", oracle_resets(0.5)))
    }
    assert rows["oracle"].p == pytest.approx(rows["oracle"].p_w) == pytest.approx(0.1)
    assert rows["oracle"].certificate >= rows["random"].certificate


def test_discounted_terminal_states_are_not_accepted() -> None:
    mdp = envs.first_error_chain(4, recovery=0.3).with_time(discount=0.8)
    policy = PROBLEMS["ending"][1]
    chooser = Recorder()
    run_cpi(mdp, policy, resets=lambda e: np.full(mdp.num_states, 0.5), chooser=chooser)
    for _, weights in chooser.calls:
        np.testing.assert_array_equal(weights, 0.5 * ~mdp.terminal)


@pytest.mark.parametrize("step", ["kl", "kl-max", "span-max", "uspi", "cpo-max"])
@discounted_masks
def test_discounted_steps_of_random_resets_refuse_masks(resets: ResetWeights, step: str) -> None:
    mdp = world(1, discount=0.9)
    with pytest.raises(ValueError, match=f"step: '{step}' is for random resets only; use 'cert"):
        run_cpi(mdp, interior_policy(mdp, 1), resets=resets, step=step)


@pytest.mark.parametrize("step", ["certified", "kl", "sampled"])
@pytest.mark.parametrize("masked", [False, True], ids=["random", "oracle"])
def test_run_cpi__discounted_steps_from_resets(step: str, masked: bool) -> None:
    """Their gains are above both certificates, also where terminal states are accepted."""
    if masked and step == "kl":
        return  # refused: a rule of random resets
    chain = envs.lock_chain(2, 2).with_time(discount=0.5)
    policy = np.full((chain.num_states, 2), 0.5)
    chooser = SampledRecorder(bound="none" if step == "sampled" else "bernstein")
    resets = oracle_resets(0.05) if masked else random_resets
    run = run_cpi(chain, policy, resets=resets, chooser=chooser, step=step, iterations=3)
    assert run.iterations
    for number, (row, choice) in enumerate(zip(run.iterations, chooser.choices, strict=True)):
        assert choice.evidence is not None
        level = 0.05 * 6 / np.pi**2 / (number + 1) ** 2
        found = choice.evidence.certificate(level, row.alpha)
        assert row.certified == pytest.approx(found.gain)
        assert max(row.certified, row.certificate) < row.gain and row.certificate > 0
        share = row.advantage / found.advantage
        assert share == pytest.approx(1.0) if masked else share < 0.99
        if step == "sampled":
            best = choice.evidence.certificate(level)
            assert (row.alpha, row.lower) == pytest.approx((best.alpha, share * best.lower))


def test_run_cpi__invalid_options_are_refused() -> None:
    mdp, policy = PROBLEMS["needle"]
    with pytest.raises(ValueError, match="step: 'kl' is none of certified, full, masked"):
        run_cpi(mdp, policy, step="kl")
    with pytest.raises(ValueError, match="tau: -1 is not a number ≥ 0"):
        run_cpi(mdp, policy, tau=-1)
    with pytest.raises(ValueError, match="tau: None is not a number ≥ 0"):
        oracle_resets(None)  # type: ignore[arg-type]
    for epsilon in (np.nan, -0.1):
        with pytest.raises(ValueError, match=f"epsilon: {epsilon} is not a number ≥ 0"):
            run_cpi(mdp, policy, epsilon=epsilon)
    for iterations in (-1, 1.5):
        with pytest.raises(ValueError, match=f"iterations: {iterations} is not a whole number ≥ 0"):
            run_cpi(mdp, policy, iterations=iterations)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"step: <lambda> gave nan for 0\.2"):
        run_cpi(mdp, policy, step=lambda update, advantage: np.nan)
    with pytest.raises(PolicyError, match="shape"):
        run_cpi(mdp, policy[:2])
    with pytest.raises(ValueError, match=r"resets: must lie in \[0, 1\]"):
        run_cpi(mdp, policy, resets=lambda evaluation: np.full((3, 3), 1.5))
    with pytest.raises(ValueError, match=r"resets: shape \(4,\), expected"):
        run_cpi(mdp, policy, resets=lambda evaluation: np.ones(4))


# Stopping.


@each_problem
def test_run_cpi__no_iteration_if_nothing_is_improvable(mdp: TabularMDP, policy: Any) -> None:
    best = optimal(mdp).policy
    oracle = run_cpi(mdp, best, resets=oracle_resets(TAU))
    assert oracle.iterations == [] and "nothing improvable by more than τ = " in oracle.stopped
    np.testing.assert_array_equal(oracle.policy, best)
    assert oracle.J == evaluate(mdp, best).J
    none = run_cpi(mdp, best, resets=self_resets(TAU, 0.8, 0.5))
    assert none.iterations == []
    blind = run_cpi(mdp, best)
    assert [row.alpha for row in blind.iterations] == [0.0] and "too small" in blind.stopped


def test_oracle_resets_end_where_all_advantages_are_below_tau() -> None:
    mdp, policy = PROBLEMS["needle"]
    run = run_cpi(mdp, policy, resets=oracle_resets(0.4), step="masked-max", iterations=500)
    assert "nothing improvable" in run.stopped and 1 < len(run.iterations) < 500
    assert evaluate(mdp, run.policy).A.max() <= 0.4
    assert evaluate(mdp, run.policy).A.max() > 0.3


def test_run_cpi__stops_where_advantages_are_rounding() -> None:
    """All actions are alike, so nothing can be improved."""
    rewards = np.tile([[0.1], [0.3], [0.7]], (1, 3))
    mdp = TabularMDP(np.full((3, 3, 3), 1 / 3), rewards, np.eye(3)[0], horizon=5)
    run = run_cpi(mdp, np.tile([0.1, 0.2, 0.7], (3, 1)), resets=oracle_resets(0.0), iterations=9)
    assert all(row.alpha == 0 for row in run.iterations) and len(run.iterations) < 2


def test_run_cpi__stops_below_two_thirds_epsilon() -> None:
    mdp, policy = PROBLEMS["needle"]  # 𝔸 = p (1 − 1/3) = 0.2
    (first, *_) = run_cpi(mdp, policy, iterations=1).iterations
    assert first.advantage == pytest.approx(0.2)
    stopped = run_cpi(mdp, policy, epsilon=0.3001)
    assert [row.alpha for row in stopped.iterations] == [0.0]
    assert stopped.J == evaluate(mdp, policy).J and "too small" in stopped.stopped
    going = run_cpi(mdp, policy, epsilon=0.2999, iterations=1)
    assert going.iterations[0].alpha > 0
    # Later, the first advantage below the threshold is the last one.
    run = run_cpi(mdp, policy, epsilon=0.27, iterations=100)
    *before, last = run.iterations
    assert before and all(row.advantage >= 0.18 for row in before) and last.advantage < 0.18
    assert last.alpha == 0.0


def test_run_cpi__stops_if_the_lower_bound_is_not_positive() -> None:
    mdp, policy = PROBLEMS["needle"]

    def unsure(evaluation: Evaluation, weights: Any, rng: np.random.Generator) -> Choice:
        return replace(exact_greedy(evaluation, weights, rng), lower=0.0)

    run = run_cpi(mdp, policy, chooser=unsure, step="full")
    assert [row.alpha for row in run.iterations] == [0.0]
    assert run.iterations[0].advantage > 0 and run.iterations[0].gain == 0
    assert run.stopped == "advantage 0.2 (at least 0): too small"


def test_run_cpi__too_few_resets_say_how_many_would_do() -> None:
    mdp, policy = PROBLEMS["needle"]
    run = run_cpi(mdp, policy, chooser=sampled(40, "shared"), resets=oracle_resets(0.1))
    number = re.search(r"too small; about ([\d,]+) accepted resets", run.stopped)
    assert number is not None
    enough = int(number[1].replace(",", ""))
    many = sampled(4 * enough, "shared")
    run = run_cpi(mdp, policy, chooser=many, resets=oracle_resets(0.1), iterations=1)
    assert 40 < enough and run.iterations[0].certified > 0


@pytest.mark.parametrize(
    ("chooser", "shown"), [(exact_greedy, False), (sampled(40, "shared"), True)]
)
def test_run__table_without_resets_has_no_column_of_them(chooser: Any, shown: bool) -> None:
    mdp, policy = PROBLEMS["needle"]
    text = str(run_cpi(mdp, policy, chooser=chooser, iterations=1))
    assert "certificate" in text and ("drawn" in text) == shown


def test_run_cpi__step_uses_the_lower_bound() -> None:
    mdp, policy = PROBLEMS["needle"]

    def careful(evaluation: Evaluation, weights: Any, rng: np.random.Generator) -> Choice:
        return replace(exact_greedy(evaluation, weights, rng), lower=0.09)

    (row,) = run_cpi(mdp, policy, chooser=careful, iterations=1).iterations
    # H 𝔸 = 0.27, and ½ D = ½ (3·2 + 2·3 + 1·4).
    assert row.alpha == pytest.approx(0.27 / 16)
    assert row.certificate == pytest.approx(0.27**2 / 32)


def test_run_cpi__step_may_be_a_function() -> None:
    mdp, policy = PROBLEMS["needle"]
    run = run_cpi(mdp, policy, step=lambda update, advantage: 0.25, iterations=2)
    assert [row.alpha for row in run.iterations] == [0.25, 0.25]
    none = run_cpi(mdp, policy, step=lambda update, advantage: 0.0, iterations=5)
    assert len(none.iterations) == 1 and none.J == none.iterations[0].J
    assert none.stopped == "step size 0 for an advantage of at least 0.2"


# Reset weights.


def test_random_and_oracle_weights() -> None:
    mdp, policy = PROBLEMS["ending"]
    base = evaluate(mdp, policy)
    np.testing.assert_array_equal(random_resets(base), np.ones((6, mdp.num_states)))
    weights = oracle_resets(TAU)(base)
    np.testing.assert_array_equal(weights, base.A.max(axis=-1) > TAU)
    assert 0 < weights.sum() < weights.size
    highest = float(base.A.max())
    assert not oracle_resets(highest)(base).any()  # the threshold is strict


WRONG_RULES: list[tuple[Any, str]] = [
    ("oracle", r"'oracle' is no reset rule; give cpi\.random_resets, cpi\.oracle_resets\(tau\)"),
    (np.ones(3), r"array\(.*\) is no reset rule"),
    (oracle_resets, r"oracle_resets, without its τ, is no reset rule"),
    (self_resets, r"self_resets, without its τ, is no reset rule"),
    (lambda evaluation: np.ones(9), r"shape \(9,\), expected \(3, 3\), or \(3,\) for the same"),
    (lambda evaluation: np.ones((2, 3)), r"shape \(2, 3\), expected \(3, 3\), or"),
    (lambda evaluation: np.full(3, 2.0), r"must lie in \[0, 1\], found 2"),
]


@pytest.mark.parametrize(("rule", "message"), WRONG_RULES)
def test_weights_of__wrong_rules_are_refused(rule: Any, message: str) -> None:
    """`run_cpi` and `certify` refuse alike, with the argument's name."""
    mdp, policy = needle()
    with pytest.raises(ValueError, match=f"^resets: {message}"):
        run_cpi(mdp, policy, resets=rule)
    with pytest.raises(ValueError, match=f"^rule: {message}"):
        certify(mdp, policy, rule)


def test_weights_of__a_discounted_rule_has_a_weight_a_state() -> None:
    mdp, policy = needle()
    for refuse in (run_cpi, certify):
        with pytest.raises(ValueError, match=r"shape \(9,\), expected \(3,\)$"):
            refuse(
                mdp.with_time(discount=0.5),
                policy,
                **{"resets" if refuse is run_cpi else "rule": lambda evaluation: np.ones(9)},
            )
