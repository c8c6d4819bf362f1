"""T4: bound against true value, for every bound of the registry on the same updates."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cpi.bounds import REGISTRY, bounds_for
from cpi.bounds.bound import Check
from cpi.bounds.instances import chain_instances, random_instances, tight_instances
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

SETTINGS: Mapping[str, Any] = {"seed": 0, "instances": 100}

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

#: A bound is tight on an update if its nearness is at least this.
TIGHT = 0.99

#: A certificate is of the size of the true gain if the median ratio is above this.
SAME_SIZE = 0.1


def compute(settings: Mapping[str, Any], progress: Callable[[str], None]) -> Data:
    """Nearness of each bound on chains and random MDPs, and its best value on any update."""
    suite = itertools.chain(
        (("tight", update) for _, update in tight_instances()),
        (("common", update) for _, update in chain_instances()),
        (("common", u) for _, u in random_instances(settings["seed"], settings["instances"])),
    )
    checks: dict[str, dict[str, list[Check]]] = defaultdict(lambda: defaultdict(list))
    for number, (kind, update) in enumerate(suite):
        if number % 200 == 0:
            progress(f"{number} updates checked")
        for bound in bounds_for(update.mdp):
            if (check := bound.check(update)) is not None:
                checks[bound.name][kind].append(check)
    finite = {bound.name for bound in bounds_for(_finite())}
    return {
        "bounds": [
            {
                "name": bound.name,
                "kind": "finite" if bound.name in finite else "discounted",
                "sense": bound.sense,
                "improved_by": bound.improved_by,
                **summary(checks[bound.name]["common"], checks[bound.name]["tight"]),
            }
            for bound in REGISTRY
        ],
        "updates": number + 1,
        "checks": sum(len(c) for kinds in checks.values() for c in kinds.values()),
    }


def _finite() -> Any:
    import envs

    return envs.lock_chain()


def summary(common: Sequence[Check], tight: Sequence[Check]) -> dict[str, Any]:
    """Quantiles over the common updates, best value on all, and share of informative bounds."""
    ratios = [ratio for check in common if not math.isnan(ratio := nearness(check))]
    best = [r for check in (*common, *tight) if not math.isnan(r := constant(check))]
    return {
        "instances": len(common) + len(tight),
        "violations": sum(check.violated for check in (*common, *tight)),
        "compared": len(ratios) / max(len(common), 1),
        "quantiles": np.quantile(ratios, QUANTILES).tolist() if ratios else [],
        "best": max(best, default=0.0),
    }


def constant(check: Check) -> float:
    """Nearness of a bound's constant to the best possible one.

    For bounds of the form first-order gain minus penalty it is the true loss over the penalty.
    There, bound over true value tends to 1 for small steps with any constant in the penalty.
    """
    return nearness(check) if check.bound.first_order is None else 1 / check.penalty_ratio


def nearness(check: Check) -> float:
    """Bound over true value, or the inverse for upper bounds; 1 is tight, nan vacuous."""
    return 1 / check.tightness if check.bound.sense == "<=" else check.tightness


def draw(data: Data) -> matplotlib.figure.Figure:
    """One row per bound: median, quartiles, 5 to 95 %, and the best value."""
    kinds = {
        kind: [b for b in data["bounds"] if b["kind"] == kind and b["sense"] != "="]
        for kind in ("discounted", "finite")
    }
    fig = blank(DOUBLE, 5.3)
    axes = fig.subplots(1, 2)
    thin, thick = {"lw": 0.7, "color": "0.3"}, {"lw": 4, "color": "0.65", "solid_capstyle": "butt"}
    tick: dict[str, Any] = {"marker": "|", "ms": 6, "mew": 1.5, "color": "black", "ls": ""}
    diamond = {"marker": "D", "ms": 3.5, "mfc": "white", "color": "#0072B2", "mew": 0.9, "ls": ""}
    for ax, (kind, bounds) in zip(axes, kinds.items(), strict=True):
        for row, bound in enumerate(bounds):
            if bound["quantiles"]:
                low, first, median, third, high = bound["quantiles"]
                ax.plot([low, high], [row, row], **thin)
                ax.plot([first, third], [row, row], **thick)
                ax.plot(median, row, **tick)
            ax.plot(bound["best"], row, **diamond)
            share = f"{bound['compared']:.0%}"
            ax.annotate(
                share, (1.03, row), xycoords=("axes fraction", "data"), va="center", fontsize=7
            )
        ax.axvline(1, lw=0.6, color="black", zorder=0)
        ax.set_yticks(range(len(bounds)), [b["name"] for b in bounds])
        ax.set(xscale="log", xlim=(1e-3, 1.6), ylim=(len(bounds) - 0.5, -0.5))
        ax.set_xticks([1e-3, 1e-2, 1e-1, 1])
        ax.set_xlabel("nearness to the truth (1: tight)")
        ax.annotate("compared", (1.03, 1.01), xycoords="axes fraction", fontsize=6)
        ax.set_title({"discounted": "discounted", "finite": "finite horizon"}[kind])
    legend = {
        "median": tick,
        "quartiles": thick,
        "5 to 95 %": thin,
        "nearest of all, tight instances included": diamond,
    }
    entries = [axes[0].plot([], [], label=label, **style)[0] for label, style in legend.items()]
    fig.legend(handles=entries, loc="outside upper center", ncols=4)
    return fig


def claims(data: Data) -> Sequence[Claim]:
    """Violations, size of the certificates, and tightness."""
    bounds = data["bounds"]
    violations = sum(bound["violations"] for bound in bounds)
    inequalities = [b for b in bounds if b["sense"] != "="]
    loose = [b for b in inequalities if b["best"] < TIGHT]
    improved, unknown = (
        [b for b in loose if bool(b["improved_by"]) is is_] for is_ in (True, False)
    )
    medians = {b["name"]: b["quantiles"][2] for b in bounds if b["quantiles"]}
    return [
        Claim(
            "Within the conservative policy iteration framework an update with resets has a "
            "guaranteed gain.",
            f"Each of {len(bounds)} statements of `cpi.bounds`, with explicit constants, was "
            f"checked on up to {data['updates']:,} updates: tight instances, chains, random MDPs.",
            f"{violations} violations in {data['checks']:,} checks.",
            "does not hold here" if violations else "holds",
        ),
        Claim(
            "The gain that Theorem 1 certifies is of the size of what its own step truly gains.",
            "The ratio of bound and truth on the chains and random MDPs; a median above "
            f"{SAME_SIZE} counts as of that size.",
            f"The median is {medians['CPI-RR']:.2f} with random resets and "
            f"{medians['CPI-CARO']:.2f} with oracle resets. The step itself is short (T3).",
            "holds"
            if min(medians["CPI-RR"], medians["CPI-CARO"]) > SAME_SIZE
            else "does not hold here",
            of="ours",
        ),
        Claim(
            "Most constants cannot be improved: the bound is attained somewhere.",
            "The largest ratio of bound and truth, or of true loss and penalty, on any update; "
            f"{TIGHT} counts as attained.",
            f"{len(inequalities) - len(loose)} of {len(inequalities)} inequalities come that near."
            + (
                f" Another bound promises more of the same step than {_names(improved)}."
                if improved
                else ""
            )
            + (f" Not known: {_names(unknown)}." if unknown else ""),
            verdict := _attained(len(loose), len(inequalities)),
            of="ours",
            caveat=limit(
                verdict,
                f"{len(improved)} can be improved, and of {len(unknown)} it is not known",
            ),
        ),
    ]


def _names(bounds: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{b['name']} ({b['best']:.2f})" for b in bounds)


def _attained(loose: int, bounds: int) -> Verdict:
    if not loose:
        return "holds"
    return "holds with a caveat" if loose < bounds / 2 else "does not hold here"


FIGURE = Figure(
    name="t4_tightness",
    title="Bound against truth",
    caption=(
        "How much of the truth each bound of the registry promises, on the same {updates:,} "
        "updates: bound over truth, or truth over bound where it bounds from above. Black tick: "
        "median on chains and random MDPs; thick: quartiles; thin: 5 to 95 %. Diamond: the nearest "
        "on any update, instances made to be tight included; for a bound that takes a penalty off "
        "the first-order gain, the nearest ratio of true loss and penalty. Compared: the share of "
        "updates to which a bound applies where both it and the truth are positive; on the others "
        "it promises no gain. Equalities (performance difference) are left out."
    ),
    settings=SETTINGS,
    compute=compute,
    draw=draw,
    claims=claims,
    cheap=True,
)
