"""T2: gain and cost of a localizer by precision and recall, and measured localizers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cpi.bounds.theorem1 import GRID_COVERAGE, localizer_grid
from paper_figures.framework.figure import (
    Claim,
    Data,
    Figure,
    Verdict,
    interval_text,
    limit,
)
from paper_figures.framework.inputs import made_by
from paper_figures.framework.rounding import rounded
from paper_figures.framework.style import DOUBLE, blank, marks

if TYPE_CHECKING:
    import matplotlib.figure

SETTINGS: Mapping[str, Any] = {"seed": 2, "repeats": 450, "bootstrap": 400}

#: The record of L5, with the quality of a language model's localizers.
MEASURED = "l5_model.json"

#: A fitted exponent agrees with the formula if its interval is within this distance.
NEAR = 0.1

#: Limits of the axes.
RECALL, PRECISION = (0.1, 1.0), (0.005, 1.0)

#: Fitted slope of the experiment → description, exponent of the formula.
SLOPES = {
    "accepted_by_precision": ("accepted resets, over q", -2),
    "drawn_by_precision_times_recall": ("all draws, over t q", -1),
    "gain_by_precision_times_recall": ("certified gain, over t q", 1),
}

#: Localizer of a language model → method whose colour it has, name in the legend.
LOCALIZERS = {
    "random": ("rrpo", "random"),
    "surprisal": ("one", "surprisal"),
    "prompted": ("srpo", "prompted"),
    "checker": ("oracle", "checker"),
}


def compute(settings: Mapping[str, Any], progress: Callable[[str], None]) -> Data:
    """The localizer grid of the Theorem 1 experiment, and the localizers of L5 if recorded."""
    progress("self resets over precision and recall")
    rng = np.random.default_rng(settings["seed"])
    grid, slopes = localizer_grid(rng, settings["repeats"], settings["bootstrap"])
    measured = []
    path: Path = settings["inputs"][MEASURED]
    if path.is_file():
        try:
            measured = json.loads(path.read_text(encoding="utf-8"))["data"]["localizers"]
        except (ValueError, LookupError, TypeError):
            raise ValueError(
                f"t2_localizer: {path} has no localizers; {made_by(MEASURED)} makes it anew"
            ) from None
    names = (
        "name",
        "step",
        "seeds",
        "precision",
        "recall",
        "precision_interval",
        "recall_interval",
    )
    return rounded(
        {
            "p": GRID_COVERAGE,
            "grid": grid,
            "slopes": {name: slope.to_json() for name, slope in slopes.items()},
            "measured": [{name: each[name] for name in names} for each in measured],
        }
    )


def draw(data: Data) -> matplotlib.figure.Figure:
    """Draw gain, accepted resets and all draws, each relative to the oracle."""
    from matplotlib.patheffects import withStroke

    # Rounded: the last bits of powers differ between processors.
    ticks = [rounded(np.geomspace(*ends, 60).tolist(), 12) for ends in (RECALL, PRECISION)]
    recall, precision = np.meshgrid(*map(np.array, ticks))
    gains = [10 ** (k / 2) for k in range(-6, 1)]
    costs = [10 ** (k / 2) for k in range(9)]
    # Title → values, levels, names in the grid, and the isoline: precision from value and recall.
    panels = {
        "certified gain": (recall * precision, gains, "gain", "predicted_gain", lambda v, t: v / t),
        "accepted resets needed": (
            *(1 / precision**2, costs, "resets", "resets"),
            lambda v, t: v**-0.5,
        ),
        "all resets drawn": (
            *(1 / (recall * precision), costs, "drawn", "drawn"),
            lambda v, t: 1 / (v * t),
        ),
    }
    halo = [withStroke(linewidth=1.8, foreground="white")]
    fig = blank(DOUBLE, 3.7)
    axes = fig.subplots(1, 3, sharey=True)
    oracle = next(row for row in data["grid"] if row["precision"] == 1 == row["recall"])
    for ax, (title, (values, levels, name, unit, isoline)) in zip(
        axes, panels.items(), strict=True
    ):
        # Light is good. One fixed shade per layer: a colour map would round the middle of a layer
        # to one of two shades, depending on the last bit of its logarithm.
        ends = (0.5, 1.0) if levels is gains else (1.0, 0.5)
        shades = [f"{shade:.3f}" for shade in np.linspace(*ends, len(levels) + 1)]
        image = ax.contourf(recall, precision, values, levels, colors=shades, extend="both")
        for level in levels:  # two points: contour points round to varying pixels
            ax.plot(RECALL, [isoline(level, t) for t in RECALL], color="0.4", lw=0.4)
        bar = fig.colorbar(image, ax=ax, location="bottom", fraction=0.06, aspect=25)
        bar.set_ticks(levels[::2], labels=[f"{level:g}" for level in levels[::2]])
        bar.ax.minorticks_off()
        for row in data["grid"]:
            ax.plot(row["recall"], row["precision"], "s", ms=2, color="black", clip_on=False)
            ax.annotate(
                f"{row[name] / oracle[unit]:.2g}", (row["recall"], row["precision"]), (-2.5, 0),
                textcoords="offset points", ha="right", va="center", fontsize=6, zorder=5,
                path_effects=halo,
            )  # fmt: skip
        for localizer, (method, _) in LOCALIZERS.items():
            rows = [each for each in data["measured"] if each["name"] == localizer]
            x, y = ([each[name] for each in rows] for name in ("recall", "precision"))
            shown = marks(method) | {"ls": "-"}
            for each in rows:
                style = {"color": shown["color"], "lw": 0.6, "alpha": 0.8}
                ax.plot(each["recall_interval"], [each["precision"]] * 2, **style)
                ax.plot([each["recall"]] * 2, each["precision_interval"], **style)
            ax.plot(x, y, lw=1.2, ms=4.5, mec="white", mew=0.5, zorder=3, **shown)
        ax.set_title(f"{title},\nover the oracle's")
        ax.set(xscale="log", yscale="log", xlabel="recall t")
        ax.set(xlim=(RECALL[0], 1.1), ylim=(PRECISION[0], 1.25))  # room for marks at 1
        ax.set_xticks([0.1, 0.25, 0.5, 1], ["0.1", "0.25", "0.5", "1"])
        ax.minorticks_off()
    axes[0].set_yticks([0.01, 0.1, 0.2, 0.4, 0.7, 1], ["0.01", "0.1", "0.2", "0.4", "0.7", "1"])
    axes[0].set_ylabel("precision q")
    entries = [
        axes[0].plot([], [], **(marks(method) | {"ls": "-", "ms": 4.5, "lw": 0.8}), label=label)[0]
        for method, label in LOCALIZERS.values()
    ]
    if data["measured"]:
        square = axes[0].plot([], [], "s", ms=2, color="black", label="simulated, with its ratio")
        fig.legend(
            handles=[*entries, *square], loc="outside upper center", ncols=5,
            title="coloured: localizers of a small language model, through training",
        )  # fmt: skip
    return fig


def claims(data: Data) -> Sequence[Claim]:
    """The localizer formula, and the measured localizers."""
    fits = {name: data["slopes"][name] for name in SLOPES}
    agree = all(
        fit["low"] - NEAR <= SLOPES[name][1] <= fit["high"] + NEAR for name, fit in fits.items()
    )
    words = "; ".join(
        f"{SLOPES[name][0]}: {interval_text(fit['value'], (fit['low'], fit['high']), '+.2f')}, "
        f"formula {SLOPES[name][1]:+d}".replace("-", "−")
        for name, fit in fits.items()
    )
    valid = all(row["true_gain"] >= row["gain"] for row in data["grid"])
    formula = [
        Claim(
            "One formula covers random, self and oracle resets: with precision q and recall t, "
            "gain ≥ p t q τ²/(2 H r_max), accepted resets needed ∝ 1/q², all draws ∝ 1/(p t q).",
            f"Self resets with {len(data['grid'])} pairs of precision and recall were simulated on "
            f"the needle at p = {data['p']:g}; an exponent agrees if its 95 % interval comes "
            f"within {NEAR} of the formula's.",
            f"Fitted exponents: {words}. The true gain was {'never' if valid else 'NOT never'} "
            "below the certificate.",
            "holds" if agree and valid else "does not hold here",
            of="ours",
        )
    ]
    return [*formula, *_measured_claim(data["measured"])]


def _measured_claim(measured: Sequence[Mapping[str, Any]]) -> Sequence[Claim]:
    """The claim on self-localization against random resets, if measured."""
    by_name_and_step = {(each["name"], each["step"]): each for each in measured}
    steps = sorted({each["step"] for each in measured})
    pairs = [
        (by_name_and_step["prompted", step], by_name_and_step["random", step]) for step in steps
    ]
    if not pairs:
        return []
    sharper = all(own["precision"] > random["precision"] for own, random in pairs)
    covers_less = all(own["recall"] < random["recall"] for own, random in pairs)
    overlapping = [
        str(own["step"])
        for own, random in pairs
        if own["precision_interval"][0] <= random["precision_interval"][1]
        or own["recall_interval"][1] >= random["recall_interval"][0]
    ]
    words = "; ".join(
        f"at step {own['step']} q = {own['precision']:.2g} against {random['precision']:.2g} and "
        f"t = {own['recall']:.2g} against {random['recall']:.2g}, so "
        f"{(own['precision'] / random['precision']) ** 2:.1f} times fewer accepted resets, and "
        f"{own['precision'] * own['recall'] / random['precision'] / random['recall']:.2f} times "
        "the certified gain"
        for own, random in pairs
    )
    return [
        Claim(
            "A model's own localization is more precise than a random step, and covers less.",
            "Precision and recall of the prompted localizer of a small language model, asked about "
            "its failed rollouts on chain reasoning, beside those of random steps in them; "
            f"improvable states as the exact oracle has them, means of {pairs[0][0]['seeds']} "
            "seeds.",
            f"{words[0].upper()}{words[1:]}.",
            verdict := _verdict(sharper and covers_less, not overlapping),
            of="ours",
            caveat=limit(verdict, f"the intervals overlap at step {' and '.join(overlapping)}"),
        )
    ]


def _verdict(confirmed: bool, certain: bool) -> Verdict:
    if not confirmed:
        return "does not hold here"
    return "holds" if certain else "holds with a caveat"


FIGURE = Figure(
    name="t2_localizer",
    title="What a localizer's precision and recall buy",
    caption=(
        "Surfaces: the formulas t q, 1/q² and 1/(t q), relative to an oracle (t = q = 1); light is "
        "good. Random resets are the point t = 1, q = p. Squares: self resets simulated on the "
        "needle at p = {p:g}, with the measured ratio beside each. Coloured: localizers of a small "
        "language model on chain reasoning, judged against the states improvable by more than τ "
        "(L5), means over seeds with 95 % bootstrap-t intervals (crosses), at several stages of "
        "training joined by lines; what they miss because only failed rollouts are asked about "
        "counts against their recall."
    ),
    settings=SETTINGS,
    compute=compute,
    draw=draw,
    claims=claims,
    cheap=True,
    inputs=(MEASURED,),
)
