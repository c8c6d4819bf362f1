"""L5: theory meets a language model: exact coverage, predicted and measured gains of training.

Chain reasoning is a chain MDP. `llm.exact` reads the step policy of each checkpoint, and `cpi`
evaluates it exactly. Data: eight runs of SRPO with the preset `chain`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm.compare.report import interval
from paper_figures.analyses.chain_runs import RUN, chain_run
from paper_figures.framework.figure import Claim, Data, Figure
from paper_figures.framework.rounding import rounded
from paper_figures.framework.style import DOUBLE, blank, marks

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes

    from llm.exact.bridge import Policies

SETTINGS: Mapping[str, Any] = {
    "run": dict(RUN),
    "seeds": list(range(8)),
    "problems": 64,
    "samples": 32,
    "localizers": ["random", "surprisal", "prompted", "checker"],
    "localized_at": [0, 5, 10],
}


def compute(settings: Mapping[str, Any], progress: Callable[[str], None]) -> Data:
    """Exact values of every checkpoint, and the quality of localizers at some of them."""
    from llm.exact.bridge import exact_bridge

    runs, localizers, violations = [], [], 0
    for seed in settings["seeds"]:
        folder = chain_run(settings["run"], seed, progress)

        def report_progress(share: float, stage: str, seed: int = seed) -> None:
            progress(f"seed {seed}, {stage}")

        report = exact_bridge(
            folder, None, settings["samples"], settings["problems"], report_progress
        )
        violations += report.violations
        rows = report.to_json()["rows"]
        for row in rows:
            del row["q"]  # (P, n) per checkpoint: too large to record
        runs.append({"seed": seed, "tau": report.tau, "rows": rows})
        for each in qualities(folder, report.tau, settings):
            localizers.append({"seed": seed, "tau": report.tau} | each)
    gains = [row["gain"] for run in runs for row in run["rows"] if row["gain"]]
    return rounded(
        {
            "length": report.horizon,
            "problems": len(report.problems),
            "runs": runs,
            "localizers": means(localizers),
            "updates": len(gains),
            "violations": violations,
            "inside_measured": sum(inside(g["measured"], g["exact"]) for g in gains),
        }
    )


def inside(estimate: Mapping[str, float], truth: float) -> bool:
    """Whether the interval contains the true value."""
    return estimate["low"] <= truth <= estimate["high"]


def qualities(run: Path, tau: float, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Precision and recall of each localizer against I_τ, at some checkpoints of a run."""
    from cpi.exact.improvement import coverage, improvable_mask
    from llm.config.train import parse_config
    from llm.exact.bridge import Policies
    from llm.runs import checkpoints

    policies = Policies(
        parse_config([f"--config={run / 'config.yaml'}"], "l5"), settings["problems"]
    )
    paths = checkpoints.complete(run / "checkpoints")
    rows = []
    for step in settings["localized_at"]:
        readout, base = policies.load(paths[step])
        p = coverage(base, improvable_mask(base, tau))
        groups = policies.sample(settings["samples"], lambda share: None)
        episodes = [episode for group in groups for episode in group]
        for name in settings["localizers"]:
            quality = localizer_quality(policies, name, readout, tau, episodes, p)
            rows.append({"name": name, "step": step, "coverage": p, "J": base.J} | quality)
    return rows


def localizer_quality(
    policies: Policies, name: str, readout: Any, tau: float, episodes: Sequence[Any], p: float
) -> dict[str, Any]:
    """Precision, recall and hit rate of a localizer."""
    from dataclasses import asdict, replace

    from cpi.core.resets import OracleReset
    from llm.chain.readout import ExactOracle
    from llm.exact.gains import reset_quality
    from llm.resets.oracles import first_error

    policies.config = replace(policies.config, localizer=name)
    weights, _ = policies.localize(episodes)
    oracle = OracleReset(ExactOracle(policies.task, readout, policies.prompts), "improvable", tau)
    errors = [first_error(policies.task, episode) for episode in episodes]
    masks = oracle.weights(episodes)
    return asdict(reset_quality(weights, masks, errors, policies.task.length, p))


def means(measured: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds per localizer and step, with intervals of precision and recall."""
    names = list(dict.fromkeys((each["name"], each["step"]) for each in measured))
    merged = []
    for name, step in names:
        rows = [each for each in measured if (each["name"], each["step"]) == (name, step)]
        numbers: dict[str, Any] = {"name": name, "step": step, "seeds": len(rows)}
        for key in ("tau", "J", "coverage", "precision", "recall", "hit_rate"):
            numbers[key] = float(np.mean([each[key] for each in rows]))
        for key in ("precision", "recall"):
            numbers[f"{key}_interval"] = interval([each[key] for each in rows])
        merged.append(numbers)
    return merged


def draw(data: Data) -> matplotlib.figure.Figure:
    """Draw success, improvable states, gains and certificates."""
    fig = blank(DOUBLE, 4.5)
    axes = fig.subplots(2, 2)
    draw_values(axes[0, 0], data)
    draw_coverage(axes[0, 1], data)
    draw_gains(axes[1, 0], data)
    draw_certificates(axes[1, 1], data)
    titles = "success", "improvable states", "gain of an update", "gain certified, and made"
    for ax, letter, title in zip(axes.flat, "abcd", titles, strict=True):
        ax.set_title(f"({letter}) {title}", loc="left")
    for ax in (*axes[0], axes[1, 1]):
        ax.set_xlabel("training steps")
    return fig


def series(data: Data, value: Callable[[Mapping[str, Any]], float]) -> tuple[Any, Any]:
    """Steps, shape (K,), and a value per run and checkpoint, shape (N, K)."""
    steps = np.array([row["step"] for row in data["runs"][0]["rows"]])
    return steps, np.array([[value(row) for row in run["rows"]] for run in data["runs"]])


def band(ax: Axes, x: Any, values: Any, label: str, **style: Any) -> None:
    """Draw the mean over seeds and its interval."""
    low, high = np.array([interval(column) for column in values.T]).T
    ax.fill_between(x, low, high, color=style["color"], alpha=0.15, lw=0)
    ax.plot(x, values.mean(axis=0), label=label, ms=3.5, **style)


def draw_values(ax: Axes, data: Data) -> None:
    """Draw J, exact and sampled."""
    x, J = series(data, lambda row: row["J"])
    _, sampled = series(data, lambda row: row["success"]["value"])
    band(ax, x, J, "exact, mean and interval", **marks("srpo") | {"marker": ""})
    for exact_run, sampled_run in zip(J, sampled, strict=True):
        ax.plot(x, exact_run, lw=0.4, alpha=0.5, color=marks("srpo")["color"])
        ax.plot(x, sampled_run, ".", ms=3, color="black", zorder=3)
    ax.plot([], [], ".", ms=3, color="black", label="sampled, a dot a run")
    ax.set_ylim(0, 1)
    ax.set_ylabel("J, held-out problems")
    ax.legend(loc="lower right")


def draw_coverage(ax: Axes, data: Data) -> None:
    """Draw p_π(τ), and the share of episodes that visit an improvable state."""
    x, visits = series(data, lambda row: row["visit"])
    _, p = series(data, lambda row: row["coverage"])
    band(ax, x, visits, "episodes that visit one", color="0.45", ls=(0, (5, 1)), marker="s")
    band(ax, x, p, "coverage p, of visited states", color="black", ls="-", marker="o")
    ax.set_ylim(0, None)
    ax.set_ylabel(f"share, τ = {data['runs'][0]['tau']:.2g}")
    ax.legend(loc="upper right")


def updates(data: Data) -> list[Mapping[str, Any]]:
    """Gains of all updates of all runs."""
    return [row["gain"] for run in data["runs"] for row in run["rows"] if row["gain"]]


def draw_gains(ax: Axes, data: Data) -> None:
    """Draw predicted and sampled gains over exact ones."""
    gains = updates(data)
    exact = [g["exact"] for g in gains]
    guaranteed = [g["predicted"] for g in gains]
    ax.vlines(
        exact, [e["low"] for e in guaranteed], [e["high"] for e in guaranteed], lw=0.7,
        color="0.7", label="guaranteed interval", zorder=0,
    )  # fmt: skip
    ax.plot(
        exact, [e["value"] for e in guaranteed], "o", ms=3, color=marks("srpo")["color"],
        label="predicted, first order",
    )  # fmt: skip
    ax.plot(
        exact, [g["measured"]["value"] for g in gains], "x", ms=3, mew=0.8, color="black",
        label="sampled",
    )  # fmt: skip
    ends = min(exact), max(exact)
    ax.plot(ends, ends, lw=0.6, color="black")
    ax.set_xlabel("exact gain in J")
    ax.set_ylabel("gain in J")
    ax.set_ylim(top=2.3 * max(exact))  # room for the legend above all intervals
    ax.legend(loc="upper left")


def draw_certificates(ax: Axes, data: Data) -> None:
    """Draw the certified gain of one conservative step, and the gain of the next training steps."""
    x, _ = series(data, lambda row: row["J"])
    for name, method, words in (
        ("oracle", "oracle", "certified, oracle resets"),
        ("localizer", "srpo", "certified, the model's resets"),
        ("random", "rrpo", "certified, random resets"),
    ):
        _, gains = series(data, lambda row, name=name: row["certified"][name])  # type: ignore[misc]
        mean = gains.mean(axis=0)
        positive = mean > 0
        ax.plot(x[positive], mean[positive], label=words, ms=3.5, **marks(method))
    _, J = series(data, lambda row: row["J"])
    mean_gain = np.diff(J, axis=1).mean(axis=0)
    ax.plot(
        x[:-1][mean_gain > 0],
        mean_gain[mean_gain > 0],
        "k-s",
        ms=3.5,
        label=f"made by the next {x[1] - x[0]} steps",
    )
    ax.set_yscale("log")
    ax.set_ylim(bottom=1e-12)
    ax.set_ylabel("gain in J, mean of runs")
    ax.legend(loc="lower left")


def claims(data: Data) -> Sequence[Claim]:
    """The theorems on a language model, and the states that its localizer finds."""
    gains = updates(data)
    n, seeds = data["updates"], len(data["runs"])
    steps, J = series(data, lambda row: row["J"])
    rises = np.diff(J, axis=1)
    errors = [abs(g["predicted"]["value"] - g["exact"]) for g in gains]
    prompted = {each["step"]: each for each in data["localizers"] if each["name"] == "prompted"}
    first = prompted[min(prompted)]
    held = data["violations"] == 0
    at_first = [run["rows"][1]["gain"]["predicted"] for run in data["runs"]]
    positive = sum(each["low"] > 0 for each in at_first)
    outside = n - data["inside_measured"]
    return [
        Claim(
            "The performance difference theorem predicts what an update of a language model gains.",
            f"{n} updates of {seeds} runs of SRPO, {steps[1] - steps[0]} training steps each: the "
            "exact gain against the interval that theory guarantees from the old policy's "
            "occupancy. Both are exact: no sample is in them.",
            f"{data['violations']} exact gains lie outside it; the first-order prediction is off "
            f"by {np.mean(errors):.3f} in the mean, of a mean gain of {np.mean(rises):.3f}.",
            "holds with a caveat" if held else "does not hold here",
            of="ours",
            caveat=f"the intervals hold, but are wide: of the first update {positive} of {seeds} "
            f"exclude 0; the mean error is {np.mean(errors) / np.mean(rises):.0%} of the mean gain",
        ),
        Claim(
            "Exact values of the model agree with sampled ones.",
            "The same updates: sampled gains have intervals that hold jointly in a run with 95 %.",
            f"{outside} of {n} exact gains lie outside theirs.",
            "holds" if outside <= 1 else "does not hold here",
            of="ours",
        ),
        Claim(
            "A model that finds its first error need not find an improvable state.",
            f"The model's own localizer at step {first['step']}: share of resets at first errors "
            "against precision and recall for states improvable by more than τ, means of "
            f"{first['seeds']} samplings: all runs begin with one model.",
            f"{first['hit_rate']:.0%} of resets are at the first error, and precision is "
            f"{first['precision']:.3f}, recall {first['recall']:.2f} at coverage "
            f"{first['coverage']:.3f}.",
            "holds" if first["precision"] < 0.5 < first["hit_rate"] else "does not hold here",
            of="ours",
        ),
    ]


FIGURE = Figure(
    name="l5_model",
    title="Theory meets a language model",
    caption=(
        "SRPO on chain reasoning ({length} steps), whose step policy can be read out at each "
        "checkpoint, so that values on {problems} held-out problems are exact. (a) Success, "
        "mean of the seeds with its 95 % bootstrap-t interval, each run, and samples. (b) The "
        "share of visited states that are improvable by more than τ, and of episodes that visit "
        "one. (c) The {updates} gains from one checkpoint to the next: predicted by the "
        "first-order gain at the old policy's states, with the interval that theory guarantees, "
        "and sampled; on the diagonal they would be exact. {violations} exact gains are outside "
        "their guarantee. (d) What one conservative step is certain to gain under three ways to "
        "reset, and what the training steps up to the next checkpoint, several and larger, made "
        "from there. That an oracle's certificate is 1/p of a random one's is arithmetic of the "
        "formula, p t q τ²/(2 H), and nothing that was observed."
    ),
    settings=SETTINGS,
    compute=compute,
    draw=draw,
    claims=claims,
)
