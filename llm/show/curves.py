"""Learning curves of training runs over generated tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Panel title → metric → label.
PANELS: dict[str, dict[str, str]] = {
    "held-out problems": {"eval/pass@1": "pass@1"},
    "success of rollouts": {"fresh/reward": "fresh", "reset/reward": "from resets"},
    "resets at the first error": {"localize/exact": "exactly", "localize/within_1": "within 1"},
}

Rows = Sequence[Mapping[str, Any]]


def tokens(row: Mapping[str, Any]) -> float:
    """Tokens generated up to a step, localizations included."""
    return float(row.get("ledger/steps", 0) + row.get("ledger/localizer_cost", 0))


def panels_of(runs: Mapping[str, Rows]) -> dict[str, dict[str, str]]:
    """The panels of which some run has a metric."""
    recorded = {name for rows in runs.values() for row in rows for name in row}
    return {title: metrics for title, metrics in PANELS.items() if recorded & metrics.keys()}


def draw_curves(
    axes: Sequence[Any], runs: Mapping[str, Rows], styles: Sequence[tuple[Any, Any]]
) -> None:
    """Draw the panels of `panels_of(runs)`, one line per run and metric.

    Parameters
    ----------
    axes : sequence of matplotlib Axes
        One a panel.
    runs : mapping of name to metrics
    styles : sequence of (colour, dashes)
    """
    for ax, (title, metrics) in zip(axes, panels_of(runs).items(), strict=False):
        lines = 0
        for run, rows in runs.items():
            for name, label in metrics.items():
                points = [(tokens(row) / 1e3, row[name]) for row in rows if name in row]
                if not points:
                    continue
                colour, dash = styles[lines % len(styles)]
                lines += 1
                text = label if len(runs) == 1 else f"{run}: {label}"
                ax.plot(*zip(*points, strict=True), color=colour, ls=dash, label=text)
        ax.set(xlabel="generated tokens, thousands", ylim=(-0.02, 1.02))
        ax.set_title(title, pad=22)  # above the legend
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=2, frameon=False)
    axes[0].set_ylabel("share")
