"""Which problems a step trains on: whole epochs in random order, a function of (seed, step)."""

from __future__ import annotations

import numpy as np


def prompt_indices(seed: int, step: int, per_step: int, problems: int) -> list[int]:
    """Problems of a step, counted from 1.

    Epochs are permutations drawn from (seed, epoch) and laid end to end, so that a step's place is
    all that a resumed run needs.

    Raises
    ------
    ValueError
        If there are no problems.
    """
    if problems < 1:
        raise ValueError("task: it has no training problems")
    places = range((step - 1) * per_step, step * per_step)
    orders = {
        epoch: np.random.default_rng([seed, epoch]).permutation(problems)
        for epoch in {place // problems for place in places}
    }
    return [int(orders[place // problems][place % problems]) for place in places]
