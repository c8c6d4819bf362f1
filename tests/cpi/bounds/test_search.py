"""Hypothesis searches for a violation, targeting the worst ratios."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, target
from hypothesis import strategies as st

from cpi.bounds import Update, bounds_for
from cpi.exact.policies import check_policy
from cpi.exact.values import evaluate
from envs import TabularMDP


@st.composite
def distributions(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    """Rows of small integer weights, normalised: shrinks well, and hits zeros and ties."""
    size = int(np.prod(shape))
    values = draw(st.lists(st.integers(0, 4), min_size=size, max_size=size))
    weights = np.array(values, dtype=np.float64).reshape(shape)
    weights[..., 0] += weights.sum(axis=-1) == 0
    return weights / weights.sum(axis=-1, keepdims=True)


@st.composite
def updates(draw: st.DrawFn, finite: bool) -> Update:
    num_states, num_actions = draw(st.integers(2, 4)), draw(st.integers(2, 3))
    horizon = draw(st.integers(2, 4)) if finite else None
    discount = None if finite else draw(st.sampled_from([0.0, 0.5, 0.9]))
    size = num_states * num_actions
    rewards = draw(st.lists(st.integers(-2, 2), min_size=size, max_size=size))
    mdp = TabularMDP(
        draw(distributions((num_states, num_actions, num_states))),
        np.array(rewards, dtype=np.float64).reshape(num_states, num_actions),
        draw(distributions((num_states,))),
        horizon,
        discount,
    )
    steps = (horizon,) if horizon is not None and draw(st.booleans()) else ()
    policy = draw(distributions((*steps, num_states, num_actions)))
    candidate = check_policy(mdp, draw(distributions((*steps, num_states, num_actions))))
    base = evaluate(mdp, policy)
    weights = None
    if draw(st.booleans()):
        weights = draw(distributions((*base.occupancy.shape, 2)))[..., 0]
    tau = draw(st.sampled_from([None, 0.1, 0.5]))
    return Update(base, candidate, draw(st.sampled_from([0.01, 0.1, 0.5, 1.0])), weights, tau)


@pytest.mark.parametrize("finite", [True, False])
def test_bounds__no_violation_found_by_search(finite: bool) -> None:
    checks = 0

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(update=updates(finite))
    def search(update: Update) -> None:
        nonlocal checks
        for bound in bounds_for(update.mdp):
            check = bound.check(update)
            if check is None:
                continue
            checks += 1
            # Constants are in the penalties: target the share of the penalty that is truly lost.
            if bound.first_order is not None:
                spare = bound.first_order(update) - check.right
                if spare > 1e-6:
                    target((spare - check.slack) / spare, label=bound.name)
            assert not check.violated, f"{bound.name}: {check.left!r} against {check.right!r}"

    search()
    assert checks > 2000
