"""`python -m paper_figures.training_run RUN`: curves of training runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paper_figures.framework.style import (
    COLOURS,
    DASHES,
    figure,
    save,
)

#: Panel title → metric → label.
PANELS: dict[str, dict[str, str]] = {
    "held-out problems": {"eval/pass@1": "pass@1"},
    "success of rollouts": {"fresh/reward": "fresh", "reset/reward": "from resets"},
    "resets at the first error": {"localize/exact": "exactly", "localize/within_1": "within 1"},
}


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Read the metrics of a run, one row per step.

    Raises
    ------
    ValueError
        If the file is missing or empty.
    """
    path = run / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{run}: no metrics.jsonl in it; RUN must be the folder of a training run")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    if not rows:
        raise ValueError(f"{path}: empty, so there is nothing to draw yet")
    return rows


def tokens(row: dict[str, Any]) -> float:
    """Tokens generated up to a step, localizations included."""
    return float(row.get("ledger/steps", 0) + row.get("ledger/localizer_cost", 0))


def draw(runs: Sequence[Path], out: Path) -> None:
    """Draw the panels of `PANELS` over generated tokens, one line per run and metric."""
    metrics_by_run = {run.name: read_metrics(run) for run in runs}
    shown = {
        title: metrics
        for title, metrics in PANELS.items()
        if any(name in row for rows in metrics_by_run.values() for row in rows for name in metrics)
    }
    styles = list(zip(COLOURS.values(), DASHES.values(), strict=True))
    with figure(2.4 * max(1, len(shown)), 2.3) as fig:
        axes = fig.subplots(1, max(1, len(shown)), squeeze=False)[0]
        for ax, (title, metrics) in zip(axes, shown.items(), strict=False):
            drawn_lines = 0
            for run, rows in metrics_by_run.items():
                for name, label in metrics.items():
                    points = [(tokens(row) / 1e3, row[name]) for row in rows if name in row]
                    if not points:
                        continue
                    colour, dash = styles[drawn_lines % len(styles)]
                    drawn_lines += 1
                    text = label if len(metrics_by_run) == 1 else f"{run}: {label}"
                    ax.plot(*zip(*points, strict=True), color=colour, ls=dash, label=text)
            ax.set(xlabel="generated tokens, thousands", ylim=(-0.02, 1.02))
            ax.set_title(title, pad=16)
            ax.legend(loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=2)
        axes[0].set_ylabel("share")
        save(fig, out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m paper_figures.training_run",
        description="Draw the curves of training runs: pass@1 on held-out problems, success of "
        "fresh and of reset rollouts, and the share of resets at the first error.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: RUN/training.png")
    args = parser.parse_args(argv)
    out = args.out or args.runs[0] / "training.png"
    try:
        draw(args.runs, out)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(f"Written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
