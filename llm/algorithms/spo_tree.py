"""SPO-tree: segments of a fixed number of tokens that branch, compared with their siblings.

Guo et al. (2025), "Segment Policy Optimization: Effective Segment-Level Credit Assignment in RL for
Large Language Models", arXiv:2505.23564. From the prompt grow b₁ segments of M tokens, from each
that has not stopped b₂ more, …, and the last level goes on to the end. The value of a leaf is its
reward, that of any other node the mean of its children's, and the advantage of a segment is its
value less its parent's: the siblings' mean, so that they are a group like any other. Only tokens
that were sampled with a probability below ρ are trained (0.9), for at the others nothing was
decided.

V(parent) = mean V(children) is not the mean over the leaves below where some children stop early
and have fewer of them: each child stands for the same share of the policy.

What differs from the paper: the loss, its average over tokens and the advantages' scale are the
run's (`scale_rewards: none` leaves them as the paper's main ones, V(child) − V(parent)); a tree is
trained on whole in the step that grew it (there: 512 segments at a time, from a buffer); segments
without an advantage count in the average as those of other methods do; M is 64 by default (there:
600, for completions of up to 4,096). Thoughts, and limits on them, play no part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cpi.core.advantages import group_advantages
from cpi.core.collect import Collection, Group, Ledger
from cpi.core.episodes import Episode, Prefix
from envs.tabular import FloatArray
from llm.algorithms.algorithm import Algorithm
from llm.algorithms.batch import Batch, records_of_rows
from llm.algorithms.metrics import collection_metrics
from llm.engines.engine import MAX_SEED, Completion, SamplingParams
from llm.learner.rows import Row, make_rows
from llm.thoughts.simulator import (
    Prompt,
    Thought,
    token_ids,
)

if TYPE_CHECKING:
    pass


@dataclass(eq=False)
class Node:
    """A prompt and the segments so far; its reward, if it is a leaf, and its children if not."""

    prefix: Prefix
    reward: float = 0.0
    children: list[Node] = field(default_factory=list)

    @property
    def value(self) -> float:
        """V: the reward that the policy gets from here, as far as the tree knows."""
        if not self.children:
            return self.reward
        return float(np.mean([child.value for child in self.children]))

    def inner(self) -> Iterator[Node]:
        """The nodes with children, each before those below it."""
        if self.children:
            yield self
            for child in self.children:
                yield from child.inner()

    def leaves(self) -> Iterator[Node]:
        """The nodes without."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves()


class SPOTree(Algorithm):
    """Batches of segments."""

    about = (
        "SPO-tree (Guo et al. 2025, arXiv 2505.23564): segments of a tree of completions are "
        "compared with their siblings"
    )

    def batch(self, step: int, indices: Sequence[int], rng: np.random.Generator) -> Batch:
        """The segments of a tree for each problem."""
        roots = self.grow([self.prompts[i] for i in indices], rng)
        groups = [
            Group(number, node.prefix, [self._episode(node, child) for child in node.children])
            for number, root in enumerate(roots)
            for node in root.inner()
        ]
        advantages = group_advantages([g.returns for g in groups], self.config.scale_rewards)
        truncated = self.config.update.mask_truncated_completions
        whole = make_rows(groups, advantages, mask_truncated_completions=truncated)
        rows = [undecided(row, self.config.spo_tree.rho) for row in whole]
        leaves = [list(root.leaves()) for root in roots]
        ledger = Ledger(
            episodes=sum(map(len, leaves)),
            steps=sum(episode.cost for group in groups for episode in group.episodes),
            trained_episodes=sum(map(len, leaves)),
            trained_steps=sum(row.trained for row in rows),
        )
        metrics = self._metrics(roots, groups, advantages, whole)
        if tokens := sum(row.trained for row in whole):
            metrics["spo_tree/masked_rate"] = 1 - ledger.trained_steps / tokens
        return Batch(
            rows, metrics, ledger, partial(records_of_rows, step, groups, advantages, rows)
        )

    # ------------------------------------------------------------------ the trees

    def grow(self, prompts: Sequence[Prompt], rng: np.random.Generator) -> list[Node]:
        """A tree for each prompt, level by level; one engine call for a level of all trees."""
        options = self.config.spo_tree
        roots = [Node(Prefix(prompt)) for prompt in prompts]
        growing = roots
        for level, branches in enumerate(options.branches, 1):
            last = level == len(options.branches)
            seeds = rng.integers(MAX_SEED, size=len(growing))
            params = [
                SamplingParams(
                    max_tokens=self._room(node) if last else options.segment_tokens,
                    n=branches,
                    temperature=self.simulator.temperature,
                    top_p=self.simulator.top_p,
                    stop_token_ids=self.simulator.stop_token_ids,
                    seed=int(seed),
                )
                for node, seed in zip(growing, seeds, strict=True)
            ]
            contexts = [[*n.prefix.start.ids, *token_ids(n.prefix.steps)] for n in growing]
            with self.reporter.stage("generate") as stage:
                rolled = self.simulator.engine.generate(contexts, params)
                stage.advance(sum(len(c.ids) for group in rolled for c in group))
            for node, completions in zip(growing, rolled, strict=True):
                node.children = [self._child(node, c, last) for c in completions]
            growing = [
                child
                for node in growing
                for child in node.children
                if child.prefix.steps[-1].end == "delimiter"
            ]
            if not growing:
                break
        for root in roots:
            self._judge(list(root.leaves()))
        return roots

    def _room(self, node: Node) -> int:
        """Most tokens that may follow."""
        return self.simulator.limits.max_completion_length - len(token_ids(node.prefix.steps))

    def _child(self, node: Node, completion: Completion, last: bool) -> Node:
        ids = tuple(completion.ids.tolist())
        end: Any = "stop" if completion.finish_reason == "stop" else "cut" if last else "delimiter"
        text = self.simulator.tokenizer.decode(ids, skip_special_tokens=True)
        segment = Thought(ids, completion.logprobs, text, end)
        return Node(Prefix(node.prefix.start, (*node.prefix.steps, segment)))

    def _judge(self, leaves: Sequence[Node]) -> None:
        """Rewards of whole completions."""
        verdicts = self.simulator.judge([(leaf.prefix, leaf.prefix.steps) for leaf in leaves])
        for leaf, verdict in zip(leaves, verdicts, strict=True):
            leaf.reward = verdict.reward

    def _episode(self, node: Node, child: Node) -> Episode:
        """A segment as an episode of its siblings' group, whose return is its value."""
        value, steps = child.value, child.prefix.steps
        failed = value < self.simulator.task.success
        return Episode(node.prefix, steps, value, failed, len(steps[-1].ids))

    # ------------------------------------------------------------------ its metrics

    def _metrics(
        self,
        roots: Sequence[Node],
        groups: Sequence[Group],
        advantages: Sequence[FloatArray],
        rows: Sequence[Row],
    ) -> dict[str, float]:
        """Of whole completions: the leaves; `reward` is the value of the prompts.

        `frac_reward_zero_std` counts prompts without any advantage,
        `spo_tree/informative_group_rate` groups of siblings with one. `spo_tree/masked_rate` is the
        share of the segments' tokens that the probability mask leaves out.
        """
        ends = [
            Group(number, root.prefix, [self._whole(root, leaf) for leaf in root.leaves()])
            for number, root in enumerate(roots)
        ]
        of_prompt: list[list[FloatArray]] = [[] for _ in roots]
        for group, values in zip(groups, advantages, strict=True):
            of_prompt[group.start].append(values)
        together = [np.concatenate(values) for values in of_prompt]
        metrics = collection_metrics(Collection(ends, Ledger()), together, rows)
        value = float(np.mean([root.value for root in roots]))
        metrics["reward"] = metrics["fresh/reward"] = value
        metrics["spo_tree/leaves"] = float(np.mean([len(group.episodes) for group in ends]))
        metrics["spo_tree/segments"] = len(rows) / len(roots)
        metrics["spo_tree/informative_group_rate"] = float(np.mean([a.any() for a in advantages]))
        return metrics

    def _whole(self, root: Node, leaf: Node) -> Episode:
        steps, failed = leaf.prefix.steps, leaf.reward < self.simulator.task.success
        return Episode(root.prefix, steps, leaf.reward, failed, len(token_ids(steps)))


def undecided(row: Row, rho: float) -> Row:
    """The row, trained on only where the engine sampled with a probability below rho."""
    mask = np.exp(row.logprobs) < rho
    return row._replace(mask=mask, logprobs=row.logprobs[mask])
