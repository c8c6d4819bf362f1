"""L1: learning curves of a language model over tokens and training steps.

Data: the runs of `llm.compare` with GRPO, RRPO, SRPO and a first-error oracle on chain reasoning.
Each method has eight seeds; all use equally many generated tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llm.compare.arms import REGIMES
from llm.compare.report import Records
from paper_figures.analyses.speed import ratio, resampled
from paper_figures.framework.figure import Claim, Data, Figure
from paper_figures.framework.recorded import (
    Runs,
    gain,
    provenance,
    read_runs,
)
from paper_figures.framework.style import DOUBLE, blank, marks
from paper_figures.framework.verdicts import (
    BOOTSTRAPPED,
    PAIRED,
    STUCK,
    ahead,
    estimate_text,
    stuck_words,
    tally,
)

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes

SETTINGS: Mapping[str, Any] = {
    "regimes": list(REGIMES),
    "arms": ["grpo", "rrpo", "srpo-prompted", "oracle-first_error", "one-checker"],
    "points": 25,
    "targets": [0.5, 0.8],
    "resamples": 2000,
    "gains": [
        ["rrpo", "grpo"],
        ["srpo-prompted", "grpo"],
        ["srpo-prompted", "rrpo"],
        ["oracle-first_error", "grpo"],
        ["one-checker", "grpo"],
    ],
}

#: Arm → name in the legend.
NAMES = {
    "grpo": "GRPO",
    "rrpo": "RRPO",
    "srpo-prompted": "SRPO",
    "oracle-first_error": "oracle (first error)",
    "one-checker": "oracle, 0+1×8",
}
AXES = {"tokens": (1000, "1,000 tokens generated"), "step": (1, "training steps")}


def compute(settings: Mapping[str, Any], progress: Callable[[str], None]) -> Data:
    """Curves with bands, and cost ratios to reach a success."""
    panels, used = [], []
    for regime in settings["regimes"]:
        progress(regime)
        records = read_runs(regime)
        used += [r for arm in settings["arms"] for r in records.get(arm, {}).values()]
        arms = [arm for arm in settings["arms"] if arm in records]
        panels.append(
            {
                "regime": regime,
                "length": REGIMES[regime].length,
                "prompts": REGIMES[regime].prompts_per_step,
                "curves": {
                    axis: {arm: band(records, arm, axis, settings) for arm in arms} for axis in AXES
                },
                "ends": {arm: ends(records[arm]) for arm in arms},
                "ratios": [
                    {"arm": arm, "axis": axis, "target": target}
                    | ratio(records, arm, axis, target, settings["resamples"])
                    for axis in AXES
                    for arm in arms[1:]
                    for target in settings["targets"]
                ],
                "gains": [
                    {"arm": arm, "over": base} | gain(records[arm], records[base])
                    for arm, base in settings["gains"]
                    if arm in records
                ],
            }
        )
    sizes = {"seeds": len(records["grpo"]), "problems": used[0]["config"]["task_args"]["test"]}
    return {"panels": panels, "made": provenance(used) | sizes}


def ends(runs: Runs) -> list[float]:
    """Final success of each run."""
    return [round(record["curve"]["success"][-1], 4) for _, record in sorted(runs.items())]


def band(
    records: Records, arm: str, axis: str, settings: Mapping[str, Any]
) -> dict[str, list[float]]:
    """Mean success of an arm up to its shortest run, with a pointwise interval."""
    curves = [record["curve"] for record in records[arm].values()]
    grid = np.linspace(0, min(curve[axis][-1] for curve in curves), settings["points"])
    values = np.array([np.interp(grid, curve[axis], curve["success"]) for curve in curves])
    samples = values[resampled(len(values), settings["resamples"])].mean(axis=1)
    low, high = np.quantile(samples, [0.025, 0.975], axis=0)
    columns = {"x": grid, "mean": values.mean(axis=0), "low": low, "high": high}
    return {name: np.round(column, 4).tolist() for name, column in columns.items()}


def draw(data: Data) -> matplotlib.figure.Figure:
    """One column per regime: curves over tokens and steps above, cost ratios below."""
    panels = data["panels"]
    fig = blank(DOUBLE, 6.9)
    axes = fig.subplots(4, len(panels), height_ratios=(1.25, 1.25, 0.85, 0.85), squeeze=False)
    for column, panel in zip(axes.T, panels, strict=True):
        prompts = (
            "" if panel["prompts"] == panels[0]["prompts"] else f", {panel['prompts']} prompts"
        )
        column[0].set_title(f"{panel['regime']}: {panel['length']} steps{prompts}")
        for (axis, (unit, label)), curves, ratios in zip(
            AXES.items(), column[:2], column[2:], strict=True
        ):
            draw_curves(curves, panel["curves"][axis], unit)
            curves.set_xlabel(label)
            draw_ends(curves, panel["curves"][axis], panel["ends"], unit)
            draw_ratios(ratios, [r for r in panel["ratios"] if r["axis"] == axis])
    for row in axes:
        for ax in row[1:]:
            ax.tick_params(labelleft=False)
    for ax in axes[:2, 0]:
        ax.set_ylabel("success, held out")
    for ax, axis in zip(axes[2:, 0], ("tokens", "steps"), strict=True):
        words = f"{axis} that GRPO takes / {axis} that the method takes, to success ½ (filled), 0.8"
        # Text above all columns: a title would widen the first; an empty title reserves the space.
        ax.set_title(" ")
        ax.text(0, 1.08, f"{words} (open)", transform=ax.transAxes).set_in_layout(False)
    axes[0, 2].plot([], [], ".", ms=3.5, mew=0, color="0.4", label="a run's last value")
    fig.legend(*axes[0, 2].get_legend_handles_labels(), loc="outside upper center", ncols=6)
    return fig


def draw_curves(
    ax: Axes, curves: Mapping[str, Any], unit: float, names: Mapping[str, str] = NAMES
) -> None:
    """Draw means and bands, in the style of each arm's method; `names` are for the legend."""
    for arm, curve in curves.items():
        x, style = np.array(curve["x"]) / unit, marks(arm)
        ax.fill_between(
            x, curve["low"], curve["high"], color=style["color"], alpha=0.13, linewidth=0
        )
        ax.plot(x, curve["mean"], label=names[arm], markevery=(len(x) // 8, len(x) // 4), ms=3,
                **style)  # fmt: skip
    ax.set_ylim(0, 1)


def draw_ends(
    ax: Axes, curves: Mapping[str, Any], ends: Mapping[str, Sequence[float]], unit: float
) -> None:
    """Draw a dot per run at its final success, and the number of stuck runs."""
    last = max(curve["x"][-1] for curve in curves.values()) / unit
    for place, (arm, final) in enumerate(ends.items(), start=1):
        x = np.full(len(final), last * (1.02 + 0.03 * place))
        ax.plot(x, final, ".", ms=3.5, mew=0, alpha=0.6, color=marks(arm)["color"], clip_on=False)
    stuck_runs = {NAMES[arm]: sum(end < STUCK for end in final) for arm, final in ends.items()}
    if any(stuck_runs.values()):
        listing = ", ".join(f"{n} {arm}" for arm, n in stuck_runs.items() if n)
        ax.text(0.83, 0.02, f"ended below {STUCK}:\n{listing}", size=6.5, ha="right",
                transform=ax.transAxes).set_in_layout(False)  # fmt: skip


def draw_ratios(ax: Axes, ratios: Sequence[Mapping[str, Any]]) -> None:
    """One row per method: filled markers for the first target, open ones for the second."""
    arms = list(NAMES)[1:]
    targets = sorted({r["target"] for r in ratios})
    left, right = 0.55, 1.8
    for r in ratios:
        style, second = marks(r["arm"]), targets.index(r["target"])
        y = arms.index(r["arm"]) + (0.2 if second else -0.2)
        low, high = (min(max(r[end] if r[end] is not None else right, left), right)
                     for end in ("low", "high"))  # fmt: skip
        ax.plot([low, high], [y, y], color=style["color"], lw=1, ls="-")
        value = right if r["value"] is None else r["value"]
        marker = style["marker"] if left < value < right else "<" if value <= left else ">"
        ax.plot(
            min(max(value, left), right), y, marker, ms=3.5, mew=0.8, color=style["color"],
            mfc="white" if second else style["color"], clip_on=False,
        )  # fmt: skip
    ax.axvline(1, lw=0.6, color="black")
    ax.set_xscale("log")
    ax.set_xlim(left, right)
    ax.set_xticks([0.6, 0.8, 1, 1.25, 1.6], ["0.6", "0.8", "1", "1.25", "1.6"])
    ax.minorticks_off()
    ax.set_yticks(range(len(arms)), [NAMES[arm] for arm in arms])
    ax.set_ylim(len(arms) - 0.5, -0.5)


#: Scope of all claims of this figure.
SCOPE = "on one small model, at one learning rate for all"


def claims(data: Data) -> Sequence[Claim]:
    """Speed in steps and in tokens, and differences over the budget."""
    results = []
    final_success = {
        panel["regime"]: {NAMES[arm]: final for arm, final in panel["ends"].items()}
        for panel in data["panels"]
    }
    for axis, word, source in (
        ("step", "training steps", "The paper has it of LiveCodeBench (L6). "),
        ("tokens", "generated tokens", ""),
    ):
        ratios = [
            {"regime": panel["regime"]} | r
            for panel in data["panels"]
            for r in panel["ratios"]
            if (r["arm"], r["axis"]) == ("srpo-prompted", axis)
        ]
        numbers = ", ".join(
            f"{r['regime']} to {r['target']:g}: {estimate_text(r, '.2f')}" for r in ratios
        )
        results.append(
            Claim(
                f"SRPO comes to the same success in fewer {word} than GRPO (chain reasoning).",
                f"{source}In each regime, GRPO's median {word} to held-out success ½ and 0.8 were "
                f"divided by SRPO's (8 seeds). {BOOTSTRAPPED}",
                f"SRPO is {tally(ratios, 1)}: {numbers}.",
                ahead(ratios, 1),
                of="paper" if source else "ours",
                caveat=f"{tally(ratios, 1)}, {SCOPE}",
            )
        )
    for arm, over, claim in (
        ("srpo-prompted", "grpo", "SRPO is ahead of GRPO (chain reasoning)."),
        ("srpo-prompted", "rrpo", "SRPO is ahead of RRPO (chain reasoning)."),
        ("rrpo", "grpo", "RRPO is ahead of GRPO (chain reasoning)."),
    ):
        gains = differences(data, arm, over)
        numbers = ", ".join(f"{g['regime']} {estimate_text(g)}" for g in gains)
        results.append(
            Claim(
                claim,
                "The paper has it of ten benchmarks (L6). Here, success over an equal budget of "
                f"generated tokens, the same seeds in both (8). {PAIRED}",
                f"It is {tally(gains)}: {numbers}. {stuck_words(final_success)}",
                ahead(gains),
                caveat=f"{tally(gains)}, {SCOPE}",
            )
        )
    rare = [
        g
        for arm in ("one-checker", "oracle-first_error")
        for g in differences(data, arm, "grpo")
        if g["regime"] == "long"
    ]
    results.append(
        Claim(
            "Resets at the first error beat fresh rollouts where success is rare, as the exact "
            "signal-to-noise has it.",
            "A checker in place of the model on the longest problems, where a collection is worth "
            f"most. {PAIRED}",
            "Mean success minus GRPO's: "
            + ", ".join(f"{NAMES[g['arm']]} {estimate_text(g)}" for g in rare)
            + ".",
            ahead(rare),
            of="ours",
            caveat=f"{tally(rare)}: the plan counts as much",
        )
    )
    return results


def differences(data: Data, arm: str, over: str) -> list[dict[str, Any]]:
    """Gains of an arm over another, one per regime."""
    return [
        {"regime": panel["regime"]} | g
        for panel in data["panels"]
        for g in panel["gains"]
        if (g["arm"], g["over"]) == (arm, over)
    ]


FIGURE = Figure(
    name="l1_curves",
    title="Who learns faster: steps and tokens",
    caption=(
        "Exact success on {made[problems]} held-out problems while a small model is trained on "
        "chain reasoning, over generated tokens (all of them: seeds, resets, localizations) and "
        "over training steps, of {panels[0][prompts]} problems each, {panels[3][prompts]} in "
        "*few*. Lines are means of {made[seeds]} seeds, bands the 95 % bootstrap interval of the "
        "mean by percentiles, which so few seeds make a little narrow; dots are where each run "
        "ended. Below, the median tokens "
        "and steps that GRPO takes to success ½ (filled) and 0.8 (open), over the method's, with "
        "95 % bootstrap intervals; a triangle at the edge is a method of which most runs never "
        "arrive. *Oracle* resets 4+1×4 rollouts to the first error by a checker, *0+1×8* draws all "
        "eight from one reset. Look for how little the methods differ on short and middle "
        "problems, for the last plan on long ones, and for runs of RRPO and GRPO that never take "
        "off in *few*. {made[runs]} runs of `python -m llm.compare`, of {made[dates]}, by commits "
        "{made[commits]}."
    ),
    settings=SETTINGS,
    compute=compute,
    draw=draw,
    claims=claims,
    cheap=True,
    inputs=tuple(f"{regime}.jsonl.gz" for regime in REGIMES),
)
