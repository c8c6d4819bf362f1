"""The guarantees of conservative policy iteration as data, and their numerical check.

`REGISTRY` lists every bound; `check_bounds(mdp, policy, candidate)` checks those that apply to one
problem; `python -m cpi.bounds` checks all of them on tight instances, chains and random MDPs.
"""

from cpi.bounds import discounted, finite
from cpi.bounds.bound import Bound, Check
from cpi.bounds.check import BoundReport, bounds_for, check_bounds, check_updates
from cpi.exact.update import Update

REGISTRY: tuple[Bound, ...] = discounted.BOUNDS + finite.BOUNDS

__all__ = [
    "REGISTRY",
    "Bound",
    "BoundReport",
    "Check",
    "Update",
    "bounds_for",
    "check_bounds",
    "check_updates",
]
