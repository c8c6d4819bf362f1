"""VinePPO: advantages of single thoughts, from rollouts at every thought.

Kazemnejad et al. (2025), "VinePPO: Refining Credit Assignment in RL Training of LLMs",
arXiv:2410.01679. K rollouts continue each prefix of each completion; their mean reward estimates
the prefix's value V. The advantage of a thought is

    V(prefix with the thought) − V(prefix before it),

where the value of a whole completion is its reward. The K rollouts are not trained on, but the
ledger counts them. There are as many as thoughts times K, so that a step costs far more tokens than
one of GRPO.

Differences from the paper:

- The loss, its average over tokens and the scale of advantages are the run's. A row is one thought.
  `scale_rewards` divides by the root mean square over the thoughts of a prompt, or of the batch.
- There is no KL term by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from cpi.core.advantages import EPSILON, Scale
from cpi.core.collect import Collection, Group, Ledger
from cpi.core.episodes import Episode, Prefix
from envs.tabular import FloatArray
from llm.algorithms.algorithm import Algorithm
from llm.algorithms.batch import Batch, records_of_rows
from llm.algorithms.metrics import collection_metrics
from llm.common.progress import Staged
from llm.learner.rows import Row, make_rows


class VinePPO(Algorithm):
    """Makes batches of thoughts, each with its own advantage."""

    about = (
        "VinePPO (Kazemnejad et al. 2025, arXiv 2410.01679): a step of reasoning is credited with "
        "the change of the mean reward of rollouts after and before it"
    )

    def batch(self, step: int, indices: Sequence[int], rng: np.random.Generator) -> Batch:
        """Sample completions and the values of their prefixes; train on every thought."""
        options, ledger = self.config.vineppo, Ledger()
        staged = Staged(self.simulator, self.reporter, "generate", "values")
        starts = [Prefix(self.prompts[i]) for i in indices]
        completions = staged.rollout(starts, options.completions, rng)
        # The value of a prompt serves all its completions.
        prefixes = [
            prefix
            for start, episodes in zip(starts, completions, strict=True)
            for prefix in (start, *(e.prefix(k) for e in episodes for k in range(1, e.length)))
        ]
        sampled = staged.rollout(prefixes, options.samples, rng)
        for episodes in completions:
            ledger.generated(episodes, trained=True)
        for episodes in sampled:
            ledger.generated(episodes, trained=False)
        values = iter([float(np.mean([e.ret for e in episodes])) for episodes in sampled])
        groups: list[Group] = []
        advantages: list[FloatArray] = []
        for number, episodes in enumerate(completions):
            value = next(values)
            for episode in episodes:
                path = [value, *(next(values) for _ in range(1, episode.length)), episode.ret]
                groups += [
                    Group(number, episode.prefix(k), [_thought(episode, k, path[k + 1])])
                    for k in range(episode.length)
                ]
                advantages += [np.array([gain]) for gain in np.diff(path)]
        advantages = scaled(advantages, [g.start for g in groups], self.config.scale_rewards)
        rows = make_rows(
            groups,
            advantages,
            mask_truncated_completions=self.config.update.mask_truncated_completions,
        )
        metrics = self._metrics(starts, completions, groups, advantages, rows)
        tokens = sum(e.cost for episodes in sampled for e in episodes)
        metrics["vineppo/value_tokens"] = tokens / max(ledger.steps, 1)
        return Batch(
            rows, metrics, ledger, partial(records_of_rows, step, groups, advantages, rows)
        )

    def _metrics(
        self,
        starts: Sequence[Prefix],
        completions: Sequence[list[Episode]],
        groups: Sequence[Group],
        advantages: Sequence[FloatArray],
        rows: Sequence[Row],
    ) -> dict[str, float]:
        """Metrics of the completions; see `collection_metrics`.

        `vineppo/informative_rate` is the share of thoughts with an advantage, and
        `vineppo/value_tokens` the share of tokens generated for values.
        """
        whole = [
            Group(number, start, episodes)
            for number, (start, episodes) in enumerate(zip(starts, completions, strict=True))
        ]
        by_prompt: list[list[FloatArray]] = [[] for _ in whole]
        for group, gain in zip(groups, advantages, strict=True):
            by_prompt[group.start].append(gain)
        prompt_advantages = [np.concatenate(gains) for gains in by_prompt]
        metrics = collection_metrics(Collection(whole, Ledger()), prompt_advantages, rows)
        metrics["vineppo/informative_rate"] = float(np.mean([gain.any() for gain in advantages]))
        return metrics


def _thought(episode: Episode, k: int, value: float) -> Episode:
    """Thought k of an episode as an episode whose return is the value after it."""
    steps = episode.steps[: k + 1]
    failed = episode.failed and len(steps) == episode.length
    return Episode(episode.prefix(k), steps, value, failed, len(steps[-1].ids))


def scaled(
    advantages: Sequence[FloatArray], prompts: Sequence[int], scale: Scale
) -> list[FloatArray]:
    """Divide by the root mean square over the thoughts of a prompt, or of the batch, plus 1e-4."""
    if scale == "none":
        return list(advantages)
    members = np.zeros(len(prompts)) if scale == "batch" else np.asarray(prompts)
    flat = np.concatenate(advantages) if advantages else np.zeros(0)
    sizes = {n: float(np.sqrt((flat[members == n] ** 2).mean())) for n in np.unique(members)}
    return [gain / (sizes[n] + EPSILON) for gain, n in zip(advantages, members, strict=True)]
