"""T2: what a localizer of some precision and recall buys, and where measured ones lie."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cpi.bounds.theorem1 import GRID_COVERAGE, localizer_grid
from paper_figures.figure import Claim, Data, Figure, told
from paper_figures.style import DOUBLE, blank, marks
from paper_figures.words import rounded

if TYPE_CHECKING:
    import matplotlib.figure

SETTINGS: Mapping[str, Any] = {"seed": 2, "repeats": 450, "bootstrap": 400}

#: Where L5 records the quality of a language model's localizers.
MEASURED = Path(__file__).parent / "results" / "l5_model.json"

#: A fitted exponent agrees with the formula if its interval comes this near.
NEAR = 0.1

#: Fitted slope of the experiment → what it is of, and the formula's exponent.
SLOPES = {
    "accepted_by_precision": ("accepted resets, over q", -2),
    "drawn_by_precision_times_recall": ("all draws, over t q", -1),
    "gain_by_precision_times_recall": ("certified gain, over t q", 1),
}

#: Localizer of a language model → whose colour it has, and its name in the figure.
LOCALIZERS = {
    "random": ("rrpo", "random"),
    "surprisal": ("one", "surprisal"),
    "prompted": ("srpo", "prompted"),
    "checker": ("oracle", "checker"),
}


def compute(settings: Mapping[str, Any], progress: Callable[[str], None]) -> Data:
    """The localizer grid of the Theorem 1 experiment; measured localizers where there are any."""
    progress("self resets over precision and recall")
    rng = np.random.default_rng(settings["seed"])
    grid, slopes = localizer_grid(rng, settings["repeats"], settings["bootstrap"])
    measured = []
    if MEASURED.is_file():
        measured = json.loads(MEASURED.read_text(encoding="utf-8"))["data"]["localizers"]
    names = ("name", "step", "precision", "recall", "coverage", "seeds")
    return rounded(  # type: ignore[no-any-return]
        {
            "p": GRID_COVERAGE,
            "grid": grid,
            "slopes": {name: slope.to_json() for name, slope in slopes.items()},
            "measured": [{name: each[name] for name in names} for each in measured],
        }
    )


def draw(data: Data) -> matplotlib.figure.Figure:
    """Gain, accepted resets and draws, each relative to the oracle's."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    at = np.linspace(0.005, 1, 200)
    recall, precision = np.meshgrid(at, at)
    gains, costs = [0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0], [1, 1.5, 2.5, 5, 10, 20, 50]
    panels = {
        "certified gain": (recall * precision, gains, "gain", "predicted_gain"),
        "accepted resets needed": (1 / precision**2, costs, "resets", "resets"),
        "all resets drawn": (1 / (recall * precision), costs, "drawn", "drawn"),
    }
    made = blank(DOUBLE, 3.7)
    axes = made.subplots(1, 3, sharey=True)
    oracle = next(row for row in data["grid"] if row["precision"] == 1 == row["recall"])
    for ax, (title, (values, levels, name, unit)) in zip(axes, panels.items(), strict=True):
        ends = ("0.55", "1") if levels is gains else ("1", "0.55")  # light is good
        image = ax.contourf(
            recall, precision, values, levels, norm=LogNorm(levels[0], levels[-1]), extend="both",
            cmap=LinearSegmentedColormap.from_list("greys", ends),
        )  # fmt: skip
        ax.contour(recall, precision, values, levels, colors="0.4", linewidths=0.4)
        bar = made.colorbar(image, ax=ax, location="bottom", fraction=0.06, aspect=25)
        bar.set_ticks(levels, labels=[f"{level:g}" for level in levels])
        bar.ax.minorticks_off()
        for row in data["grid"]:
            ax.plot(row["recall"], row["precision"], "s", ms=2, color="black", clip_on=False)
            ax.annotate(
                f"{row[name] / oracle[unit]:.2g}", (row["recall"], row["precision"]), (-2, -1),
                textcoords="offset points", ha="right", va="top", fontsize=6,
            )  # fmt: skip
        for localizer, (method, _) in LOCALIZERS.items():
            own = [each for each in data["measured"] if each["name"] == localizer]
            ax.plot(
                [each["recall"] for each in own], [each["precision"] for each in own],
                lw=0.8, ms=4.5, mec="white", mew=0.5, zorder=3, **(marks(method) | {"ls": "-"}),
            )  # fmt: skip
        ax.set_title(f"{title},\nover the oracle's")
        ax.set(xlabel="recall t", xlim=(0, 1), ylim=(0, 1))
    axes[0].set_ylabel("precision q")
    entries = [
        axes[0].plot([], [], **(marks(method) | {"ls": "-", "ms": 4.5, "lw": 0.8}), label=label)[0]
        for method, label in LOCALIZERS.values()
    ]
    if data["measured"]:
        made.legend(
            handles=entries, loc="outside upper center", ncols=4,
            title="localizers of a small language model, through training",
        )  # fmt: skip
    return made


def claims(data: Data) -> Sequence[Claim]:
    """The localizer formula."""
    fits = {name: data["slopes"][name] for name in SLOPES}
    right = all(
        fit["low"] - NEAR <= SLOPES[name][1] <= fit["high"] + NEAR for name, fit in fits.items()
    )
    words = "; ".join(
        f"{SLOPES[name][0]}: exponent {told(fit['value'], (fit['low'], fit['high']), '+.2f')}, "
        f"formula {SLOPES[name][1]:+d}".replace("-", "−")
        for name, fit in fits.items()
    )
    sure = all(row["true_gain"] >= row["gain"] for row in data["grid"])
    return [
        Claim(
            "One formula covers random, self and oracle resets: with precision q and recall t, "
            "gain ≥ p t q τ²/(2 H r_max), accepted resets needed ∝ 1/q², all draws ∝ 1/(p t q).",
            f"Self resets with {len(data['grid'])} pairs of precision and recall were simulated on "
            f"the needle at p = {data['p']:g}.",
            f"{words}; the true gain was {'never' if sure else 'NOT never'} below the certificate.",
            "holds" if right and sure else "does not hold",
            of="ours",
        ),
    ]


FIGURE = Figure(
    name="t2_localizer",
    title="What a localizer's precision and recall buy",
    caption=(
        "Surfaces: the formulas t q, 1/q² and 1/(t q), relative to an oracle (t = q = 1); light is "
        "good. Random resets are the point t = 1, q = p. Squares: self resets simulated on the "
        "needle at p = {p:g}, with the measured ratio beside each. Coloured: localizers of a small "
        "language model on chain reasoning, judged against the states improvable by more than τ "
        "(L5), means over seeds, at several stages of training joined by lines; what they miss "
        "because only failed rollouts are asked about counts against their recall."
    ),
    settings=SETTINGS,
    compute=compute,
    draw=draw,
    claims=claims,
    cheap=True,
)
