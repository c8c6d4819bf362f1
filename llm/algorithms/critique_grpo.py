"""Critique-GRPO: train on answers, and on refinements sampled after a critique.

Zhang et al. (2025), "Critique-GRPO: Advancing LLM Reasoning with Natural Language and Numerical
Feedback", arXiv:2506.03106. Each answer is refined once, after a critique. The best refinements
join the answers' group, and advantages are computed over this union. A refinement is trained after
the *original* prompt, but was sampled after another one. Its tokens therefore have no ratio. Their
loss is −f(π) A with f(p) = p/(p + γ) and γ = 0.1; see `llm.learner.losses.LossInputs`.

Differences from the paper:

- Critiques are its "indicative" ones: the verifier's bit in words. In its main results a stronger
  model with the answer, or the model itself, writes them. Here no method gets more than this bit.
- The request is a second turn of the conversation. The paper sends one message with question,
  solution and critique.
- The loss of the answers is the run's, which is clipped; the paper's is not.
- `scale_rewards: none` gives the paper's advantages, not divided by the standard deviation.

Refinements are chosen by reward, as in the paper. This selection raises the mean reward of the
group, and lowers the advantages of the answers.
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
from cpi.core.episodes import Episode, Prefix
from cpi.core.plans import GroupPlan
from llm.algorithms.algorithm import Algorithm
from llm.algorithms.batch import Batch, records_of_rows
from llm.algorithms.metrics import collection_metrics
from llm.algorithms.turns import check_room, next_turn
from llm.common.progress import Staged
from llm.learner.rows import make_rows
from llm.thoughts.simulator import Prompt

REQUEST = """\
Critique: your solution is {correctness}.

Answer the question again. Correct what may be wrong, reason step by step, and keep to the form \
that was asked for."""


def request(attempt: Episode) -> str:
    """Critique of an answer and request to refine it; its only information is one bit."""
    return REQUEST.format(correctness="incorrect" if attempt.failed else "correct")


class CritiqueGRPO(Algorithm):
    """Makes batches of answers and refinements."""

    about = (
        "Critique-GRPO (Zhang et al. 2025, arXiv 2506.03106): answers and refinements of them are "
        "compared with one another"
    )
    request = REQUEST.format(correctness="incorrect")

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts that leave no room for an answer and its refinement."""
        if self.config.critique_grpo.turns > 1:
            check_room(self.simulator, prompts, self.request)

    def batch(self, step: int, indices: Sequence[int], rng: np.random.Generator) -> Batch:
        """Sample answers, refine each, and add the best refinements."""
        options, config = self.config.critique_grpo, self.config
        prompts = [self.prompts[i] for i in indices]
        staged = Staged(self.simulator, self.reporter, "generate", "retry")
        answers = collect(staged, prompts, GroupPlan(fresh=options.answers), None, rng)
        refined = self._refine(staged, answers, rng) if options.refinements else []
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
        off_policy = [e.origin is not group.prefix for group in union for e in group.episodes]
        on_policy_rows = [row for row, off in zip(rows, off_policy, strict=True) if not off]
        rows = [
            # The engine sampled these tokens after another prompt, so its log-probs do not apply.
            row._replace(logprobs=np.full_like(row.logprobs, np.nan), gamma=options.gamma)
            if off
            else row
            for row, off in zip(rows, off_policy, strict=True)
        ]
        metrics = collection_metrics(Collection(union, ledger), advantages, on_policy_rows)
        metrics["fresh/reward"] = float(np.mean([group.returns for group in answers]))
        metrics.update(_metrics(answers, refined, chosen))
        return Batch(rows, metrics, ledger, partial(records_of_rows, step, union, advantages, rows))

    def _refine(
        self, staged: Staged, answers: Collection, rng: np.random.Generator
    ) -> list[list[Episode]]:
        """One refinement of each answer, in lists by prompt."""
        turns = [
            Prefix(next_turn(self.simulator, answer, request(answer)))
            for group in answers
            for answer in group.episodes
        ]
        rollouts = iter(staged.rollout(turns, 1, rng))
        return [[next(rollouts)[0] for _ in group.episodes] for group in answers]


def best(episodes: Sequence[Episode], number: int, rng: np.random.Generator) -> list[Episode]:
    """The `number` episodes with the highest rewards; ties are broken at random."""
    order = rng.permutation(len(episodes))
    ranked = sorted((episodes[i] for i in order), key=lambda episode: -episode.ret)
    return ranked[:number]


def _metrics(
    answers: Sequence[Group], refined: Sequence[Sequence[Episode]], chosen: Sequence[list[Episode]]
) -> dict[str, float]:
    """Rewards of refinements, and the share of failed answers whose refinement succeeds."""
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
