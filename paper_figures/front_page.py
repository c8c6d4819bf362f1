"""`python -m paper_figures.front_page`: the two pictures of README.md, from committed records."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from llm.compare.report import read_records
from paper_figures import HOME
from paper_figures.framework.figure import read
from paper_figures.framework.rollout_tree import draw_tree
from paper_figures.framework.style import figure, save
from paper_figures.l1_curves import SETTINGS, band, draw_curves
from paper_figures.l3_signal import FIGURE as SIGNAL

RESULTS = HOME / "results"

#: Records of the curves, and the seeds that all of these arms have. For each arm the method whose
#: style it has, and its name in the legend.
CURVES, SEEDS = "long-fresh", range(16, 24)
ARMS = {
    "equal-checker": ("oracle", "adaptive, step checker"),
    "equal-prompted": ("srpo", "adaptive, the model's own verdicts"),
    "grpo": ("grpo", "GRPO"),
    "equal-first": ("random", "control: the same groups, drawn afresh"),
}


def draw(out: Path) -> list[Path]:
    """Draw a reset group, and the curves of the long problems; returns the files."""
    tree, curves = out / "tree.png", out / "curves.png"
    with figure(4.6, 3.2) as fig:
        ax = fig.subplots()
        draw_tree(ax, read(RESULTS, SIGNAL).data["tree"])
        ax.set_title("", loc="left")
        save(fig, tree)
    found = read_records(RESULTS, CURVES, list(ARMS))
    runs = {arm: {seed: own[seed] for seed in SEEDS} for arm, own in found.items()}
    bands = {style: band(runs, arm, "tokens", SETTINGS) for arm, (style, _) in ARMS.items()}
    with figure(4.2, 2.6) as fig:
        ax = fig.subplots()
        draw_curves(ax, bands, 1000, dict(ARMS.values()))
        ax.set(xlabel="1,000 tokens generated", ylabel="success, held out")
        ax.legend()
        save(fig, curves)
    return [tree, curves]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m paper_figures.front_page",
        description="Draw the two pictures of README.md from committed records.",
    )
    parser.add_argument("--out", type=Path, default=Path("docs/img"), metavar="DIR")
    for path in draw(parser.parse_args(argv).out):
        print(f"Written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
