"""SCoRe: a first attempt, a request to correct it, a second attempt.

Kumar et al. (2024), "Training Language Models to Self-Correct via Reinforcement Learning",
arXiv:2409.12917. In stage I the second attempt's reward is maximised while a KL term holds the
first one at the base model; in stage II both attempts are trained, and the second gets the bonus
α (r₂ − r₁). Each attempt is trained after the very prompt that it was sampled from, which for a
second one has the first in it.

What differs from the paper: advantages are those of GRPO, within the attempts of a prompt (there:
REINFORCE with the mean as baseline); the KL term is k3, of the first attempts alone in stage I, and
that of the loss, 0 by default, elsewhere (there: 0.01 on both attempts in stage II); stage I is a
number of steps of the same run. The attempts of a prompt are compared by turn: a second attempt
with those that follow other first attempts. Given its first attempt, the bonus only multiplies its
reward by 1 + α; what it favours within a group is second attempts after first ones that failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

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
from llm.algorithms.turns import check_room, next_turn, shown
from llm.common.progress import Staged
from llm.learner.rows import Row, make_rows
from llm.thoughts.simulator import Prompt

if TYPE_CHECKING:
    pass

#: The paper's words (its appendix), without the form of the answer, which the first prompt gave.
REQUEST = (
    "There might be an error in the solution above because of lack of understanding of the "
    "question. Please correct the error, if any, and rewrite the solution."
)


class Score(Algorithm):
    """Batches of first and second attempts."""

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
        """First attempts, and a second one after each."""
        options, config = self.config.score, self.config
        prompts = [self.prompts[i] for i in indices]
        staged = Staged(self.simulator, self.reporter, "generate", "retry")
        first = collect(staged, prompts, GroupPlan(fresh=options.attempts), None, rng)
        alone = self._second(staged, first, rng)
        second = _together(alone, options.attempts)

        stage1 = step <= options.stage1_steps
        of_first = group_advantages([g.returns for g in first], config.scale_rewards)
        rewards = [g.returns for g in second]
        if stage1:
            of_first = [np.zeros_like(advantages) for advantages in of_first]
        else:
            gains = [b.returns - a.returns for a, b in zip(first, second, strict=True)]
            rewards = [r + options.alpha * gain for r, gain in zip(rewards, gains, strict=True)]
        of_second = group_advantages(rewards, config.scale_rewards)

        groups = [*first, *alone]
        advantages = [*of_first, *np.concatenate(of_second)[:, None]]
        truncated = config.update.mask_truncated_completions
        rows = make_rows(groups, advantages, mask_truncated_completions=truncated)
        if stage1:
            held = len(rows) - len(alone)
            rows = [r._replace(beta=options.kl) if i < held else r for i, r in enumerate(rows)]
        ledger = first.ledger + Ledger()
        for group in second:
            ledger.generated(group.episodes, trained=True)
        metrics = _metrics(first, second, [*of_first, *of_second], rows)
        records = partial(records_of_rows, step, groups, advantages, rows)
        return Batch(rows, metrics, ledger, records)

    def _second(self, staged: Staged, first: Collection, rng: np.random.Generator) -> list[Group]:
        """A second attempt after each first one, in their order; each is alone with its prompt."""
        starts = [group.start for group in first for _ in group.episodes]
        attempts = [attempt for group in first for attempt in group.episodes]
        turns = [next_turn(self.simulator, attempt, REQUEST) for attempt in attempts]
        rolled = staged.rollout([Prefix(turn) for turn in turns], 1, rng)
        return [
            Group(start, Prefix(shown(self.simulator, turn)), episodes)
            for start, turn, episodes in zip(starts, turns, rolled, strict=True)
        ]


def _together(alone: Sequence[Group], size: int) -> list[Group]:
    """The second attempts of each prompt, to be compared; they do not share the prefix."""
    return [
        Group(part[0].start, part[0].prefix, [group.episodes[0] for group in part])
        for part in (alone[at : at + size] for at in range(0, len(alone), size))
    ]


def _metrics(
    first: Sequence[Group],
    second: Sequence[Group],
    advantages: Sequence[FloatArray],
    rows: Sequence[Row],
) -> dict[str, float]:
    """`score/fixed` and `score/broken`: shares of first attempts that failed, or did not.

    `fresh/reward` is that of the first attempts: what a model does with a prompt, as everywhere.
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
