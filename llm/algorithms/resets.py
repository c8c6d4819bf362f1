"""What a step of grpo, rrpo, srpo or oracle trains on: a plan of rollouts and a rule for resets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cpi.core.advantages import group_advantages
from cpi.core.collect import Collection, collect
from cpi.core.plans import ALGORITHMS, World
from cpi.core.resets import OracleReset
from llm.algorithms.algorithm import Algorithm, Setup
from llm.algorithms.batch import Batch
from llm.algorithms.dynamic_sampling import sample_with_signal
from llm.algorithms.metrics import collection_metrics
from llm.chain.readout import ExactOracle
from llm.common.progress import Staged
from llm.common.random_streams import (
    LOCALIZE,
    REPLACE,
    stream,
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

if TYPE_CHECKING:
    from llm.config.train import TrainConfig

#: Steps without a delimiter, or without a usable reply of the localizer, after which a run says so.
UNDIVIDED = UNNAMED = 3

#: Share of replies that name no step above which a localizer might as well not be asked.
USELESS = 0.9


class ResetAlgorithm(Algorithm):
    """Makes the batch of a step for an algorithm of `cpi.ALGORITHMS`: a plan and a reset rule."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.read_out = setup.read_out
        self.undivided = 0  # steps so far without a delimiter; -1 once there was one
        self.unnamed = 0  # the same, of steps without a usable reply

    @classmethod
    def check_task(cls, config: TrainConfig, task: Task) -> None:
        """Refuse a task without a step checker where the rule needs one."""
        if config.needs("oracle") and not task.has_checker:
            raise ValueError(
                f"algorithm: {config.algorithm} needs a step checker, and {task} has none; use "
                "rrpo or srpo"
            )
        if config.needs("localizer"):
            check_localizer(config.localizer, task)

    def batch(self, step: int, indices: Sequence[int], rng: np.random.Generator) -> Batch:
        """Fresh groups of the problems with these indices, and reset groups from their failures."""
        config = self.config
        collection, verdicts, told = self.collect(step, indices, rng)
        advantages = group_advantages([g.returns for g in collection], config.scale_rewards)
        truncated = config.update.mask_truncated_completions
        rows = make_rows(collection, advantages, mask_truncated_completions=truncated)
        metrics = collection_metrics(collection, advantages, rows)
        metrics.update(localization_metrics(verdicts, collection))
        self._watch_thoughts(metrics["thoughts/mean"])
        if "localize/parse_failure_rate" in told:
            self._watch_replies(told["localize/parse_failure_rate"])
        records = partial(
            step_records,
            step,
            collection,
            advantages,
            config.group_plan(),
            rule=config.algorithm + (f" {config.localizer}" if config.needs("localizer") else ""),
            verdicts=verdicts,
            mask_truncated_completions=truncated,
        )
        return Batch(rows, metrics | told, collection.ledger, records)

    def collect(
        self, step: int, indices: Sequence[int], rng: np.random.Generator
    ) -> tuple[Collection, list[SeedWeights], dict[str, float]]:
        """Groups for the problems of a step, what the rule said, and metrics of how it went."""
        config, seed = self.config, self.config.seed
        prompted = PromptedLocalizer(
            self.simulator, stream(seed, step, LOCALIZE), config.localization
        )
        verdicts: list[SeedWeights] = []

        def groups(problems: Sequence[int]) -> Collection:
            prompts = [self.prompts[i] for i in problems]
            world = World(
                self._oracle(prompts) if config.needs("oracle") else None,
                make_localizer(config.localizer, self.task, prompted)
                if config.needs("localizer")
                else None,
            )
            rule = RecordingRule(ALGORITHMS[config.algorithm].rule(world), self.task, self.reporter)
            simulator = Staged(self.simulator, self.reporter, "generate", "reset")
            found = collect(simulator, prompts, config.group_plan(), rule, rng)
            verdicts.extend(rule.verdicts)
            return found

        collection, told = sample_with_signal(
            groups,
            indices,
            len(self.prompts),
            config.dynamic_sampling,
            stream(seed, step, REPLACE),
        )
        if prompted.asked:
            told["localize/parse_failure_rate"] = prompted.failed / prompted.asked
        return collection, verdicts, told

    def _oracle(self, prompts: Sequence[Prompt]) -> OracleReset | None:
        """Resets to the right place: by the task's checker, or by exact values on chains."""
        mask, tau = self.config.oracle.mask, self.config.oracle.tau
        if mask == "first_error":
            return checker_rule(self.task)
        return OracleReset(ExactOracle(self.task, self.read_out(prompts), prompts), mask, tau)

    def _watch_thoughts(self, mean: float) -> None:
        """Say once that no episode of the first steps has a second thought."""
        self.undivided = self.undivided + 1 if mean <= 1 and self.undivided >= 0 else -1
        if self.undivided == UNDIVIDED and self.config.group_plan().resets:
            self.reporter.message(
                f"warning: in {UNDIVIDED} steps no completion had the delimiter "
                f"{self.task.delimiter!r}: with one thought each, {self.config.algorithm} resets "
                "to the prompt, which is GRPO for more tokens. Ask for it in the prompt, or name "
                "another (--task_args.delimiter for a data set)"
            )

    def _watch_replies(self, failed: float) -> None:
        """Say once that the localizer's replies of the first steps name no step."""
        self.unnamed = self.unnamed + 1 if failed > USELESS and self.unnamed >= 0 else -1
        if self.unnamed == UNNAMED:
            self.reporter.message(
                f"warning: in {UNNAMED} steps {failed:.0%} of the localizer's replies named no "
                "step, and those resets are random: RRPO for more tokens. Raise "
                "--localization.max_tokens if replies are cut, or take --localizer surprisal"
            )
