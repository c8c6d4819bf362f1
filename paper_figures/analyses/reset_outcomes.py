"""Outcomes of self-localized and random resets of failed solutions.

Only answers are verified, as in the paper's tasks. A later step can thus correct a wrong one.
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

#: Reset rule → method whose colour it has.
RULES = {"self": "srpo-prompted", "random": "rrpo"}
#: Larger distances share one bin.
FAR = 4


def load_policies(run: Path, problems: int) -> Policies:
    """Load the policies of a run; only answers are verified, as in the paper's tasks."""
    from llm.config.train import parse_config
    from llm.exact.bridge import Policies
    from llm.tasks import make_task

    config = parse_config([f"--config={run / 'config.yaml'}"], "l2")
    policies = Policies(config, problems)
    policies.simulator.task = make_task(config.task, **config.task_args, verify="answer")
    return policies


def measure_resets(
    policies: Policies, run: Path, step: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Reset the failed solutions of a checkpoint and count the right continuations.

    Returns
    -------
    dict
        For each rule, an array with a row per failed solution. Columns: problem, number of
        thoughts, first error (from 0), thoughts kept, right continuations. "fresh" and "right" have
        an entry per problem: pass@k of fresh rollouts, and right rollouts. "unparsed" is from the
        localizer.
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
    outcomes: dict[str, Any] = {"fresh": [pass_at_k(n, c, k) for c in right], "right": right}
    failed = [(i, e, first_error(policies.task, e)) for i, g in enumerate(groups) for e in g
              if e.failed]  # fmt: skip
    with_error = [(i, e, error) for i, e, error in failed if error is not None]
    episodes = [episode for _, episode, _ in with_error]
    for name in RULES:
        if name == "self":
            weights, unparsed = policies.localize(episodes)
            outcomes["unparsed"] = unparsed
        else:
            weights = [np.ones(episode.length) for episode in episodes]
        cuts = pick(weights, rng)
        assert all(cut is not None for cut in cuts)
        cut_prefixes = [e.prefix(cut) for e, cut in zip(episodes, cuts, strict=True)]  # type: ignore[arg-type]
        continued = policies.simulator.rollout(cut_prefixes, k, rng)
        outcomes[name] = np.array(
            [
                (i, e.length, error, cut, sum(not r.failed for r in group))
                for (i, e, error), cut, group in zip(with_error, cuts, continued, strict=True)
            ]
        )
    return outcomes


def summarize(
    runs: Sequence[Mapping[str, Any]], length: int, samples: int, continuations: int
) -> dict[str, Any]:
    """Counts and shares over runs. A cluster is a run; with a single run, a problem."""
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
        distance = kept - error
        bins, everywhere = np.clip(distance, -FAR, FAR), np.ones(len(distance), dtype=bool)
        rules[name] = {
            "resets": len(rows),
            "landed": by_step(kept, length),
            "off": np.bincount(bins + FAR, minlength=2 * FAR + 1).tolist(),
            "exact": share_among(cluster, distance == 0, 1, everywhere),
            "within_1": share_among(cluster, abs(distance) <= 1, 1, everywhere),
            "clean": share_among(cluster, distance <= 0, 1, everywhere),
            "correction": {
                str(d): share_among(cluster, right, continuations, bins == d)
                for d in range(-FAR, FAR + 1)
                if (bins == d).any()
            },
            "pass": {
                kind: share_among(cluster, right > 0, 1, chosen)
                for kind, chosen in (("clean", distance <= 0), ("erroneous", distance > 0))
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
    """Number of resets per step; those beyond the last step count as the last."""
    return np.bincount(np.minimum(before, length - 1), minlength=length).tolist()


def share_among(
    cluster: NDArray[np.int64], successes: NDArray[Any], trials: int, chosen: NDArray[np.bool_]
) -> dict[str, Any]:
    """Share of successes among chosen resets, with a clustered interval from t quantiles."""
    from scipy import stats

    _, index = np.unique(cluster[chosen], return_inverse=True)
    y = np.bincount(index, weights=successes[chosen])
    z = float(stats.t.ppf(0.975, max(len(y) - 1, 1)))
    return clustered_share(y, trials * np.bincount(index), z)._asdict()
