"""Critique-GRPO: answers, a critique of each, and refinements learnt as if nobody had helped.

Zhang et al. (2025), "Critique-GRPO: Advancing LLM Reasoning with Natural Language and Numerical
Feedback", arXiv:2506.03106. Each answer is refined once, after a critique; the best refinements
join the answers' group, and advantages are taken over the union. A refinement is trained after the
*original* prompt, which is not the one it was sampled from: its tokens have no ratio, and lose
−f(π) A with f(p) = p/(p + γ) instead (γ = 0.1; see `llm.learner.losses.LossInputs`).

What differs from the paper: critiques are its "indicative" ones, the verifier's bit in words (its
main results have critiques written by a stronger model that knows the answer, or by the model
itself), so that no method here is told more than another; the request is a second turn of the
conversation (there: one message with question, solution and critique); the answers' loss is the
run's, clipped (there: not). With `scale_rewards: none` advantages are the paper's, not divided by
the standard deviation.

Refinements are chosen for their reward, the right ones first, as there, so their mean is not the
policy's: it lowers the answers' advantages.
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
from cpi.core.episodes import Episode, Prefix
from cpi.core.plans import GroupPlan
from llm.algorithms.algorithm import Algorithm
from llm.algorithms.batch import Batch, records_of_rows
from llm.algorithms.metrics import collection_metrics
from llm.algorithms.turns import check_room, next_turn
from llm.common.progress import Staged
from llm.learner.rows import make_rows
from llm.thoughts.simulator import Prompt

if TYPE_CHECKING:
    pass

REQUEST = """\
Critique: your solution is {verdict}.

Answer the question again. Correct what may be wrong, reason step by step, and keep to the form \
that was asked for."""


def request(attempt: Episode) -> str:
    """The critique of an answer and the request to refine it; it tells one bit."""
    return REQUEST.format(verdict="incorrect" if attempt.failed else "correct")


class CritiqueGRPO(Algorithm):
    """Batches of answers and refinements."""

    about = (
        "Critique-GRPO (Zhang et al. 2025, arXiv 2506.03106): answers and refinements of them are "
        "compared with one another"
    )
    request = REQUEST.format(verdict="incorrect")

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts that leave no room for an answer and its refinement."""
        if self.config.critique_grpo.turns > 1:
            check_room(self.simulator, prompts, self.request)

    def batch(self, step: int, indices: Sequence[int], rng: np.random.Generator) -> Batch:
        """Answers, and the best refinements of them."""
        options, config = self.config.critique_grpo, self.config
        prompts = [self.prompts[i] for i in indices]
        staged = Staged(self.simulator, self.reporter, "generate", "retry")
        answers = collect(staged, prompts, GroupPlan(fresh=options.answers), None, rng)
        refined = self._refined(staged, answers, rng) if options.refinements else []
        chosen = [best(episodes, options.refinements, rng) for episodes in refined]

        ledger = answers.ledger + Ledger()
        for episodes, kept in zip(refined, chosen, strict=True):
            ledger.generated(episodes, trained=False)
            ledger.trained_episodes += len(kept)
            ledger.trained_steps += sum(episode.cost for episode in kept)

        added = chosen or [[] for _ in answers]
        union = [
            Group(group.start, group.prefix, [*group.episodes, *kept])
            for group, kept in zip(answers, added, strict=True)
        ]
        advantages = group_advantages([group.returns for group in union], config.scale_rewards)
        truncated = config.update.mask_truncated_completions
        rows = make_rows(union, advantages, mask_truncated_completions=truncated)
        helped = [e.origin is not group.prefix for group in union for e in group.episodes]
        on_policy = [row for row, off in zip(rows, helped, strict=True) if not off]
        rows = [
            # The engine's log-probs are those after another prompt.
            row._replace(logprobs=np.full_like(row.logprobs, np.nan), gamma=options.gamma)
            if off
            else row
            for row, off in zip(rows, helped, strict=True)
        ]
        metrics = collection_metrics(Collection(union, ledger), advantages, on_policy)
        metrics["fresh/reward"] = float(np.mean([group.returns for group in answers]))
        metrics.update(_metrics(answers, refined, chosen))
        return Batch(rows, metrics, ledger, partial(records_of_rows, step, union, advantages, rows))

    def _refined(
        self, staged: Staged, answers: Collection, rng: np.random.Generator
    ) -> list[list[Episode]]:
        """A refinement of each answer, prompt by prompt."""
        turns = [
            Prefix(next_turn(self.simulator, answer, request(answer)))
            for group in answers
            for answer in group.episodes
        ]
        rolled = iter(staged.rollout(turns, 1, rng))
        return [[next(rolled)[0] for _ in group.episodes] for group in answers]


def best(episodes: Sequence[Episode], number: int, rng: np.random.Generator) -> list[Episode]:
    """Draw so many: from those with the highest reward, then from the next."""
    order = rng.permutation(len(episodes))
    ranked = sorted((episodes[i] for i in order), key=lambda episode: -episode.ret)
    return ranked[:number]


def _metrics(
    answers: Sequence[Group], refined: Sequence[Sequence[Episode]], chosen: Sequence[list[Episode]]
) -> dict[str, float]:
    """`critique/correction_rate` is the share of failed answers whose refinement succeeds."""
    if not refined:
        return {}
    after = [episode for episodes in refined for episode in episodes]
    before = [episode for group in answers for episode in group.episodes]
    corrected = [not b.failed for a, b in zip(before, after, strict=True) if a.failed]
    metrics = {
        "critique/refined_reward": float(np.mean([e.ret for e in after])),
        "critique/chosen_reward": float(np.mean([e.ret for kept in chosen for e in kept])),
    }
    if corrected:
        metrics["critique/correction_rate"] = float(np.mean(corrected))
    return metrics
