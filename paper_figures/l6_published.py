"""L6: the paper's published numbers beside what was measured here, each with its model.

This is no replication. The published models have 7 and 14 billion parameters and are evaluated on
benchmarks. The measured model has 0.36 million and is evaluated on chain reasoning. Only the
questions are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llm.compare.arms import REGIMES
from llm.evaluate.published import PUBLISHED
from paper_figures import l2_localization
from paper_figures.analyses.speed import resampled, to_last_value
from paper_figures.framework.figure import (
    Claim,
    Data,
    Figure,
    read,
)
from paper_figures.framework.recorded import gain, provenance, read_runs
from paper_figures.framework.style import DOUBLE, blank, marks
from paper_figures.framework.verdicts import (
    BOOTSTRAPPED,
    STUCK,
    ahead,
    estimate_text,
    stuck_words,
    tally,
)
from paper_figures.l1_curves import ends

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes

#: Numbers of Samanta et al. (2026), arXiv 2605.25507, that `llm.evaluate.published` does not have.
#: FEWER_STEPS: a rival's steps over those of SRPO to its last value, LiveCodeBench medium.
#: LOCALIZED: shares of resets within one step of the error named by a frontier model, and at or
#: before it. PASS_4: pass@4 from clean and from erroneous prefixes.
FEWER_STEPS = {"grpo": 2.7, "rrpo": 2.3}
LOCALIZED = {"within_1": 0.35, "clean": 0.49}
PASS_4 = {"clean": 0.282, "erroneous": 0.171}

ARMS = {"GRPO": "grpo", "RRPO": "rrpo", "SRPO": "srpo-prompted"}
SETTINGS: Mapping[str, Any] = {
    "regimes": list(REGIMES),
    "arms": list(ARMS.values()),
    "published": [{"model": p.model, "measure": p.measure, **p.percent} for p in PUBLISHED],
    "fewer_steps": FEWER_STEPS,
    "localized": LOCALIZED,
    "pass_4": PASS_4,
    "resamples": 2000,
}


def compute(settings: Mapping[str, Any], progress: Callable[[str], None]) -> Data:
    """The paper's measures, from the recorded runs and from figure L2."""
    progress("reading runs")
    by_regime = {regime: read_runs(regime) for regime in settings["regimes"]}
    measured = []
    for regime, records in by_regime.items():
        last = {name: mean_success(ends(records[arm]), settings) for name, arm in ARMS.items()}
        faster = {
            rival: to_last_value(records, ARMS["SRPO"], rival, settings["resamples"])
            for rival in FEWER_STEPS
        }
        measured.append(
            {
                "regime": regime,
                "length": REGIMES[regime].length,
                "last": last,
                "faster": faster,
                "gain": gain(records["srpo-prompted"], records["grpo"]),
            }
        )
    folder: Path = settings["inputs"]["l2_localization.json"].parent
    models = read(folder, l2_localization.FIGURE).data["models"]
    resets = {
        name: {key: model["rules"]["self"][key] for key in ("within_1", "clean", "pass")}
        for name, model in models.items()
    }
    used = [r for records in by_regime.values() for arm in settings["arms"]
            for r in records[arm].values()]  # fmt: skip
    return {
        "measured": measured,
        "resets": resets,
        "published": settings["published"],
        "fewer_steps": settings["fewer_steps"],
        "localized": settings["localized"],
        "pass_4": settings["pass_4"],
        "made": provenance(used),
    }


def mean_success(successes: Sequence[float], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Mean final success over runs, with a percentile interval, which stays within [0, 1]."""
    samples = np.array(successes)[resampled(len(successes), settings["resamples"])].mean(axis=1)
    low, high = (float(q) for q in np.quantile(samples, [0.025, 0.975]))
    return {"value": float(np.mean(successes)), "low": low, "high": high, "runs": list(successes)}


#: Headings. Published numbers have open markers, measured ones filled markers.
PAPER, HERE = "published", "here"


def draw(data: Data) -> matplotlib.figure.Figure:
    """Draw success, steps to the rivals' last values, localization, and pass@4."""
    fig = blank(DOUBLE, 4.6)
    axes = fig.subplots(2, 2)
    draw_success(axes[0, 0], data)
    draw_faster(axes[0, 1], data)
    draw_landing(axes[1, 0], data)
    draw_passes(axes[1, 1], data)
    titles = "success", "how many times fewer steps", "resets and the reference step", "by prefix"
    for ax, letter, title in zip(axes.flat, "abcd", titles, strict=True):
        ax.set_title(f"({letter}) {title}", loc="left")
        ax.tick_params(axis="y", length=0)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=5, columnspacing=1.4)
    return fig


class Point(NamedTuple):
    """One number of a method, with optional interval and runs.

    `is_upper_bound`: the number is at most `value`.
    """

    method: str
    value: float
    low: float | None = None
    high: float | None = None
    runs: Sequence[float] = ()
    is_upper_bound: bool = False

    @classmethod
    def from_estimate(cls, method: str, estimate: Mapping[str, Any]) -> Point:
        """A point with the value and interval of an estimate."""
        return cls(method, estimate["value"], estimate["low"], estimate["high"])


def draw_rows(ax: Axes, rows: Mapping[str, Mapping[str, Sequence[Point]]]) -> None:
    """Draw the headings, published and measured, with rows of points under each."""
    y, ticks, labels = 0.0, [], []
    for heading, group in rows.items():
        ticks.append(y)
        labels.append(heading)
        for label, points in group.items():
            y += 1
            ticks.append(y)
            labels.append(label)
            for position, point in enumerate(points):
                style = marks(point.method) | {"ls": ""}
                fill = "white" if heading == PAPER else style["color"]
                row = y + 0.26 * (position - (len(points) - 1) / 2)
                if point.low is not None and point.high is not None:
                    ax.plot([point.low, point.high], [row, row], lw=1, color=style["color"])
                if point.runs:
                    ax.plot(point.runs, [row] * len(point.runs), ".", ms=3.5, mew=0, alpha=0.6,
                            color=style["color"], clip_on=False)  # fmt: skip
                if stuck_runs := sum(run < 100 * STUCK for run in point.runs):
                    va = "top" if position else "bottom"
                    ax.text(2, row, f"{stuck_runs} of {len(point.runs)} at 0", size=6.5, va=va)
                style |= {"marker": "<"} if point.is_upper_bound else {}
                ax.plot(point.value, row, ms=3.5, mew=0.8, mfc=fill, **style)
        y += 1.5
    ax.set_yticks(ticks, labels)
    ax.set_ylim(y - 0.8, -0.7)
    for tick in ax.get_yticklabels():
        if tick.get_text() in rows:
            tick.set_fontweight("bold")
    ax.grid(axis="x", lw=0.3, color="0.85")


def draw_success(ax: Axes, data: Data) -> None:
    """Draw the success of each method, in percent."""
    paper = {
        short_name(p): [Point(arm, p[name]) for name, arm in ARMS.items()]
        for p in data["published"]
    }
    measured = {
        f"{m['regime']}: {m['length']} steps": [
            percent(ARMS[name], last)._replace(runs=[100 * x for x in last["runs"]])
            for name, last in m["last"].items()
        ]
        for m in data["measured"]
    }
    draw_rows(ax, {PAPER: paper, HERE: measured})
    ax.set_xlim(0, 102)
    ax.set_xlabel("success at the end, %")
    for name, arm in ARMS.items():
        ax.plot([], [], ms=4, label=name, **marks(arm) | {"ls": ""})
    ax.plot([], [], "ko", ms=4, mfc="white", label="open: published, 7 to 14 B parameters, GPUs")
    ax.plot([], [], "ko", ms=4, label="filled: here, 0.36 M, a CPU core")


def short_name(published: Mapping[str, Any]) -> str:
    """Label of a published row."""
    if "LiveCodeBench" in published["measure"]:
        return "LiveCodeBench v6, medium"
    return f"{published['model'].removesuffix('-Instruct')}, 10 benchmarks"


def draw_faster(ax: Axes, data: Data) -> None:
    """Draw a rival's steps over those of SRPO to the rival's last value."""
    paper = {"LiveCodeBench": [Point(rival, x) for rival, x in data["fewer_steps"].items()]}
    measured = {
        m["regime"]: [
            Point.from_estimate(rival, r)._replace(is_upper_bound=not r["reached"])
            for rival, r in m["faster"].items()
        ]
        for m in data["measured"]
    }
    draw_rows(ax, {PAPER: paper, HERE: measured})
    ax.axvline(1, lw=0.6, color="black")
    ax.set_xlim(-0.1, 6)
    ax.set_xlabel("rival's steps / SRPO's to its last value")


def draw_landing(ax: Axes, data: Data) -> None:
    """Draw the shares of resets within one step of the reference, and at or before it."""
    words = {"within_1": "within 1 step", "clean": "at or before"}
    paper = {words[k]: [Point("srpo", 100 * x)] for k, x in data["localized"].items()}
    measured = {
        f"{words[key]}, {name}": [percent("srpo", shares[key])]
        for key in words
        for name, shares in data["resets"].items()
    }
    draw_rows(ax, {PAPER: paper, HERE: measured})
    ax.set_xlim(0, 102)
    ax.set_xlabel("self-localized resets, %")


def draw_passes(ax: Axes, data: Data) -> None:
    """Draw pass@4 from clean and from erroneous prefixes."""
    kinds = {"clean": "clean", "erroneous": "wrong"}
    paper = {kinds[kind]: [Point("srpo", 100 * x)] for kind, x in data["pass_4"].items()}
    measured = {
        f"{kinds[kind]}, {name}": [percent("srpo", shares["pass"][kind])]
        for name, shares in data["resets"].items()
        for kind in kinds
    }
    draw_rows(ax, {PAPER: paper, HERE: measured})
    ax.set_xlim(0, 102)
    ax.set_xlabel("pass@4 from the prefix, %")


def percent(method: str, share: Mapping[str, float]) -> Point:
    """A share as a point in percent."""
    value, low, high = (100 * share[name] for name in ("value", "low", "high"))
    return Point(method, value, low, high)


def claims(data: Data) -> Sequence[Claim]:
    """The paper's benchmark results, and its measures on chain reasoning."""
    p = {short_name(each): each for each in data["published"]}
    gains = [{"regime": m["regime"]} | m["gain"] for m in data["measured"]]
    faster = [
        {"label": f"{m['regime']}, {rival.upper()}"} | r
        for m in data["measured"]
        for rival, r in m["faster"].items()
    ]
    # Censored ratios are upper bounds; they count as below 1.
    sides = [r if r["reached"] else {"value": 0.0, "p": r["p"]} for r in faster]
    final_success = {
        m["regime"]: {n: e["runs"] for n, e in m["last"].items()} for m in data["measured"]
    }
    twice = [r["label"] for r in faster if r["low"] >= 2]
    benchmarks = "; ".join(
        f"{name}: " + ", ".join(f"{method} {each[method]}" for method in ARMS)
        for name, each in p.items()
    )
    requirements = "it takes GPUs, models of 7 to 14 billion parameters and their benchmarks; "
    return [
        Claim(
            "SRPO is ahead of RRPO and GRPO on ten reasoning benchmarks and on LiveCodeBench.",
            "Not run: the presets in llm/presets have the settings.",
            f"Published, in percent: {benchmarks}.",
            "not tested here",
            caveat=requirements
            + "on chain reasoning with a small model SRPO is "
            + tally(gains)
            + " against GRPO at equal tokens",
        ),
        Claim(
            "SRPO takes several times fewer steps to its rivals' last values.",
            "Published for LiveCodeBench: "
            + ", ".join(f"{x}× to {rival.upper()}'s" for rival, x in data["fewer_steps"].items())
            + ". Here, on chain reasoning: all steps of a rival over those that SRPO takes to its "
            "last success, of mean curves. Where SRPO does not come to it, the ratio is at most "
            "that of all steps, and SRPO is behind only if it ends lower than the rival, too. "
            f"{BOOTSTRAPPED}",
            f"SRPO is {tally(sides, 1)}: "
            + ", ".join(
                f"{r['label']} {'' if r['reached'] else 'at most '}{estimate_text(r, '.2f')}"
                for r in faster
            )
            + f". {stuck_words(final_success)}",
            ahead(sides, 1),
            caveat=f"{tally(sides, 1)}; at least twice fewer with all of the interval in "
            f"{'; '.join(twice) or 'none'}; one small model on chain reasoning",
        ),
    ]


FIGURE = Figure(
    name="l6_published",
    title="Published numbers beside measured ones",
    caption=(
        "Open: published by the paper, of OLMo-3-7B and Qwen2.5-14B on GPUs, without intervals. "
        "Filled: measured here, of a model of 0.36 M parameters on one CPU core, on chain "
        "reasoning, with 95 % intervals. The tasks differ, so only the questions compare. "
        "(a) Success after training, of ours at equal generated tokens: mean, percentile interval "
        "and each run as a dot, counted where they never took off. (b) How many times fewer "
        "steps SRPO takes to a rival's last value, rivals by their marks; a triangle to the left "
        "is at most, where SRPO did not come to it within its tokens. (c) Self-"
        "localized resets within one step of the reference, and at or before it: a "
        "frontier model's verdict there, the checker's here, of the base model and after some "
        "training. (d) Pass@4 from clean and from erroneous prefixes. {made[runs]} runs of "
        "`python -m llm.compare` ({made[dates]}, commits {made[commits]}) and the record of L2."
    ),
    settings=SETTINGS,
    compute=compute,
    draw=draw,
    claims=claims,
    cheap=True,
    inputs=("l2_localization.json", *(f"{regime}.jsonl.gz" for regime in REGIMES)),
)
