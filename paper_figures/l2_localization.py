"""L2: self-localized resets: position, distance from the first error, and success afterwards.

Failed solutions of chain reasoning, those with a wrong answer, are reset in two ways: before the
step that the model names as its error, and before a random step. Four continuations follow each
reset. The models are the base model and, for eight seeds, the model after some steps of SRPO.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from paper_figures.analyses.chain_runs import RUN, chain_run
from paper_figures.analyses.reset_outcomes import (
    FAR,
    RULES,
    load_policies,
    measure_resets,
    summarize,
)
from paper_figures.framework.figure import Claim, Data, Figure
from paper_figures.framework.rounding import rounded
from paper_figures.framework.style import DOUBLE, blank, marks
from paper_figures.framework.verdicts import compare_intervals, tally_signs, verdict

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes


SETTINGS: Mapping[str, Any] = {
    "run": dict(RUN),
    "seeds": list(range(8)),
    "step": 10,
    "problems": {"base": 128, "trained": 64},
    "samples": 8,
    "continuations": 4,
}


def compute(settings: Mapping[str, Any], progress: Callable[[str], None]) -> Data:
    """Counts of reset outcomes for the base model and the trained models."""
    outcomes: dict[str, list[dict[str, Any]]] = {"base": [], "trained": []}
    for seed in settings["seeds"]:
        folder = chain_run(settings["run"], seed, progress)
        for name, step in (("base", 0), ("trained", settings["step"])):
            if step or not outcomes[name]:  # all runs start from the same base model
                progress(f"seed {seed}, step {step}")
                policies = load_policies(folder, settings["problems"][name])
                outcomes[name].append(measure_resets(policies, folder, step, settings))
    length = policies.task.length
    sizes = length, settings["samples"], settings["continuations"]
    models = {name: summarize(runs, *sizes) for name, runs in outcomes.items()}
    return rounded({"models": models, "length": length, **settings})


def draw(data: Data) -> matplotlib.figure.Figure:
    """One row per model, one column per measurement."""
    fig = blank(DOUBLE, 3.7)
    axes = fig.subplots(2, 4, sharex="col", sharey="col", width_ratios=(1, 1.15, 1.25, 0.7))
    titles = {"base": "base model", "trained": f"after {data['step']} steps of SRPO"}
    for row, (name, model) in zip(axes, data["models"].items(), strict=True):
        draw_landing(row[0], model)
        draw_distance(row[1], model)
        draw_correction(row[2], model)
        draw_passes(row[3], model)
        row[0].set_ylabel(f"{titles[name]}\n{model['success']:.0%} right\n\nshare of resets")
        row[1].set_ylabel("share of resets")
        row[2].set_ylabel("share right")
        row[3].set_ylabel(f"pass@{data['continuations']}")
    column_titles = "where resets land", "off the first error", "right after a reset", "by prefix"
    for ax, letter, column_title in zip(axes[0], "abcd", column_titles, strict=True):
        ax.set_title(f"({letter}) {column_title}", loc="left")
    axes[1, 0].set_xlabel("reset before step")
    axes[1, 1].set_xlabel("steps after first error")
    axes[1, 2].set_xlabel("steps after first error")
    axes[1, 3].set_xlabel("prefix")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    (fresh,) = axes[0, 3].get_lines()[:1]
    fig.legend(
        [*handles, fresh], [*labels, f"{data['continuations']} fresh rollouts"],
        loc="outside upper center", ncols=4,
    )  # fmt: skip
    return fig


def draw_landing(ax: Axes, model: Mapping[str, Any]) -> None:
    """Draw the steps of resets and of first errors."""
    errors = np.array(model["first_errors"])
    steps = np.arange(1, len(errors) + 1)
    ax.bar(steps, errors / errors.sum(), color="0.85", label="first errors, by the checker")
    for name, words in (("self", "self-localized resets"), ("random", "random resets")):
        landed = np.array(model["rules"][name]["landed"])
        ax.plot(steps, landed / landed.sum(), ms=3.5, label=words, **marks(RULES[name]))
    ax.set_xticks(steps)
    ax.set_ylim(0, None)


def draw_distance(ax: Axes, model: Mapping[str, Any]) -> None:
    """Draw reset step minus first error."""
    x = np.arange(-FAR, FAR + 1)
    for name, width, fill in (("self", 0.8, True), ("random", 0.8, False)):
        off, colour = np.array(model["rules"][name]["off"]), marks(RULES[name])["color"]
        ax.bar(
            x, off / off.sum(), width, color=colour if fill else "none", ec=colour, lw=1.2,
            ls="-" if fill else (0, (2, 1)),
        )  # fmt: skip
    label_distances(ax)


def draw_correction(ax: Axes, model: Mapping[str, Any]) -> None:
    """Draw the share of right continuations by distance, with intervals."""
    for name, shift in (("self", -0.14), ("random", 0.14)):
        shares = model["rules"][name]["correction"]
        draw_shares(ax, [int(d) + shift for d in shares], list(shares.values()), name)
    ax.axvline(0.5, lw=0.6, color="0.6", ls=(0, (3, 2)))
    label_distances(ax)
    ax.set_ylim(0, 1)


def draw_passes(ax: Axes, model: Mapping[str, Any]) -> None:
    """Draw pass@4 from clean and from wrong prefixes, and of fresh rollouts."""
    kinds = ["clean", "erroneous"]
    ax.axhline(model["fresh"]["value"], lw=0.8, color="black", ls="-")
    ax.axhspan(model["fresh"]["low"], model["fresh"]["high"], color="black", alpha=0.08, lw=0)
    for name, shift in (("self", -0.14), ("random", 0.14)):
        shares = model["rules"][name]["pass"]
        x = [kinds.index(kind) + shift for kind in shares]
        draw_shares(ax, x, list(shares.values()), name)
    ax.set_xticks(range(len(kinds)), ["clean", "wrong"])
    ax.set_xlim(-0.5, len(kinds) - 0.5)
    ax.set_ylim(0, 1)


def draw_shares(
    ax: Axes, x: Sequence[float], shares: Sequence[Mapping[str, Any]], rule: str
) -> None:
    """Draw points with their intervals."""
    style = marks(RULES[rule])
    ax.vlines(x, [s["low"] for s in shares], [s["high"] for s in shares], color=style["color"])
    # Markers at 0 and 1 are not clipped.
    ax.plot(x, [s["value"] for s in shares], ms=3.5, clip_on=False, **style | {"ls": ""})


def label_distances(ax: Axes) -> None:
    """Label the distances; the outermost bins include all larger ones."""
    x = [-FAR, -2, 0, 2, FAR]
    ax.set_xticks(x, [f"≤{-FAR}".replace("-", "−"), "−2", "0", "2", f"≥{FAR}"])


def claims(data: Data) -> Sequence[Claim]:
    """Precision against chance, success by prefix, and loss of skill in training."""
    models = data["models"]
    rules = {name: model["rules"] for name, model in models.items()}
    near = [
        {"model": name, "self": r["self"]["within_1"], "random": r["random"]["within_1"]}
        for name, r in rules.items()
    ]
    passes = [
        {"label": f"{name}, {rule}", **r[rule]["pass"]}
        for name, r in rules.items()
        for rule in RULES
    ]
    nearer = [compare_intervals(each["self"], each["random"]) for each in near]
    better = [compare_intervals(each["clean"], each["erroneous"]) for each in passes]
    base, trained = (rules[name]["self"]["exact"] for name in ("base", "trained"))
    method = (
        "Intervals are Wilson's, clustered by problem of the one base model and by run of the "
        f"{len(data['seeds'])} trained ones; only intervals that are apart decide, "
        "which among these few errs less than once in 20."
    )
    return [
        Claim(
            "A model localizes its own errors better than chance.",
            "The paper reports it against a frontier model's verdict (L6). Here, resets "
            "within one step of the first error by the checker, self-localized and random, "
            f"of {rules['base']['self']['resets']} failed solutions of the base model and "
            f"{rules['trained']['self']['resets']} after {data['step']} steps of SRPO. {method}",
            "; ".join(
                f"{each['model']}: {percent(each['self'])} against {percent(each['random'])}"
                for each in near
            )
            + ".",
            verdict(nearer),
            caveat=tally_signs(nearer),
        ),
        Claim(
            "Continuations from clean prefixes succeed more often than from erroneous ones.",
            "The paper reports it as Pass@4 (L6). Here, "
            f"pass@{data['continuations']} of resets at or before the first error and after it, "
            f"where answers alone are judged. {method}",
            "; ".join(
                f"{each['label']}: {percent(each['clean'])} against {percent(each['erroneous'])}"
                for each in passes
            )
            + ".",
            verdict(better),
            caveat=f"{tally_signs(better)}; few resets of the base model keep an error",
        ),
        Claim(
            "Training to solve costs the skill to localize.",
            f"Share of self-localized resets exactly at the first error. {method}",
            f"{percent(base)} of the base model's, {percent(trained)} after {data['step']} steps "
            "of SRPO.",
            "holds with a caveat"
            if compare_intervals(base, trained) > 0
            else verdict([compare_intervals(base, trained)]),
            of="ours",
            caveat="the errors that are left are harder to find, too",
        ),
    ]


def percent(share: Mapping[str, Any]) -> str:
    """A share and its interval, as text."""
    return f"{share['value']:.1%} [{share['low']:.1%}, {share['high']:.1%}]"


FIGURE = Figure(
    name="l2_localization",
    title="Where a model resets itself, and what comes of it",
    caption=(
        "Failed solutions of chain reasoning ({length} steps; failed is a wrong answer, the one "
        "bit that the localizer is told) by the base model, and by models that SRPO has trained "
        "from it for {step} steps, seeds {seeds[0]} to {seeds[7]}. (a) The step before which the "
        "model itself resets, random resets, and first errors by the checker. (b) Reset step "
        "less first error; left of 0 some right steps are done again, right of it an error is "
        "kept. (c) Continuations whose answer is right, by that distance, with 95 % Wilson "
        "intervals clustered by problem of the base model and by run of the trained ones, with "
        "quantiles of t; left of the dashed line prefixes are clean. (d) "
        "Pass@{continuations} from clean and from wrong prefixes, and of fresh rollouts of all "
        "problems, the easy ones too (95 % bootstrap). The base model finds "
        "{models[base][rules][self][exact][value]:.0%} of its first errors exactly, the trained "
        "ones {models[trained][rules][self][exact][value]:.0%}."
    ),
    settings=SETTINGS,
    compute=compute,
    draw=draw,
    claims=claims,
)
