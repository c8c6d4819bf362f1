"""Dynamic sampling: which problems are replaced, in which order, and at what cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from cpi.core.collect import Collection, Group, Ledger
from cpi.core.episodes import Episode, Prefix
from llm.algorithms.dynamic_sampling import has_signal, sample_with_signal
from llm.config.train import parse_config

PROBLEMS = 12


class Sampler:
    """Samples groups of 3 and 2 episodes per problem; problems in `with_signal` have a signal."""

    def __init__(self, with_signal: set[int]) -> None:
        self.with_signal = with_signal
        self.requested: list[list[int]] = []

    def __call__(self, problems: Sequence[int]) -> Collection:
        self.requested.append(list(problems))
        ledger, groups = Ledger(localizer_cost=len(problems)), []
        for start, problem in enumerate(problems):
            prefix = Prefix(problem)
            for size in (3, 2):
                last = float(problem in self.with_signal and size == 2)
                returns = [0.0] * (size - 1) + [last]
                episodes = [Episode(prefix, (1,), r, r < 1, 10 + problem) for r in returns]
                groups.append(Group(start, prefix, episodes))
                ledger.generated(episodes, trained=True)
        return Collection(groups, ledger)


def sampled(
    sampler: Sampler, chosen: Sequence[int], rounds: int, seed: int = 0
) -> tuple[Collection, dict[str, float]]:
    return sample_with_signal(sampler, chosen, PROBLEMS, rounds, np.random.default_rng(seed))


def problems(collection: Collection) -> list[int]:
    assert [group.start for group in collection] == [i // 2 for i in range(len(collection))]
    return [group.prefix.start for group in collection][::2]


def test_sample_with_signal__replaces_until_all_have_a_signal() -> None:
    sampler = Sampler(with_signal={1, 3, 5, 7, 9, 11})
    collection, metrics = sampled(sampler, [0, 1, 2, 3], rounds=9)
    assert all(problem in sampler.with_signal for problem in problems(collection))
    assert problems(collection)[:2] == [1, 3] and len(collection) == 8
    assert sampler.requested[0] == [0, 1, 2, 3]
    all_requested = [problem for requested in sampler.requested for problem in requested]
    assert len(set(all_requested)) == len(all_requested) and len(sampler.requested[1]) == 2
    # A round requests as many problems as are missing.
    missing = 2
    for requested in sampler.requested[1:]:
        assert len(requested) == missing
        missing -= sum(problem in sampler.with_signal for problem in requested)
    assert missing == 0
    assert metrics["dynamic_sampling/prompts"] == len(all_requested)
    share = sum(problem in sampler.with_signal for problem in all_requested) / len(all_requested)
    assert metrics["dynamic_sampling/reward"] == pytest.approx(share / 5)


def test_sample_with_signal__ledger_counts_all_rounds() -> None:
    sampler = Sampler(with_signal={1, 3, 5, 7, 9, 11})
    collection, _ = sampled(sampler, [0, 1, 2, 3], rounds=9)
    all_requested = [problem for requested in sampler.requested for problem in requested]
    ledger = collection.ledger
    assert ledger.episodes == 5 * len(all_requested)
    assert ledger.steps == sum(5 * (10 + problem) for problem in all_requested)
    assert ledger.localizer_cost == len(all_requested)
    assert ledger.trained_episodes == 5 * 4
    assert ledger.trained_steps == sum(5 * (10 + problem) for problem in problems(collection))


def test_sample_with_signal__limited_rounds_and_full_batch() -> None:
    sampler = Sampler(with_signal={2})
    collection, _ = sampled(sampler, [0, 1, 2], rounds=2)
    assert len(sampler.requested) == 3
    assert problems(collection) == [2, 0, 1]  # problems without a signal fill the batch, in order
    assert collection.ledger.trained_episodes == 15
    assert collection.ledger.episodes == 5 * (3 + 2 + 2)


def test_sample_with_signal__stops_when_no_problem_is_left() -> None:
    sampler = Sampler(with_signal=set())
    collection, metrics = sampled(sampler, range(10), rounds=5)
    assert [len(requested) for requested in sampler.requested] == [10, 2]
    assert len(collection) == 20 and metrics["dynamic_sampling/prompts"] == 12
    sampled(sampler := Sampler(with_signal=set()), range(PROBLEMS), rounds=5)
    assert len(sampler.requested) == 1


def test_sample_with_signal__replacements_depend_on_rng_only() -> None:
    def requested(seed: int) -> list[list[int]]:
        sampled(sampler := Sampler(with_signal={1}), [0, 1, 2], 3, seed)
        return sampler.requested

    assert requested(4) == requested(4)
    assert requested(4)[0] == requested(5)[0] and requested(4)[1:] != requested(5)[1:]


def test_sample_with_signal__zero_rounds_change_nothing() -> None:
    collection, metrics = sampled(sampler := Sampler(with_signal={2}), [0, 1, 2], rounds=0)
    plain = sampler([0, 1, 2])
    assert list(collection) == list(plain) and collection.ledger == plain.ledger
    assert metrics == {}


def test_has_signal__returns_differ() -> None:
    def group(*returns: float) -> Group:
        return Group(0, Prefix(0), [Episode(Prefix(0), (1,), r, r < 1, 1) for r in returns])

    assert has_signal(group(0, 1, 0)) and has_signal(group(0.5, 0.25))
    assert not has_signal(group(1, 1, 1)) and not has_signal(group(0.1, 0.1, 0.1))


def test_config__bad_dynamic_sampling_refused() -> None:
    with pytest.raises(ValueError, match="dynamic_sampling: -1 is not a whole number ≥ 0"):
        parse_config(["--model=m", "--dynamic_sampling=-1"], "x")
    with pytest.raises(ValueError, match="dynamic_sampling: 2, but spo_tree keeps its prompts"):
        parse_config(["--model=m", "--dynamic_sampling=2", "--algorithm=spo_tree"], "x")
