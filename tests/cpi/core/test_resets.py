"""Reset rules against a hand-made oracle; accept against exact occupancy, pick against weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cpi import evaluate
from cpi.core.episodes import Episode, Prefix
from cpi.core.resets import (
    NoisyLocalizer,
    OracleReset,
    RandomReset,
    SelfReset,
    accept,
    first_step,
    halving,
    pick,
)
from cpi.tabular.simulator import TabularOracle, TabularSimulator
from envs import TabularMDP, first_error_chain, needle
from tests.cpi.scripted import ScriptedLocalizer, assert_drawn_from
from tests.cpi.worlds import interior_policy, repeatable, world

MASKS = ("improvable", "first_error", "largest")


def episode(*steps: Any, ret: float = 0.0) -> Episode:
    return Episode(Prefix("start"), steps, ret, ret < 1, len(steps))


def test_halving__halves_the_episode_then_its_prefix() -> None:
    def kept(length: int, shared: int) -> int:
        steps = ("a",) * length
        whole = Episode(Prefix("start", steps[:shared]), steps, 0.0, True, length - shared)
        (weights,) = halving([whole])
        assert weights.shape == (length,) and weights.sum() == 1
        return int(weights.argmax())

    assert [kept(9, 0), kept(8, 4), kept(5, 2), kept(5, 1), kept(1, 0)] == [4, 2, 1, 0, 0]


def test_first_step__keeps_no_step() -> None:
    first, second = first_step([episode("a", "b", "c"), episode("d")])
    assert (first.tolist(), second.tolist()) == ([1, 0, 0], [1])


class Table:
    """An oracle that looks steps (letters) up in a table."""

    improvements: dict[str, float] = {"a": 0.0, "b": 0.25, "c": 0.5, "d": -0.5, "e": 0.5}  # noqa: RUF012
    wrong = "be"

    def improvement(self, episode: Episode) -> Any:
        return np.array([self.improvements[step] for step in episode.steps], dtype=float)

    def errors(self, episode: Episode) -> Any:
        return np.array([step in self.wrong for step in episode.steps], dtype=bool)


class Uniforms:
    """A generator of given numbers, to test draws that are very unlikely."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = np.array(numbers)

    def random(self, size: int) -> Any:
        assert size == len(self.numbers)
        return self.numbers


# Rules


def test_random_reset__equal_weights() -> None:
    rule = RandomReset()
    weights = rule.weights([episode(*"abc"), episode("a"), episode()])
    for w, expected in zip(weights, ([1, 1, 1], [1], []), strict=True):
        np.testing.assert_array_equal(w, expected)
    assert rule.cost == 0


@pytest.mark.parametrize(
    ("mask", "tau", "steps", "expected"),
    [
        ("first_error", 0.0, "acbabe", [0, 0, 1, 0, 0, 0]),
        ("first_error", 0.0, "eeb", [1, 0, 0]),
        ("first_error", 9.0, "ae", [0, 1]),  # τ is not used
        ("first_error", 0.0, "acd", [0, 0, 0]),
        ("largest", 0.0, "abdceb", [0, 0, 0, 1, 0, 0]),  # the first of the two largest
        ("largest", 0.0, "abdb", [0, 1, 0, 0]),
        ("largest", 0.4, "ab", [0, 1]),
        ("largest", 0.0, "ada", [0, 0, 0]),  # none is positive
        ("largest", 0.0, "d", [0]),
        ("improvable", 0.0, "abcd", [0, 1, 1, 0]),
        ("improvable", 0.25, "abcde", [0, 0, 1, 0, 1]),  # strictly above τ
        ("improvable", 0.24, "abcde", [0, 1, 1, 0, 1]),
        ("improvable", 0.5, "abcde", [0, 0, 0, 0, 0]),
    ],
)
def test_oracle_reset__masks(mask: Any, tau: float, steps: str, expected: list[int]) -> None:
    rule = OracleReset(Table(), mask, tau)
    (weights,) = rule.weights([episode(*steps)])
    assert weights.dtype == np.float64
    np.testing.assert_array_equal(weights, expected)
    assert rule.cost == 0


def test_oracle_reset__default_mask_is_improvable_above_0() -> None:
    np.testing.assert_array_equal(OracleReset(Table()).weights([episode(*"adbc")]), [[0, 0, 1, 1]])


@pytest.mark.parametrize("mask", MASKS)
def test_oracle_reset__weights_do_not_depend_on_other_episodes(mask: Any) -> None:
    rule = OracleReset(Table(), mask)
    episodes = [episode(*"cba"), episode(), episode(*"aaee"), episode("d")]
    together = rule.weights(episodes)
    for one, w in zip(episodes, together, strict=True):
        np.testing.assert_array_equal(w, rule.weights([one])[0])
        assert w.shape == (one.length,)


@pytest.mark.parametrize(
    ("mask", "tau", "message"),
    [
        ("error", 0.0, "mask: 'error' is not improvable, first_error or largest"),
        ("improvable", -0.1, r"tau: -0\.1 is not a number ≥ 0"),
        ("improvable", np.nan, "tau: nan is not a number ≥ 0"),
        ("improvable", None, "tau: None is not a number ≥ 0"),
        ("improvable", "high", "tau: high is not a number ≥ 0"),
    ],
)
def test_oracle_reset__invalid_options_are_refused(mask: Any, tau: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OracleReset(Table(), mask, tau)


@pytest.mark.parametrize("mask", MASKS)
def test_reset_rules__independent_of_returns(mask: Any) -> None:
    mdp = first_error_chain(4)
    policy = np.full((mdp.num_states, 2), 0.5)
    rolled = TabularSimulator(mdp, policy).rollout([Prefix(0)], 20, np.random.default_rng(0))[0]
    oracle = OracleReset(TabularOracle(evaluate(mdp, policy)), mask)
    noisy = SelfReset(NoisyLocalizer(oracle, 0.8, 0.1))
    for rule in (oracle, noisy, RandomReset()):
        expected = rule.weights(rolled)
        for ret in (-1.0, 0.5, 1.0, np.nan):
            turned = [e._replace(ret=ret, failed=not e.failed) for e in rolled]
            for ours, other in zip(rule.weights(turned), expected, strict=True):
                np.testing.assert_array_equal(ours, other)


def test_self_reset__returns_the_localizer_weights() -> None:
    localizer = ScriptedLocalizer(lambda e: list(range(e.length)), cost_each=30)
    rule = SelfReset(localizer)
    assert rule.cost == 0
    episodes = [episode(*"abc"), episode(), episode("a", "b")]
    for w, expected in zip(rule.weights(episodes), ([0, 1, 2], [], [0, 1]), strict=True):
        assert w.dtype == np.float64
        np.testing.assert_array_equal(w, expected)
    assert localizer.calls == [episodes]  # one call for all of them
    assert rule.cost == 90
    rule.weights(episodes[:1])
    assert rule.cost == 120


def test_self_reset__cost_0_if_the_localizer_counts_none() -> None:
    def ones(episodes: Sequence[Episode]) -> list[Any]:
        return [np.ones(e.length) for e in episodes]

    rule = SelfReset(ones)
    rule.weights([episode("a")])
    assert rule.cost == 0


@pytest.mark.parametrize(
    "weights",
    [[1, 0], [1, 0, 0, 0], [[1, 0, 0]], 1.0, [1, -1e-9, 0], [0, np.nan, 1], [0, np.inf, 0]],
    ids=["short", "long", "nested", "a number", "negative", "nan", "infinite"],
)
def test_self_reset__invalid_weights_are_refused(weights: Any) -> None:
    rule = SelfReset(lambda episodes: [np.zeros(2), weights])
    message = r"localizer: episode 1 has 3 steps, its weights are .*; one finite number ≥ 0 per"
    with pytest.raises(ValueError, match=message):
        rule.weights([episode(*"ab"), episode(*"abc")])


@pytest.mark.parametrize("weights", [["a"], [1j], np.ma.masked_array([1.0], [True])])
def test_self_reset__weights_that_are_not_real_numbers(weights: Any) -> None:
    rule = SelfReset(lambda episodes: [np.zeros(2), weights])
    with pytest.raises(ValueError, match="localizer: weights of episode 1: not an array of real"):
        rule.weights([episode(*"ab"), episode("a")])


@pytest.mark.parametrize("number", [0, 1, 3])
def test_self_reset__wrong_number_of_arrays_is_refused(number: int) -> None:
    rule = SelfReset(lambda episodes: [np.ones(1)] * number)
    with pytest.raises(ValueError, match=f"localizer: {number} weight arrays for 2 episodes"):
        rule.weights([episode("a"), episode("b")])


def test_noisy_localizer__recall_and_false_positives() -> None:
    rule = OracleReset(Table(), "improvable")
    weights = NoisyLocalizer(rule, 0.8, 0.1)([episode(*"abcd"), episode(), episode(*"aa")])
    for w, expected in zip(weights, ([0.1, 0.8, 0.8, 0.1], [], [0.1, 0.1]), strict=True):
        np.testing.assert_array_equal(w, expected)


def test_noisy_localizer__any_positive_weight_is_a_hit() -> None:
    rule = SelfReset(lambda episodes: [np.array([0.0, 1e-9, 0.3, 1.0])])
    (w,) = NoisyLocalizer(rule, 0.8, 0.1)([episode(*"abcd")])
    np.testing.assert_array_equal(w, [0.1, 0.8, 0.8, 0.8])


def test_noisy_localizer__perfect_equals_the_oracle() -> None:
    rule = OracleReset(Table(), "first_error")
    episodes = [episode(*"abab"), episode(*"ad")]
    perfect = SelfReset(NoisyLocalizer(rule, 1.0, 0.0)).weights(episodes)
    for ours, oracle in zip(perfect, rule.weights(episodes), strict=True):
        np.testing.assert_array_equal(ours, oracle)


def test_noisy_localizer__cost_is_that_of_its_rule() -> None:
    localizer = ScriptedLocalizer(lambda e: np.ones(e.length), cost_each=30)
    rule = SelfReset(NoisyLocalizer(SelfReset(localizer), 0.8, 0.1))
    rule.weights([episode("a"), episode("b")])
    assert rule.cost == 60


@pytest.mark.parametrize("value", [-0.01, 1.01, np.nan])
def test_noisy_localizer__rates_outside_0_1_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=rf"recall: {value} is not in \[0, 1\]"):
        NoisyLocalizer(RandomReset(), value, 0.1)
    with pytest.raises(ValueError, match=rf"false_positive: {value} is not in \[0, 1\]"):
        NoisyLocalizer(RandomReset(), 0.8, value)


# The tabular oracle, on chains solved by hand


def chain_episode(length: int, actions: Sequence[int]) -> Episode:
    """The path through `first_error_chain(length)` of these actions, without recovery."""
    steps, clean = [], True
    for k, action in enumerate(actions):
        steps.append((k if clean else length - 1 + k, action))
        clean = clean and action == 0
    return Episode(Prefix(0), np.array(steps), float(clean), not clean, length)


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ((0, 0, 0, 0), [0, 0, 0, 0]),
        ((0, 0, 1, 0), [0, 0, 1, 0]),
        ((1, 1, 0, 1), [1, 0, 0, 0]),  # after an error nothing is left to lose
        ((0, 0, 0, 1), [0, 0, 0, 1]),
    ],
)
def test_tabular_oracle__errors_on_the_chain_are_first_errors(
    actions: tuple[int, ...], expected: Any
) -> None:
    mdp = first_error_chain(4)
    oracle = TabularOracle(evaluate(mdp, np.full((mdp.num_states, 2), 0.5)))
    np.testing.assert_array_equal(oracle.errors(chain_episode(4, actions)), expected)


def test_tabular_oracle__full_recovery_leaves_last_step_errors() -> None:
    # A right last step ends clean from anywhere, so earlier wrong steps lose nothing.
    mdp = first_error_chain(3, recovery=1.0)
    oracle = TabularOracle(evaluate(mdp, np.full((mdp.num_states, 2), 0.5)))
    np.testing.assert_array_equal(oracle.errors(chain_episode(3, (1, 1, 1))), [False, False, True])
    np.testing.assert_array_equal(oracle.errors(chain_episode(3, (1, 1, 0))), [False] * 3)


def test_tabular_oracle__errors_compare_optimal_values() -> None:
    # Continuing is worth .5 under the uniform policy but 1 at best; stopping pays .6.
    go_on, stop, over = np.eye(3)[1], np.eye(3)[2], np.eye(3)[2]
    rewards = np.array([[0.0, 0.6], [1.0, 0.0], [0.0, 0.0]])
    mdp = TabularMDP([[go_on, stop], [over, over], [over, over]], rewards, np.eye(3)[0], horizon=2)
    oracle = TabularOracle(evaluate(mdp, np.full((3, 2), 0.5)))
    steps = [[(0, 1)], [(0, 0), (1, 0)], [(0, 0), (1, 1)]]
    for path, expected in zip(steps, ([True], [False, False], [False, True]), strict=True):
        walked = Episode(Prefix(0), np.array(path), 0.0, True, len(path))
        np.testing.assert_array_equal(oracle.errors(walked), expected)


def test_tabular_oracle__rounding_is_no_error() -> None:
    # 0.1 and then 0.2 is as good as 0.3, though not in binary.
    left, right, over = np.eye(4)[1:]
    rewards = np.array([[0.1, 0.3], [0.2, 0.2], [0.0, 0.0], [0.0, 0.0]])
    moves = [[left, right], [over, over], [over, over], [over, over]]
    mdp = TabularMDP(moves, rewards, np.eye(4)[0], horizon=2)
    oracle = TabularOracle(evaluate(mdp, np.full((4, 2), 0.5)))
    for path in ([(0, 0), (1, 0)], [(0, 1)]):
        walked = Episode(Prefix(0), np.array(path), 0.3, True, len(path))
        assert not oracle.errors(walked).any()


@pytest.mark.parametrize("q", [0.2, 0.75])
def test_tabular_oracle__improvement_on_the_chain_in_closed_form(q: float) -> None:
    mdp = first_error_chain(4)
    oracle = TabularOracle(evaluate(mdp, np.tile([q, 1 - q], (mdp.num_states, 1))))
    clean = [(1 - q) * q**3, (1 - q) * q**2, (1 - q) * q, 1 - q]
    for first_error in range(5):
        actions = [int(k >= first_error) for k in range(4)]
        expected = [a if k <= first_error else 0.0 for k, a in enumerate(clean)]
        improvement = oracle.improvement(chain_episode(4, actions))
        np.testing.assert_allclose(improvement, expected, rtol=1e-13, atol=1e-16)


def test_oracle_reset__masks_differ() -> None:
    mdp, q = first_error_chain(4), 0.5
    oracle = TabularOracle(evaluate(mdp, np.tile([q, 1 - q], (mdp.num_states, 1))))
    seed = chain_episode(4, (0, 0, 1, 0))  # advantages 1/16, 1/8, 1/4, then nothing
    expected = {"improvable": [0, 1, 1, 0], "first_error": [0, 0, 1, 0], "largest": [0, 0, 1, 0]}
    for mask, weights in expected.items():
        rule = OracleReset(oracle, mask, tau=0.1)  # type: ignore[arg-type]
        np.testing.assert_array_equal(rule.weights([seed]), [weights])
    late = chain_episode(4, (1, 0, 0, 0))
    largest = OracleReset(oracle, "largest").weights([late])
    np.testing.assert_array_equal(largest, [[1, 0, 0, 0]])
    np.testing.assert_array_equal(OracleReset(oracle, tau=0.1).weights([late]), [[0, 0, 0, 0]])


def test_tabular_oracle__uses_values_of_the_step() -> None:
    # In the needle the state repeats but the policy changes: nothing to improve at step 1.
    mdp = needle(p=1.0, horizon=3, num_actions=2)
    policy = np.full((3, 3, 2), 0.5)
    policy[1] = [1.0, 0.0]
    oracle = TabularOracle(evaluate(mdp, policy))
    walked = Episode(Prefix(0), np.array([[0, 1], [0, 0], [0, 0]]), 2.0, False, 3)
    np.testing.assert_allclose(oracle.improvement(walked), [0.5, 0.0, 0.5], atol=1e-15)
    np.testing.assert_array_equal(oracle.errors(walked), [True, False, False])


@pytest.mark.parametrize("mask", ["improvable", "largest"])
def test_tabular_oracle__rounding_is_no_improvement(mask: Any) -> None:
    mdp = needle(num_actions=6)
    oracle = TabularOracle(evaluate(mdp, np.full((3, 6), 1 / 6)))
    quiet_and_loud = Episode(Prefix(1), np.array([[1, 0], [2, 0], [1, 3], [2, 5]]), 2.0, False, 4)
    np.testing.assert_array_equal(OracleReset(oracle, mask).weights([quiet_and_loud]), [[0] * 4])


# Accept


@pytest.mark.parametrize("seed", [0, 1])
def test_accept__follows_the_masked_occupancy(seed: int) -> None:
    mdp = world(seed, horizon=4)
    assert not mdp.terminal.any()
    policy = interior_policy(mdp, seed)
    rng = np.random.default_rng(seed)
    w = rng.uniform(0, 1, (4, mdp.num_states)) ** 2
    w[rng.random(w.shape) < 0.2] = 0.0
    simulator = TabularSimulator(mdp, policy)
    starts = simulator.draw_starts(60_000, rng)
    states = simulator.walk(np.array(starts), np.zeros(len(starts), dtype=int), rng).states
    rows, steps = accept(w[np.arange(4), states], rng)

    mass = evaluate(mdp, policy).occupancy * w
    p_w = float(mass.sum())
    assert 0.1 < p_w < 0.9
    assert stats.binomtest(len(rows), len(starts), p_w).pvalue > 1e-3
    counts = np.zeros_like(mass)
    np.add.at(counts, (steps, states[rows, steps]), 1)
    assert_drawn_from(counts, mass / p_w)


def test_accept__weights_0_and_1_are_certain() -> None:
    weights = np.zeros((5000, 3))
    weights[::2] = 1.0
    rows, steps = accept(weights, np.random.default_rng(0))
    np.testing.assert_array_equal(rows, np.arange(0, 5000, 2))
    assert_drawn_from(np.bincount(steps, minlength=3), np.full(3, 1 / 3))


def test_accept__never_a_step_of_weight_0() -> None:
    weights = np.tile([0.0, 1.0, 0.0, 0.25], (20_000, 1))
    rows, steps = accept(weights, np.random.default_rng(1))
    assert_drawn_from(np.bincount(steps, minlength=4), [0, 0.8, 0, 0.2])
    assert stats.binomtest(len(rows), 20_000, 1.25 / 4).pvalue > 1e-3
    assert len(accept(np.zeros((1000, 2)), np.random.default_rng(2))[0]) == 0


def test_accept__episodes_are_independent() -> None:
    rows, _ = accept(np.full((40_000, 1), 0.5), np.random.default_rng(3))
    kept = np.zeros(40_000, dtype=int)
    kept[rows] = 1
    assert_drawn_from(np.bincount(2 * kept[::2] + kept[1::2], minlength=4), np.full(4, 0.25))


def test_accept__empty_result() -> None:
    rows, steps = accept(np.zeros((0, 3)), np.random.default_rng(0))
    assert len(rows) == len(steps) == 0


@pytest.mark.parametrize("bad", [-0.01, 1.01, np.nan, np.inf])
def test_accept__weights_outside_0_1_are_refused(bad: float) -> None:
    weights = np.full((2, 3), 0.5)
    weights[1, 2] = bad
    with pytest.raises(ValueError, match=r"weights: must lie in \[0, 1\], found"):
        accept(weights, np.random.default_rng(0))


# Pick


@pytest.mark.parametrize("w", [[1, 1, 1], [0, 3, 0, 1, 6], [0.2, 0.0, 0.05], [1e9, 3e9]])
def test_pick__proportional_to_the_weights(w: list[float]) -> None:
    picked = pick([np.array(w, dtype=float)] * 20_000, np.random.default_rng(4))
    counts = np.bincount(np.array(picked, dtype=int), minlength=len(w))
    assert_drawn_from(counts, np.array(w) / sum(w))


def test_pick__episodes_are_independent() -> None:
    picked = np.array(pick([np.ones(2)] * 40_000, np.random.default_rng(5)), dtype=int)
    assert_drawn_from(np.bincount(2 * picked[::2] + picked[1::2], minlength=4), np.full(4, 0.25))


def test_pick__none_where_all_weights_are_0() -> None:
    weights = [np.zeros(3), np.array([0.0, 1.0]), np.zeros(0), np.array([2.0])]
    for seed in range(20):
        assert pick(weights, np.random.default_rng(seed)) == [None, 1, None, 0]
    assert pick([], np.random.default_rng(0)) == []


@pytest.mark.parametrize(
    ("u", "k"), [(0.0, 2), (0.25, 2), (1 / 3 - 1e-9, 2), (1 / 3 + 1e-9, 4), (1 - 2.0**-53, 4)]
)
def test_pick__inverts_the_cumulative_weights(u: float, k: int) -> None:
    assert pick([np.array([0.0, 0.0, 1.0, 0.0, 2.0, 0.0])], Uniforms(u)) == [k]  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_pick__weights_that_are_none_are_refused(bad: float) -> None:
    """A nan would pick a step beyond the last."""
    with pytest.raises(ValueError, match=r"weights: .* are not finite numbers ≥ 0"):
        pick([np.ones(2), np.array([bad, 2.0])], np.random.default_rng(0))


def test_pick__returns_python_ints() -> None:
    (k,) = pick([np.array([0.0, 1.0])], np.random.default_rng(0))
    assert type(k) is int


@repeatable
@given(
    w=st.lists(st.sampled_from([0.0, 0.1, 1 / 3, 1.0, 7.5, 1e-12, 1e12]), min_size=1, max_size=8),
    u=st.sampled_from([0.0, 0.3, 0.5, 1 - 2.0**-53, 2.0**-53]),
)
def test_pick__never_a_step_of_weight_0(w: list[float], u: float) -> None:
    (k,) = pick([np.array(w)], Uniforms(u))  # type: ignore[arg-type]
    if not any(w):
        assert k is None
        return
    assert k is not None and w[k] > 0
    positive = np.flatnonzero(w)
    if u == 0.0:
        assert k == positive[0]
    below, total = sum(w[:k]), sum(w)
    assert below - 1e-12 * total <= u * total <= below + w[k] + 1e-12 * total


@pytest.mark.parametrize("size", [1e308, 5e-324])
def test_pick__no_overflow_for_weights_of_any_size(size: float) -> None:
    weights = [np.array([size, size])] * 50
    assert set(pick(weights, np.random.default_rng(6))) <= {0, 1}
