"""Deep Sea: N diagonal steps, each at a small cost, before the only reward.

A diver falls through an N × N grid, one row a step, from the top left corner. Going right moves
one column to the right and costs 0.01/N; going left moves one column to the left (column 0 keeps
the diver) and is free. Going right from the bottom right corner pays 1 besides. Then

    optimum        1 − N · 0.01/N = 0.99,
    uniform policy 2^{−N} − 0.01/2,

since half of its N steps are paid for and only one of the 2^N action sequences is all right.

Row and column never part so far that column > row, so only the N (N + 1)/2 cells with
column ≤ row are states: (row, column) is state row (row + 1)/2 + column, and the last state is
"over", where the bottom row leads. Rewards may be negative: the bounds use the reward's width.

Source: the deterministic `deep_sea` of bsuite (Osband et al. 2020, "Behaviour Suite for
Reinforcement Learning"), whose cells with column > row are never visited.
"""

from __future__ import annotations

import numpy as np

from envs.checks import check_whole
from envs.tabular import MDPError, TabularMDP

#: Cost of going right all the way; independent of the size, as in bsuite.
TOTAL_MOVE_COST = 0.01


def deep_sea(size: int = 10, mapping_seed: int | None = None) -> TabularMDP:
    """The deterministic Deep Sea of `size` rows.

    Parameters
    ----------
    size : int
        N ≥ 1, rows and columns; also the horizon.
    mapping_seed : int, optional
        Draws for each cell which of the two actions goes right, like bsuite's argument of that
        name. By default action 1 goes right everywhere.

    Returns
    -------
    TabularMDP
        N (N + 1)/2 + 1 states, two actions, horizon N.

    Raises
    ------
    MDPError
        If `size` is not a whole number ≥ 1, or `mapping_seed` not one ≥ 0.
    """
    size = check_whole("size", size, 1, MDPError)
    rows, columns = np.tril_indices(size)  # in the order of the states
    cells = np.arange(len(rows))
    over = len(cells)
    below = cells + rows + 1  # the cell one row down in the same column
    bottom = rows == size - 1
    next_right = np.where(bottom, over, below + 1)
    next_left = np.where(bottom, over, below - (columns > 0))

    right = np.ones(len(cells), dtype=np.intp)
    if mapping_seed is not None:
        mapping_seed = check_whole("mapping_seed", mapping_seed, 0, MDPError)
        # The legacy generator on the full grid: a seed gives the same mapping as in bsuite.
        grid = np.random.RandomState(mapping_seed).binomial(1, 0.5, (size, size))
        right = grid[rows, columns]
    next_states = np.full((over + 1, 2), over)
    next_states[cells, right] = next_right
    next_states[cells, 1 - right] = next_left
    rewards = np.zeros((over + 1, 2))
    rewards[cells, right] = -TOTAL_MOVE_COST / size
    rewards[over - 1, right[-1]] += 1.0
    return TabularMDP(
        transitions=np.eye(over + 1)[next_states],
        rewards=rewards,
        start=np.eye(over + 1)[0],
        horizon=size,
        name=f"deep_sea({size})",
    )


def deep_sea_uniform_value(size: int) -> float:
    """J of the uniform policy, 2^{−N} − 0.005, whatever the action mapping.

    Raises
    ------
    MDPError
        If `size` is below 1.
    """
    size = check_whole("size", size, 1, MDPError)
    return 0.5**size - TOTAL_MOVE_COST / 2
