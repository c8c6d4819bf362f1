"""What README.md quotes of recorded runs is what the records say."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from llm.arms import ARMS, REGIMES
from llm.compare import CompareConfig
from llm.compare_report import Records, area, interval, localized, read_records, tokens_to

README = Path(__file__).parents[1] / "README.md"

#: What is tried to keep a prompted localizer's skill has a table of its own.
REMEDIES = ("srpo-prompted", *(arm for arm in ARMS if arm.count("-") == 2))


def gain(records: Records, arm: str) -> str:
    """Mean success over the budget minus GRPO's, with the same seeds."""
    if arm not in records:
        return ""
    gains = [area(records[arm][seed]) - area(records["grpo"][seed]) for seed in records[arm]]
    low, high = interval(gains)
    return f"{np.mean(gains):+.3f} [{low:+.3f}, {high:+.3f}]"


def comparison() -> list[str]:
    """The lines of the README's table."""
    found = {regime: read_records(Path(CompareConfig.output), regime) for regime in REGIMES}
    rows = [arm for arm in ARMS if arm != "grpo" and arm not in REMEDIES[1:]]
    lines = [
        f"| {arm} | {' | '.join(gain(records, arm) for records in found.values())} |"
        for arm in rows
    ]
    base = [np.mean([area(r) for r in records["grpo"].values()]) for records in found.values()]
    half = [
        np.median([tokens_to(r, 0.5) for r in records["grpo"].values()])
        for records in found.values()
    ]
    cells = (f"{b:.3f}, ½ after {h:,.0f} tokens" for b, h in zip(base, half, strict=True))
    return [f"| grpo | {' | '.join(cells)} |", *lines]


def remedies() -> list[str]:
    """The lines of the table of what might keep a localizer's skill."""
    found = [read_records(Path(CompareConfig.output), r) for r in ("short", "middle", "long")]
    cells = {
        arm: [f"{gain(records, arm).split(' ')[0]}, {localized(records[arm].values())}"
              for records in found] for arm in REMEDIES
    }  # fmt: skip
    return [f"| {arm} | {' | '.join(row)} |" for arm, row in cells.items()]


def test_all_runs_of_the_comparison_are_recorded() -> None:
    for regime in ("short", "middle", "long"):
        records = read_records(Path(CompareConfig.output), regime)
        assert {arm: sorted(own) for arm, own in records.items()} == {
            arm: list(range(8)) for arm in ARMS
        }


def test_what_is_said_of_few_prompts() -> None:
    records = read_records(Path(CompareConfig.output), "few")
    ends = {
        arm: np.array([run["curve"]["success"][-1] for run in own.values()])
        for arm, own in records.items()
    }
    assert (ends["grpo"] < 0.1).sum() == 1
    assert (ends["rrpo"] < 0.1).sum() == 5
    assert min(ends["srpo-prompted"].min(), ends["oracle-first_error"].min()) > 0.9
    kept = [seed for seed in records["grpo"] if ends["grpo"][seed] > 0.1]
    text = " ".join(README.read_text().split())
    for arm in ("oracle-first_error", "srpo-prompted"):
        gains = [area(records[arm][seed]) - area(records["grpo"][seed]) for seed in kept]
        low, high = interval(gains)
        assert f"by {np.mean(gains):.3f} [{low:.3f}, {high:.3f}]" in text


def test_the_tables_of_the_comparison() -> None:
    lines = README.read_text().splitlines()
    for line in comparison() + remedies():
        assert line in lines
