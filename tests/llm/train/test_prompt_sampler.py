"""Which problems a step trains on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.train.prompt_sampler import prompt_indices
from tests.cpi.worlds import repeatable


@repeatable
@given(st.integers(0, 2**40), st.integers(1, 9), st.integers(1, 13))
def test_epochs_are_permutations(seed: int, per_step: int, problems: int) -> None:
    steps = 3 * problems  # whole epochs: per_step of them for every `problems` steps
    laid = [
        i for step in range(1, steps + 1) for i in prompt_indices(seed, step, per_step, problems)
    ]
    assert len(laid) == steps * per_step
    for at in range(0, len(laid), problems):
        assert sorted(laid[at : at + problems]) == list(range(problems))


@repeatable
@given(st.integers(0, 2**40), st.integers(1, 50), st.integers(1, 9), st.integers(1, 13))
def test_step_is_a_function_of_its_number(seed: int, step: int, per: int, problems: int) -> None:
    # As many at a time as one likes: the order is the same, so it survives a resumed run.
    found = prompt_indices(seed, step, per, problems)
    assert found == prompt_indices(seed, step, per, problems)
    ones = range((step - 1) * per + 1, step * per + 1)
    assert found == [i for one in ones for i in prompt_indices(seed, one, 1, problems)]
    assert all(type(i) is int for i in found)


def test_epochs_and_seeds_differ() -> None:
    epochs = [tuple(prompt_indices(seed, step, 20, 20)) for seed in (0, 1) for step in (1, 2, 3)]
    assert len(set(epochs)) == 6
    firsts = {prompt_indices(seed, 1, 1, 5)[0] for seed in range(60)}
    assert firsts == set(range(5))


def test_no_problems() -> None:
    with pytest.raises(ValueError, match="task: it has no training problems"):
        prompt_indices(0, 1, 4, 0)
