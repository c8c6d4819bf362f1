"""L3: gradient signal per thought, from fresh and from reset rollouts; and a reset group as a tree.

Consider a thought of probability π in a rollout of T trained thoughts with advantage Â. With equal
weights for thoughts, as in the default loss, it moves its own logit by |Â| (1 − π). With equal
weights for rollouts it moves it by |Â|/T · (1 − π), which favours short rollouts, such as those
after a reset.

Groups are sampled from checkpoints of SRPO's runs. Only problems with a failed rollout are reset.
Fresh groups have the same problems, but independent rollouts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm.compare.report import interval
from paper_figures.analyses.chain_runs import RUN, chain_run
from paper_figures.framework.figure import Claim, Data, Figure
from paper_figures.framework.rollout_tree import draw_tree
from paper_figures.framework.rounding import rounded
from paper_figures.framework.style import DOUBLE, blank, marks
from paper_figures.framework.verdicts import (
    PAIRED,
    estimate_text,
    paired,
    signs,
    tally_signs,
    verdict,
)

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes

    from cpi.core.collect import Group
    from cpi.core.resets import ResetRule
    from llm.exact.bridge import Policies

SETTINGS: Mapping[str, Any] = {
    "run": dict(RUN),
    "seeds": list(range(8)),
    "steps": [0, 5, 10, 15],
    "by_position_at": 5,
    "problems": 64,
    "tree": {"seed": 0, "step": 5},
}

#: Kind of group → method whose colour it has, and its name in the legend.
KINDS = {
    "fresh": ("grpo", "fresh, same problems"),
    "random": ("rrpo", "random reset"),
    "self": ("srpo-prompted", "self-localized reset"),
    "checker": ("oracle-first_error", "reset at the first error"),
}
#: Unit of equal weight in the loss → the signal of a thought.
WEIGHTINGS = {"rollouts": "|Â|/T · (1 − π)", "thoughts": "|Â| (1 − π)"}


def compute(settings: Mapping[str, Any], progress: Callable[[str], None]) -> Data:
    """Signals by kind of group, checkpoint and position; and one group for the tree."""
    from llm.config.train import parse_config
    from llm.exact.bridge import Policies
    from llm.runs import checkpoints

    by_kind: list[dict[str, Any]] = []
    tree: dict[str, Any] = {}
    for seed in settings["seeds"]:
        folder = chain_run(settings["run"], seed, progress)
        config = parse_config([f"--config={folder / 'config.yaml'}"], "l3")
        policies = Policies(config, settings["problems"])
        paths: Mapping[int, Path] = checkpoints.complete(folder / "checkpoints")
        for step in settings["steps"]:
            progress(f"seed {seed}, step {step}")
            _, evaluation = policies.load(paths[step])
            kinds, groups = collect_groups(policies, step)
            by_kind += [{"seed": seed, "step": step, "J": evaluation.J} | kind for kind in kinds]
            if {"seed": seed, "step": step} == settings["tree"]:
                tree = tree_record(policies, step, groups)
    length = policies.task.length
    return rounded(
        {
            "length": length,
            "by_step": [
                over_seeds(by_kind, kind, step) for kind in KINDS for step in settings["steps"]
            ],
            "pairs": [
                pair(by_kind, kind, step, weighting)
                for weighting in WEIGHTINGS
                for kind in KINDS
                if kind != "fresh"
                for step in settings["steps"]
            ],
            "by_position": {
                kind: by_position(by_kind, kind, settings["by_position_at"], length)
                for kind in KINDS
            },
            "position_at": settings["by_position_at"],
            "tree": tree,
        }
    )


def collect_groups(policies: Policies, step: int) -> tuple[list[dict[str, Any]], list[Group]]:
    """Signals of fresh groups and of 4+1×4 reset groups by each rule; and the self-reset groups."""
    from cpi.core.collect import collect
    from cpi.core.plans import GroupPlan
    from cpi.core.resets import RandomReset, SelfReset
    from llm.resets.oracles import checker_rule
    from llm.resets.prompted import PromptedLocalizer

    config = policies.config
    seed = config.seed
    rng = np.random.default_rng([seed, step])
    prompted = PromptedLocalizer(policies.simulator, rng, config.localization)
    rules: dict[str, ResetRule | None] = {
        "random": RandomReset(),
        "self": SelfReset(prompted),
        "checker": checker_rule(policies.task),
    }
    kinds: list[dict[str, Any]] = []
    self_resets: list[Group] = []
    for name, rule in rules.items():
        # The same fresh groups for each rule: only the resets differ.
        rng = np.random.default_rng([seed, step])
        groups = collect(policies.simulator, policies.prompts, GroupPlan(4, 1, 4), rule, rng)
        resets = [group for group in groups if group.seed is not None]
        if not kinds:
            # New rollouts: those that selected the problems are biased towards failure.
            chosen = [policies.prompts[group.start] for group in resets]
            fresh_rng = np.random.default_rng([seed, step, 1])
            fresh = collect(policies.simulator, chosen, GroupPlan(4), None, fresh_rng)
            kinds.append({"kind": "fresh"} | signals(fresh))
        kinds.append({"kind": name} | signals(resets))
        assert len(resets) == len(chosen)
        self_resets = resets if name == "self" else self_resets
    return kinds, self_resets


def signals(groups: Sequence[Group]) -> dict[str, Any]:
    """Sums and counts of signals by step of the solution, and the share of informative groups."""
    from cpi.core.advantages import group_advantages

    advantages = group_advantages([group.returns for group in groups])
    sums = {weighting: np.zeros(MAX_STEPS) for weighting in WEIGHTINGS}
    counts = np.zeros(MAX_STEPS)
    for group, values in zip(groups, advantages, strict=True):
        kept = group.prefix.length
        for episode, advantage in zip(group.episodes, values, strict=True):
            trained = episode.steps[kept:]
            surprise = np.array([1 - np.exp(thought.logprobs.sum()) for thought in trained])
            columns = slice(kept, kept + len(trained))
            sums["thoughts"][columns] += abs(advantage) * surprise
            sums["rollouts"][columns] += abs(advantage) * surprise / len(trained)
            counts[columns] += 1
    informative = float(np.mean([values.any() for values in advantages]))
    return {"sums": sums, "counts": counts, "groups": len(groups), "informative": informative}


#: Upper bound on the steps of a rollout.
MAX_STEPS = 32


def mean_signal(kind: Mapping[str, Any], weighting: str) -> float:
    """Mean signal over all thoughts of some groups."""
    return float(kind["sums"][weighting].sum() / kind["counts"].sum())


def pair(
    by_kind: Sequence[Mapping[str, Any]], kind: str, step: int, weighting: str
) -> dict[str, Any]:
    """Signal of a kind of group minus that of fresh groups, paired by seed; and their ratio."""
    reset, fresh = (
        np.array([mean_signal(each, weighting) for each in by_kind
                  if (each["kind"], each["step"]) == (name, step)])
        for name in (kind, "fresh")
    )  # fmt: skip
    ratio = float(reset.mean() / fresh.mean())
    return {"kind": kind, "step": step, "weighting": weighting, "ratio": ratio} | paired(
        reset - fresh
    )


def over_seeds(by_kind: Sequence[Mapping[str, Any]], kind: str, step: int) -> dict[str, Any]:
    """Mean signal per thought over seeds, with its interval."""
    rows = [each for each in by_kind if (each["kind"], each["step"]) == (kind, step)]
    means = [mean_signal(each, "rollouts") for each in rows]
    low, high = interval(means)
    return {
        "kind": kind,
        "step": step,
        "J": float(np.mean([each["J"] for each in rows])),
        "value": float(np.mean(means)),
        "low": low,
        "high": high,
        "informative": float(np.mean([each["informative"] for each in rows])),
        "groups": int(sum(each["groups"] for each in rows)),
    }


def by_position(
    by_kind: Sequence[Mapping[str, Any]], kind: str, step: int, length: int
) -> list[dict[str, Any]]:
    """Mean signal over seeds at each step of a solution, with intervals."""
    rows = [each for each in by_kind if (each["kind"], each["step"]) == (kind, step)]
    places = []
    for k in range(length):
        means = [
            each["sums"]["rollouts"][k] / each["counts"][k] for each in rows if each["counts"][k]
        ]
        low, high = interval(means)
        places.append({"value": float(np.mean(means)), "low": low, "high": high})
    return places


def tree_record(policies: Policies, step: int, groups: Sequence[Group]) -> dict[str, Any]:
    """Record of the first group with a two-thought prefix and both right and wrong continuations.

    Raises
    ------
    ValueError
        If there is no such group.
    """
    from cpi.core.advantages import group_advantages
    from llm.resets.oracles import first_error
    from llm.resets.quality import SeedWeights
    from llm.runs.rollout_records import group_record

    for number, group in enumerate(groups):
        (values,) = group_advantages([group.returns])
        assert group.seed is not None
        error = first_error(policies.task, group.seed)
        if values.any() and group.prefix.length == 2 == error:
            weights = np.eye(group.seed.length)[group.prefix.length]
            seed_weights = SeedWeights(group.seed, weights, error)
            record = group_record(
                step, number, group, values, reset_planned=True, rule="srpo prompted",
                seed_weights=seed_weights,
            )  # fmt: skip
            for continuation in record["continuations"]:
                del continuation["ids"], continuation["mask"]
            return dict(record)
    raise ValueError("tree: no group fits; choose another seed or step")


def draw(data: Data) -> matplotlib.figure.Figure:
    """Draw the signal by checkpoint and by step, and a group as a tree."""
    fig = blank(DOUBLE, 4.3)
    left, right = fig.subfigures(1, 2, width_ratios=(1, 1.35), squeeze=False)[0]
    above, below = left.subplots(2, 1)
    for kind, (method, words) in KINDS.items():
        rows = [each for each in data["by_step"] if each["kind"] == kind]
        draw_signal(above, [each["step"] for each in rows], rows, method, words)
        places = data["by_position"][kind]
        draw_signal(below, range(1, len(places) + 1), places, method, words)
    above.set_xticks([each["step"] for each in rows])
    above.set_title("(a) signal of a thought", loc="left")
    success = ", ".join(f"{each['J']:.2g}" for each in rows)
    above.set_xlabel(f"training steps so far\n(success {success})")
    below.set_title(f"(b) by step of the solution, after {data['position_at']}", loc="left")
    below.set_xlabel("step of the solution")
    for ax in (above, below):
        ax.set_ylabel("|Â|/T · (1 − π)")
        ax.set_ylim(0, None)
    left.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    draw_tree(right.subplots(), data["tree"])
    return fig


def draw_signal(
    ax: Axes, x: Sequence[int], estimates: Sequence[Mapping[str, Any]], method: str, words: str
) -> None:
    """Draw means and intervals of one kind of group."""
    style = marks(method)
    low, high = ([each[end] for each in estimates] for end in ("low", "high"))
    ax.fill_between(x, low, high, color=style["color"], alpha=0.13, lw=0)
    ax.plot(x, [each["value"] for each in estimates], ms=3.5, label=words, **style)


def claims(data: Data) -> Sequence[Claim]:
    """Signal per thought of each kind of reset, against fresh rollouts."""
    by_step = {kind: [e for e in data["by_step"] if e["kind"] == kind] for kind in KINDS}
    first, *_, last = by_step["fresh"]
    checked = (
        "The paper reports the first of two measures: |Â|/T · (1 − π). The signal of a thought at "
        f"{len(by_step['fresh'])} checkpoints of SRPO, less that in "
        "fresh groups of the same problems, those where a rollout had failed, by rollouts that "
        "did not choose them; where rollouts weigh alike, and where thoughts do, as in the default "
        f"loss. {PAIRED}"
    )
    results = []
    for kind, words in (("self", "self-localized resets"), ("random", "random resets")):
        pairs = [p for p in data["pairs"] if p["kind"] == kind]
        decided, texts, places = signs(pairs), [], []
        for weighting, signal in WEIGHTINGS.items():
            selected = [p for p in pairs if p["weighting"] == weighting]
            selected_signs = [
                s for s, p in zip(decided, pairs, strict=True) if p["weighting"] == weighting
            ]
            numbers = ", ".join(
                f"step {p['step']} {p['ratio']:.2f}× (difference {estimate_text(p)})"
                for p in selected
            )
            texts.append(f"Where {weighting} weigh alike, {signal}: {numbers}.")
            places.append(f"where {weighting} weigh alike {tally_signs(selected_signs)}")
        results.append(
            Claim(
                f"Rollouts from {words} carry more gradient signal a thought than fresh ones.",
                checked,
                " ".join(texts),
                verdict(decided),
                caveat=f"{'; '.join(places)}; success is {first['J']:.2g} at first and "
                f"{last['J']:.2g} at last, and fresh groups gain signal as they succeed more often",
            )
        )
    return results


FIGURE = Figure(
    name="l3_signal",
    title="The gradient signal of a thought, and a group of rollouts",
    caption=(
        "(a) How far a thought moves its own logit, |Â|/T · (1 − π), with Â the advantage of its "
        "rollout, T the thoughts trained there and π its probability; mean over all thoughts of "
        "groups of 4, of fresh and of reset rollouts by SRPO's checkpoints (95 % bootstrap-t "
        "intervals over seeds), on the held-out problems of {length} steps where a rollout had "
        "failed, which are fewer and harder at each checkpoint. 1/T favours the short rollouts "
        "that follow a reset; the default loss has none. (b) The same by the step "
        "of the solution. (c) A group after a reset: below the shared prefix, the failed rollout "
        "that was its seed (dashed, ✗ its first error, by the checker) and four continuations, "
        "in bold what is right (values are modulo 10). All credit and blame fall on what follows "
        "the cut. `python -m llm.show` prints such trees of any run."
    ),
    settings=SETTINGS,
    compute=compute,
    draw=draw,
    claims=claims,
)
