"""Tabular GRPO, RRPO, SRPO and the oracle: learning, reproducibility and ledgers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import envs
from cpi import Evaluation, PolicyError, evaluate, uniform_policy
from cpi.core.collect import Ledger, collect
from cpi.core.episodes import Prefix
from cpi.core.plans import ALGORITHMS, GroupPlan
from cpi.core.resets import (
    OracleReset,
    RandomReset,
    ResetRule,
    SelfReset,
)
from cpi.tabular.learn import (
    FALSE_POSITIVE,
    RECALL,
    learn,
    tabular_world,
)
from cpi.tabular.simulator import TabularOracle, TabularSimulator
from envs import TabularMDP
from tests.cpi.scripted import ScriptedLocalizer, at_step
from tests.cpi.worlds import world

CHAIN = envs.first_error_chain(3)
algorithms = pytest.mark.parametrize("name", list(ALGORITHMS))


def softmax(theta: Any) -> Any:
    return np.exp(theta) / np.exp(theta).sum(axis=1, keepdims=True)


def first_step(evaluation: Evaluation) -> ResetRule:
    return SelfReset(ScriptedLocalizer(at_step(0), cost_each=5))


@algorithms
@pytest.mark.parametrize("seed", [0, 1])
def test_every_algorithm_learns(name: str, seed: int) -> None:
    run = learn(CHAIN, name, iterations=25, starts=8, seed=seed)
    assert evaluate(CHAIN, uniform_policy(CHAIN)).J == pytest.approx(1 / 8)
    J = [row.J for row in run.progress]
    assert J[-1] > 0.7
    assert J[0] < J[9] < J[-1]
    assert [row.iteration for row in run.progress] == list(range(1, 26))
    assert J[-1] == pytest.approx(evaluate(CHAIN, softmax(run.theta)).J, rel=1e-12)


@algorithms
def test_the_same_seed_gives_the_same_run(name: str) -> None:
    one, same, other = (learn(CHAIN, name, iterations=3, starts=2, seed=n) for n in (4, 4, 5))
    np.testing.assert_array_equal(one.theta, same.theta)
    assert one.progress == same.progress
    assert (one.theta != other.theta).any()


@algorithms
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_a_step_follows_the_score_of_the_suffix(name: str, scale: Any) -> None:
    # θ += lr/N Σ Â (1[a] − π) over the steps after the shared prefix, written out.
    mdp = envs.first_error_chain(4, recovery=0.5)
    theta = np.random.default_rng(0).normal(size=mdp.rewards.shape)
    given = theta.copy()
    run = learn(
        mdp, name, theta=theta, iterations=1, starts=6, lr=0.7, scale=scale, success=0.9, seed=3
    )
    np.testing.assert_array_equal(theta, given)

    policy, generator = softmax(theta), np.random.default_rng(3)
    simulator = TabularSimulator(mdp, policy, success=0.9)
    plan, rule = ALGORITHMS[name].plan, ALGORITHMS[name].rule
    starts = simulator.draw_starts(6, generator)
    reset_rule = rule(tabular_world(evaluate(mdp, policy)))
    groups = collect(simulator, starts, plan, reset_rule, generator)
    everything = np.concatenate([group.returns for group in groups])
    deviations = {"batch": everything.std(ddof=1) + 1e-4, "none": 1.0}
    gradient = np.zeros_like(theta)
    for group in groups:
        mean = group.returns.mean()
        divisor = deviations.get(scale, group.returns.std(ddof=1) + 1e-4)
        for episode in group.episodes:
            for s, a in episode.steps[group.prefix.length :]:
                gradient[s] += (episode.ret - mean) / divisor * (np.eye(2)[a] - policy[s])
    gradient /= len(everything)
    assert np.abs(gradient).max() > 0.01
    if name != "grpo":
        assert any(group.prefix.length for group in groups)
    np.testing.assert_allclose(run.theta, theta + 0.7 * gradient, rtol=1e-10, atol=1e-12)
    assert run.progress[0].grad_norm == pytest.approx(np.sqrt((gradient**2).sum()))
    assert run.progress[0].ledger == groups.ledger


@algorithms
def test_the_ledger_adds_up(name: str) -> None:
    plan = ALGORITHMS[name].plan
    ledgers = [row.ledger for row in learn(CHAIN, name, iterations=6, starts=5).progress]
    for number, ledger in enumerate(ledgers):
        starts = 5 * (number + 1)
        assert ledger.episodes == ledger.trained_episodes
        assert ledger.steps == ledger.trained_steps
        resets = ledger.resets_accepted + ledger.fallbacks
        fresh = ledger.episodes - plan.per_reset * resets
        if plan.equal_cost:  # fewer starts
            assert fresh % plan.fresh == 0 and 2 * (number + 1) <= fresh / plan.fresh <= starts
        else:
            assert fresh == plan.fresh * starts
        assert ledger.episodes <= plan.most_rollouts * starts
        assert plan.retries or resets == plan.resets * starts
    # The chain always goes on to its horizon of 3 steps; resets keep some of them.
    assert (ledgers[-1].steps < 3 * ledgers[-1].episodes) == (plan.resets > 0)
    steps = np.diff([0, *(ledger.steps for ledger in ledgers)])
    assert (steps > 0).all() and steps.max() <= 3 * 5 * plan.most_rollouts


def test_learn__plan_overrides_the_algorithm() -> None:
    run = learn(CHAIN, "srpo", plan=GroupPlan(0, 2, 3, seeds="any"), iterations=2, starts=4)
    ledger = run.progress[-1].ledger
    assert (ledger.episodes, ledger.trained_episodes, ledger.resets_drawn) == (64, 48, 16)


def test_learn__rule_overrides_the_algorithm_in_each_iteration() -> None:
    seen: list[float] = []

    def rule(evaluation: Evaluation) -> ResetRule:
        seen.append(evaluation.J)
        return first_step(evaluation)

    run = learn(CHAIN, "rrpo", rule=rule, iterations=4, starts=3, seed=1)
    # Made for the policy of each iteration, before it is updated.
    assert seen == pytest.approx([1 / 8, *(row.J for row in run.progress[:-1])], rel=1e-12)
    assert len(set(seen)) == 4
    ledger = run.progress[-1].ledger
    assert ledger.localizer_cost == 5 * ledger.resets_drawn > 0
    assert ledger.steps == 3 * 96  # all resets keep nothing


def test_learn__reset_before_the_first_step_is_grpo() -> None:
    mdp = envs.first_error_chain(4, recovery=0.3)
    grpo = learn(mdp, "grpo", iterations=5, starts=4, seed=2)
    srpo = learn(mdp, plan=GroupPlan(0, 1, 8), rule=first_step, iterations=5, starts=4, seed=2)
    np.testing.assert_array_equal(grpo.theta, srpo.theta)
    assert [row.J for row in grpo.progress] == [row.J for row in srpo.progress]


@pytest.mark.parametrize(("success", "eligible"), [(-1.0, 0), (0.0, 0), (2.0, 20)])
def test_learn__success_sets_the_failures(success: float, eligible: int) -> None:
    plan = GroupPlan(4, 1, 4, choice="deepest")  # localizes every failure
    run = learn(CHAIN, "rrpo", plan=plan, success=success, iterations=1, starts=5)
    ledger = run.progress[-1].ledger
    assert ledger.resets_drawn == eligible
    assert ledger.fallbacks == (0 if eligible else 5)


@pytest.mark.parametrize("size", [0.25, 1.0, 3.0])
def test_learn__only_the_best_return_is_a_success_by_default(size: float) -> None:
    """One leaf of four is the best, whatever the size of the rewards."""
    mdp = envs.tree(2, 2, seed=1)
    mdp = dataclasses.replace(mdp, rewards=size * mdp.rewards)
    plan = GroupPlan(4, 1, 4, choice="deepest")  # localizes every failure
    ours, explicit = (
        learn(mdp, "rrpo", plan=plan, iterations=1, starts=20, success=success).progress[0]
        for success in (None, float(mdp.rewards.max()))
    )
    assert ours == explicit
    policy = uniform_policy(mdp)
    rng = np.random.default_rng(0)
    simulator = TabularSimulator(mdp, policy, success=float(mdp.rewards.max()))
    groups = collect(simulator, simulator.draw_starts(20, rng), plan, RandomReset(), rng)
    fresh = np.concatenate([group.returns for group in groups if group.seed is None])
    worse = int((fresh < mdp.rewards.max()).sum())
    assert ours.ledger.resets_drawn == worse and 50 < worse < 70


def test_learn__no_iterations_keep_theta() -> None:
    theta: Any = np.arange(12.0).reshape(6, 2)
    run = learn(CHAIN, theta=theta, iterations=0)
    assert run.progress == []
    np.testing.assert_array_equal(run.theta, theta)
    assert run.theta is not theta


def test_learning_run__prints_as_a_table() -> None:
    run = learn(CHAIN, "rrpo", iterations=3, starts=20)
    lines = str(run).splitlines()
    for name in ("iteration", "J", "grad_norm", *Ledger().to_json()):
        assert any(name in line for line in lines)
    last = run.progress[-1]
    shown = [line for line in lines if f"{last.J:.4f}" in line]
    assert shown and all(f"{n:,}" in shown[-1] for n in last.ledger.to_json().values())


# The tabular world


def test_tabular_world__oracle_and_localizer() -> None:
    mdp = envs.first_error_chain(4)
    evaluation = evaluate(mdp, uniform_policy(mdp))  # advantages 1/16, 1/8, 1/4, 1/2
    tabular = tabular_world(evaluation)
    assert tabular.oracle is not None and tabular.localizer is not None
    assert (tabular.oracle.mask, tabular.oracle.tau) == ("improvable", 0.25)
    assert (RECALL, FALSE_POSITIVE) == (0.8, 0.1)
    simulator = TabularSimulator(mdp, uniform_policy(mdp))
    episodes = simulator.rollout([Prefix(0)], 30, np.random.default_rng(0))[0]
    first_errors = OracleReset(TabularOracle(evaluation), "first_error").weights(episodes)
    weights = zip(
        tabular.oracle.weights(episodes), tabular.localizer(episodes), first_errors, strict=True
    )
    for episode, (oracle, localizer, exact) in zip(episodes, weights, strict=True):
        clean = [k for k, (s, _) in enumerate(episode.steps) if s == k]
        np.testing.assert_array_equal(oracle, [float(k == 3 and k in clean) for k in range(4)])
        np.testing.assert_array_equal(localizer, np.where(exact == 1, 0.8, 0.1))


def test_tabular_world__exists_for_an_optimal_policy() -> None:
    best = np.tile([1.0, 0.0], (CHAIN.num_states, 1))
    tabular = tabular_world(evaluate(CHAIN, best))
    assert tabular.oracle is not None and tabular.oracle.tau == 0.0
    episodes = TabularSimulator(CHAIN, best).rollout([Prefix(0)], 1, np.random.default_rng(0))
    np.testing.assert_array_equal(tabular.oracle.weights(episodes[0]), [[0, 0, 0]])


# What is refused


def test_learn__unknown_algorithm_is_refused() -> None:
    with pytest.raises(ValueError, match=f"algorithm: 'ppo' is none of {', '.join(ALGORITHMS)}$"):
        learn(CHAIN, "ppo")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("lr", 0.0, "lr: 0.0 is not a finite number > 0"),
        ("lr", np.nan, "lr: nan is not a finite number > 0"),
        ("lr", -1.0, "lr: -1.0 is not a finite number > 0"),
        ("iterations", -1, "iterations: -1 is not a whole number ≥ 0"),
        ("starts", 0, "starts: 0 is not a whole number ≥ 1"),
        ("success", np.nan, "success: nan is not a number$"),
    ],
)
def test_learn__numbers_out_of_range_are_refused(option: str, value: Any, message: str) -> None:
    options: dict[str, Any] = {"iterations": 1, option: value}
    with pytest.raises(ValueError, match=message):
        learn(CHAIN, **options)


def never(evaluation: Evaluation) -> ResetRule:
    return SelfReset(lambda episodes: [np.zeros(episode.length) for episode in episodes])


def test_learn__a_rule_that_accepts_nothing_is_told() -> None:
    with pytest.warns(RuntimeWarning, match=r"rrpo: No episode was reset: the reset rule accepted"):
        run = learn(CHAIN, "rrpo", rule=never, iterations=2, starts=4)
    assert "accepted no step of 8 failures" in run.note and run.note[:20] in str(run)
    lucky = learn(CHAIN, "rrpo", success=-1.0, iterations=2, starts=4)
    assert "no episode was a failure" in lucky.note
    assert learn(CHAIN, "rrpo", iterations=2, starts=4).note == ""
    assert learn(CHAIN, "grpo", iterations=2, starts=4).note == ""


def test_learn__oracle_resets_where_the_policy_goes() -> None:
    """The largest advantage, 100, is in a state that no episode reaches."""
    moves = np.eye(3)[[[2, 2], [2, 2], [2, 2]]]
    rewards = np.array([[0.0, 1.0], [0.0, 100.0], [0.0, 0.0]])
    mdp = TabularMDP(moves, rewards, np.eye(3)[0], horizon=2)
    run = learn(mdp, "oracle", iterations=2, starts=8)
    assert run.note == "" and run.progress[-1].ledger.resets_accepted > 0


def test_learn__discounted_mdp_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a horizon"):
        learn(world(0, discount=0.9), iterations=1)


def test_learn__theta_of_another_shape_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"shape \(5, 2\), expected \(6, 2\)"):
        learn(CHAIN, theta=np.zeros((5, 2)), iterations=1)


def test_learn__unknown_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="scale: 'std'"):
        learn(CHAIN, scale="std", iterations=1)  # type: ignore[arg-type]


def test_learn__random_rule_makes_oracle_equal_rrpo() -> None:
    plain = learn(CHAIN, "rrpo", iterations=3, starts=4, seed=8)
    given = learn(
        CHAIN, "oracle", rule=lambda evaluation: RandomReset(), iterations=3, starts=4, seed=8
    )
    np.testing.assert_array_equal(plain.theta, given.theta)
