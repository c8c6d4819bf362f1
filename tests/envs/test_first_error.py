"""The first-error chain against an enumeration of all outcomes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from envs import (
    MDPError,
    first_error_chain,
    reset_success_rates,
    right_step_advantage,
    success_probability,
)
from tests.envs.exact import finite_values, sequence_return

LENGTHS = [1, 2, 3, 6]
RIGHT_RATES = [0.0, 0.15, 0.5, 0.9, 1.0]


def weight(actions: tuple[int, ...], q: float) -> float:
    """Probability of the actions when each is right (0) with probability q."""
    return float(np.prod([q if action == 0 else 1 - q for action in actions]))


def rollouts(length: int) -> list[tuple[int, ...]]:
    return list(itertools.product(range(2), repeat=length))


def success_after(prefix: tuple[int, ...], length: int, q: float) -> float:
    """Success of a rollout resumed after `prefix`, over all continuations."""
    return sum(
        weight(rest, q) * (1 not in prefix + rest) for rest in rollouts(length - len(prefix))
    )


@pytest.mark.parametrize("length", LENGTHS)
def test_without_recovery_only_all_right_succeeds(length: int) -> None:
    mdp = first_error_chain(length)
    for actions in rollouts(length):
        assert sequence_return(mdp, actions) == (1 not in actions)


def simulate(actions: tuple[int, ...], lucky: tuple[bool, ...]) -> bool:
    """Whether the chain ends clean, where `lucky[k]` lets step k mend an earlier error."""
    clean = True
    for action, mends in zip(actions, lucky, strict=True):
        clean = action == 0 and (clean or mends)
    return clean


@pytest.mark.parametrize("recovery", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("length", [1, 2, 4])
def test_recovery__against_enumeration(length: int, recovery: float) -> None:
    mdp = first_error_chain(length, recovery)
    luck = list(itertools.product((False, True), repeat=length))
    chances = [float(np.prod([recovery if up else 1 - recovery for up in ups])) for ups in luck]
    total = 0.0
    for actions in rollouts(length):
        expected = sum(p * simulate(actions, ups) for p, ups in zip(chances, luck, strict=True))
        assert sequence_return(mdp, actions) == pytest.approx(expected, abs=1e-15)
        total += weight(actions, 0.7) * expected
    assert success_probability(length, 0.7, recovery) == pytest.approx(total, rel=1e-13)


@pytest.mark.parametrize("recovery", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("q", RIGHT_RATES)
@pytest.mark.parametrize("length", [*LENGTHS, 25])
def test_success_probability_is_the_value(length: int, q: float, recovery: float) -> None:
    v, _ = finite_values(first_error_chain(length, recovery), np.array([q, 1 - q]))
    assert v[0, 0] == pytest.approx(success_probability(length, q, recovery), abs=1e-14)


@pytest.mark.parametrize("q", RIGHT_RATES)
@pytest.mark.parametrize("length", LENGTHS)
def test_right_step_advantage(length: int, q: float) -> None:
    v, values_of_actions = finite_values(first_error_chain(length), np.array([q, 1 - q]))
    for depth in range(1, length + 1):
        clean = (0,) * (depth - 1)
        expected = success_after((*clean, 0), length, q) - success_after(clean, length, q)
        assert right_step_advantage(length, q, depth) == pytest.approx(expected, abs=1e-15)
        h = depth - 1  # clean(h) is state h
        assert values_of_actions[h, h, 0] - v[h, h] == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("q", [0.0, 0.15, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("length", LENGTHS)
def test_reset_success_rates(length: int, q: float) -> None:
    failed = [actions for actions in rollouts(length) if 1 in actions]
    chances = np.array([weight(actions, q) for actions in failed])
    chances /= chances.sum()
    after = {
        prefix: success_after(prefix, length, q)
        for kept in range(length)
        for prefix in rollouts(kept)
    }
    at_random = [np.mean([after[actions[:k]] for k in range(length)]) for actions in failed]
    at_error = [after[actions[: actions.index(1)]] for actions in failed]
    rates = reset_success_rates(length, q)
    assert rates.root == pytest.approx(after[()], abs=1e-15)
    assert rates.random_reset == pytest.approx(chances @ at_random, abs=1e-14)
    assert rates.first_error_reset == pytest.approx(chances @ at_error, abs=1e-14)


@pytest.mark.parametrize("q", [0.0, 1e-9, 0.5, 1 - 1e-9, 1.0])
@pytest.mark.parametrize("length", [1, 2, 50])
def test_reset_success_rates__order(length: int, q: float) -> None:
    root, random_reset, first_error_reset = reset_success_rates(length, q)
    slack = 1 + 1e-12
    assert root / 2 <= random_reset * slack and random_reset <= root * slack
    assert root <= first_error_reset * slack and first_error_reset <= slack


def test_reset_success_rates__limits_at_q_1() -> None:
    at_one, nearly = reset_success_rates(8, 1.0), reset_success_rates(8, 1 - 1e-13)
    assert at_one == pytest.approx((1.0, 9 / 16, 1.0), rel=1e-15)
    assert nearly == pytest.approx(at_one, rel=1e-11)


def test_states() -> None:
    mdp = first_error_chain(3, recovery=0.25)
    assert (mdp.num_states, mdp.num_actions, mdp.horizon) == (6, 2, 3)
    successors, p = mdp.successors(3, 0)  # wrong(1) to clean(2) or wrong(2)
    assert successors.tolist() == [2, 4] and p.tolist() == [0.25, 0.75]
    assert np.flatnonzero(mdp.terminal).tolist() == [5]
    np.testing.assert_array_equal(mdp.rewards[[2, 4]], [[1.0, 0.0], [0.25, 0.0]])


@pytest.mark.parametrize("length", [0, -1])
def test_bad_length(length: int) -> None:
    message = f"length: {length} .* ≥ 1"
    with pytest.raises(MDPError, match=message):
        first_error_chain(length)
    with pytest.raises(MDPError, match=message):
        success_probability(length, 0.5)
    with pytest.raises(MDPError, match=message):
        right_step_advantage(length, 0.5, 1)
    with pytest.raises(MDPError, match=message):
        reset_success_rates(length, 0.5)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_bad_probabilities(value: float) -> None:
    with pytest.raises(MDPError, match=rf"recovery: {value} is not in \[0, 1\]"):
        first_error_chain(3, value)
    with pytest.raises(MDPError, match=rf"recovery: {value} is not in \[0, 1\]"):
        success_probability(3, 0.5, value)
    with pytest.raises(MDPError, match=rf"q: {value} is not in \[0, 1\]"):
        success_probability(3, value)
    with pytest.raises(MDPError, match=rf"q: {value} is not in \[0, 1\]"):
        right_step_advantage(3, value, 1)
    with pytest.raises(MDPError, match=rf"q: {value} is not in \[0, 1\]"):
        reset_success_rates(3, value)


@pytest.mark.parametrize(
    ("depth", "message"), [(0, "a whole number ≥ 1"), (4, "in 1 … length = 3")]
)
def test_bad_depth(depth: int, message: str) -> None:
    with pytest.raises(MDPError, match=f"depth: {depth} is not {message}"):
        right_step_advantage(3, 0.5, depth)
