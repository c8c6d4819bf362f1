"""Faults in the exact bridge and in the comparison."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

BRIDGE = (
    Mutant(
        "llm/exact/gains.py",
        "span over all states, not the reachable ones",
        "highest = np.where(reachable, a, -np.inf).max(axis=-1)",
        "highest = a.max(axis=-1)",
        ("tests/llm/exact/test_bridge.py",),
    ),
    Mutant(
        "llm/exact/gains.py",
        "the probability of divergence is not capped",
        "np.minimum(before, share)",
        "before",
        ("tests/llm/exact/test_bridge.py",),
    ),
    Mutant(
        "llm/exact/gains.py",
        "the probability of divergence omits the last step",
        "before = np.cumsum(parting, axis=0) - parting",
        "before = np.cumsum(parting, axis=0) - 2 * parting",
        ("tests/llm/exact/test_bridge.py",),
    ),
    Mutant(
        "llm/exact/gains.py",
        "half the penalty",
        "return Estimate(gain, gain - radius, gain + radius)",
        "return Estimate(gain, gain - radius / 2, gain + radius / 2)",
        ("tests/llm/exact/test_bridge.py",),
    ),
    Mutant(
        "llm/common/statistics.py",
        "one-sided level for a two-sided interval",
        "beta.ppf(1 - delta / 2, successes + 1, fails)",
        "beta.ppf(1 - delta, successes + 1, fails)",
        ("tests/llm/exact/test_bridge.py",),
    ),
    Mutant(
        "llm/exact/gains.py",
        "the best case of the losses for the worst",
        "won.low - lost.high",
        "won.low - lost.low",
        ("tests/llm/exact/test_bridge.py",),
    ),
    Mutant(
        "llm/exact/gains.py",
        "recall divided by the accepted share",
        "caught / p if p else 0.0",
        "caught / accepted if p else 0.0",
        ("tests/llm/exact/test_bridge.py",),
    ),
    Mutant(
        "llm/exact/gains.py",
        "certificate without the half",
        "tau**2 / (2 * base.mdp.horizon",
        "tau**2 / (base.mdp.horizon",
        ("tests/llm/exact/test_bridge.py",),
    ),
    Mutant(
        "llm/exact/bridge.py",
        "weights above 1 are clipped, not scaled",
        "next(remaining) / largest if",
        "np.minimum(next(remaining), 1.0) if",
    ),
    Mutant(
        "llm/exact/bridge.py",
        "new random numbers at each checkpoint",
        "rng = np.random.default_rng([self.config.seed, SAMPLE])",
        "rng = np.random.default_rng()",
    ),
    Mutant(
        "llm/compare/arms.py",
        "each arm has different problems",
        '"train": 192, "test": 64}',
        '"train": 192, "test": 64, "seed": arm.plan.resets or 0}',
        ("tests/llm/compare/test_compare.py",),
    ),
    Mutant(
        "llm/compare/arms.py",
        "a plan of two reset groups is predicted as one",
        '"random-checker": (GroupPlan(4, 2, 4), "oracle")',
        '"random-checker": (GroupPlan(4, 1, 4), "oracle")',
        ("tests/llm/compare/test_compare.py",),
    ),
    Mutant(
        "llm/compare/report.py",
        "success after the budget counts",
        'grid = np.linspace(0, record["config"]["token_budget"], 401)',
        "grid = np.linspace(0, tokens[-1], 401)",
        ("tests/llm/compare/test_compare.py",),
    ),
    Mutant(
        "llm/compare/report.py",
        "the last instead of the first time the target is reached",
        "tokens[reached[0]]",
        "tokens[reached[-1]]",
        ("tests/llm/compare/test_compare.py",),
    ),
    Mutant(
        "llm/compare/runs.py",
        "localizations are free",
        "tokens = trainer.ledger.steps + trainer.ledger.localizer_cost",
        "tokens = trainer.ledger.steps",
        ("tests/llm/compare/test_compare.py",),
    ),
    Mutant(
        "llm/compare/runs.py",
        "results with other settings are accepted",
        "if actual != expected:",
        "if actual.keys() != expected.keys():",
        ("tests/llm/compare/test_compare.py",),
    ),
)
