"""Dynamic sampling: who is replaced by whom, in which order, and what it costs."""

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
    """Two groups for each problem, one of three and one of two; those of `loud` say something."""

    def __init__(self, loud: set[int]) -> None:
        self.loud = loud
        self.asked: list[list[int]] = []

    def __call__(self, problems: Sequence[int]) -> Collection:
        self.asked.append(list(problems))
        ledger, groups = Ledger(localizer_cost=len(problems)), []
        for start, problem in enumerate(problems):
            prefix = Prefix(problem)
            for size in (3, 2):
                last = float(problem in self.loud and size == 2)
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


def test_silent_prompts_are_replaced_until_all_say_something() -> None:
    sampler = Sampler(loud={1, 3, 5, 7, 9, 11})
    collection, metrics = sampled(sampler, [0, 1, 2, 3], rounds=9)
    assert all(problem in sampler.loud for problem in problems(collection))
    assert problems(collection)[:2] == [1, 3] and len(collection) == 8
    assert sampler.asked[0] == [0, 1, 2, 3]
    everyone = [problem for asked in sampler.asked for problem in asked]
    assert len(set(everyone)) == len(everyone) and len(sampler.asked[1]) == 2
    # A round asks for as many as are lacking, no more.
    lacking = 2
    for asked in sampler.asked[1:]:
        assert len(asked) == lacking
        lacking -= sum(problem in sampler.loud for problem in asked)
    assert lacking == 0
    assert metrics["dynamic_sampling/prompts"] == len(everyone)
    share = sum(problem in sampler.loud for problem in everyone) / len(everyone)
    assert metrics["dynamic_sampling/reward"] == pytest.approx(share / 5)


def test_what_it_costs() -> None:
    sampler = Sampler(loud={1, 3, 5, 7, 9, 11})
    collection, _ = sampled(sampler, [0, 1, 2, 3], rounds=9)
    everyone = [problem for asked in sampler.asked for problem in asked]
    ledger = collection.ledger
    assert ledger.episodes == 5 * len(everyone)
    assert ledger.steps == sum(5 * (10 + problem) for problem in everyone)
    assert ledger.localizer_cost == len(everyone)
    assert ledger.trained_episodes == 5 * 4
    assert ledger.trained_steps == sum(5 * (10 + problem) for problem in problems(collection))


def test_rounds_are_limited_and_a_step_stays_whole() -> None:
    sampler = Sampler(loud={2})
    collection, _ = sampled(sampler, [0, 1, 2], rounds=2)
    assert len(sampler.asked) == 3
    assert problems(collection) == [2, 0, 1]  # silent ones fill up, in order
    assert collection.ledger.trained_episodes == 15
    assert collection.ledger.episodes == 5 * (3 + 2 + 2)


def test_it_ends_with_the_problems() -> None:
    sampler = Sampler(loud=set())
    collection, metrics = sampled(sampler, range(10), rounds=5)
    assert [len(asked) for asked in sampler.asked] == [10, 2]
    assert len(collection) == 20 and metrics["dynamic_sampling/prompts"] == 12
    sampled(whole := Sampler(loud=set()), range(PROBLEMS), rounds=5)
    assert len(whole.asked) == 1


def test_replacements_are_of_the_generator_alone() -> None:
    def asked(seed: int) -> list[list[int]]:
        sampled(sampler := Sampler(loud={1}), [0, 1, 2], 3, seed)
        return sampler.asked

    assert asked(4) == asked(4)
    assert asked(4)[0] == asked(5)[0] and asked(4)[1:] != asked(5)[1:]


def test_no_rounds_change_nothing() -> None:
    collection, metrics = sampled(sampler := Sampler(loud={2}), [0, 1, 2], rounds=0)
    plain = sampler([0, 1, 2])
    assert list(collection) == list(plain) and collection.ledger == plain.ledger
    assert metrics == {}


def test_a_signal_is_a_difference() -> None:
    def group(*returns: float) -> Group:
        return Group(0, Prefix(0), [Episode(Prefix(0), (1,), r, r < 1, 1) for r in returns])

    assert has_signal(group(0, 1, 0)) and has_signal(group(0.5, 0.25))
    assert not has_signal(group(1, 1, 1)) and not has_signal(group(0.1, 0.1, 0.1))


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="dynamic_sampling: -1 is not a whole number ≥ 0"):
        parse_config(["--model=m", "--dynamic_sampling=-1"], "x")
    with pytest.raises(ValueError, match="dynamic_sampling: 2, but spo_tree keeps its prompts"):
        parse_config(["--model=m", "--dynamic_sampling=2", "--algorithm=spo_tree"], "x")
