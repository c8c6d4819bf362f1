"""Faults in the reset core, gradients and sampled policy iteration."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

RESETS = (
    Mutant(
        "cpi/core/episodes.py",
        "prefix off by one",
        "self.steps[:k], state, self.rewards[:k])",
        "self.steps[: k + 1], state, self.rewards[:k])",
    ),
    Mutant(
        "cpi/core/episodes.py",
        "reset continues from one step earlier",
        "self.states[k]",
        "self.states[max(k - 1, 0)]",
    ),
    Mutant(
        "cpi/tabular/gradient.py",
        "prefix not masked",
        "np.asarray(episode.steps)[group.prefix.length :]",
        "np.asarray(episode.steps)[0:]",
    ),
    Mutant(
        "cpi/tabular/gradient.py",
        "covariance of seed and reset group dropped",
        "square += 2 * p * used * float(share @ with_seed)",
        "square += 0 * p * used * float(share @ with_seed)",
    ),
    Mutant(
        "cpi/tabular/gradient.py",
        "seeds drawn with replacement",
        "used * (used - 1) * pairs / (total * (total - 1))",
        "used * (used - 1) * pairs / (total * total)",
    ),
    Mutant(
        "cpi/core/resets.py",
        "every state with a positive weight is accepted",
        "rng.random(len(weights)) < weights",
        "0.0 * rng.random(len(weights)) < weights",
    ),
    Mutant(
        "cpi/core/resets.py",
        "picks uniformly",
        "total = np.cumsum(w / np.max(w))",
        "total = np.cumsum(np.ones_like(w))",
    ),
    Mutant(
        "cpi/core/resets.py",
        "every error instead of the first",
        "(np.cumsum(flags) == 1)",
        "(np.cumsum(flags) >= 1)",
    ),
    Mutant(
        "cpi/core/collect.py",
        "failures removed from the fresh group",
        "groups[number].append(Group(number, fresh_starts[number], episodes))",
        "groups[number].append(Group(number, fresh_starts[number], "
        "[e for e in episodes if not e.failed] or episodes))",
    ),
    Mutant(
        "cpi/core/collect.py",
        "successes are reset, not failures",
        '(e.failed or plan.seeds == "any")',
        '(not e.failed or plan.seeds == "any")',
    ),
    Mutant(
        "cpi/core/collect.py",
        "ledger counts seed episodes as trained",
        "ledger.generated(episodes, trained=False)",
        "ledger.generated(episodes, trained=True)",
    ),
    Mutant(
        "cpi/core/collect.py",
        "ledger omits fallbacks",
        "ledger.fallbacks += cut is None",
        "ledger.fallbacks += 0",
    ),
    Mutant(
        "cpi/core/collect.py",
        "localizer cost of earlier collections counted again",
        "ledger.localizer_cost += rule.cost - cost_before",
        "ledger.localizer_cost += rule.cost",
    ),
    Mutant("cpi/core/advantages.py", "population standard deviation", "DDOF = 1", "DDOF = 0"),
    Mutant(
        "cpi/core/advantages.py",
        "groups normalised together",
        '{"group": _std(group),',
        '{"group": batch,',
    ),
    Mutant(
        "cpi/tabular/simulator.py",
        "terminal states do not end an episode",
        "ended = live[self._terminal[following]]",
        "ended = live[self._terminal[following] & False]",
    ),
    Mutant(
        "cpi/tabular/simulator.py",
        "rewards of the prefix are dropped",
        "walk.rewards[rows, : len(prefix.rewards)] = prefix.rewards",
        "walk.rewards[rows, : len(prefix.rewards)] = 0.0",
    ),
    Mutant(
        "cpi/conservative/choosers.py",
        "importance weight without |A|",
        "evaluation.mdp.num_actions * difference * centred",
        "difference * centred",
    ),
    Mutant(
        "cpi/conservative/choosers.py",
        "refused draws are free",
        "kept, drawn = kept + len(rows), drawn + draws",
        "kept, drawn = kept + len(rows), drawn + len(rows)",
    ),
    Mutant(
        "cpi/conservative/loop.py",
        "certificate without p_w",
        "return update.p_w * (alpha * h",
        "return 1.0 * (alpha * h",
    ),
    Mutant(
        "cpi/conservative/step_sizes.py",
        "certified step H times too long",
        "_divide(advantage, u.H**2 * u.r_max)",
        "_divide(advantage, u.H * u.r_max)",
    ),
    Mutant(
        "cpi/conservative/confidence.py",
        "Bernstein's 7/3 → 1/3",
        "7 * width * log",
        "1 * width * log",
    ),
    Mutant(
        "cpi/bounds/theorem1.py",
        "another target success rate",
        "((ndtri(TARGET) - intercept)",
        "((ndtri(TARGET - 0.1) - intercept)",
    ),
    Mutant(
        "cpi/tabular/gradient.py",
        "cost of fallbacks omitted",
        "+ unused * self.fallback[2]",
        "+ 0 * unused * self.fallback[2]",
    ),
    Mutant(
        "cpi/tabular/gradient.py",
        "picks uniformly in the exact sum",
        "reset_groups.append((w[k] / w.sum(), cache[key]))",
        "reset_groups.append((1 / np.count_nonzero(w), cache[key]))",
    ),
    Mutant(
        "cpi/tabular/gradient.py",
        "1/N counts only one group",
        "total = sum(len(group.episodes) for group in groups)",
        "total = max(len(group.episodes) for group in groups)",
    ),
    Mutant(
        "cpi/signal.py",
        "cost ratio inverted",
        "worth * fresh.steps / moments.steps",
        "worth * moments.steps / fresh.steps",
    ),
    Mutant(
        "cpi/conservative/step_sizes.py",
        "K&L maximiser with 1.9ε",
        "_mixture_maximiser(u, advantage, 2 * float",
        "_mixture_maximiser(u, advantage, 1.9 * float",
    ),
    Mutant(
        "cpi/conservative/step_sizes.py",
        "CPO step uses D for TV",
        "tv = 0.5 * np.abs",
        "tv = 1.0 * np.abs",
    ),
    Mutant(
        "cpi/conservative/choosers.py",
        "chooses and measures on the same half",
        "second_half = data.part(slice(resets // 2, None))",
        "second_half = data.part(slice(0, resets // 2))",
    ),
    Mutant(
        "cpi/conservative/choosers.py",
        "first action from π",
        "first=uniform_policy(mdp))",
        "first=None)",
    ),
    Mutant(
        "cpi/conservative/loop.py",
        "stops at ε/3, not 2ε/3",
        "choice.advantage < 2 * epsilon / 3",
        "choice.advantage < epsilon / 3",
    ),
    Mutant(
        "cpi/conservative/loop.py",
        "steps from the estimate, not its lower bound",
        "step_size(rule, update, choice.lower)",
        "step_size(rule, update, choice.advantage)",
    ),
    Mutant(
        "cpi/conservative/loop.py",
        "terminal states accepted",
        "weights = weights * ~mdp.terminal",
        "weights = weights * 1.0",
    ),
    Mutant(
        "cpi/bounds/theorem1.py",
        "certificate from the exact, not the estimated advantage",
        "float(certified(np.asarray(advantage)))",
        "float(certified(np.asarray(update.masked_advantage)))",
    ),
    Mutant(
        "cpi/bounds/theorem1.py",
        "ties count as the right action",
        "means[0] > means[1:].max(axis=0)",
        "means[0] >= means[1:].max(axis=0)",
    ),
)
