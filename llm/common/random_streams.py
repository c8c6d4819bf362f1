"""Random generators keyed by seed, step and use.

A resumed run recreates them from the key, so checkpoints store no generator state.
"""

from __future__ import annotations

import numpy as np

#: Uses: the third part of the key, after seed and step.
COLLECT, LOCALIZE, UPDATE, EVALUATE, REPLACE = range(5)


def generator(seed: int, step: int, use: int) -> np.random.Generator:
    """A new generator for one use in one step."""
    return np.random.default_rng([seed, step, use])
