"""`python -m paper_figures.compare`: the runs of `llm.compare`, by regime.

Upper panels: exact success on held-out problems over generated tokens and over steps, for some
arms. Thick lines are means over seeds, thin lines single seeds. Lower panels, all arms: success
averaged over the token budget, minus that of GRPO with the same seed. Dots are seeds; the mean has
a 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm.compare.arms import ARMS, REGIMES
from llm.compare.report import (
    Records,
    area,
    interval,
    read_records,
)
from paper_figures import HOME
from paper_figures.framework.style import (
    COLOURS,
    DASHES,
    family,
    figure,
    save,
)

#: Arms with curves; the lower panels have all arms.
CURVES = ("grpo", "rrpo", "srpo-prompted", "oracle-first_error", "deepest-checker", "one-checker")


def mean_curve(
    records: Sequence[dict[str, Any]], axis: str, points: int = 200
) -> tuple[np.ndarray, np.ndarray]:
    """Mean success on a grid over "tokens" or "step", up to the end of the shortest run."""
    grid = np.linspace(0, min(r["curve"][axis][-1] for r in records), points)
    curves = [np.interp(grid, r["curve"][axis], r["curve"]["success"]) for r in records]
    return grid, np.mean(curves, axis=0)


def draw(records_by_regime: dict[str, Records], out: Path) -> None:
    """Write the figure; `records_by_regime` maps each regime to its records."""
    # Left out: remedies that preserve the localizer's skill. The axes do not show their full cost.
    arms = [arm for arm in ARMS if arm != "grpo" and arm.count("-") < 2]
    arms = [arm for arm in arms if any(arm in records for records in records_by_regime.values())]
    with figure(1.1 + 1.55 * len(records_by_regime), 3.6 + 0.15 * len(arms)) as fig:
        ratios = (1, 1, 0.085 * len(arms) + 0.3)
        axes = fig.subplots(
            3, len(records_by_regime), squeeze=False, height_ratios=ratios, sharey="row"
        )
        for column, (regime, records) in enumerate(records_by_regime.items()):
            _curves(axes[0, column], records, "tokens", 1e3)
            _curves(axes[1, column], records, "step", 1)
            _differences(axes[2, column], records, arms)
            n, prediction = REGIMES[regime].length, REGIMES[regime].prediction
            prompts = REGIMES[regime].prompts_per_step
            title = f"{regime}: {n} steps, {prompts} prompts\n"
            title += textwrap.fill(f"theory: {prediction}", 24)
            axes[0, column].set_title(title)
            axes[0, column].set_xlabel("1,000 tokens")
            axes[1, column].set_xlabel("training steps")
            axes[2, column].set_xlabel("mean success − GRPO's")
        for row in (0, 1):
            axes[row, 0].set_ylabel("success, held out")
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        save(fig, out)


def _curves(ax: Any, records: Records, axis: str, unit: float) -> None:
    for arm in CURVES:
        if arm not in records:
            continue
        runs, name = list(records[arm].values()), family(arm)
        style = {"color": COLOURS[name], "ls": DASHES[name]}
        for run in runs:
            x = np.array(run["curve"][axis]) / unit
            ax.plot(x, run["curve"]["success"], alpha=0.18, lw=0.4, color=style["color"])
        grid, mean = mean_curve(runs, axis)
        ax.plot(grid / unit, mean, label=arm, **style)
    ax.set_ylim(0, 1)


def _differences(ax: Any, records: Records, arms: Sequence[str]) -> None:
    base = records.get("grpo", {})
    for row, arm in enumerate(arms):
        gains = [area(r) - area(base[s]) for s, r in records.get(arm, {}).items() if s in base]
        if not gains:
            continue
        colour = COLOURS[family(arm)]
        low, high = interval(gains)
        ax.plot(gains, np.full(len(gains), row), ".", ms=2.5, alpha=0.5, color=colour)
        ax.plot([low, high], [row, row], lw=2.2, color=colour, solid_capstyle="butt")
        ax.plot(np.mean(gains), row, "o", ms=4, color=colour, mec="white", mew=0.5)
    ax.axvline(0, lw=0.6, color="black")
    ax.set_yticks(range(len(arms)), arms)
    ax.set_ylim(len(arms) - 0.5, -0.5)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m paper_figures.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=HOME / "results", metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("docs/img/comparison.png"))
    args = parser.parse_args(argv)
    try:
        records_by_regime = {name: read_records(args.results, name) for name in REGIMES}
    except ValueError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    records_by_regime = {name: records for name, records in records_by_regime.items() if records}
    if not records_by_regime:
        arms = ", ".join(list(ARMS)[:3])
        print(
            f"{parser.prog}: --results: {args.results} has no runs of {arms}, …; "
            "python -m llm.compare makes them, python -m paper_figures pack puts them there",
            file=sys.stderr,
        )
        return 2
    draw(records_by_regime, args.out)
    print(f"Written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
