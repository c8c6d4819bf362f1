"""L6: the paper's published numbers beside what was measured here, each with its model.

Nothing here is a replication: published are models of 7 and 14 billion parameters on benchmarks,
measured is one of 0.36 million on chain reasoning. Beside each other stand the same questions.
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
from paper_figures.framework.recorded import compared, gain, provenance
from paper_figures.framework.style import DOUBLE, blank, marks
from paper_figures.framework.verdicts import (
    BOOTSTRAPPED,
    STUCK,
    ahead,
    said,
    stuck_words,
    where,
)
from paper_figures.l1_curves import ends

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes

#: Of Samanta et al. (2026), arXiv 2605.25507, beside the means in `llm.evaluate.published`:
#: LiveCodeBench medium, how many times fewer steps SRPO takes to each rival's last value; shares of
#: resets near a frontier model's verdict, and at or before it; Pass@4 from prefixes.
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
    """What was measured here, in the paper's terms: from the recorded runs and from figure L2."""
    progress("reading runs")
    found = {regime: compared(regime) for regime in settings["regimes"]}
    measured = []
    for regime, records in found.items():
        last = {name: level(ends(records[arm]), settings) for name, arm in ARMS.items()}
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
    used = [r for records in found.values() for arm in settings["arms"]
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


def level(own: Sequence[float], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The mean of a success that each run has, with its percentile interval, which stays within."""
    drawn = np.array(own)[resampled(len(own), settings["resamples"])].mean(axis=1)
    low, high = (float(q) for q in np.quantile(drawn, [0.025, 0.975]))
    return {"value": float(np.mean(own)), "low": low, "high": high, "runs": list(own)}


#: Headings: what is published is drawn open, what is measured filled.
PAPER, HERE = "published", "here"


def draw(data: Data) -> matplotlib.figure.Figure:
    """Success of methods; steps to the rivals' last value; localization; Pass@4."""
    made = blank(DOUBLE, 4.6)
    axes = made.subplots(2, 2)
    draw_success(axes[0, 0], data)
    draw_faster(axes[0, 1], data)
    draw_landing(axes[1, 0], data)
    draw_passes(axes[1, 1], data)
    titles = "success", "how many times fewer steps", "resets and the reference step", "by prefix"
    for ax, letter, title in zip(axes.flat, "abcd", titles, strict=True):
        ax.set_title(f"({letter}) {title}", loc="left")
        ax.tick_params(axis="y", length=0)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside upper center", ncols=5, columnspacing=1.4)
    return made


class Point(NamedTuple):
    """A number drawn as a method's, open if published; with an interval and runs if there are.

    "most" is that it is no more than the value.
    """

    method: str
    value: float
    low: float | None = None
    high: float | None = None
    runs: Sequence[float] = ()
    most: bool = False

    @classmethod
    def of(cls, method: str, found: Mapping[str, Any]) -> Point:
        """From an estimate."""
        return cls(method, found["value"], found["low"], found["high"])


def draw_rows(ax: Axes, rows: Mapping[str, Mapping[str, Sequence[Point]]]) -> None:
    """Two headings, published and measured, with rows of points under each."""
    y, ticks, labels = 0.0, [], []
    for heading, own in rows.items():
        ticks.append(y)
        labels.append(heading)
        for label, points in own.items():
            y += 1
            ticks.append(y)
            labels.append(label)
            for place, point in enumerate(points):
                style = marks(point.method) | {"ls": ""}
                fill = "white" if heading == PAPER else style["color"]
                at = y + 0.26 * (place - (len(points) - 1) / 2)
                if point.low is not None and point.high is not None:
                    ax.plot([point.low, point.high], [at, at], lw=1, color=style["color"])
                if point.runs:
                    ax.plot(point.runs, [at] * len(point.runs), ".", ms=3.5, mew=0, alpha=0.6,
                            color=style["color"], clip_on=False)  # fmt: skip
                if lost := sum(run < 100 * STUCK for run in point.runs):
                    va = "top" if place else "bottom"
                    ax.text(2, at, f"{lost} of {len(point.runs)}", size=5.5, va=va)
                style |= {"marker": "<"} if point.most else {}
                ax.plot(point.value, at, ms=3.5, mew=0.8, mfc=fill, **style)
        y += 1.5
    ax.set_yticks(ticks, labels)
    ax.set_ylim(y - 0.8, -0.7)
    for tick in ax.get_yticklabels():
        if tick.get_text() in rows:
            tick.set_fontweight("bold")
    ax.grid(axis="x", lw=0.3, color="0.85")


def draw_success(ax: Axes, data: Data) -> None:
    """Success of each method, in percent."""
    paper = {
        short_name(p): [Point(arm, p[name]) for name, arm in ARMS.items()]
        for p in data["published"]
    }
    here = {
        f"{m['regime']}: {m['length']} steps": [
            percent(ARMS[name], last)._replace(runs=[100 * x for x in last["runs"]])
            for name, last in m["last"].items()
        ]
        for m in data["measured"]
    }
    draw_rows(ax, {PAPER: paper, HERE: here})
    ax.set_xlim(0, 102)
    ax.set_xlabel("success at the end, %")
    for name, arm in ARMS.items():
        ax.plot([], [], ms=4, label=name, **marks(arm) | {"ls": ""})
    ax.plot([], [], "ko", ms=4, mfc="white", label="open: published, 7 to 14 B parameters, GPUs")
    ax.plot([], [], "ko", ms=4, label="filled: here, 0.36 M, a CPU core")


def short_name(published: Mapping[str, Any]) -> str:
    """A published row."""
    if "LiveCodeBench" in published["measure"]:
        return "LiveCodeBench v6, medium"
    return f"{published['model'].removesuffix('-Instruct')}, 10 benchmarks"


def draw_faster(ax: Axes, data: Data) -> None:
    """How many times fewer steps SRPO takes to each rival's last value."""
    paper = {"LiveCodeBench": [Point(rival, x) for rival, x in data["fewer_steps"].items()]}
    here = {
        m["regime"]: [
            Point.of(rival, r)._replace(most=not r["reached"]) for rival, r in m["faster"].items()
        ]
        for m in data["measured"]
    }
    draw_rows(ax, {PAPER: paper, HERE: here})
    ax.axvline(1, lw=0.6, color="black")
    ax.set_xlim(-0.1, 6)
    ax.set_xlabel("rival's steps / SRPO's to its last value")


def draw_landing(ax: Axes, data: Data) -> None:
    """Resets within a step of the reference, and at or before it."""
    words = {"within_1": "within 1 step", "clean": "at or before"}
    paper = {words[k]: [Point("srpo", 100 * x)] for k, x in data["localized"].items()}
    here = {
        f"{words[key]}, {name}": [percent("srpo", found[key])]
        for key in words
        for name, found in data["resets"].items()
    }
    draw_rows(ax, {PAPER: paper, HERE: here})
    ax.set_xlim(0, 102)
    ax.set_xlabel("self-localized resets, %")


def draw_passes(ax: Axes, data: Data) -> None:
    """Pass@4 from clean and from erroneous prefixes."""
    kinds = {"clean": "clean", "erroneous": "wrong"}
    paper = {kinds[kind]: [Point("srpo", 100 * x)] for kind, x in data["pass_4"].items()}
    here = {
        f"{kinds[kind]}, {name}": [percent("srpo", found["pass"][kind])]
        for name, found in data["resets"].items()
        for kind in kinds
    }
    draw_rows(ax, {PAPER: paper, HERE: here})
    ax.set_xlim(0, 102)
    ax.set_xlabel("pass@4 from the prefix, %")


def percent(method: str, share: Mapping[str, float]) -> Point:
    """A share as a point in percent."""
    value, low, high = (100 * share[name] for name in ("value", "low", "high"))
    return Point(method, value, low, high)


def claims(data: Data) -> Sequence[Claim]:
    """What only large models can tell; and the paper's measures, here."""
    p = {short_name(each): each for each in data["published"]}
    gains = [{"regime": m["regime"]} | m["gain"] for m in data["measured"]]
    faster = [
        {"what": f"{m['regime']}, {rival.upper()}"} | r
        for m in data["measured"]
        for rival, r in m["faster"].items()
    ]
    # A bound is no value: that the arm was not there in time is on the side below.
    sides = [r if r["reached"] else {"value": 0.0, "p": r["p"]} for r in faster]
    ended = {m["regime"]: {n: e["runs"] for n, e in m["last"].items()} for m in data["measured"]}
    twice = [r["what"] for r in faster if r["low"] >= 2]
    benchmarks = "; ".join(
        f"{name}: " + ", ".join(f"{method} {each[method]}" for method in ARMS)
        for name, each in p.items()
    )
    far = "it takes GPUs, models of 7 to 14 billion parameters and their benchmarks; "
    return [
        Claim(
            "SRPO is ahead of RRPO and GRPO on ten reasoning benchmarks and on LiveCodeBench.",
            "Not run: the presets in llm/presets have the settings.",
            f"Published, in percent: {benchmarks}.",
            "not tested here",
            caveat=far
            + "on chain reasoning with a small model SRPO is "
            + where(gains)
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
            f"SRPO is {where(sides, 1)}: "
            + ", ".join(
                f"{r['what']} {'' if r['reached'] else 'at most '}{said(r, '.2f')}" for r in faster
            )
            + f". {stuck_words(ended)}",
            ahead(sides, 1),
            caveat=f"{where(sides, 1)}; at least twice fewer with all of the interval in "
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
