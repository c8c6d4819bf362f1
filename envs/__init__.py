"""Tabular MDPs as data, and families of them with closed forms.

An MDP is a `TabularMDP`. A family is a function that returns one. Its module states the closed
forms, and functions beside it compute them, so that other results can be checked against
mathematics. `WORLDS` in `envs.gym` registers them for Gymnasium.

    lock          one right action a step; V = Π p_h
    kl_chain      exponential time to the first reward under the uniform policy
    deep_sea      bsuite's exploration problem, deterministic
    first_error   reasoning that is right until its first error
    tree          every action sequence its own leaf
    garnet        random MDPs with a chosen branching
    needle        one improvable state of chosen coverage, in noise
    reasoning     a chain of arithmetic drawn as text, with its step checker
    tight         instances that attain improvement bounds
"""

import sys
import warnings
from pathlib import Path

from envs.deep_sea import deep_sea, deep_sea_uniform_value
from envs.first_error import (
    ResetSuccessRates,
    first_error_chain,
    reset_success_rates,
    right_step_advantage,
    success_probability,
)
from envs.garnet import garnet
from envs.kl_chain import kl_chain, kl_chain_time
from envs.lock import lock_chain, lock_policy, lock_value
from envs.needle import needle
from envs.reasoning import ChainTask, Problem
from envs.tabular import MDPError, TabularMDP
from envs.tight import (
    TightInstance,
    tight_cpi,
    tight_divergence,
    tight_good,
    tight_kl,
    tight_masked,
    tight_once,
    tight_returns,
)
from envs.tree import tree, tree_leaf_rewards

# Of a script that imports both, only this package can say that the other one is a namesake.
_cpi = sys.modules.get("cpi")
_beside = Path(__file__).parents[1] / "cpi"
if _cpi is not None and str(_beside) not in map(str, getattr(_cpi, "__path__", ())):
    warnings.warn(
        f"{_cpi!r} is not the package cpi of credit-resets; rename that folder, or start Python "
        "elsewhere: the working directory comes first",
        stacklevel=2,
    )

__all__ = [
    "ChainTask",
    "MDPError",
    "Problem",
    "ResetSuccessRates",
    "TabularMDP",
    "TightInstance",
    "deep_sea",
    "deep_sea_uniform_value",
    "first_error_chain",
    "garnet",
    "kl_chain",
    "kl_chain_time",
    "lock_chain",
    "lock_policy",
    "lock_value",
    "needle",
    "reset_success_rates",
    "right_step_advantage",
    "success_probability",
    "tight_cpi",
    "tight_divergence",
    "tight_good",
    "tight_kl",
    "tight_masked",
    "tight_once",
    "tight_returns",
    "tree",
    "tree_leaf_rewards",
]
