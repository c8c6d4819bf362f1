"""L3: the gradient signal that each thought gets from fresh and from reset rollouts, and a tree.

A thought of probability π in a rollout of T trained thoughts with advantage Â moves its own logit
by |Â| (1 − π) if every thought weighs alike, as in the default loss, and by |Â|/T · (1 − π) if
every rollout does, which favours short ones, so what follows a reset. Groups are drawn from
checkpoints of SRPO's runs. Only problems where a rollout failed are reset; fresh groups are of the
same problems, by rollouts that had no part in choosing them.
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
    counted,
    paired,
    said,
    signs,
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

#: Groups, and the method whose colour each has.
KINDS = {
    "fresh": ("grpo", "fresh, same problems"),
    "random": ("rrpo", "random reset"),
    "self": ("srpo-prompted", "self-localized reset"),
    "checker": ("oracle-first_error", "reset at the first error"),
}
#: What weighs alike in the loss, and its signal of a thought.
WEIGHTINGS = {"rollouts": "|Â|/T · (1 − π)", "thoughts": "|Â| (1 − π)"}


def compute(settings: Mapping[str, Any], progress: Callable[[str], None]) -> Data:
    """Signals by kind of group, checkpoint and position; and one group as plain data."""
    from llm.config.train import parse_config
    from llm.exact.bridge import Policies
    from llm.runs import checkpoints

    found: list[dict[str, Any]] = []
    tree: dict[str, Any] = {}
    for seed in settings["seeds"]:
        folder = chain_run(settings["run"], seed, progress)
        config = parse_config([f"--config={folder / 'config.yaml'}"], "l3")
        policies = Policies(config, settings["problems"])
        paths: Mapping[int, Path] = checkpoints.complete(folder / "checkpoints")
        for step in settings["steps"]:
            progress(f"seed {seed}, step {step}")
            _, base = policies.load(paths[step])
            kinds, groups = collected(policies, step)
            found += [{"seed": seed, "step": step, "J": base.J} | kind for kind in kinds]
            if {"seed": seed, "step": step} == settings["tree"]:
                tree = tree_record(policies, step, groups)
    length = policies.task.length
    return rounded(
        {
            "length": length,
            "by_step": [
                over_seeds(found, kind, step) for kind in KINDS for step in settings["steps"]
            ],
            "pairs": [
                pair(found, kind, step, weighting)
                for weighting in WEIGHTINGS
                for kind in KINDS
                if kind != "fresh"
                for step in settings["steps"]
            ],
            "by_position": {
                kind: by_position(found, kind, settings["by_position_at"], length) for kind in KINDS
            },
            "position_at": settings["by_position_at"],
            "tree": tree,
        }
    )


def collected(policies: Policies, step: int) -> tuple[list[dict[str, Any]], list[Group]]:
    """Fresh and reset groups of a policy, 4 + 1×4 by each rule; and those of its own resets."""
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
    own: list[Group] = []
    for name, rule in rules.items():
        # The same fresh groups for each rule: only what is reset differs.
        rng = np.random.default_rng([seed, step])
        groups = collect(policies.simulator, policies.prompts, GroupPlan(4, 1, 4), rule, rng)
        resets = [group for group in groups if group.seed is not None]
        if not kinds:
            # The first group's failures chose the problems, so it would look worse than it is.
            chosen = [policies.prompts[group.start] for group in resets]
            again = np.random.default_rng([seed, step, 1])
            fresh = collect(policies.simulator, chosen, GroupPlan(4), None, again)
            kinds.append({"kind": "fresh"} | signals(fresh))
        kinds.append({"kind": name} | signals(resets))
        assert len(resets) == len(chosen)
        own = resets if name == "self" else own
    return kinds, own


def signals(groups: Sequence[Group]) -> dict[str, Any]:
    """Sums and number of thoughts' signals by step of the solution, and groups that have any."""
    from cpi.core.advantages import group_advantages

    advantages = group_advantages([group.returns for group in groups])
    sums = {weighting: np.zeros(MOST) for weighting in WEIGHTINGS}
    counts = np.zeros(MOST)
    for group, values in zip(groups, advantages, strict=True):
        kept = group.prefix.length
        for episode, advantage in zip(group.episodes, values, strict=True):
            trained = episode.steps[kept:]
            surprise = np.array([1 - np.exp(thought.logprobs.sum()) for thought in trained])
            at = slice(kept, kept + len(trained))
            sums["thoughts"][at] += abs(advantage) * surprise
            sums["rollouts"][at] += abs(advantage) * surprise / len(trained)
            counts[at] += 1
    informative = float(np.mean([values.any() for values in advantages]))
    return {"sums": sums, "counts": counts, "groups": len(groups), "informative": informative}


#: More steps than a rollout has.
MOST = 32


def mean_signal(found: Mapping[str, Any], weighting: str) -> float:
    """Of all thoughts of some groups."""
    return float(found["sums"][weighting].sum() / found["counts"].sum())


def pair(
    found: Sequence[Mapping[str, Any]], kind: str, step: int, weighting: str
) -> dict[str, Any]:
    """The signal of a kind of group less that of fresh ones, paired by seed; and the ratio."""
    own, fresh = (
        np.array([mean_signal(each, weighting) for each in found
                  if (each["kind"], each["step"]) == (name, step)])
        for name in (kind, "fresh")
    )  # fmt: skip
    ratio = float(own.mean() / fresh.mean())
    return {"kind": kind, "step": step, "weighting": weighting, "ratio": ratio} | paired(
        own - fresh
    )


def over_seeds(found: Sequence[Mapping[str, Any]], kind: str, step: int) -> dict[str, Any]:
    """Mean signal a thought over seeds, with its interval."""
    own = [each for each in found if (each["kind"], each["step"]) == (kind, step)]
    means = [mean_signal(each, "rollouts") for each in own]
    low, high = interval(means)
    return {
        "kind": kind,
        "step": step,
        "J": float(np.mean([each["J"] for each in own])),
        "value": float(np.mean(means)),
        "low": low,
        "high": high,
        "informative": float(np.mean([each["informative"] for each in own])),
        "groups": int(sum(each["groups"] for each in own)),
    }


def by_position(
    found: Sequence[Mapping[str, Any]], kind: str, step: int, length: int
) -> list[dict[str, Any]]:
    """The same for each step of a solution."""
    own = [each for each in found if (each["kind"], each["step"]) == (kind, step)]
    places = []
    for k in range(length):
        means = [
            each["sums"]["rollouts"][k] / each["counts"][k] for each in own if each["counts"][k]
        ]
        low, high = interval(means)
        places.append({"value": float(np.mean(means)), "low": low, "high": high})
    return places


def tree_record(policies: Policies, step: int, groups: Sequence[Group]) -> dict[str, Any]:
    """The first of some reset groups that keeps two thoughts and has right and wrong ends."""
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
            verdict = SeedWeights(group.seed, weights, error)
            record = group_record(
                step, number, group, values, reset_planned=True, rule="srpo prompted",
                verdict=verdict,
            )  # fmt: skip
            for continuation in record["continuations"]:
                del continuation["ids"], continuation["mask"]
            return dict(record)
    raise ValueError("tree: no group fits; choose another seed or step")


def draw(data: Data) -> matplotlib.figure.Figure:
    """Signal by checkpoint and by step; and a group as a tree."""
    made = blank(DOUBLE, 4.3)
    left, right = made.subfigures(1, 2, width_ratios=(1, 1.35), squeeze=False)[0]
    above, below = left.subplots(2, 1)
    for kind, (method, words) in KINDS.items():
        own = [each for each in data["by_step"] if each["kind"] == kind]
        draw_signal(above, [each["step"] for each in own], own, method, words)
        places = data["by_position"][kind]
        draw_signal(below, range(1, len(places) + 1), places, method, words)
    above.set_xticks([each["step"] for each in own])
    above.set_title("(a) signal of a thought", loc="left")
    success = ", ".join(f"{each['J']:.2g}" for each in own)
    above.set_xlabel(f"training steps so far\n(success {success})")
    below.set_title(f"(b) by step of the solution, after {data['position_at']}", loc="left")
    below.set_xlabel("step of the solution")
    for ax in (above, below):
        ax.set_ylabel("|Â|/T · (1 − π)")
        ax.set_ylim(0, None)
    left.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    draw_tree(right.subplots(), data["tree"])
    return made


def draw_signal(
    ax: Axes, x: Sequence[int], found: Sequence[Mapping[str, Any]], method: str, words: str
) -> None:
    """Means and intervals of one kind of group."""
    style = marks(method)
    low, high = ([each[end] for each in found] for end in ("low", "high"))
    ax.fill_between(x, low, high, color=style["color"], alpha=0.13, lw=0)
    ax.plot(x, [each["value"] for each in found], ms=3.5, label=words, **style)


def claims(data: Data) -> Sequence[Claim]:
    """Whether resets carry more signal a thought, and whose."""
    by_step = {kind: [e for e in data["by_step"] if e["kind"] == kind] for kind in KINDS}
    first, *_, last = by_step["fresh"]
    checked = (
        "The paper reports the first of two measures: |Â|/T · (1 − π). The signal of a thought at "
        f"{len(by_step['fresh'])} checkpoints of SRPO, less that in "
        "fresh groups of the same problems, those where a rollout had failed, by rollouts that "
        "did not choose them; where rollouts weigh alike, and where thoughts do, as in the default "
        f"loss. {PAIRED}"
    )
    made = []
    for kind, words in (("self", "self-localized resets"), ("random", "random resets")):
        pairs = [p for p in data["pairs"] if p["kind"] == kind]
        decided, told, places = signs(pairs), [], []
        for weighting, signal in WEIGHTINGS.items():
            own = [p for p in pairs if p["weighting"] == weighting]
            at = [s for s, p in zip(decided, pairs, strict=True) if p["weighting"] == weighting]
            numbers = ", ".join(
                f"step {p['step']} {p['ratio']:.2f}× (difference {said(p)})" for p in own
            )
            told.append(f"Where {weighting} weigh alike, {signal}: {numbers}.")
            places.append(f"where {weighting} weigh alike {counted(at)}")
        made.append(
            Claim(
                f"Rollouts from {words} carry more gradient signal a thought than fresh ones.",
                checked,
                " ".join(told),
                verdict(decided),
                caveat=f"{'; '.join(places)}; success is {first['J']:.2g} at first and "
                f"{last['J']:.2g} at last, and fresh groups gain signal as they succeed more often",
            )
        )
    return made


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
