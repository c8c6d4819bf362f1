"""SCoRe: a first attempt, a request to correct it, and a second attempt.

Kumar et al. (2024), "Training Language Models to Self-Correct via Reinforcement Learning",
arXiv:2409.12917. Stage I maximises the second attempt's reward, while a KL term holds the first
attempt at the base model. Stage II trains both attempts, and the second one gets the bonus
α (r₂ − r₁). Each attempt is trained after the prompt that it was sampled from. For a second attempt
this prompt contains the first one.

Differences from the paper:

- Advantages are GRPO's, within the attempts of a prompt. The paper uses REINFORCE with the mean as
  baseline.
- The KL term is k3. In stage I it holds for first attempts alone, elsewhere it is the loss's, 0 by
  default. The paper uses 0.01 on both attempts in stage II.
- Stage I is a number of steps of the same run.

Attempts of a prompt are compared by turn, so second attempts are compared although they follow
different first attempts. For a given first attempt, the bonus only multiplies the second reward by
1 + α. Within a group, it favours second attempts after failed first ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from cpi.core.advantages import group_advantages
from cpi.core.collect import (
    Collection,
    Group,
    Ledger,
    collect,
)
from cpi.core.episodes import Prefix
from cpi.core.plans import GroupPlan
from envs.tabular import FloatArray
from llm.algorithms.algorithm import Algorithm
from llm.algorithms.batch import Batch, records_of_rows
from llm.algorithms.metrics import collection_metrics
from llm.algorithms.turns import check_room, next_turn, with_readable_prompt
from llm.common.progress import Staged
from llm.learner.rows import Row, make_rows
from llm.thoughts.simulator import Prompt

#: The paper's request (its appendix), without the answer format, which the first prompt states.
REQUEST = (
    "There might be an error in the solution above because of lack of understanding of the "
    "question. Please correct the error, if any, and rewrite the solution."
)


class Score(Algorithm):
    """Makes batches of first and second attempts."""

    about = (
        "SCoRe (Kumar et al. 2024, arXiv 2409.12917): a second attempt follows each first one, and "
        "is rewarded for getting better"
    )
    request = REQUEST

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts that leave no room for two attempts."""
        check_room(self.simulator, prompts, self.request)
        stage1, steps = self.config.score.stage1_steps, self.config.steps
        if stage1 >= steps:
            self.reporter.message(
                f"warning: score.stage1_steps = {stage1} of {steps} steps leave none for stage II, "
                "which trains first attempts too; half of them is usual"
            )

    def batch(self, step: int, indices: Sequence[int], rng: np.random.Generator) -> Batch:
        """Sample first attempts, and a second one after each."""
        options, config = self.config.score, self.config
        prompts = [self.prompts[i] for i in indices]
        staged = Staged(self.simulator, self.reporter, "generate", "retry")
        first = collect(staged, prompts, GroupPlan(fresh=options.attempts), None, rng)
        single = self._second_attempts(staged, first, rng)
        second = _merge(single, options.attempts)

        stage1 = step <= options.stage1_steps
        first_advantages = group_advantages([g.returns for g in first], config.scale_rewards)
        rewards = [g.returns for g in second]
        if stage1:
            first_advantages = [np.zeros_like(values) for values in first_advantages]
        else:
            gains = [b.returns - a.returns for a, b in zip(first, second, strict=True)]
            rewards = [r + options.alpha * gain for r, gain in zip(rewards, gains, strict=True)]
        second_advantages = group_advantages(rewards, config.scale_rewards)

        groups = [*first, *single]
        advantages = [*first_advantages, *np.concatenate(second_advantages)[:, None]]
        truncated = config.update.mask_truncated_completions
        rows = make_rows(groups, advantages, mask_truncated_completions=truncated)
        if stage1:
            firsts = len(rows) - len(single)
            rows = [r._replace(beta=options.kl) if i < firsts else r for i, r in enumerate(rows)]
        ledger = first.ledger + Ledger()
        for group in second:
            ledger.generated(group.episodes, trained=True)
        metrics = _metrics(first, second, [*first_advantages, *second_advantages], rows)
        records = partial(records_of_rows, step, groups, advantages, rows)
        return Batch(rows, metrics, ledger, records)

    def _second_attempts(
        self, staged: Staged, first: Collection, rng: np.random.Generator
    ) -> list[Group]:
        """A second attempt after each first one, in order; each is a group of its own."""
        starts = [group.start for group in first for _ in group.episodes]
        attempts = [attempt for group in first for attempt in group.episodes]
        turns = [next_turn(self.simulator, attempt, REQUEST) for attempt in attempts]
        rollouts = staged.rollout([Prefix(turn) for turn in turns], 1, rng)
        return [
            Group(start, Prefix(with_readable_prompt(self.simulator, turn)), episodes)
            for start, turn, episodes in zip(starts, turns, rollouts, strict=True)
        ]


def _merge(single: Sequence[Group], size: int) -> list[Group]:
    """Groups of the second attempts of each prompt; the attempts do not share their prefix."""
    return [
        Group(part[0].start, part[0].prefix, [group.episodes[0] for group in part])
        for part in (single[at : at + size] for at in range(0, len(single), size))
    ]


def _metrics(
    first: Sequence[Group],
    second: Sequence[Group],
    advantages: Sequence[FloatArray],
    rows: Sequence[Row],
) -> dict[str, float]:
    """Metrics of first and second attempts.

    `score/fixed` is the share of failed first attempts whose second attempt succeeds.
    `score/broken` is the share of successful first attempts whose second attempt fails.
    `fresh/reward` is the mean reward of first attempts.
    """
    groups = Collection([*first, *second], Ledger())
    metrics = collection_metrics(groups, advantages, rows)
    metrics["fresh/reward"] = float(np.mean([g.returns for g in first]))
    metrics["score/second_reward"] = float(np.mean([g.returns for g in second]))
    before = np.array([e.failed for group in first for e in group.episodes])
    after = np.array([e.failed for group in second for e in group.episodes])
    if before.any():
        metrics["score/fixed"] = float(np.mean(~after[before]))
    if not before.all():
        metrics["score/broken"] = float(np.mean(after[~before]))
    return metrics
