"""T5: exact signal-to-noise ratios of each method's gradient estimate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import envs
from cpi.core.plans import ALGORITHMS
from cpi.core.resets import RandomReset
from cpi.signal import ARMS, signal_map
from cpi.tabular.gradient import exact_moments, policy_gradient
from paper_figures.framework.figure import (
    Claim,
    Data,
    Figure,
    Verdict,
    limit,
)
from paper_figures.framework.style import DOUBLE, blank

if TYPE_CHECKING:
    import matplotlib.figure

SETTINGS: Mapping[str, Any] = {
    "lengths": [2, 3, 4, 6, 8, 10],
    "success": [0.9, 0.7, 0.5, 0.4, 0.3],
}

#: Colours of the cells, light enough for black numbers. GREYS: least to most. WORTHS: below 1, 1,
#: above 1.
GREYS, WORTHS = ("0.55", "1"), ("#5B9BD5", "#FFFFFF", "#E69F00")


def compute(settings: Mapping[str, Any], progress: Callable[[str], None]) -> Data:
    """The map of `cpi.signal`, and the signal-to-noise ratio of GRPO."""
    progress("exact moments of each method")
    rows = signal_map(settings["lengths"], settings["success"])
    progress("exact moments of GRPO")
    for row in rows:
        mdp = envs.first_error_chain(row["length"])
        policy = np.tile([row["q"], 1 - row["q"]], (mdp.num_states, 1))
        moments = exact_moments(mdp, policy, ALGORITHMS["grpo"].plan, RandomReset())
        row["grpo"] = moments.snr(policy_gradient(mdp, policy))
    return {"rows": rows, "arms": list(ARMS), "summary": {arm: _summary(rows, arm) for arm in ARMS}}


def _summary(rows: Sequence[Mapping[str, Any]], arm: str) -> dict[str, Any]:
    """Cells in which an arm is ahead of GRPO at equal cost, for each of the two costs."""
    by_cost = {}
    for cost, name in enumerate(("rollouts", "steps")):
        ahead = [row["success"] for row in rows if row[arm][cost] > 1]
        worths = [row[arm][cost] for row in rows]
        by_cost[name] = {
            "ahead": len(ahead),
            "up_to_success": max(ahead, default=0.0),
            "best": max(worths),
            "worst": min(worths),
        }
    return by_cost


def draw(data: Data) -> matplotlib.figure.Figure:
    """One column per method, one row per cost; cells above 1 are framed."""
    from matplotlib.colors import LogNorm

    rows, arms = data["rows"], data["arms"]
    lengths = sorted({row["length"] for row in rows})
    chances = sorted({row["q"] for row in rows}, reverse=True)
    cells = {(row["length"], row["q"]): row for row in rows}
    fig = blank(DOUBLE, 3.9)
    axes = fig.subplots(2, 1 + len(arms), sharex=True, sharey=True)

    def grid_of(name: str) -> np.ndarray:
        return np.array([[cells[n, q][name] for q in chances] for n in lengths])

    worths = [grid_of(arm)[..., cost] for cost in (0, 1) for arm in arms]
    scale = LogNorm(0.4, 2.5)
    _map(axes[0, 0], grid_of("grpo"), LogNorm(0.002, 8), None, GREYS)
    axes[0, 0].set_title("GRPO, 8 rollouts:\nsignal-to-noise")
    for number, values in enumerate(worths):
        cost, column = divmod(number, len(arms))
        ax = axes[cost, 1 + column]
        image = _map(ax, values, scale, 1.0, WORTHS)
        method = arms[column].replace("rrpo", "RRPO").replace("srpo", "SRPO")
        ax.set_title(f"{method}\nequal {('rollouts', 'steps')[cost]}")
    axes[1, 0].set_axis_off()
    bar = fig.colorbar(image, ax=axes[1, 0], fraction=0.3, aspect=8, location="left")
    bar.set_ticks(
        [0.4, 0.5, 0.7, 1, 1.4, 2, 2.5], labels=["0.4", "½", "0.7", "1", "1.4", "2", "2.5"]
    )
    bar.set_label("worth in\nbatches of GRPO")
    bar.ax.minorticks_off()
    for ax in (axes[0, 0], *axes[1, 1:]):
        ax.set_xlabel("q (a step is right)")
        ax.tick_params(labelbottom=True)
    for ax in (axes[0, 0], axes[1, 1]):
        ax.set_ylabel("steps n")
        ax.tick_params(labelleft=True)
    axes[0, 0].set_xticks(range(len(chances)), [f"{q:.1f}" for q in chances])
    axes[0, 0].set_yticks(range(len(lengths)), [str(n) for n in lengths])
    return fig


def _map(
    ax: Any, values: np.ndarray, scale: Any, above: float | None, colours: Sequence[str]
) -> Any:
    """Draw coloured cells with their numbers; frame those greater than `above`."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    shades = LinearSegmentedColormap.from_list("shades", colours)
    image = ax.imshow(values, cmap=shades, norm=scale, origin="lower", aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        text = f"{value:.3f}".lstrip("0") if value < 0.1 else f"{value:.2f}".lstrip("0")
        text = f"{value:.1f}" if value >= 9.95 else text
        ax.text(j, i, text, ha="center", va="center", fontsize=5.5)
        if above is not None and value > above:
            ax.add_patch(
                Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, lw=0.9, ec="black")
            )
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return image


def claims(data: Data) -> Sequence[Claim]:
    """Signal of localized, random and oracle resets, against GRPO."""
    rows, total = data["rows"], len(data["rows"])
    summary = data["summary"]
    localized = "srpo 0.8/0.1"
    good, random, oracle = (summary[arm]["steps"] for arm in (localized, "rrpo", "oracle"))
    better = sum(row[localized][1] > row["rrpo"][1] for row in rows)
    oracle_better = sum(row["oracle"][1] > row["rrpo"][1] for row in rows)
    return [
        Claim(
            "Resets enable more precise credit assignment than one reward for all of a "
            "trajectory: they sharpen the learning signal.",
            "Signal-to-noise ratios of the gradient estimates were computed exactly on "
            f"{total} first-error chains, beside GRPO with as many generated steps.",
            f"With localizer 0.8/0.1 (weight on the first error / elsewhere) resets are worth more "
            f"than GRPO on {good['ahead']} of {total} chains, ×{good['best']:.2f} at best and "
            f"×{good['worst']:.2f} at worst; with the oracle on {oracle['ahead']}, "
            f"×{oracle['best']:.2f} at best.",
            verdict := _share(good["ahead"], total),
            caveat=limit(
                verdict,
                f"on no chain with a success above {good['up_to_success']:.2g}: there fresh "
                "rollouts say more",
            ),
        ),
        Claim(
            "Random resets already improve on GRPO: here, they sharpen the signal.",
            "The same map: RRPO beside GRPO with as many generated steps.",
            f"It is ahead on {random['ahead']} of {total} chains, ×{random['best']:.2f} at best "
            f"and ×{random['worst']:.2f} at worst.",
            verdict := _share(random["ahead"], total),
            caveat=limit(
                verdict, f"on no chain with a success above {random['up_to_success']:.2g}"
            ),
        ),
        Claim(
            "Self-localized resets beat random resets: here, they sharpen the signal more.",
            "The same map: a first-error localizer of quality 0.8/0.1 beside random resets.",
            f"It is ahead at equal steps on {better} of {total} chains.",
            verdict := _share(better, total),
            caveat=limit(
                verdict, f"on {total - better} chains random resets give the sharper signal"
            ),
        ),
        Claim(
            "That oracle resets say more than random ones does not mean that they say more than "
            "fresh rollouts.",
            "The first-error oracle beside random resets, and beside GRPO, at equal steps.",
            f"It is ahead of random resets on {oracle_better} of {total} chains, and of GRPO on "
            f"{oracle['ahead']}.",
            "holds" if oracle_better > oracle["ahead"] else "does not hold here",
            of="ours",
        ),
    ]


def _share(ahead: int, total: int) -> Verdict:
    """The verdict on a claim that holds on `ahead` of `total` problems."""
    if ahead == total:
        return "holds"
    return "holds with a caveat" if ahead else "does not hold here"


FIGURE = Figure(
    name="t5_signal",
    title="Where resets pay: exact signal and noise of the gradient",
    caption=(
        "First-error chains of n steps, each right with probability q, success only if all are. "
        "Top left: signal-to-noise ratio of GRPO's gradient estimate. Others: the worth of a "
        "batch, in batches of GRPO (squared ratio of their signal-to-noise ratios), above at equal "
        "rollouts, below at equal generated steps; framed: more than one. Resets pay on long "
        "chains and many errors. SRPO t/f puts weight t on the first error and f on any other "
        "step. Exact, no sampling."
    ),
    settings=SETTINGS,
    compute=compute,
    draw=draw,
    claims=claims,
    cheap=True,
)
