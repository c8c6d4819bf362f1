"""Tables of `llm.compare`: success over the token budget, and its difference to GRPO."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm.common.statistics import interval
from llm.compare.arms import (
    ARMS,
    KNOWN_REGIMES,
    RECORDED,
    REGIMES,
    RETIRED,
    TUNING_RATES,
    predicted,
)
from llm.compare.records import Record, read_records_of

if TYPE_CHECKING:
    from rich.table import Table


def area(record: dict[str, Any]) -> float:
    """Mean exact success over the token budget: area under the interpolated learning curve."""
    tokens, success = (np.array(record["curve"][name]) for name in ("tokens", "success"))
    grid = np.linspace(0, record["config"]["token_budget"], 401)
    return float(np.interp(grid, tokens, success).mean())


def tokens_to(record: dict[str, Any], target: float) -> float:
    """Tokens generated until success first reaches `target`; infinite if it never does."""
    tokens, success = (np.array(record["curve"][name]) for name in ("tokens", "success"))
    reached = np.flatnonzero(success >= target)
    return float(tokens[reached[0]]) if len(reached) else float("inf")


Records = dict[str, dict[int, Record]]


#: Settings that must be the same in all runs of a regime.
SHARED = ("model", "task_args", "token_budget", "prompts_per_step")


def read_records(folder: Path, regime: str, arms: Iterable[str] = (*ARMS, *RETIRED)) -> Records:
    """Read the records of arms in a regime: arm → seed → record, in the order of the arms.

    Parameters
    ----------
    folder : Path
        Contains the folder or the packed file of the regime.
    regime : str
    arms : iterable of str

    Raises
    ------
    ValueError
        If a record is damaged, or its settings differ from the others'; names it.
    """
    by_arm: Records = {}
    shared = None
    records = read_records_of(folder / regime)
    for arm in arms:
        for name, record in records.items():
            seed = name.removeprefix(f"{arm}-s")
            if name == f"{arm}-s{seed}" and seed.isdecimal():
                settings = {key: record["config"][key] for key in SHARED}
                shared = settings if shared is None else shared
                different = [key for key in SHARED if settings[key] != shared[key]]
                if different:
                    raise ValueError(
                        f"output: {folder / regime / name}.json was made with another "
                        f"{different[0]} than the runs beside it; remove one or the other, or "
                        "name another --output"
                    )
                by_arm.setdefault(arm, {})[int(seed)] = record
    return by_arm


def summary(folder: Path, regime: str) -> Table:
    """Table of the arms of a regime, compared with GRPO on the same seeds."""
    from rich.table import Table

    length, prediction = KNOWN_REGIMES[regime].length, KNOWN_REGIMES[regime].prediction
    records = read_records(folder, regime, RECORDED)
    table = Table(
        title=f"{regime}: {length} steps; theory, before the runs: {prediction}",
        title_justify="left",
    )
    for heading in ("arm", "theory", "seeds", "mean success", "minus GRPO, same seeds",
                    "at the end", "ended < 0.1", "tokens to ½", "steps",
                    "localized"):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "arm" else "right")
    for arm, by_seed in records.items():
        areas = [area(record) for record in by_seed.values()]
        low, high = interval(areas)
        grpo = records.get("grpo", {})
        gain = [area(by_seed[seed]) - area(grpo[seed]) for seed in by_seed if seed in grpo]
        paired = "" if "grpo" in records else "no grpo here"
        if arm != "grpo" and gain:
            a, b = interval(gain)
            paired = f"{np.mean(gain):+.3f} [{a:+.3f}, {b:+.3f}]"
        worth = predicted(arm, length)
        ends = [record["curve"]["success"][-1] for record in by_seed.values()]
        half = float(np.median([tokens_to(record, 0.5) for record in by_seed.values()]))
        table.add_row(
            arm,
            "" if worth is None else f"{worth:.2f}",
            str(len(by_seed)),
            f"{np.mean(areas):.3f} [{low:.3f}, {high:.3f}]",
            paired,
            f"{np.mean(ends):.3f}",
            f"{sum(end < 0.1 for end in ends) or ''}",
            "never" if np.isinf(half) else f"{half:,.0f}",
            f"{np.mean([r['curve']['step'][-1] for r in by_seed.values()]):.0f}",
            localized(by_seed.values()),
        )
    return table


def localized(records: Collection[dict[str, Any]]) -> str:
    """Share of resets at the first error, when success first passes 0.2 and 0.6.

    It is the mean over the runs that get that far. As success rises, harder errors remain. So arms
    are compared at equal success and not at equal steps.
    """
    shares_at: dict[float, list[float]] = {0.2: [], 0.6: []}
    for record in records:
        success, exact = np.array(record["curve"]["success"]), record["curve"]["localize/exact"]
        for threshold, shares in shares_at.items():
            if len(above := np.flatnonzero(success >= threshold)):
                near = [x for x in exact[max(above[0] - 1, 0) : above[0] + 2] if x is not None]
                shares += [float(np.mean(near))] if near else []
    if not any(x is not None for r in records for x in r["curve"]["localize/exact"]):
        return ""
    if not shares_at[0.2]:
        return "–"
    return " → ".join(f"{np.mean(shares):.0%}" if shares else "–" for shares in shares_at.values())


def tuning_table(folder: Path, regimes: Sequence[str]) -> Table:
    """Table of learning rates: mean success, and the lowest success at the end of a run.

    The chosen rate is the largest at which every run ends above ½, not the one with the best mean.
    One failed run in a dozen hardly lowers the mean, but would later decide between arms.
    """
    from rich.table import Table

    tuned = read_records_of(folder / "tuning")
    table = Table("regime", *(f"{rate:g}" for rate in TUNING_RATES))
    lowest = np.ones(len(TUNING_RATES))
    for regime in regimes:
        cells = []
        for i, rate in enumerate(TUNING_RATES):
            place = f"{regime}-{rate:g}/"
            records = [record for name, record in tuned.items() if name.startswith(place)]
            lowest_end = min(record["curve"]["success"][-1] for record in records)
            lowest[i] = min(lowest[i], lowest_end)
            cells.append(f"{np.mean([area(r) for r in records]):.3f}, {lowest_end:.2f}")
        table.add_row(regime, *cells)
    safe = np.flatnonzero(lowest > 0.5).tolist()
    table.add_section()
    label = "take" if set(regimes) == set(REGIMES) else "of these"
    table.add_row(label, *("←" if [i] == safe[-1:] else "" for i in range(len(lowest))))
    return table
