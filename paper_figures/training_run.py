"""`python -m paper_figures.training_run RUN`: curves of training runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm.show.curves import draw_curves, panels_of
from paper_figures.framework.style import (
    COLOURS,
    DASHES,
    figure,
    save,
)


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


def draw(runs: Sequence[Path], out: Path) -> None:
    """Draw the learning curves, one line per run and metric."""
    rows = {run.name: read_metrics(run) for run in runs}
    shown = max(1, len(panels_of(rows)))
    styles = list(zip(COLOURS.values(), DASHES.values(), strict=True))
    with figure(2.4 * shown, 2.3) as fig:
        axes = fig.subplots(1, shown, squeeze=False)[0]
        draw_curves(axes, rows, styles)
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
