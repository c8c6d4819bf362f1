"""What comes of resets by a model and at random: failed solutions, where each is cut, and by whom.

Answers alone are judged, so that a wrong step can be made good by another one, as in the paper's
tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llm.common.statistics import mean_over_problems
from paper_figures.framework.wilson import clustered_share

if TYPE_CHECKING:
    from llm.exact.bridge import Policies

#: Who says where to reset, and the method whose colour that has.
RULES = {"self": "srpo-prompted", "random": "rrpo"}
#: Distances from here on are one.
FAR = 4


def opened(run: Path, problems: int) -> Policies:
    """The policies of a run, whose answers are judged instead of their steps.

    A wrong step can then be made good by another one, as in the paper's tasks.
    """
    from llm.config.train import parse_config
    from llm.exact.bridge import Policies
    from llm.tasks import make_task

    config = parse_config([f"--config={run / 'config.yaml'}"], "l2")
    policies = Policies(config, problems)
    policies.simulator.task = make_task(config.task, **config.task_args, verify="answer")
    return policies


def resets(policies: Policies, run: Path, step: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Failed solutions of a checkpoint, and what came of resets: arrays with a row a solution.

    Columns: problem, thoughts, first error (from 0), thoughts kept, continuations that are right.
    """
    from cpi.core.episodes import Prefix
    from cpi.core.resets import pick
    from llm.common.statistics import pass_at_k
    from llm.resets.oracles import first_error
    from llm.runs import checkpoints

    policies.load(checkpoints.complete(run / "checkpoints")[step])
    rng = np.random.default_rng([policies.config.seed, step])
    prefixes = [Prefix(prompt) for prompt in policies.prompts]
    groups = policies.simulator.rollout(prefixes, settings["samples"], rng)
    n, k = settings["samples"], settings["continuations"]
    right = [sum(not episode.failed for episode in group) for group in groups]
    found: dict[str, Any] = {"fresh": [pass_at_k(n, c, k) for c in right], "right": right}
    failed = [(i, e, first_error(policies.task, e)) for i, g in enumerate(groups) for e in g
              if e.failed]  # fmt: skip
    known = [(i, e, error) for i, e, error in failed if error is not None]
    episodes = [episode for _, episode, _ in known]
    for name in RULES:
        if name == "self":
            weights, unparsed = policies.localize(episodes)
            found["unparsed"] = unparsed
        else:
            weights = [np.ones(episode.length) for episode in episodes]
        cuts = pick(weights, rng)
        assert all(cut is not None for cut in cuts)
        at = [e.prefix(cut) for e, cut in zip(episodes, cuts, strict=True)]  # type: ignore[arg-type]
        rolled = policies.simulator.rollout(at, k, rng)
        found[name] = np.array(
            [
                (i, e.length, error, cut, sum(not r.failed for r in group))
                for (i, e, error), cut, group in zip(known, cuts, rolled, strict=True)
            ]
        )
    return found


def summed(
    runs: Sequence[Mapping[str, Any]], length: int, samples: int, continuations: int
) -> dict[str, Any]:
    """Counts and shares over runs; a run is a cluster, and of one run, a problem."""
    several = len(runs) > 1
    fresh = mean_over_problems(
        np.array([np.mean(run["fresh"]) for run in runs] if several else runs[0]["fresh"])
    )
    rules = {}
    for name in RULES:
        rows = np.vstack([run[name] for run in runs])
        problem, _, error, kept, right = rows.T
        cluster = np.repeat(np.arange(len(runs)), [len(run[name]) for run in runs])
        cluster = cluster if several else problem
        off = kept - error
        bins, everywhere = np.clip(off, -FAR, FAR), np.ones(len(off), dtype=bool)
        rules[name] = {
            "resets": len(rows),
            "landed": by_step(kept, length),
            "off": np.bincount(bins + FAR, minlength=2 * FAR + 1).tolist(),
            "exact": counted(cluster, off == 0, 1, everywhere),
            "within_1": counted(cluster, abs(off) <= 1, 1, everywhere),
            "clean": counted(cluster, off <= 0, 1, everywhere),
            "correction": {
                str(d): counted(cluster, right, continuations, bins == d)
                for d in range(-FAR, FAR + 1)
                if (bins == d).any()
            },
            "pass": {
                what: counted(cluster, right > 0, 1, chosen)
                for what, chosen in (("clean", off <= 0), ("erroneous", off > 0))
                if chosen.any()
            },
        }
    first = np.concatenate([run["random"][:, 2] for run in runs])
    return {
        "first_errors": by_step(first, length),
        "success": float(np.mean(np.concatenate([run["right"] for run in runs]))) / samples,
        "fresh": asdict(fresh),
        "unparsed": float(np.mean([run["unparsed"] for run in runs])),
        "rules": rules,
    }


def by_step(before: NDArray[np.int64], length: int) -> list[int]:
    """How many are at each step; a needless one after the last counts as the last."""
    return np.bincount(np.minimum(before, length - 1), minlength=length).tolist()


def counted(
    cluster: NDArray[np.int64], successes: NDArray[Any], trials: int, chosen: NDArray[np.bool_]
) -> dict[str, Any]:
    """The share of successes among some resets, with its clustered interval, by quantiles of t."""
    from scipy import stats

    _, place = np.unique(cluster[chosen], return_inverse=True)
    y = np.bincount(place, weights=successes[chosen])
    z = float(stats.t.ppf(0.975, max(len(y) - 1, 1)))
    return clustered_share(y, trials * np.bincount(place), z)._asdict()
