"""Conservative policy iteration with resets: exact values, guarantees, and the shared abstractions.

>>> import cpi, envs
>>> mdp = envs.garnet(num_states=10, seed=1, horizon=5)
>>> policy = cpi.uniform_policy(mdp)
>>> evaluation = cpi.evaluate(mdp, policy)
>>> evaluation.V.shape, evaluation.occupancy.shape
((5, 10), (5, 10))
>>> report = cpi.check_bounds(mdp, policy, cpi.greedy_policy(evaluation.Q))
>>> report.violations
0
"""

import warnings

import envs

if not hasattr(envs, "TabularMDP"):
    warnings.warn(
        f"{envs!r} is not the package envs of credit-resets; rename that folder, or start Python "
        "elsewhere: the working directory comes first",
        stacklevel=2,
    )

from cpi.bounds import REGISTRY, Bound, Update, check_bounds
from cpi.bounds.guarantees import Guarantees, guarantees
from cpi.conservative.black_box import BlackBox
from cpi.conservative.certificate import Certificate
from cpi.conservative.certify import certify
from cpi.conservative.choosers import Choice, exact_greedy, sampled
from cpi.conservative.loop import run_cpi
from cpi.conservative.reset_weights import oracle_resets, random_resets, self_resets
from cpi.conservative.resets import Resets, draw_resets
from cpi.conservative.step_sizes import step_size
from cpi.core.advantages import group_advantages
from cpi.core.collect import (
    Collection,
    Group,
    Ledger,
    collect,
)
from cpi.core.episodes import Episode, Prefix, Simulator
from cpi.core.plans import ALGORITHMS, GroupPlan, World
from cpi.core.resets import (
    NoisyLocalizer,
    OracleReset,
    RandomReset,
    ResetRule,
    SelfReset,
    accept,
    pick,
)
from cpi.exact.improvement import (
    candidate_advantage,
    coverage,
    improvable,
    policy_advantage,
    switch_free_mass,
    visit_probability,
)
from cpi.exact.optimal import (
    Optimum,
    backward_induction,
    linear_program,
    optimal,
    policy_iteration,
)
from cpi.exact.policies import (
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
from cpi.exact.values import Evaluation, evaluate, tolerance
from cpi.tabular.gradient import (
    exact_moments,
    group_gradient,
    policy_gradient,
    softmax_policy,
)
from cpi.tabular.learn import learn
from cpi.tabular.simulator import TabularOracle, TabularSimulator

__all__ = [
    "ALGORITHMS",
    "REGISTRY",
    "BlackBox",
    "Bound",
    "Certificate",
    "Choice",
    "Collection",
    "Episode",
    "Evaluation",
    "Group",
    "GroupPlan",
    "Guarantees",
    "Ledger",
    "NoisyLocalizer",
    "Optimum",
    "OracleReset",
    "PolicyError",
    "Prefix",
    "RandomReset",
    "ResetRule",
    "Resets",
    "SelfReset",
    "Simulator",
    "TabularOracle",
    "TabularSimulator",
    "Update",
    "World",
    "accept",
    "backward_induction",
    "candidate_advantage",
    "certify",
    "check_bounds",
    "check_policy",
    "collect",
    "coverage",
    "deterministic_policy",
    "draw_resets",
    "evaluate",
    "exact_greedy",
    "exact_moments",
    "greedy_policy",
    "group_advantages",
    "group_gradient",
    "guarantees",
    "improvable",
    "learn",
    "linear_program",
    "load_policy",
    "mixture",
    "optimal",
    "oracle_resets",
    "pick",
    "policy_advantage",
    "policy_gradient",
    "policy_iteration",
    "policy_transitions",
    "random_policy",
    "random_resets",
    "run_cpi",
    "sampled",
    "self_resets",
    "softmax_policy",
    "step_size",
    "switch_free_mass",
    "tolerance",
    "uniform_policy",
    "visit_probability",
]
