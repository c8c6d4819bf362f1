"""The faults that `make mutants` plants, one line of code each."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """Replace `old`, which stands once in `file`, by `new`."""

    file: str
    fault: str
    old: str
    new: str


DISCOUNTED = "cpi/bounds/discounted.py"
FINITE = "cpi/bounds/finite.py"

CONSTANTS = (
    Mutant(
        DISCOUNTED,
        "performance difference without 1/(1−γ)",
        "(u.new.occupancy * u.new_advantage).sum()) / (1 - u.gamma)",
        "(u.new.occupancy * u.new_advantage).sum())",
    ),
    Mutant(
        DISCOUNTED,
        "CPI penalty 2ε → 1.9ε",
        "_cpi_penalty(u, 2 * float",
        "_cpi_penalty(u, 1.9 * float",
    ),
    Mutant(
        DISCOUNTED,
        "CPI penalty discounts the wrong step",
        "(1 - g) * (1 - g * (1 - alpha))",
        "(1 - g) * (1 - g * alpha)",
    ),
    Mutant(
        DISCOUNTED,
        "CPI span Δ → 0.95Δ",
        "_cpi_penalty(u, _span(u.a))",
        "_cpi_penalty(u, 0.95 * _span(u.a))",
    ),
    Mutant(DISCOUNTED, "CPI step promises 1/7, not 1/8", "/ (8 * u.r_max)", "/ (7 * u.r_max)"),
    Mutant(
        DISCOUNTED,
        "CPI step normalised twice",
        "(1 - u.gamma) ** 2 * u.advantage / (4",
        "(1 - u.gamma) * u.advantage / (4",
    ),
    Mutant(
        DISCOUNTED,
        "safe policy iteration penalty ½ → 0.45",
        "u.gamma * _distance(u) * _span(u.new_advantage) / (2 *",
        "u.gamma * _distance(u) * _span(u.new_advantage) / (2.2 *",
    ),
    Mutant(
        DISCOUNTED,
        "value form uses D, not D²",
        "_distance(u) ** 2 * float(u.base.Q.max())",
        "_distance(u) * float(u.base.Q.max())",
    ),
    Mutant(
        DISCOUNTED,
        "USPI gain ½ → 0.6",
        "u.advantage**2 / (2 * curvature)",
        "0.6 * u.advantage**2 / curvature",
    ),
    Mutant(DISCOUNTED, "TRPO constant 4 → 3.9", "- 4 * u.gamma * worst", "- 3.9 * u.gamma * worst"),
    Mutant(
        DISCOUNTED,
        "TRPO with TV for TV²",
        "_trpo(u, float(u.tv.max()) ** 2)",
        "_trpo(u, float(u.tv.max()))",
    ),
    Mutant(DISCOUNTED, "KL the other way round", "np.log(old / new)", "np.log(new / old)"),
    Mutant(
        DISCOUNTED,
        "CPO constant 2 → 1.9",
        "_cpo(u, 2 * float",
        "_cpo(u, 1.9 * float",
    ),
    Mutant(
        DISCOUNTED,
        "CPO span for twice the span",
        "_cpo(u, _span(u.new_advantage))",
        "_cpo(u, 0.5 * _span(u.new_advantage))",
    ),
    Mutant(
        DISCOUNTED,
        "occupancy shift without γ",
        "2 * u.gamma / (1 - u.gamma) * _mean_tv(u)",
        "2 / (1 - u.gamma) * _mean_tv(u)",
    ),
    Mutant(
        DISCOUNTED,
        "termination without 1/(1−γ)",
        "_opt(u) / (1 - u.gamma) * _ratio_to_occupancy(u)",
        "_opt(u) * _ratio_to_occupancy(u)",
    ),
    Mutant(
        DISCOUNTED,
        "restart form with one 1/(1−γ)",
        "_opt(u) / (1 - u.gamma) ** 2",
        "_opt(u) / (1 - u.gamma)",
    ),
    Mutant(
        FINITE,
        "performance difference without H",
        "right=lambda u: u.H * float(",
        "right=lambda u: float(",
    ),
    Mutant(
        FINITE,
        "masked penalty ½ → 0.49",
        "_count(u) * u.r_max / 2,",
        "_count(u) * u.r_max * 0.49,",
    ),
    Mutant(
        FINITE,
        "masked penalty H(H−1) → (H−1)²",
        "u.H * (u.H - 1) * u.p_w",
        "(u.H - 1) ** 2 * u.p_w",
    ),
    Mutant(
        FINITE,
        "step-by-step penalty one step off",
        "(u.H - t) * (u.H + t - 1)",
        "(u.H - t) * (u.H + t - 2)",
    ),
    Mutant(
        FINITE,
        "random-reset penalty ⅓ → 0.32",
        "* (u.H - 1) * u.H * (u.H + 1) / 3",
        "* (u.H - 1) * u.H * (u.H + 1) * 0.32",
    ),
    Mutant(
        FINITE,
        "ε of w·a instead of a",
        "np.where(u.w > 0, u.a, 0.0)",
        "u.w * u.a",
    ),
    Mutant(
        FINITE,
        "returns' width without the lower end",
        "float(u.base.Q.max() - u.base.Q.min())",
        "float(u.base.Q.max() - u.base.Q.mean())",
    ),
    Mutant(
        FINITE,
        "span form of a, not of w·a",
        "np.ptp(u.w * u.a, axis=1)",
        "np.ptp(u.w * u.a, axis=1) * 0.97",
    ),
    Mutant(
        FINITE,
        "masked step's ½ → 0.55",
        "u.masked_advantage**2 / (2 * u.H * u.r_max)",
        "0.55 * u.masked_advantage**2 / (u.H * u.r_max)",
    ),
    Mutant(
        FINITE,
        "bounded-returns step's ¼ → 0.3",
        "u.masked_advantage**2 / (4 * _return_width(u))",
        "0.3 * u.masked_advantage**2 / _return_width(u)",
    ),
    Mutant(
        FINITE,
        "first switch counted at every step",
        "switch_free_mass(u.base, u.alpha * u.w) * u.alpha",
        "switch_free_mass(u.base, 0 * u.w) * u.alpha",
    ),
    Mutant(
        FINITE,
        "oracle step promises H p τ, not the visit probability",
        "_tau(u) * visit_probability(u.base, u.improvable)",
        "_tau(u) * u.H * u.p",
    ),
    Mutant(
        FINITE,
        "CPI-RR promises CARO's gain",
        "(_tau(u) * u.p) ** 2 / (2",
        "_tau(u) ** 2 * u.p / (2",
    ),
    Mutant(
        FINITE,
        "CPI-CARO certificate without p",
        "_tau(u) ** 2 * u.p / (2 * u.H * u.r_max),\n        hypothesis=_good_on_improvable",
        "_tau(u) ** 2 / (2 * u.H * u.r_max),\n        hypothesis=_good_on_improvable",
    ),
    Mutant(
        FINITE,
        "localizer without precision",
        "u.p * u.recall * u.precision * _tau(u)",
        "u.p * u.recall * _tau(u)",
    ),
    Mutant(
        FINITE,
        "visit bound with H − 1",
        "right=lambda u: u.H * u.p,",
        "right=lambda u: (u.H - 1) * u.p,",
    ),
    Mutant(
        FINITE,
        "coverage takes the mean ratio",
        "_stepwise_ratio(u).max() * _stepwise_opt",
        "_stepwise_ratio(u).mean() * _stepwise_opt",
    ),
    Mutant(
        FINITE,
        "PSDP without H",
        "np.asarray(u.H * (u.restarted",
        "np.asarray((u.restarted",
    ),
    Mutant(
        "cpi/bounds/registry.py",
        "a violation is forgiven",
        "return not self.slack >= -self.rounding",
        "return not self.slack >= -1.0 - self.rounding",
    ),
    Mutant(
        "cpi/bounds/registry.py",
        "recall divided by what was accepted",
        "self.w * self.improvable) / self.p if",
        "self.w * self.improvable) / self.p_w if",
    ),
)

VALUES = (
    Mutant(
        "cpi/values.py",
        "occupancy not normalised",
        "d = (1.0 - self.mdp.discount) * self.resolvent",
        "d = 1.0 * self.resolvent",
    ),
    Mutant(
        "cpi/values.py",
        "occupancy from values' side of the factorisation",
        "self.resolvent.solve_transposed(start)",
        "self.resolvent.solve(start)",
    ),
    Mutant(
        "cpi/values.py",
        "finite occupancy not divided by H",
        "forward(self.mdp, self.policy, start) / self.mdp.horizon",
        "forward(self.mdp, self.policy, start)",
    ),
    Mutant(
        "cpi/values.py",
        "values look at their own step",
        "action_values(self.mdp, V[h + 1]) if h + 1 < horizon",
        "action_values(self.mdp, V[h]) if h + 1 < horizon",
    ),
    Mutant(
        "cpi/values.py",
        "one step too few (horizon off by one)",
        "if h + 1 < horizon else self.mdp.rewards",
        "if h + 2 < horizon else self.mdp.rewards",
    ),
    Mutant(
        "cpi/values.py",
        "values not discounted",
        "Q *= mdp.discount",
        "Q *= 1.0",
    ),
    Mutant(
        "cpi/improvement.py",
        "threshold of improvable states halved",
        "> max(tau, tolerance",
        "> max(0.5 * tau, tolerance",
    ),
    Mutant(
        "cpi/optimal.py",
        "backward induction looks at its own step",
        "Q = action_values(mdp, V[h + 1])",
        "Q = action_values(mdp, V[h])",
    ),
    Mutant(
        "cpi/policies.py",
        "mixture ignores the mask",
        "alpha * np.asarray(weights, dtype=np.float64)[..., None]",
        "alpha * np.ones_like(np.asarray(weights, dtype=np.float64))[..., None]",
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

RESETS = (
    Mutant(
        "cpi/episodes.py",
        "prefix off by one",
        "self.steps[:k], state, self.rewards[:k])",
        "self.steps[: k + 1], state, self.rewards[:k])",
    ),
    Mutant(
        "cpi/episodes.py",
        "reset goes on a step too early",
        "self.states[k]",
        "self.states[max(k - 1, 0)]",
    ),
    Mutant(
        "cpi/gradient.py",
        "prefix not masked",
        "np.asarray(episode.steps)[group.prefix.length :]",
        "np.asarray(episode.steps)[0:]",
    ),
    Mutant(
        "cpi/gradient.py",
        "covariance of seed and reset group dropped",
        "square += 2 * p * used * float(share @ with_seed)",
        "square += 0 * p * used * float(share @ with_seed)",
    ),
    Mutant(
        "cpi/gradient.py",
        "seeds drawn with replacement",
        "used * (used - 1) * pairs / (total * (total - 1))",
        "used * (used - 1) * pairs / (total * total)",
    ),
    Mutant(
        "cpi/resets.py",
        "accepts whatever has a weight",
        "rng.random(len(weights)) < weights",
        "0.0 * rng.random(len(weights)) < weights",
    ),
    Mutant(
        "cpi/resets.py",
        "picks uniformly",
        "total = np.cumsum(w / np.max(w))",
        "total = np.cumsum(np.ones_like(w))",
    ),
    Mutant(
        "cpi/resets.py",
        "every error, not the first",
        "(np.cumsum(flags) == 1)",
        "(np.cumsum(flags) >= 1)",
    ),
    Mutant(
        "cpi/collect.py",
        "failures taken out of the fresh group",
        "groups[number].append(Group(number, fresh_starts[number], episodes))",
        "groups[number].append(Group(number, fresh_starts[number], "
        "[e for e in episodes if not e.failed] or episodes))",
    ),
    Mutant(
        "cpi/collect.py",
        "successes reset",
        '(e.failed or plan.seeds == "any")',
        '(not e.failed or plan.seeds == "any")',
    ),
    Mutant(
        "cpi/collect.py",
        "ledger trains on seeds",
        "ledger.generated(episodes, trained=False)",
        "ledger.generated(episodes, trained=True)",
    ),
    Mutant(
        "cpi/collect.py",
        "ledger forgets fallbacks",
        "ledger.fallbacks += cut is None",
        "ledger.fallbacks += 0",
    ),
    Mutant(
        "cpi/collect.py",
        "localizer cost of earlier collections counted again",
        "ledger.localizer_cost += rule.cost - spent",
        "ledger.localizer_cost += rule.cost",
    ),
    Mutant("cpi/advantages.py", "population standard deviation", "DDOF = 1", "DDOF = 0"),
    Mutant(
        "cpi/advantages.py",
        "groups normalised together",
        '{"group": _std(group),',
        '{"group": batch,',
    ),
    Mutant(
        "cpi/simulator.py",
        "terminal states do not end an episode",
        "ended = live[self._terminal[following]]",
        "ended = live[self._terminal[following] & False]",
    ),
    Mutant(
        "cpi/simulator.py",
        "rewards of the prefix lost",
        "walk.rewards[rows, : len(prefix.rewards)] = prefix.rewards",
        "walk.rewards[rows, : len(prefix.rewards)] = 0.0",
    ),
    Mutant(
        "cpi/choosers.py",
        "importance weight without |A|",
        "evaluation.mdp.num_actions * difference * centred",
        "difference * centred",
    ),
    Mutant(
        "cpi/choosers.py",
        "refused draws are free",
        "found, drawn = found + len(rows), drawn + spent",
        "found, drawn = found + len(rows), drawn + len(rows)",
    ),
    Mutant(
        "cpi/conservative.py",
        "certificate without p_w",
        "return update.p_w * (alpha * h",
        "return 1.0 * (alpha * h",
    ),
    Mutant(
        "cpi/step_sizes.py",
        "certified step H times too long",
        "_divide(advantage, u.H**2 * u.r_max)",
        "_divide(advantage, u.H * u.r_max)",
    ),
    Mutant("cpi/confidence.py", "Bernstein's 7/3 → 1/3", "7 * width * log", "1 * width * log"),
    Mutant(
        "cpi/bounds/theorem1.py",
        "asks for another success rate",
        "((ndtri(TARGET) - intercept)",
        "((ndtri(TARGET - 0.1) - intercept)",
    ),
)

MUTANTS = CONSTANTS + VALUES + WORLDS + RESETS
