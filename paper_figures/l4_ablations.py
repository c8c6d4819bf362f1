"""L4: ablations of the split, the mask, the localizer and the clip.

Split, mask and localizer are arms of `llm.compare`. The clip has separate runs with four passes
over each batch (`python -m paper_figures.clip_runs`). Gradients for the mask are computed here from
samples of the model, which may differ slightly between machines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llm.compare.records import read_records_of
from llm.compare.runs import check_settings
from paper_figures import clip_runs
from paper_figures.analyses.prefix_mask import summary
from paper_figures.clip_runs import (
    CLIPPED_ARMS,
    CLIPS,
    PASSES,
    REGIME,
)
from paper_figures.compare import mean_curve
from paper_figures.framework.figure import (
    Claim,
    Data,
    Figure,
    Verdict,
)
from paper_figures.framework.inputs import made_by
from paper_figures.framework.recorded import (
    COMPARED,
    Runs,
    gain,
    provenance,
    read_runs,
)
from paper_figures.framework.rounding import rounded
from paper_figures.framework.style import DOUBLE, blank, marks
from paper_figures.framework.verdicts import (
    PAIRED,
    ahead,
    estimate_text,
    signs,
    tally,
)

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes

#: Part of the figure → arm → label.
PARTS: dict[str, dict[str, str]] = {
    "split, resets at random steps": {
        "rrpo": "4+1×4",
        "random-rrpo": "4+2×4",
        "deepest-rrpo": "4+2×4, latest",
    },
    "split, resets by the model": {
        "srpo-prompted": "4+1×4",
        "deepest-prompted": "4+2×4, latest",
        "one-prompted": "0+1×8",
    },
    "split, resets by a checker": {
        "oracle-first_error": "4+1×4",
        "random-checker": "4+2×4",
        "deepest-checker": "4+2×4, latest",
        "one-checker": "0+1×8",
    },
    "which steps an oracle accepts": {
        "oracle-first_error": "first error",
        "oracle-improvable": "advantage > 0.1",
        "oracle-largest": "largest advantage",
    },
    "localizer, 4+1×4": {
        "rrpo": "random step",
        "srpo-surprisal": "least likely step",
        "srpo-prompted": "the model's reply",
        "srpo-prompted-slow": "reply, ¼ learning rate",
        "srpo-prompted-lora": "reply, adapters",
        "srpo-prompted-rehearsal": "reply, rehearsal",
        "oracle-first_error": "checker",
    },
}
#: Pairs of arms that the claims compare.
PAIRS = {
    "split": [("srpo-prompted", "deepest-prompted"), ("srpo-prompted", "one-prompted")],
    "mask": [("oracle-improvable", "oracle-first_error"), ("oracle-largest", "oracle-first_error")],
    "localizer": [("oracle-first_error", "srpo-prompted")],
    "remedies": [
        (f"srpo-prompted-{remedy}", "srpo-prompted") for remedy in ("slow", "lora", "rehearsal")
    ],
}
SETTINGS: Mapping[str, Any] = {
    "regimes": ["short", "middle", "long"],
    "parts": {part: list(arms) for part, arms in PARTS.items()},
    "pairs": {name: [list(pair) for pair in pairs] for name, pairs in PAIRS.items()},
    "clips": {name: list(ends) for name, ends in CLIPS.items()},
    "mask_seeds": list(range(8)),
    "clipped": {"regime": REGIME, "arms": list(CLIPPED_ARMS), "passes": PASSES},
}
SHORT = {"grpo": "GRPO", "srpo-prompted": "SRPO"}


def compute(settings: Mapping[str, Any], progress: Callable[[str], None]) -> Data:
    """Differences of each arm from GRPO, between pairs of arms, and of clips from one pass."""
    progress("reading runs")
    by_regime = {regime: read_runs(regime) for regime in settings["regimes"]}
    arms = dict.fromkeys(arm for part in settings["parts"].values() for arm in part)
    gains = {
        regime: {arm: gain(records[arm], records["grpo"]) for arm in arms}
        for regime, records in by_regime.items()
    }
    pairs = [
        {"name": name, "regime": regime, "arm": arm, "over": over}
        | gain(records[arm], records[over])
        for name, chosen in settings["pairs"].items()
        for arm, over in chosen
        for regime, records in by_regime.items()
    ]
    clip_records = read_clip_runs()
    base = by_regime[settings["clipped"]["regime"]]
    clips = [
        {"arm": arm, "clip": clip}
        | {"over_one_pass": gain(clip_records[arm, clip], base[arm])}
        | {"over_none": gain(clip_records[arm, clip], clip_records[arm, "none"])}
        | {"curve": curve(clip_records[arm, clip])}
        | {
            "lost": sum(
                run["curve"]["success"][-1] < 0.1 for run in clip_records[arm, clip].values()
            )
        }
        for arm in settings["clipped"]["arms"]
        for clip in settings["clips"]
    ]
    progress("gradients with and without the mask")
    used = [run for records in by_regime.values() for arm in arms for run in records[arm].values()]
    return {
        "gains": gains,
        "pairs": pairs,
        "clips": clips,
        "one_pass": {arm: curve(base[arm]) for arm in CLIPPED_ARMS},
        "made": provenance(used) | {"seeds": len(base["grpo"])},
        "clips_made": provenance(run for runs in clip_records.values() for run in runs.values()),
        "mask": rounded(summary(settings["mask_seeds"]), 8),
        "passes": settings["clipped"]["passes"],
        "regime": settings["clipped"]["regime"],
    }


def read_clip_runs() -> Mapping[tuple[str, str], Runs]:
    """Read the runs with several passes: arm and clip → seed → record.

    Raises
    ------
    ValueError
        If a run is missing; gives the command that makes it.
    """
    records = read_records_of(COMPARED / "clip")
    by_arm_and_clip: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for (arm, clip, seed), (path, config) in clip_runs.runs().items():
        if path.stem not in records:
            raise ValueError(f"{path.stem}: no such run; {made_by('clip.jsonl.gz')} makes it")
        check_settings(records[path.stem], config, path.stem)
        by_arm_and_clip.setdefault((arm, clip), {})[seed] = records[path.stem]
    return by_arm_and_clip


def curve(runs: Runs) -> dict[str, list[float]]:
    """Mean success over tokens."""
    grid, mean = mean_curve(list(runs.values()), "tokens", 41)
    return {"tokens": grid.tolist(), "success": np.round(mean, 4).tolist()}


def draw(data: Data) -> matplotlib.figure.Figure:
    """Above, one column per regime and one row per arm; below, the clips."""
    fig = blank(DOUBLE, 6.6)
    (above,), (below,) = fig.subfigures(2, 1, height_ratios=(2.35, 1), squeeze=False)
    axes = above.subplots(1, len(data["gains"]), sharey=True)
    for ax, (regime, gains) in zip(axes, data["gains"].items(), strict=True):
        draw_parts(ax, gains)
        ax.set_title(regime)
    axes[1].set_xlabel("mean success minus GRPO's, same seeds and tokens (scale is linear to ±0.1)")
    panels = below.subplots(1, 3, width_ratios=(1, 1, 1.1))
    for ax, arm in zip(panels, CLIPPED_ARMS, strict=False):
        draw_clips(ax, data, arm)
    draw_clip_gains(panels[2], data)
    panels[0].set_ylabel(f"success, held out ({data['regime']})")
    panels[1].tick_params(labelleft=False)
    handles, labels = panels[0].get_legend_handles_labels()
    below.legend(handles, labels, loc="outside upper center", ncols=5)
    return fig


def draw_parts(ax: Axes, gains: Mapping[str, Mapping[str, float]]) -> None:
    """Draw dots and intervals, with a heading per part."""
    y, ticks, labels = 0.0, [], []
    for part, arms in PARTS.items():
        ticks.append(y)
        labels.append(part)
        for arm, label in arms.items():
            y += 1
            style, g = marks(arm), gains[arm]
            ax.plot([g["low"], g["high"]], [y, y], lw=1.1, color=style["color"])
            ax.plot(g["value"], y, ms=3.5, **style | {"ls": ""})
            ticks.append(y)
            labels.append(label)
        y += 1.4
    ax.axvline(0, lw=0.6, color="black")
    ax.set_xscale("symlog", linthresh=0.1, linscale=1.3)
    ax.set_xlim(-0.8, 0.13)
    ax.set_xticks([-0.5, -0.1, -0.05, 0, 0.05, 0.1], ["−.5", "−.1", "", "0", "", ".1"])
    ax.minorticks_off()
    ax.set_yticks(ticks, labels)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(y - 0.6, -0.8)
    for tick in ax.get_yticklabels():
        if tick.get_text() in PARTS:
            tick.set_fontweight("bold")


#: Clip → style, from no clip to the narrowest.
LOOKS: dict[str, dict[str, Any]] = {
    "none": {"color": "black", "ls": (0, (1, 1)), "marker": "x"},
    "0.2-0.28": {"color": "0.6", "ls": "-", "marker": "^"},
    "0.2": {"color": "0.4", "ls": (0, (5, 1)), "marker": "s"},
    "0.1": {"color": "0.2", "ls": (0, (3, 1, 1, 1)), "marker": "D"},
}


def clip_words(clip: str) -> str:
    """Label of a clip."""
    return "no clip" if clip == "none" else f"ε = {clip.replace('-', ', ')}"


def draw_clips(ax: Axes, data: Data, arm: str) -> None:
    """Draw the curves of one method by clip, and the curve of one pass."""
    for clip, style in LOOKS.items():
        (clip_data,) = (c for c in data["clips"] if (c["arm"], c["clip"]) == (arm, clip))
        x = np.array(clip_data["curve"]["tokens"]) / 1000
        ax.plot(
            x, clip_data["curve"]["success"], label=clip_words(clip), markevery=10, ms=3, **style
        )
    once = data["one_pass"][arm]
    x, colour = np.array(once["tokens"]) / 1000, marks(arm)["color"]
    ax.plot(x, once["success"], lw=3, alpha=0.35, color=colour, label="one pass", zorder=0)
    ax.set_title(f"{SHORT[arm]}, {data['passes']} passes")
    ax.set_xlabel("1,000 tokens generated")
    ax.set_ylim(0, 1)


def draw_clip_gains(ax: Axes, data: Data) -> None:
    """Draw differences from one pass."""
    rows = [(arm, clip) for arm in CLIPPED_ARMS for clip in LOOKS]
    for y, (arm, clip) in enumerate(rows):
        (clip_data,) = (c for c in data["clips"] if (c["arm"], c["clip"]) == (arm, clip))
        g, style = clip_data["over_one_pass"], marks(arm)
        ax.plot([g["low"], g["high"]], [y, y], lw=1.1, color=style["color"])
        ax.plot(g["value"], y, ms=3.5, **style | {"ls": ""})
    ax.axvline(0, lw=0.6, color="black")
    ax.set_yticks(range(len(rows)), [f"{SHORT[arm]}, {clip_words(clip)}" for arm, clip in rows])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel("mean success minus one pass's")


def claims(data: Data) -> Sequence[Claim]:
    """The paper's split and mask; our clips, reset rules, localizers and remedies."""
    equal = (
        f"Success over an equal budget of tokens, {data['made']['seeds']} paired seeds. {PAIRED} "
    )
    splits, masks, checker, remedies = (
        [pair for pair in data["pairs"] if pair["name"] == name] for name in PAIRS
    )
    unclipped = [c["over_one_pass"] for c in data["clips"] if c["clip"] == "none"]
    clips = [c for c in data["clips"] if c["clip"] != "none"]
    several = [c["over_one_pass"] for c in clips]
    one, latest = (
        [pair for pair in splits if pair["over"] == over]
        for over in ("one-prompted", "deepest-prompted")
    )
    mended = [c["over_none"] for c in clips]
    mask = data["mask"]
    lost = sum(c["lost"] for c in data["clips"] if c["clip"] == "none")
    return [
        Claim(
            "The split 4+1×4 is the best one for SRPO.",
            "The paper's others have no fresh group: 2×4, which was not run, and 1×8 (0+1×8 "
            f"here). {equal}4+1×4 less 0+1×8, in three regimes.",
            f"It is {tally(one)}: {pairs_words(one)}.",
            ahead(one),
            caveat=f"{tally(one)}; 2×4 was not run; one small model on chain reasoning",
        ),
        Claim(
            "4+1×4 is better for SRPO than 4+2×4 that resets to the latest errors.",
            f"{equal}4+1×4 less 4+2×4, in three regimes.",
            f"It is {tally(latest)}: {pairs_words(latest)}.",
            ahead(latest),
            of="ours",
            caveat=tally(latest),
        ),
        Claim(
            "Several optimizer steps a batch without a clipped ratio are harmful.",
            f"{equal}{data['passes']} passes over each batch without a clip, less one pass, in "
            f"regime *{data['regime']}*.",
            "; ".join(
                f"{name} {estimate_text(each)}"
                for name, each in zip(("GRPO", "SRPO"), unclipped, strict=True)
            )
            + f"; {lost} of these runs ended below 0.1.",
            ahead([{"value": -each["value"], "p": each["p"]} for each in unclipped]),
            of="ours",
            caveat=f"several passes are {tally(unclipped)}; one learning rate and size of model",
        ),
        Claim(
            "Several clipped passes over a batch are worth more than one, at equal tokens.",
            f"{equal}{data['passes']} passes with each clip, less one pass, in regime "
            f"*{data['regime']}*.",
            f"It is {tally(several)}: "
            + ", ".join(
                f"{SHORT[c['arm']]} {clip_words(c['clip'])} {estimate_text(c['over_one_pass'])}"
                for c in clips
            )
            + ".",
            ahead(several),
            of="ours",
            caveat=f"{tally(several)}, by method and clip",
        ),
        Claim(
            "A clipped ratio is better than none.",
            f"{equal}Each clip less no clip, all with {data['passes']} passes.",
            f"It is {tally(mended)}: "
            + ", ".join(
                f"{SHORT[c['arm']]} {clip_words(c['clip'])} {estimate_text(c['over_none'])}"
                for c in clips
            )
            + ".",
            ahead(mended),
            of="ours",
            caveat=f"{tally(mended)}, by method and clip",
        ),
        Claim(
            "It matters that the loss leaves the shared prefix of a reset group out (the no-mask "
            "ablation).",
            "No training without the mask was run. The gradient of the reset groups that keep a "
            "prefix, in SRPO's first step from the base model, with the prefix in the loss "
            f"and without ({mask['seeds']} seeds), where the loss is a mean over tokens (dapo) and "
            "over rollouts (grpo).",
            f"The least cosine between the two is {mask['dapo']['least_cosine']:.6f} for the mean "
            f"over tokens and {mask['grpo']['least_cosine']:.3f} for that over rollouts. The "
            f"masked one is {mask['dapo']['length']:.2f} and {mask['grpo']['length']:.2f} times as "
            f"long; {mask['tokens']:.0%} of the tokens remain to average over.",
            "not tested here",
            caveat="no run was trained without the mask; the gradients are of the reset groups "
            "with a prefix, not of the whole step. Averaged over tokens, the advantages of a group "
            "sum to 0 on its prefix, so that in an on-policy step the mask changes only the length "
            "of that gradient",
        ),
        Claim(
            "First error, advantage above a threshold, and largest advantage are different rules.",
            f"{equal}An oracle that accepts by exact advantages, less one that goes to the first "
            "error.",
            f"It is {tally(masks)}: {pairs_words(masks)}.",
            difference_verdict(masks),
            of="ours",
            caveat=f"{tally(masks)}; only {', '.join(differing_arms(masks)) or 'none'} differs "
            "from the first error anywhere",
        ),
        Claim(
            "A perfect localizer is better than the model's own.",
            f"{equal}The checker's resets less the model's own, both 4+1×4.",
            f"It is {tally(checker)}: {pairs_words(checker)}.",
            ahead(checker),
            of="ours",
            caveat=tally(checker),
        ),
        Claim(
            "What keeps the localizer's skill (less learning, adapters, rehearsal) pays.",
            f"{equal}SRPO with each remedy less plain SRPO.",
            f"It is {tally(remedies)}: {pairs_words(remedies)}.",
            ahead(remedies),
            of="ours",
            caveat=tally(remedies),
        ),
    ]


def differing_arms(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The arms that are ahead or behind in at least one comparison."""
    arms = [pair["arm"] for pair, sign in zip(pairs, signs(pairs), strict=True) if sign]
    return list(dict.fromkeys(arms))


def difference_verdict(pairs: Sequence[Mapping[str, Any]]) -> Verdict:
    """The verdict: "holds" if every arm differs somewhere, with a caveat if only some do."""
    differ = differing_arms(pairs)
    if not differ:
        return "not seen here"
    return "holds" if len(differ) == len({p["arm"] for p in pairs}) else "holds with a caveat"


def pairs_words(pairs: Sequence[Mapping[str, Any]]) -> str:
    """Pairs of arms and their differences, as text."""
    return ", ".join(
        f"{p['regime']} {p['arm'].removeprefix('srpo-')} − {p['over']} {estimate_text(p)}"
        for p in pairs
    )


FIGURE = Figure(
    name="l4_ablations",
    title="Ablations of split, mask, localizer and clip",
    caption=(
        "Above: exact success on held-out problems, averaged over the token budget, minus that of "
        "GRPO with the same seed; means of {made[seeds]} seeds and 95 % bootstrap-t intervals. "
        "*Latest* takes as seed episodes the failures with the latest resets. The scale is "
        "linear to ±0.1 and logarithmic beyond. Below, regime *{regime}*: one pass over each batch "
        "(thick, the loss is on-policy and nothing is clipped) and {passes} passes with several "
        "clips, ε below and above 1; right, the difference from one pass at equal tokens. "
        "{made[runs]} runs of `python -m llm.compare` ({made[dates]}, commits {made[commits]}) and "
        "{clips_made[runs]} of `python -m paper_figures.clip_runs` ({clips_made[dates]}, commit "
        "{clips_made[commits]})."
    ),
    settings=SETTINGS,
    compute=compute,
    draw=draw,
    claims=claims,
    inputs=("short.jsonl.gz", "middle.jsonl.gz", "long.jsonl.gz", "clip.jsonl.gz"),
)
