"""What `llm.compare` prints: success over the token budget, beside GRPO with the same seeds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm.common.statistics import interval
from llm.compare.arms import (
    ARMS,
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
    """Mean exact success over the token budget: the area under the curve, readings joined."""
    tokens, success = (np.array(record["curve"][name]) for name in ("tokens", "success"))
    grid = np.linspace(0, record["config"]["token_budget"], 401)
    return float(np.interp(grid, tokens, success).mean())


def tokens_to(record: dict[str, Any], target: float) -> float:
    """Tokens generated until success first reaches `target`; infinite if it never does."""
    tokens, success = (np.array(record["curve"][name]) for name in ("tokens", "success"))
    there = np.flatnonzero(success >= target)
    return float(tokens[there[0]]) if len(there) else float("inf")


Records = dict[str, dict[int, Record]]


#: Settings that all runs of a regime share.
SHARED = ("model", "task_args", "token_budget", "prompts_per_step")


def read_records(folder: Path, regime: str, arms: Iterable[str] = (*ARMS, *RETIRED)) -> Records:
    """Records of arms in a regime, in the order of the arms: arm → seed → record.

    Parameters
    ----------
    folder : Path
        Holds the folder, or the packed file, of the regime.
    regime : str
    arms : iterable of str

    Raises
    ------
    ValueError
        If a record is damaged, or its settings are not those of the others; names it.
    """
    found: Records = {}
    shared = None
    records = read_records_of(folder / regime)
    for arm in arms:
        for name, record in records.items():
            seed = name.removeprefix(f"{arm}-s")
            if name == f"{arm}-s{seed}" and seed.isdecimal():
                own = {key: record["config"][key] for key in SHARED}
                shared = own if shared is None else shared
                odd = [key for key in SHARED if own[key] != shared[key]]
                if odd:
                    raise ValueError(
                        f"output: {folder / regime / name}.json was made with another {odd[0]} "
                        "than the runs beside it; remove one or the other, or name another --output"
                    )
                found.setdefault(arm, {})[int(seed)] = record
    return found


def summary(folder: Path, regime: str) -> Table:
    """A regime's arms, beside GRPO with the same seeds."""
    from rich.table import Table

    length, prediction = REGIMES[regime].length, REGIMES[regime].prediction
    records = read_records(folder, regime, RECORDED)
    table = Table(
        title=f"{regime}: {length} steps; theory, before the runs: {prediction}",
        title_justify="left",
    )
    for heading in ("arm", "theory", "seeds", "mean success", "minus GRPO, same seeds",
                    "at the end", "ended < 0.1", "tokens to ½", "steps",
                    "localized"):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "arm" else "right")
    for arm, own in records.items():
        areas = [area(record) for record in own.values()]
        low, high = interval(areas)
        gain = [
            area(own[s]) - area(records["grpo"][s]) for s in own if s in records.get("grpo", {})
        ]
        paired = "" if "grpo" in records else "no grpo here"
        if arm != "grpo" and gain:
            a, b = interval(gain)
            paired = f"{np.mean(gain):+.3f} [{a:+.3f}, {b:+.3f}]"
        worth = predicted(arm, length)
        ends = [record["curve"]["success"][-1] for record in own.values()]
        half = float(np.median([tokens_to(record, 0.5) for record in own.values()]))
        table.add_row(
            arm,
            "" if worth is None else f"{worth:.2f}",
            str(len(own)),
            f"{np.mean(areas):.3f} [{low:.3f}, {high:.3f}]",
            paired,
            f"{np.mean(ends):.3f}",
            f"{sum(end < 0.1 for end in ends) or ''}",
            "never" if np.isinf(half) else f"{half:,.0f}",
            f"{np.mean([r['curve']['step'][-1] for r in own.values()]):.0f}",
            localized(own.values()),
        )
    return table


def localized(records: Collection[dict[str, Any]]) -> str:
    """Share of resets at the first error as success first passes 0.2 and 0.6.

    A mean over the runs that come so far. Harder errors are left as success rises, so arms are
    compared at equal success, not at equal steps.
    """
    found: dict[float, list[float]] = {0.2: [], 0.6: []}
    for record in records:
        success, exact = np.array(record["curve"]["success"]), record["curve"]["localize/exact"]
        for passed, shares in found.items():
            if len(there := np.flatnonzero(success >= passed)):
                near = [x for x in exact[max(there[0] - 1, 0) : there[0] + 2] if x is not None]
                shares += [float(np.mean(near))] if near else []
    if not any(x is not None for r in records for x in r["curve"]["localize/exact"]):
        return ""
    if not found[0.2]:
        return "–"
    return " → ".join(f"{np.mean(shares):.0%}" if shares else "–" for shares in found.values())


def tuning_table(folder: Path, regimes: Sequence[str]) -> Table:
    """Mean success of each learning rate, and the success of the run that ends lowest.

    The rate of all is the largest at which every run ends above ½. Not the one with the best mean:
    a run in a dozen that loses all hardly lowers that, and would then decide between arms.
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
            end = min(record["curve"]["success"][-1] for record in records)
            lowest[i] = min(lowest[i], end)
            cells.append(f"{np.mean([area(r) for r in records]):.3f}, {end:.2f}")
        table.add_row(regime, *cells)
    safe = np.flatnonzero(lowest > 0.5).tolist()
    table.add_section()
    verdict = "take" if set(regimes) == set(REGIMES) else "of these"
    table.add_row(verdict, *("←" if [i] == safe[-1:] else "" for i in range(len(lowest))))
    return table
