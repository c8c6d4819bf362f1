"""The algorithms grpo, rrpo, srpo, oracle and adaptive: a rollout plan and a reset rule."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from cpi.core.advantages import group_advantages
from cpi.core.collect import Collection, collect
from cpi.core.plans import ALGORITHMS, World
from cpi.core.resets import OracleReset
from llm.algorithms.algorithm import Algorithm, Setup
from llm.algorithms.batch import Batch
from llm.algorithms.dynamic_sampling import sample_with_signal
from llm.algorithms.metrics import adaptive_metrics, collection_metrics
from llm.chain.readout import ExactOracle, check_sampling, exact_task
from llm.common.progress import Staged
from llm.common.random_streams import (
    LOCALIZE,
    REPLACE,
    generator,
)
from llm.config.train import TrainConfig
from llm.learner.rows import make_rows
from llm.resets.localizers import check_localizer, make_localizer
from llm.resets.oracles import checker_rule
from llm.resets.prompted import PromptedLocalizer
from llm.resets.quality import RecordingRule, SeedWeights, localization_metrics
from llm.runs.rollout_records import step_records
from llm.tasks import Task
from llm.thoughts.simulator import Prompt

#: A run warns if its first steps, this many, have no delimiter, or no usable localizer reply.
PATIENCE = 3

#: A step has no usable localizer reply if more than this share of replies names no step.
USELESS = 0.9


class PlanAndRuleAlgorithm(Algorithm):
    """Makes the batch of a step for an algorithm of `cpi.ALGORITHMS`: a plan and a reset rule."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.read_out = setup.read_out
        self.steps_without_delimiter = 0  # -1 after the first delimiter
        self.steps_without_reply = 0  # -1 after the first usable reply

    @classmethod
    def check_task(cls, config: TrainConfig, task: Task) -> None:
        """Refuse a task without a step checker, or without exact values, if the rule needs them."""
        if config.needs("oracle") and not task.has_checker:
            raise ValueError(
                f"algorithm: {config.algorithm} needs a step checker, and {task} has none; use "
                "rrpo or srpo"
            )
        if _needs_values(config):
            exact_task(task)
        if config.needs("localizer"):
            check_localizer(config.localizer, task)

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Refuse sampling options under which the oracle's exact values are wrong."""
        if _needs_values(self.config):
            task, tokenizer = exact_task(self.task), self.simulator.tokenizer
            check_sampling(self.config.sampling, tokenizer, task, prompts)

    def batch(self, step: int, indices: Sequence[int], rng: np.random.Generator) -> Batch:
        """Sample fresh groups of the problems, and reset groups from their failures."""
        config = self.config
        collection, seed_weights, sampling_metrics = self.collect(step, indices, rng)
        advantages = group_advantages([g.returns for g in collection], config.scale_rewards)
        truncated = config.update.mask_truncated_completions
        rows = make_rows(collection, advantages, mask_truncated_completions=truncated)
        metrics = collection_metrics(collection, advantages, rows)
        metrics.update(localization_metrics(seed_weights, collection))
        if config.group_plan().retries:
            metrics.update(adaptive_metrics(collection))
        self._watch_thoughts(metrics["thoughts/mean"])
        if "localize/parse_failure_rate" in sampling_metrics:
            self._watch_replies(sampling_metrics["localize/parse_failure_rate"])
        records = partial(
            step_records,
            step,
            collection,
            advantages,
            config.group_plan(),
            rule=config.algorithm + (f" {config.localizer}" if config.needs("localizer") else ""),
            seed_weights=seed_weights,
            mask_truncated_completions=truncated,
        )
        return Batch(rows, metrics | sampling_metrics, collection.ledger, records)

    def collect(
        self, step: int, indices: Sequence[int], rng: np.random.Generator
    ) -> tuple[Collection, list[SeedWeights], dict[str, float]]:
        """Sample the groups of a step; also returns the seeds' weights and sampling metrics."""
        config, seed = self.config, self.config.seed
        prompted = PromptedLocalizer(
            self.simulator, generator(seed, step, LOCALIZE), config.localization
        )
        seed_weights: list[SeedWeights] = []

        def groups(problems: Sequence[int]) -> Collection:
            prompts = [self.prompts[i] for i in problems]
            world = World(
                self._oracle(prompts) if config.needs("oracle") else None,
                make_localizer(config.localizer, self.task, prompted)
                if config.needs("localizer")
                else None,
            )
            rule = RecordingRule(ALGORITHMS[config.algorithm].rule(world), self.task, self.reporter)
            plan = config.group_plan()
            # Fresh and reset rollouts take turns where costs are kept equal.
            stages = ("generate",) if plan.equal_cost else ("generate", "reset")
            simulator = Staged(self.simulator, self.reporter, *stages)
            sampled = collect(simulator, prompts, plan, rule, rng)
            seed_weights.extend(rule.seed_weights)
            return sampled

        collection, metrics = sample_with_signal(
            groups,
            indices,
            len(self.prompts),
            config.dynamic_sampling,
            generator(seed, step, REPLACE),
        )
        if prompted.asked:
            metrics["localize/parse_failure_rate"] = prompted.failed / prompted.asked
        return collection, seed_weights, metrics

    def _oracle(self, prompts: Sequence[Prompt]) -> OracleReset | None:
        """Oracle resets: by the task's step checker, or by exact values on chain reasoning."""
        mask, tau = self.config.oracle.mask, self.config.oracle.tau
        if not _needs_values(self.config):
            return checker_rule(self.task)
        return OracleReset(ExactOracle(self.task, self.read_out(prompts), prompts), mask, tau)

    def _watch_thoughts(self, mean: float) -> None:
        """Warn once if no episode of the first steps has a second thought."""
        steps = self.steps_without_delimiter
        self.steps_without_delimiter = steps + 1 if mean <= 1 and steps >= 0 else -1
        if self.steps_without_delimiter == PATIENCE and self.config.group_plan().resets:
            self.reporter.message(
                f"warning: in {PATIENCE} steps no completion had the delimiter "
                f"{self.task.delimiter!r}: with one thought each, {self.config.algorithm} resets "
                "to the prompt, which is GRPO for more tokens. Ask for it in the prompt, or name "
                "another (--task_args.delimiter for a data set)"
            )

    def _watch_replies(self, failed: float) -> None:
        """Warn once if the localizer's replies of the first steps name no step."""
        steps = self.steps_without_reply
        self.steps_without_reply = steps + 1 if failed > USELESS and steps >= 0 else -1
        if self.steps_without_reply == PATIENCE:
            self.reporter.message(
                f"warning: in {PATIENCE} steps {failed:.0%} of the localizer's replies named no "
                "step, and those resets are random: RRPO for more tokens. Raise "
                "--localization.max_tokens if replies are cut, or take --localizer surprisal"
            )


def _needs_values(config: TrainConfig) -> bool:
    """Whether the reset rule needs exact values of the policy."""
    return config.needs("oracle") and config.oracle.mask != "first_error"
