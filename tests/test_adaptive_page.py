"""What the page of the comparison says of adaptive resets is what the records say."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from cpi.core.plans import ALGORITHMS
from cpi.signal import chain_moments
from llm.common.statistics import interval
from llm.compare.arms import (
    ADAPTIVE,
    ARMS,
    BASELINES,
    KNOWN_REGIMES,
    LEARNING_RATE,
    REGIMES,
    THEORY,
    predicted,
    run_config,
)
from llm.compare.report import Records, area, read_records, tokens_to
from llm.config.resume import recorded
from paper_figures import HOME
from paper_figures.analyses.adaptive_claims import CLAIMS, FAMILIES, findings, gains_of
from paper_figures.analyses.start_of_training import Order, Start, order, starts

RESULTS = HOME / "results"
PAGE = Path(__file__).parents[1] / "docs" / "findings" / "comparison.md"

#: Columns of the tables, from the shortest problems on.
COLUMNS = ("short", "middle", "six", "long", "few")


@cache
def fresh(regime: str) -> Records:
    """Runs of a regime with seeds that nobody tuned on."""
    return read_records(RESULTS, f"{regime}-fresh", ["grpo", *ADAPTIVE, *BASELINES])


@cache
def start(regime: str) -> list[Start]:
    """Speeds at the start, of all seeds."""
    earlier = [read_records(RESULTS, regime)] if regime in REGIMES else []
    return starts([*earlier, fresh(regime)], regime)


def in_thousands(records: Records, arm: str) -> str:
    """Median of the tokens after which success is one half."""
    half = float(np.median([tokens_to(run, 0.5) for run in records[arm].values()]))
    return "½ never" if np.isinf(half) else f"½ at {half / 1000:.1f}k"


def claim_lines() -> list[str]:
    """Lines of the table of claims."""
    by_regime = {regime: fresh(regime) for regime in CLAIMS}
    return [
        f"| {f.verdict} | {f.arm} | {f.claim} | {f.regime} | "
        f"{np.mean(f.gains):+.3f} [{f.low:+.3f}, {f.high:+.3f}] | "
        f"{sum(g > 0 for g in f.gains)} of {len(f.gains)} | {f.p:.4f} | {f.adjusted:.3f} |"
        for arm in FAMILIES
        for f in findings(by_regime, [arm])
    ]


def gain_lines() -> list[str]:
    """Lines of the table of all fresh runs."""
    base = [
        f"{np.mean([area(run) for run in fresh(r)['grpo'].values()]):.3f}, "
        f"{in_thousands(fresh(r), 'grpo')}"
        for r in COLUMNS
    ]
    lines = [f"| grpo | {' | '.join(base)} |"]
    for arm in (*ADAPTIVE, *BASELINES):
        cells = [gain_cell(arm, regime) for regime in COLUMNS]
        if set(cells) != {NOT_RUN}:
            lines.append(f"| {arm} | {' | '.join(cells)} |")
    return lines


#: Cell of an arm without runs.
NOT_RUN = "not run"


def gain_cell(arm: str, regime: str) -> str:
    """Mean success minus GRPO's with the same seeds, its interval, and the tokens to one half."""
    records = fresh(regime)
    if arm not in records:
        return NOT_RUN
    gains = gains_of(records, arm, regime)
    low, high = interval(gains)
    return f"{np.mean(gains):+.3f} [{low:+.3f}, {high:+.3f}], {in_thousands(records, arm)}"


def speed_lines() -> list[str]:
    """Lines of the table of predicted and measured speeds."""
    rows = {regime: {row.arm: row for row in start(regime)} for regime in COLUMNS}
    lines = []
    for arm in THEORY:
        cells = [
            f"{rows[r][arm].predicted:.2f} → {rows[r][arm].measured:.2f}" if arm in rows[r] else ""
            for r in COLUMNS
        ]
        if any(cells):
            lines.append(f"| {arm} | {' | '.join(cells)} |")
    return lines


def order_lines() -> list[str]:
    """Lines of the table of rank correlations."""
    lines = []
    for regime in COLUMNS:
        rows = start(regime)
        by_worth, by_speed = orders(rows)
        lines.append(
            f"| {regime} | {len(rows)} | {by_worth.tau:+.2f} | {by_worth.p:.4f} | "
            f"{by_speed.tau:+.2f} | {by_speed.p:.4f} |"
        )
    return lines


def orders(rows: Sequence[Start]) -> tuple[Order, Order]:
    """Of the worth and of the predicted speed with the measured one."""
    measured = [row.measured for row in rows]
    by_worth = order([row.worth for row in rows], measured)
    return by_worth, order([row.predicted for row in rows], measured)


def reason_lines() -> list[str]:
    """Lines of the table of reasons: the checker's arm beside GRPO."""
    lines = []
    for regime in COLUMNS:
        settings, arm = KNOWN_REGIMES[regime], "adaptive-checker"
        n, prompts = settings.length, settings.prompts_per_step
        worth = predicted(arm, n)
        grpo, gradient = chain_moments(n, 0.5, ALGORITHMS["grpo"].plan, "grpo")
        own, _ = chain_moments(n, 0.5, THEORY[arm][0], "oracle")
        aligned = [m.alignment(gradient, prompts) for m in (grpo, own)]
        runs = fresh(regime)
        steps = {a: np.mean([r["curve"]["step"][-1] for r in runs[a].values()]) for a in runs}
        ledgers = [run["ledger"] for run in runs[arm].values()]
        resets = np.mean([4 * ledger["resets_accepted"] / ledger["episodes"] for ledger in ledgers])
        lines.append(
            f"| {regime} | {worth:.2f} | {aligned[0]:.2f} | {aligned[1]:.2f} | "
            f"{own.steps / grpo.steps:.2f} | {resets:.0%} | {steps[arm]:.0f} | "
            f"{steps['grpo']:.0f} |"
        )
    return lines


def test_fresh_runs_are_those_of_the_settings() -> None:
    arms = ARMS | ADAPTIVE | BASELINES
    for regime in COLUMNS:
        for arm, runs in fresh(regime).items():
            assert len(runs) % 8 == 0 and min(runs) >= 8
            for seed, record in runs.items():
                config = run_config(
                    arms[arm], KNOWN_REGIMES[regime], "chain-base", LEARNING_RATE, seed
                )
                assert recorded(record["config"]) == config.plain()


def test_tables_of_adaptive_resets() -> None:
    page = PAGE.read_text().splitlines()
    for line in [*claim_lines(), *gain_lines(), *speed_lines(), *order_lines(), *reason_lines()]:
        assert line in page


def test_one_family_of_claims() -> None:
    """The page says that the verdicts stay if all ten claims are corrected together."""
    by_regime = {regime: fresh(regime) for regime in CLAIMS}
    apart = [f.verdict for arm in FAMILIES for f in findings(by_regime, [arm])]
    together = [f.verdict for f in findings(by_regime, FAMILIES)]
    changed = sum(a != b for a, b in zip(apart, together, strict=True))
    words = "no verdict changes" if not changed else f"{changed} of ten verdicts become ?"
    assert words in " ".join(PAGE.read_text().split())
