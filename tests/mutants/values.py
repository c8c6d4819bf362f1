"""Faults in exact values and environments."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

VALUES = (
    Mutant(
        "cpi/exact/values.py",
        "occupancy not normalised",
        "d = (1.0 - self.mdp.discount) * self.resolvent",
        "d = 1.0 * self.resolvent",
    ),
    Mutant(
        "cpi/exact/values.py",
        "occupancy solved without the transpose",
        "self.resolvent.solve_transposed(start)",
        "self.resolvent.solve(start)",
    ),
    Mutant(
        "cpi/exact/values.py",
        "finite occupancy not divided by H",
        "forward(self.mdp, self.policy, start) / self.mdp.horizon",
        "forward(self.mdp, self.policy, start)",
    ),
    Mutant(
        "cpi/exact/values.py",
        "values use the same step instead of the next",
        "action_values(self.mdp, V[h + 1]) if h + 1 < horizon",
        "action_values(self.mdp, V[h]) if h + 1 < horizon",
    ),
    Mutant(
        "cpi/exact/values.py",
        "one step too few (horizon off by one)",
        "if h + 1 < horizon else self.mdp.rewards",
        "if h + 2 < horizon else self.mdp.rewards",
    ),
    Mutant(
        "cpi/exact/values.py",
        "values not discounted",
        "Q *= mdp.discount",
        "Q *= 1.0",
    ),
    Mutant(
        "cpi/exact/improvement.py",
        "threshold of improvable states halved",
        "> max(tau, tolerance",
        "> max(0.5 * tau, tolerance",
    ),
    Mutant(
        "cpi/exact/optimal.py",
        "backward induction uses the same step instead of the next",
        "Q = action_values(mdp, V[h + 1])",
        "Q = action_values(mdp, V[h])",
    ),
    Mutant(
        "cpi/exact/policies.py",
        "mixture ignores the mask",
        "alpha * np.asarray(weights, dtype=np.float64)[..., None]",
        "alpha * np.ones_like(np.asarray(weights, dtype=np.float64))[..., None]",
    ),
    Mutant(
        "cpi/exact/linear.py",
        "values and occupancies swapped",
        "trans=int(not transposed)",
        "trans=int(transposed)",
    ),
    Mutant(
        "cpi/exact/linear.py",
        "absorbing states not discounted",
        "scale = 1.0 - discount * diagonal[alone]",
        "scale = 1.0 - 0 * diagonal[alone]",
    ),
    Mutant(
        "cpi/exact/linear.py",
        "repeated entries overwritten",
        "matrix.sum_duplicates()",
        "matrix.sort_indices()",
    ),
    Mutant(
        "cpi/exact/optimal.py",
        "linear program uses the previous step instead of the next",
        "k=1)",
        "k=-1)",
    ),
)

WORLDS = (
    Mutant(
        "envs/gym.py",
        "imported episodes do not end (missing terminal mask)",
        "columns.append(over if terminated else int(following))",
        "columns.append(int(following))",
    ),
    Mutant(
        "envs/gym.py",
        "exported episodes do not end",
        "ended = self.mdp.terminal[following]",
        "ended = self.mdp.terminal[following] & False",
    ),
    Mutant(
        "envs/tabular.py",
        "rows need not sum to 1",
        "faulty = ~(np.abs(sums - 1.0) <= SUM_TOLERANCE)",
        "faulty = ~(np.abs(sums - 1.0) <= 0.5)",
    ),
)
