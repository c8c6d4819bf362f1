"""Arguments of every world: sizes are whole numbers, chances numbers in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import envs
from envs.checks import check_probability, check_whole

SIZES: list[tuple[str, Callable[[Any], Any]]] = [
    ("length", envs.lock_chain),
    ("num_actions", lambda n: envs.lock_chain(3, n)),
    ("num_actions", lambda n: envs.lock_policy([0.5], n)),
    ("num_states", envs.kl_chain),
    ("num_states", envs.kl_chain_time),
    ("size", envs.deep_sea),
    ("size", envs.deep_sea_uniform_value),
    ("mapping_seed", lambda seed: envs.deep_sea(3, seed)),
    ("length", envs.first_error_chain),
    ("length", lambda n: envs.success_probability(n, 0.5)),
    ("length", lambda n: envs.right_step_advantage(n, 0.5, 1)),
    ("depth", lambda depth: envs.right_step_advantage(4, 0.5, depth)),
    ("length", lambda n: envs.reset_success_rates(n, 0.5)),
    ("num_states", envs.garnet),
    ("num_actions", lambda n: envs.garnet(5, n)),
    ("branching", lambda n: envs.garnet(5, 2, n)),
    ("seed", lambda seed: envs.garnet(seed=seed)),
    ("num_actions", lambda n: envs.needle(num_actions=n)),
    ("horizon", envs.tight_masked),
    ("depth", envs.tree),
    ("branching", lambda n: envs.tree(2, n)),
    ("seed", lambda seed: envs.tree(seed=seed)),
    ("depth", lambda depth: envs.tree_leaf_rewards(depth, 2, 0)),
    ("seed", lambda seed: envs.ChainTask().wrong_values(seed)),
    ("length", lambda n: envs.ChainTask().sample(np.random.default_rng(0), n)),
    ("length", lambda n: list(envs.ChainTask().problems(n))),
]

CHANCES: list[tuple[str, Callable[[Any], Any]]] = [
    ("p", envs.needle),
    ("recovery", lambda p: envs.first_error_chain(3, p)),
    ("recovery", lambda p: envs.success_probability(3, 0.5, p)),
    ("q", lambda q: envs.success_probability(3, q)),
    ("q", lambda q: envs.right_step_advantage(3, q, 1)),
    ("q", lambda q: envs.reset_success_rates(3, q)),
]


@pytest.mark.parametrize(("name", "make"), SIZES)
@pytest.mark.parametrize("value", [2.5, 3.0, "3", -1, [2]])
def test_sizes_are_whole_numbers(name: str, make: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: .* is not a whole number ≥ "):
        make(value)


@pytest.mark.parametrize(("name", "make"), CHANCES)
@pytest.mark.parametrize("value", ["0.5", None, 1.5, -0.5, 0.5j, float("nan"), [0.5]])
def test_chances_are_numbers(name: str, make: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(envs.MDPError, match=rf"^{name}: .* is not in \[0, 1\]"):
        make(value)


def test_small_number_types_do_not_overflow() -> None:
    """2 · 100 is no int8."""
    assert envs.first_error_chain(np.int8(100)).num_states == 200  # type: ignore[arg-type]
    assert envs.kl_chain_time(np.int8(70)) == 3 * (2**70 - 71)  # type: ignore[arg-type]


@pytest.mark.parametrize("success", [["a"], [0.5j], np.ma.masked_array([0.5], [True])])
def test_success_is_real(success: Any) -> None:
    with pytest.raises(envs.MDPError, match="success: not an array of real numbers"):
        envs.lock_policy(success)
    with pytest.raises(ValueError, match="error_rate: not an array of real numbers"):
        envs.ChainTask().noisy_policy(envs.Problem(1, ("+3",)), success)


def test_checked_values() -> None:
    assert type(check_whole("n", np.uint8(3))) is int
    assert check_probability("q", np.float32(0.5)) == 0.5
