"""L5: theory meets a language model: exact coverage, predicted and measured gains of training.

Chain reasoning is a chain MDP, so the step policy of each checkpoint can be read out and what `cpi`
computes of it is exact; `llm.exact` says how. Eight runs of SRPO from the preset `chain`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm.compare_report import interval
from paper_figures.chain_runs import RUN, chain_run
from paper_figures.figure import Claim, Data, Figure
from paper_figures.style import DOUBLE, blank, marks
from paper_figures.words import rounded

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes

    from llm.exact import Policies

SETTINGS: Mapping[str, Any] = {
    "run": dict(RUN),
    "seeds": list(range(8)),
    "problems": 64,
    "samples": 32,
    "localizers": ["random", "surprisal", "prompted", "checker"],
    "localized_at": [0, 5, 10],
}


def compute(settings: Mapping[str, Any], progress: Callable[[str], None]) -> Data:
    """Every checkpoint of every run, and the quality of localizers at some of them."""
    from llm.exact import exact_bridge

    runs, localizers, violations = [], [], 0
    for seed in settings["seeds"]:
        folder = chain_run(settings["run"], seed, progress)

        def told(share: float, what: str, seed: int = seed) -> None:
            progress(f"seed {seed}, {what}")

        report = exact_bridge(folder, None, settings["samples"], settings["problems"], told)
        violations += report.violations
        rows = report.to_json()["rows"]
        for row in rows:
            del row["q"]  # P × n numbers each
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
    """Whether an interval has it."""
    return estimate["low"] <= truth <= estimate["high"]


def qualities(run: Path, tau: float, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Precision and recall of each localizer against I_τ, at some checkpoints of a run."""
    from cpi.improvement import coverage, improvable_mask
    from llm import checkpoints
    from llm.config import parse_config
    from llm.exact import Policies

    policies = Policies(
        parse_config([f"--config={run / 'config.yaml'}"], "l5"), settings["problems"]
    )
    paths = checkpoints.complete(run / "checkpoints")
    found = []
    for step in settings["localized_at"]:
        readout, base = policies.load(paths[step])
        p = coverage(base, improvable_mask(base, tau))
        groups = policies.sample(settings["samples"], lambda share: None)
        episodes = [episode for group in groups for episode in group]
        for name in settings["localizers"]:
            quality = judged(policies, name, readout, tau, episodes, p)
            found.append({"name": name, "step": step, "coverage": p, "J": base.J} | quality)
    return found


def judged(
    policies: Policies, name: str, readout: Any, tau: float, episodes: Sequence[Any], p: float
) -> dict[str, Any]:
    """Precision, recall and hit rate of a localizer."""
    from dataclasses import asdict, replace

    from cpi.resets import OracleReset
    from llm.gains import reset_quality
    from llm.localization import first_error
    from llm.readout import ExactOracle

    policies.config = replace(policies.config, localizer=name)
    weights, _ = policies.localize(episodes)
    oracle = OracleReset(ExactOracle(policies.task, readout, policies.prompts), "improvable", tau)
    errors = [first_error(policies.task, episode) for episode in episodes]
    masks = oracle.weights(episodes)
    return asdict(reset_quality(weights, masks, errors, policies.task.length, p))


def means(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Over seeds, of each localizer at each step; with the interval of precision and recall."""
    names = list(dict.fromkeys((each["name"], each["step"]) for each in found))
    merged = []
    for name, step in names:
        own = [each for each in found if (each["name"], each["step"]) == (name, step)]
        numbers: dict[str, Any] = {"name": name, "step": step, "seeds": len(own)}
        for key in ("tau", "J", "coverage", "precision", "recall", "hit_rate"):
            numbers[key] = float(np.mean([each[key] for each in own]))
        for key in ("precision", "recall"):
            numbers[f"{key}_interval"] = interval([each[key] for each in own])
        merged.append(numbers)
    return merged
