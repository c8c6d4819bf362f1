"""Random streams: each use of each step has its own, so that a resumed run needs no state."""

from __future__ import annotations

import numpy as np

#: What keys a stream besides seed and step.
COLLECT, LOCALIZE, UPDATE, EVALUATE, REPLACE = range(5)


def stream(seed: int, step: int, use: int) -> np.random.Generator:
    """The generator of a use of a step."""
    return np.random.default_rng([seed, step, use])
