"""Faults in exact values and environments."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

VALUES = (
    Mutant(
        "cpi/exact/policies.py",
        "policies of ten decimals are not divided by their sum",
        "    array[rounded] /= sums[rounded, None]\n",
        "",
    ),
    Mutant(
        "cpi/exact/policies.py",
        "an Evaluation keeps the caller's array",
        "    array, dtype = real_array(policy, what, PolicyError)\n",
        "    array = np.asarray(policy, dtype=np.float64)\n    dtype = array.dtype\n",
        ("tests/cpi/exact/test_policies.py", "tests/cpi/exact/test_values.py"),
    ),
    Mutant(
        "cpi/exact/policies.py",
        "nearly deterministic rows count as deterministic",
        "certain = (policy == 1.0)",
        "certain = (policy >= 1.0 - 1e-5)",
    ),
    Mutant(
        "cpi/exact/values.py",
        "values can be changed",
        "return frozen(self.Q - self.V[..., None])",
        "return self.Q - self.V[..., None]",
    ),
    Mutant(
        "cpi/exact/values.py",
        "rounding grows with the horizon where values do not",
        "return ULPS * _steps(mdp) * max(float(np.abs(each.Q).max()) for each in evaluations)",
        "return tolerance(mdp)",
    ),
    Mutant(
        "cpi/exact/linear.py",
        "no refinement near γ = 1",
        "REFINED_DISCOUNT = 1.0 - 1e-6",
        "REFINED_DISCOUNT = 1.0",
        ("tests/cpi/exact/test_values.py",),
    ),
    Mutant(
        "cpi/exact/improvement.py",
        "default τ from states that are never visited",
        "evaluation.A.max(axis=-1)[evaluation.occupancy > UNVISITED].max()",
        "evaluation.A.max()",
    ),
    Mutant(
        "cpi/exact/improvement.py",
        "weights above 1 have a coverage",
        "    array = check_fractions(name, weights)\n",
        "    array = np.asarray(weights, dtype=np.float64)\n",
    ),
    Mutant(
        "cpi/exact/values.py",
        "occupancy not normalised",
        "frozen(d / d.sum())",
        "frozen(d)",
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
        "> max(tau, rounding_of",
        "> max(0.5 * tau, rounding_of",
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
        'check_fractions("weights", weights)[..., None]',
        'np.ones_like(check_fractions("weights", weights))[..., None]',
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
        "sweeps end before residuals are at rounding level",
        "if np.abs(residual).max() <= rounding:",
        "if np.abs(residual).max() <= 1e9 * rounding:",
    ),
    Mutant(
        "cpi/exact/optimal.py",
        "constant residuals are not extrapolated",
        "middle * mdp.discount / (1.0 - mdp.discount)",
        "middle * mdp.discount",
    ),
    Mutant(
        "cpi/exact/optimal.py",
        "improvements spread by one state only",
        "                queue.append(s)\n",
        "",
    ),
    Mutant(
        "cpi/exact/linear.py",
        "a state that reaches few makes random sparsity a grid",
        "_is_plane(matrix) and _is_plane(_neighbours(matrix))",
        "_is_plane(matrix)",
        ("tests/cpi/exact/test_linear.py",),
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
        "faulty = ~(np.abs(sums - 1.0) <= tolerance)",
        "faulty = ~(np.abs(sums - 1.0) <= 0.5)",
    ),
    Mutant(
        "envs/tabular.py",
        "rows that are nearly 1 are not divided by their sum",
        "        rows[off] /= sums[off, None]\n",
        "",
    ),
    Mutant(
        "envs/tabular.py",
        "sparse rows that are nearly 1 are not divided by their sum",
        "            rows.data /= np.repeat(np.where(off, sums, 1.0), np.diff(rows.indptr))\n",
        "            pass\n",
    ),
    Mutant(
        "envs/tabular.py",
        "float32 is as fine as float64",
        "return max(SUM_TOLERANCE, 8 * coarse)",
        "return SUM_TOLERANCE",
    ),
    Mutant(
        "envs/tabular.py",
        "a state that is hardly ever left is terminal",
        "(stay >= 1.0 - ROUNDING)",
        "(stay >= 1.0 - 1e-9)",
    ),
    Mutant(
        "envs/tabular.py",
        "indices of a sparse matrix are not checked",
        "given.check_format(full_check=True)",
        "given.check_format(full_check=False)",
    ),
    Mutant(
        "envs/tabular.py",
        "rewards of transitions are summed, not weighed",
        'np.einsum("sat,sat->sa", transitions, rewards)',
        "rewards.sum(axis=2)",
    ),
    Mutant(
        "envs/gym.py",
        "next states are rounded",
        "if int(following) != following:",
        "if False:",
    ),
    Mutant(
        "cpi/exact/linear.py",
        "a solution in another order of the states stays in that order",
        "x[order] = banded(b[order], transposed)",
        "x[:] = banded(b[order], transposed)",
        ("tests/cpi/exact/test_linear.py",),
    ),
)
