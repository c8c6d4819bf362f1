"""SPO-tree on a scripted policy: trees, values, the probability mask, costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cpi
from llm.algorithms.batch import Batch
from llm.algorithms.spo_tree import Node, SPOTree, mask_likely_tokens
from llm.config.baselines import SPOTreeOptions
from llm.engines import SamplingParams
from llm.learner.options import LossConfig
from llm.learner.rows import Row
from llm.models.policy import load_policy
from llm.thoughts.simulator import ThoughtSimulator, token_ids
from tests.llm.algorithms.worlds import (
    EOS,
    assert_gradients_close,
    assert_rows_equal,
    gradient,
    settings,
    setup,
    starts,
    world,
)
from tests.llm.small import dense_logprobs

BRANCHES = [4, 3, 2]


def tree(changes: Any = None, **options: Any) -> tuple[SPOTree, ThoughtSimulator]:
    simulator = world()
    values = {"branches": BRANCHES, "segment_tokens": 2, "rho": 2.0, **options}
    config = settings("spo_tree", spo_tree=SPOTreeOptions(**values), **(changes or {}))
    return SPOTree(setup(simulator, config)), simulator


def grow_trees(seed: int = 0, **options: Any) -> list[Node]:
    sampler, simulator = tree(**options)
    return sampler.grow(starts(simulator), np.random.default_rng(seed))


def make_batch(seed: int = 0, config: Any = None, **options: Any) -> Batch:
    sampler, _ = tree(config, **options)
    return sampler.batch(1, range(2), np.random.default_rng(seed))


def test_grow__tree_shape() -> None:
    for root in grow_trees():
        assert len(root.children) == 4
        for node in root.inner_nodes():
            level = len(node.prefix.steps)
            assert len(node.children) == BRANCHES[level]
            for child in node.children:
                assert child.prefix.steps[:-1] == node.prefix.steps
                assert child.prefix.start is root.prefix.start
                segment = child.prefix.steps[-1]
                last = level + 1 == len(BRANCHES)
                # A segment has children only if it neither stopped nor was cut.
                assert bool(child.children) == (segment.end == "delimiter")
                assert (segment.end == "stop") == (segment.ids[-1] == EOS)
                assert last <= (segment.end != "delimiter")
                if segment.end == "delimiter":
                    assert len(segment.ids) == 2
                assert len(token_ids(child.prefix.steps)) <= 12
    ends = [node.prefix.steps[-1].end for root in grow_trees() for node in root.leaves()]
    assert {"stop"} <= set(ends)
    depths = {len(node.prefix.steps) for root in grow_trees() for node in root.leaves()}
    assert depths == {1, 2, 3}  # some stop early


def test_grow__one_engine_call_per_level() -> None:
    sampler, simulator = tree()
    roots = sampler.grow(starts(simulator), np.random.default_rng(0))
    calls = simulator.engine.calls  # type: ignore[attr-defined]
    assert len(calls) == len(BRANCHES)
    for level, (prompts, params) in enumerate(calls):
        nodes = [n for root in roots for n in root.inner_nodes() if len(n.prefix.steps) == level]
        contexts = [[*n.prefix.start.ids, *token_ids(n.prefix.steps)] for n in nodes]
        assert sorted(prompts) == sorted(contexts)
        assert {p.n for p in params} == {BRANCHES[level]}
        room = {12 - 2 * level} if level == 2 else {2}
        assert {p.max_tokens for p in params} == room
        assert len({p.seed for p in params}) == len(params)


def test_batch__values_and_advantages_by_definition() -> None:
    batch, roots = make_batch(config={"scale_rewards": "none"}), grow_trees()
    rows = iter(batch.rows)
    some = False
    for root in roots:
        leaves = list(root.leaves())
        assert all(leaf.value == leaf.reward == float(_has_good(leaf)) for leaf in leaves)
        for node in root.inner_nodes():
            values = [child.value for child in node.children]
            assert node.value == pytest.approx(np.mean(values))
            child_rows = [next(rows) for _ in node.children]
            advantages = np.array([row.advantage for row in child_rows])
            np.testing.assert_allclose(advantages, np.array(values) - node.value, atol=1e-12)
            assert abs(advantages.sum()) < 1e-12
            some |= bool(advantages.any())
            for row, child in zip(child_rows, node.children, strict=True):
                segment = child.prefix.steps[-1]
                before = [*root.prefix.start.ids, *token_ids(node.prefix.steps)]
                assert row.ids.tolist() == [*before, *segment.ids]
                assert (row.trained_from, row.trained_to) == (len(before), len(row.ids))
                np.testing.assert_array_equal(row.logprobs, segment.logprobs)
        # The advantages along a path add up to the leaf's reward minus the prompt's value.
        for leaf in leaves:
            assert _path(root, leaf) == pytest.approx(leaf.reward - root.value)
    assert some and next(rows, None) is None


def _has_good(node: Node) -> bool:
    return 3 in token_ids(node.prefix.steps)


def _path(root: Node, leaf: Node) -> float:
    node, total = root, 0.0
    for step in leaf.prefix.steps:
        (child,) = [c for c in node.children if c.prefix.steps[-1] is step]
        total, node = total + child.value - node.value, child
    return total


def memoryless(prompt: Sequence[int], p: SamplingParams, j: int) -> list[int]:
    """Each token is EOS with chance .3 and good with .2, independent of earlier tokens."""
    draws = np.random.default_rng([p.seed, j]).random(12)
    return [EOS if draw < 0.3 else 3 if draw < 0.5 else 0 for draw in draws]


def test_value__unbiased_for_the_policy() -> None:
    # A text is right with chance .2/(.2 + .3), which is the mean value of a prompt. The mean over
    # leaves is larger, because longer texts have more leaves.
    simulator = world(memoryless)
    options = SPOTreeOptions(branches=[2, 4], segment_tokens=2)
    sampler = SPOTree(setup(simulator, settings("spo_tree", spo_tree=options)))
    roots = sampler.grow(starts(simulator) * 60, np.random.default_rng(0))
    values = np.array([root.value for root in roots])
    leaves = np.array([np.mean([leaf.reward for leaf in root.leaves()]) for root in roots])
    assert values.mean() == pytest.approx(0.4, abs=3 * values.std() / np.sqrt(120))
    gap = leaves - values
    assert gap.mean() > 4 * gap.std() / np.sqrt(120)


def test_batch__one_level_equals_grpo() -> None:
    batch, simulator = make_batch(branches=[5]), world()
    prompts = starts(simulator)
    seeds = np.random.default_rng(0).integers(2**62, size=2)
    stops = simulator.stop_token_ids
    params = [SamplingParams(12, 5, stop_token_ids=stops, seed=int(seed)) for seed in seeds]
    drawn = simulator.engine.generate([prompt.ids for prompt in prompts], params)
    rewards = [[float(3 in c.ids) for c in group] for group in drawn]
    expected = np.concatenate(cpi.group_advantages(rewards))
    assert expected.any() and [row.advantage for row in batch.rows] == expected.tolist()
    for row, completion in zip(batch.rows, [c for group in drawn for c in group], strict=True):
        assert row.ids[row.trained_from :].tolist() == completion.ids.tolist()
        assert row.trained_from == 2 and row.trained == len(completion.ids)


@pytest.mark.parametrize("rho", [0.9, 0.6, 0.4])
def test_batch__only_unlikely_tokens_trained(rho: float) -> None:
    full_rows, masked = make_batch().rows, make_batch(rho=rho).rows
    trained = 0
    for row, full in zip(masked, full_rows, strict=True):
        np.testing.assert_array_equal(row.ids, full.ids)
        below = np.exp(full.logprobs) < rho
        np.testing.assert_array_equal(row.mask, below)
        np.testing.assert_array_equal(row.logprobs, full.logprobs[below])
        assert row.trained == below.sum()
        trained += row.trained
    assert 0 < trained < sum(row.trained for row in full_rows)
    assert all(row.mask is not None and row.mask.all() for row in full_rows)  # rho = 2


def test_mask_likely_tokens__no_gradient_of_masked_tokens(
    tiny_model: Callable[[bool], Path],
) -> None:
    policy = load_policy(str(tiny_model(True)), device=torch.device("cpu")).double()
    rng = np.random.default_rng(0)
    rows = []
    for advantage in (1.0, -0.5):
        row = Row(rng.integers(1, 63, 9), 3, 9, np.log([0.95, 0.2, 0.99, 0.5, 0.9, 0.1]), advantage)
        rows.append(mask_likely_tokens(row, 0.9))
    assert rows[0].mask is not None
    assert rows[0].mask.tolist() == [False, True, False, True, False, True]
    actual = gradient(policy, rows, LossConfig(vllm_importance_sampling_correction=False))
    # By hand: the mean over the six tokens left of −A log π.
    policy.zero_grad()
    kept = [3 + 1 - 1, 3 + 3 - 1, 3 + 5 - 1]  # a token's log-prob is one place before it
    loss = sum(-row.advantage * dense_logprobs(policy, row.ids)[kept].sum() for row in rows) / 6
    loss.backward()
    assert_gradients_close(actual, {name: p.grad for name, p in policy.named_parameters()})


def test_batch__ledger_counts_segments() -> None:
    batch, roots = make_batch(rho=0.6), grow_trees()
    nodes = [child for root in roots for node in root.inner_nodes() for child in node.children]
    leaves = [leaf for root in roots for leaf in root.leaves()]
    ledger = batch.ledger
    assert ledger.episodes == ledger.trained_episodes == len(leaves)
    assert ledger.steps == sum(len(node.prefix.steps[-1].ids) for node in nodes)
    assert ledger.trained_steps == sum(row.trained for row in batch.rows) < ledger.steps
    assert ledger.localizer_cost == 0


def test_batch__metrics_by_hand() -> None:
    batch, roots = make_batch(rho=0.6), grow_trees()
    metrics = batch.metrics
    assert metrics["reward"] == metrics["fresh/reward"] == np.mean([r.value for r in roots])
    leaves = [list(root.leaves()) for root in roots]
    assert metrics["spo_tree/leaves"] == np.mean([len(each) for each in leaves])
    lengths = [len(token_ids(leaf.prefix.steps)) for each in leaves for leaf in each]
    assert metrics["completions/mean_length"] == pytest.approx(np.mean(lengths))
    assert metrics["completions/max_length"] == max(lengths)
    masked = 1 - batch.ledger.trained_steps / batch.ledger.steps
    assert metrics["spo_tree/masked_rate"] == pytest.approx(masked)
    # Entropy is over all tokens, so runs with different masks are comparable.
    assert metrics["entropy"] == make_batch().metrics["entropy"]
    assert all(np.isfinite(value) for value in metrics.values())


def test_records__groups_of_siblings() -> None:
    batch = make_batch(rho=0.6)
    records = batch.records()
    flat = [continuation for record in records for continuation in record["continuations"]]
    for row, continuation in zip(batch.rows, flat, strict=True):
        kept = len(continuation["ids"]) - (row.trained_to - row.trained_from)
        assert row.mask is not None
        assert continuation["mask"] == [0] * kept + row.mask.astype(int).tolist()
        assert continuation["tokens"] == row.trained
    assert {continuation["end"] for continuation in flat} == {"stop", "open"}
    assert {record["kind"] for record in records} == {"fresh"}


def test_batch__reproducible() -> None:
    assert_rows_equal(make_batch(seed=3).rows, make_batch(seed=3).rows)
