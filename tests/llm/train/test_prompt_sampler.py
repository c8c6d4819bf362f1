"""Problems of a training step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.train.prompt_sampler import prompt_indices
from tests.cpi.worlds import repeatable


@repeatable
@given(st.integers(0, 2**40), st.integers(1, 9), st.integers(1, 13))
def test_prompt_indices__epochs_are_permutations(seed: int, per_step: int, problems: int) -> None:
    steps = 3 * problems  # whole epochs: per_step of them for every `problems` steps
    indices = [
        i for step in range(1, steps + 1) for i in prompt_indices(seed, step, per_step, problems)
    ]
    assert len(indices) == steps * per_step
    for start in range(0, len(indices), problems):
        assert sorted(indices[start : start + problems]) == list(range(problems))


@repeatable
@given(st.integers(0, 2**40), st.integers(1, 50), st.integers(1, 9), st.integers(1, 13))
def test_prompt_indices__order_is_the_same_for_any_step_size(
    seed: int, step: int, per: int, problems: int
) -> None:
    # The order does not depend on the number of problems per step.
    indices = prompt_indices(seed, step, per, problems)
    assert indices == prompt_indices(seed, step, per, problems)
    single_steps = range((step - 1) * per + 1, step * per + 1)
    assert indices == [i for one in single_steps for i in prompt_indices(seed, one, 1, problems)]
    assert all(type(i) is int for i in indices)


def test_prompt_indices__epochs_and_seeds_differ() -> None:
    epochs = [tuple(prompt_indices(seed, step, 20, 20)) for seed in (0, 1) for step in (1, 2, 3)]
    assert len(set(epochs)) == 6
    firsts = {prompt_indices(seed, 1, 1, 5)[0] for seed in range(60)}
    assert firsts == set(range(5))


def test_prompt_indices__no_problems_is_refused() -> None:
    with pytest.raises(ValueError, match="task: it has no training problems"):
        prompt_indices(0, 1, 4, 0)
