"""A `Simulator` of chain reasoning with scripted thoughts instead of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import cpi
from cpi.core.episodes import Episode, Prefix
from cpi.core.resets import ResetRule
from llm.common.progress import Reporter
from llm.resets.oracles import checker_rule
from llm.resets.quality import RecordingRule
from llm.runs.rollout_records import Record, step_records, write_rollouts
from llm.tasks import ChainReasoning, Example
from llm.thoughts.simulator import Prompt, Thought

#: Returns the texts after a prefix. If the last text is not boxed, the episode is cut.
Writer = Callable[[Example, list[str], np.random.Generator], Sequence[str]]


def thought(text: str, end: Any = "delimiter") -> Thought:
    """A thought with one token per character."""
    ids = tuple(map(ord, text))
    return Thought(ids, np.full(len(ids), -0.5), text, end)


class ScriptedReasoner:
    """A `Simulator` whose episodes a function writes; tokens are characters."""

    def __init__(self, task: ChainReasoning, writer: Writer) -> None:
        self.task, self.writer = task, writer

    def rollout(
        self, prefixes: Sequence[Prefix], n: int, rng: np.random.Generator
    ) -> list[list[Episode]]:
        return [[self._episode(prefix, rng) for _ in range(n)] for prefix in prefixes]

    def _episode(self, prefix: Prefix, rng: np.random.Generator) -> Episode:
        example = prefix.start.example
        texts = self.writer(example, [thought.text for thought in prefix.steps], rng)
        end = "stop" if texts[-1].endswith("}") else "cut"
        suffix = [*map(thought, texts[:-1]), thought(texts[-1], end)]
        steps = (*prefix.steps, *suffix)
        reward = self.task.reward(example, "".join(thought.text for thought in steps))
        return Episode(prefix, steps, reward, reward < 1, sum(len(t.ids) for t in suffix))


def sloppy(task: ChainReasoning, error_rate: float) -> Writer:
    """A writer of one value per line; each value is wrong with probability `error_rate`."""

    def write(example: Example, kept: list[str], rng: np.random.Generator) -> list[str]:
        problem = example.data
        value = int(kept[-1]) if kept else problem.start
        values = [int(text) for text in kept]
        for operation in problem.operations[len(kept) :]:
            slip = rng.integers(1, 10) if rng.random() < error_rate else 0
            value = (task.chain.apply(operation, value) + int(slip)) % task.chain.modulus
            values.append(value)
        text = task.chain.render_steps(problem, values)
        return text.splitlines(keepends=True)[len(kept) :]

    return write


def prompts(task: ChainReasoning, number: int) -> list[Prompt]:
    """The prompts of the first problems."""
    return [Prompt(tuple(map(ord, e.prompt)), e) for e in task.examples("train")[:number]]


def collected(
    task: ChainReasoning,
    writer: Writer,
    *,
    step: int = 0,
    number: int = 2,
    plan: cpi.GroupPlan = cpi.ALGORITHMS["srpo"].plan,
    rule: ResetRule | None = None,
    **options: Any,
) -> tuple[cpi.Collection, list[Record]]:
    """The groups of one training step, and their records."""
    base_rule = rule or checker_rule(task)
    assert base_rule is not None
    recording_rule = RecordingRule(base_rule, task, Reporter(1))
    groups = cpi.collect(
        ScriptedReasoner(task, writer),
        prompts(task, number),
        plan,
        recording_rule,
        np.random.default_rng(step),
    )
    records = step_records(
        step,
        groups,
        cpi.group_advantages([group.returns for group in groups]),
        plan,
        rule="srpo checker",
        seed_weights=recording_rule.seed_weights,
        **options,
    )
    return groups, records


def write_run(run: Path, steps: Sequence[int] = (0, 5, 10), **options: Any) -> Path:
    """Write a run's folder with rollouts of a reasoner that improves; returns the folder."""
    task = ChainReasoning(train=16, test=4)
    for step in steps:
        _, records = collected(task, sloppy(task, 0.4 / (1 + step / 5)), step=step, **options)
        write_rollouts(run, step, records)
    (run / "config.yaml").write_text("model: chain\nalgorithm: srpo\n")
    return run
