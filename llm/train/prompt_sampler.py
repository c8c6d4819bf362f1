"""Problems of a training step: whole epochs in random order, a function of (seed, step)."""

from __future__ import annotations

import numpy as np


def prompt_indices(seed: int, step: int, per_step: int, problems: int) -> list[int]:
    """Indices of the problems of a step; steps count from 1.

    Each epoch is a permutation drawn from (seed, epoch). Steps take consecutive problems of
    consecutive epochs, so a resumed run needs only its step number.

    Raises
    ------
    ValueError
        If there are no problems.
    """
    if problems < 1:
        raise ValueError("task: it has no training problems")
    positions = range((step - 1) * per_step, step * per_step)
    orders = {
        epoch: np.random.default_rng([seed, epoch]).permutation(problems)
        for epoch in {position // problems for position in positions}
    }
    return [int(orders[position // problems][position % problems]) for position in positions]
