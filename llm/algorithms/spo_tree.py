"""SPO-tree: a tree of fixed-length segments, each compared with its siblings.

Guo et al. (2025), "Segment Policy Optimization: Effective Segment-Level Credit Assignment in RL for
Large Language Models", arXiv:2505.23564. A prompt branches into b₁ segments of M tokens. Each
segment that has not stopped branches into b₂ more, and so on; the last level continues to the end.
The value of a leaf is its reward. The value of any other node is the mean over its children. The
advantage of a segment is its value minus its parent's, so siblings are a group like any other. Only
tokens sampled with a probability below ρ (0.9) are trained: at the others, nothing was decided.

Each child stands for the same share of the policy. V(parent) = mean V(children) therefore differs
from the mean over leaves where some children stop early and have fewer leaves.

Differences from the paper:

- The loss, its average over tokens and the scale of advantages are the run's. `scale_rewards: none`
  gives the paper's main choice, V(child) − V(parent).
- A whole tree is trained in the step that grew it. The paper trains 512 segments at a time, from a
  buffer.
- Segments without an advantage count in the average, as with other algorithms.
- M is 64 by default. The paper uses 600, for completions of up to 4,096 tokens.

Thoughts, and limits on them, play no part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

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


@dataclass(eq=False)
class Node:
    """A tree node: a prompt and the segments so far. A leaf has a reward, other nodes children."""

    prefix: Prefix
    reward: float = 0.0
    children: list[Node] = field(default_factory=list)

    @property
    def value(self) -> float:
        """V: the tree's estimate of the policy's mean reward from this node."""
        if not self.children:
            return self.reward
        return float(np.mean([child.value for child in self.children]))

    def inner_nodes(self) -> Iterator[Node]:
        """The nodes with children, parents first."""
        if self.children:
            yield self
            for child in self.children:
                yield from child.inner_nodes()

    def leaves(self) -> Iterator[Node]:
        """The nodes without children."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves()


class SPOTree(Algorithm):
    """Makes batches of segments."""

    about = (
        "SPO-tree (Guo et al. 2025, arXiv 2505.23564): segments of a tree of completions are "
        "compared with their siblings"
    )

    def batch(self, step: int, indices: Sequence[int], rng: np.random.Generator) -> Batch:
        """Grow a tree for each problem, and train on its segments."""
        roots = self.grow([self.prompts[i] for i in indices], rng)
        groups = [
            Group(number, node.prefix, [self._episode(node, child) for child in node.children])
            for number, root in enumerate(roots)
            for node in root.inner_nodes()
        ]
        advantages = group_advantages([g.returns for g in groups], self.config.scale_rewards)
        truncated = self.config.update.mask_truncated_completions
        full_rows = make_rows(groups, advantages, mask_truncated_completions=truncated)
        rows = [mask_likely_tokens(row, self.config.spo_tree.rho) for row in full_rows]
        leaves = [list(root.leaves()) for root in roots]
        ledger = Ledger(
            episodes=sum(map(len, leaves)),
            steps=sum(episode.cost for group in groups for episode in group.episodes),
            trained_episodes=sum(map(len, leaves)),
            trained_steps=sum(row.trained for row in rows),
        )
        metrics = self._metrics(roots, groups, advantages, full_rows)
        if tokens := sum(row.trained for row in full_rows):
            metrics["spo_tree/masked_rate"] = 1 - ledger.trained_steps / tokens
        return Batch(
            rows, metrics, ledger, partial(records_of_rows, step, groups, advantages, rows)
        )

    # ------------------------------------------------------------------ the trees

    def grow(self, prompts: Sequence[Prompt], rng: np.random.Generator) -> list[Node]:
        """Grow a tree for each prompt, with one engine call per level for all trees."""
        options = self.config.spo_tree
        roots = [Node(Prefix(prompt)) for prompt in prompts]
        growing = roots
        for level, branches in enumerate(options.branches, 1):
            last = level == len(options.branches)
            seeds = rng.integers(MAX_SEED, size=len(growing))
            params = [
                SamplingParams(
                    max_tokens=self._max_tokens(node) if last else options.segment_tokens,
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
                generated = self.simulator.engine.generate(contexts, params)
                stage.advance(sum(len(c.ids) for group in generated for c in group))
            for node, completions in zip(growing, generated, strict=True):
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
            self._verify(list(root.leaves()))
        return roots

    def _max_tokens(self, node: Node) -> int:
        """Maximum number of tokens after a node."""
        return self.simulator.limits.max_completion_length - len(token_ids(node.prefix.steps))

    def _child(self, node: Node, completion: Completion, last: bool) -> Node:
        ids = tuple(completion.ids.tolist())
        end: Any = "stop" if completion.finish_reason == "stop" else "cut" if last else "delimiter"
        text = self.simulator.tokenizer.decode(ids, skip_special_tokens=True)
        segment = Thought(ids, completion.logprobs, text, end)
        return Node(Prefix(node.prefix.start, (*node.prefix.steps, segment)))

    def _verify(self, leaves: Sequence[Node]) -> None:
        """Set the rewards of leaves, which are complete completions."""
        completions = [(leaf.prefix, leaf.prefix.steps) for leaf in leaves]
        for leaf, verification in zip(leaves, self.simulator.verify(completions), strict=True):
            leaf.reward = verification.reward

    def _episode(self, node: Node, child: Node) -> Episode:
        """A segment as an episode of its siblings' group, whose return is its value."""
        value, steps = child.value, child.prefix.steps
        failed = value < self.simulator.task.success
        return Episode(node.prefix, steps, value, failed, len(steps[-1].ids))

    # ------------------------------------------------------------------ metrics

    def _metrics(
        self,
        roots: Sequence[Node],
        groups: Sequence[Group],
        advantages: Sequence[FloatArray],
        rows: Sequence[Row],
    ) -> dict[str, float]:
        """Metrics of completions, one for each leaf; `reward` is the mean value of the prompts.

        `frac_reward_zero_std` is the share of prompts without any advantage.
        `spo_tree/informative_group_rate` is the share of sibling groups with one.
        `spo_tree/masked_rate` is the share of the segments' tokens that the probability mask
        leaves out.
        """
        completions = [
            Group(number, root.prefix, [self._completion(root, leaf) for leaf in root.leaves()])
            for number, root in enumerate(roots)
        ]
        by_prompt: list[list[FloatArray]] = [[] for _ in roots]
        for group, values in zip(groups, advantages, strict=True):
            by_prompt[group.start].append(values)
        prompt_advantages = [np.concatenate(values) for values in by_prompt]
        metrics = collection_metrics(Collection(completions, Ledger()), prompt_advantages, rows)
        value = float(np.mean([root.value for root in roots]))
        metrics["reward"] = metrics["fresh/reward"] = value
        metrics["spo_tree/leaves"] = float(np.mean([len(group.episodes) for group in completions]))
        metrics["spo_tree/segments"] = len(rows) / len(roots)
        metrics["spo_tree/informative_group_rate"] = float(np.mean([a.any() for a in advantages]))
        return metrics

    def _completion(self, root: Node, leaf: Node) -> Episode:
        """The path from root to leaf as one episode."""
        steps, failed = leaf.prefix.steps, leaf.reward < self.simulator.task.success
        return Episode(root.prefix, steps, leaf.reward, failed, len(token_ids(steps)))


def mask_likely_tokens(row: Row, rho: float) -> Row:
    """Train the row only on tokens that were sampled with a probability below rho."""
    mask = np.exp(row.logprobs) < rho
    return row._replace(mask=mask, logprobs=row.logprobs[mask])
