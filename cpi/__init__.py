"""Conservative policy iteration with resets: exact values, guarantees, and the shared abstractions.

>>> import cpi, envs
>>> mdp = envs.garnet(num_states=10, seed=1, horizon=5)
>>> policy = cpi.uniform_policy(mdp)
>>> evaluation = cpi.evaluate(mdp, policy)
>>> evaluation.V.shape, evaluation.occupancy.shape
((5, 10), (5, 10))
>>> print(cpi.check_bounds(mdp, policy, cpi.greedy_policy(evaluation.Q)))  # doctest: +SKIP
"""

from cpi.bounds import REGISTRY, Bound, Update, check_bounds
from cpi.improvement import (
    candidate_advantage,
    coverage,
    improvable,
    policy_advantage,
    switch_free_mass,
    visit_probability,
)
from cpi.optimal import Optimum, backward_induction, linear_program, optimal, policy_iteration
from cpi.policies import (
    PolicyError,
    check_policy,
    deterministic_policy,
    greedy_policy,
    load_policy,
    mixture,
    policy_transitions,
    random_policy,
    uniform_policy,
)
from cpi.values import Evaluation, evaluate, tolerance

__all__ = [
    "REGISTRY",
    "Bound",
    "Evaluation",
    "Optimum",
    "PolicyError",
    "Update",
    "backward_induction",
    "candidate_advantage",
    "check_bounds",
    "check_policy",
    "coverage",
    "deterministic_policy",
    "evaluate",
    "greedy_policy",
    "improvable",
    "linear_program",
    "load_policy",
    "mixture",
    "optimal",
    "policy_advantage",
    "policy_iteration",
    "policy_transitions",
    "random_policy",
    "switch_free_mass",
    "tolerance",
    "uniform_policy",
    "visit_probability",
]
