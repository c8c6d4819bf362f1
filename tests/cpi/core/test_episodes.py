"""Prefixes of episodes: kept steps, states and rewards, for words and for arrays as steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cpi.core.episodes import Episode, Prefix
from cpi.tabular.simulator import TabularSimulator
from tests.cpi.worlds import interior_policy, world

#: Steps as words: the return comes at the end, and the steps determine everything.
WORDS = Episode(Prefix("start"), ("a", "b", "c"), 1.0, False, 3)
#: Steps as arrays, with states and rewards of their own.
ARRAYS = Episode(
    Prefix(7),
    np.array([[7, 0], [4, 1], [5, 0]]),
    6.0,
    False,
    3,
    np.array([7, 4, 5]),
    np.array([1.0, 2.0, 3.0]),
)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_a_prefix_keeps_the_first_k_steps(k: int) -> None:
    assert WORDS.prefix(k) == Prefix("start", ("a", "b", "c")[:k])
    prefix = ARRAYS.prefix(k)
    assert prefix.start == 7 and prefix.length == k
    np.testing.assert_array_equal(prefix.steps, [[7, 0], [4, 1], [5, 0]][:k] or np.empty((0, 2)))
    np.testing.assert_array_equal(prefix.rewards, [1.0, 2.0, 3.0][:k])
    assert prefix.state == [7, 4, 5][k]  # where step k + 1 was taken


@pytest.mark.parametrize("k", [-3, -1, 3, 4])
@pytest.mark.parametrize("episode", [WORDS, ARRAYS], ids=["words", "arrays"])
def test_prefix__k_outside_the_episode_is_refused(episode: Episode, k: int) -> None:
    with pytest.raises(IndexError, match=f"cannot keep {k} of 3 steps and go on"):
        episode.prefix(k)


def test_an_episode_without_steps_cannot_be_reset() -> None:
    with pytest.raises(IndexError, match="cannot keep 0 of 0 steps"):
        Episode(Prefix("start"), (), 0.0, True, 0).prefix(0)


def test_lengths_count_steps_not_costs() -> None:
    assert Prefix("start").length == 0
    assert Prefix("start", ("a", "b")).length == 2
    assert Episode(Prefix("start", ("a",)), ("a", "bcd"), 0.0, True, 17).length == 2


def test_a_prefix_of_words_needs_neither_state_nor_rewards() -> None:
    assert WORDS.prefix(2).state is None
    assert len(WORDS.prefix(2).rewards) == 0


def grown(seed: int) -> tuple[TabularSimulator, Episode, np.random.Generator]:
    """A stochastic world, one of its episodes, and the generator in its state after that."""
    mdp = world(seed, horizon=6)
    simulator = TabularSimulator(mdp, interior_policy(mdp, seed))
    rng = np.random.default_rng(seed)
    return simulator, simulator.rollout([Prefix(int(mdp.start.argmax()))], 1, rng)[0][0], rng


def assert_kept(episode: Episode, original: Episode, k: int) -> None:
    for name in ("steps", "states", "rewards"):
        ours: Any = getattr(episode, name)
        np.testing.assert_array_equal(ours[:k], getattr(original, name)[:k])


@pytest.mark.parametrize("seed", range(5))
def test_rollout__nested_resets_keep_all_earlier_steps(seed: int) -> None:
    simulator, episode, rng = grown(seed)
    for k in range(1, 6):  # every reset continues the one before, a step later
        (again,) = simulator.rollout([episode.prefix(k)], 1, rng)[0]
        assert_kept(again, episode, k)
        assert again.states is not None and episode.states is not None
        assert again.states[k] == episode.states[k]
        assert again.origin.start == episode.origin.start
        episode = again


@pytest.mark.parametrize("seed", range(5))
def test_rollout__reset_before_the_end_of_the_origin(seed: int) -> None:
    simulator, episode, rng = grown(seed)
    (late,) = simulator.rollout([episode.prefix(5)], 1, rng)[0]
    (early,) = simulator.rollout([late.prefix(2)], 1, rng)[0]
    assert_kept(early, episode, 2)
    assert early.origin.length == 2 and early.cost == 4


@pytest.mark.parametrize("seed", range(5))
def test_returns_of_resets_include_the_kept_rewards(seed: int) -> None:
    simulator, episode, rng = grown(seed)
    for k in range(6):
        (again,) = simulator.rollout([episode.prefix(k)], 1, rng)[0]
        steps = np.asarray(again.steps)
        assert again.ret == pytest.approx(simulator.mdp.rewards[steps[:, 0], steps[:, 1]].sum())
        assert again.ret - np.sum(again.rewards[k:]) == pytest.approx(np.sum(episode.rewards[:k]))
