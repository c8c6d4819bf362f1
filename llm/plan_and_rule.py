"""What a step of grpo, rrpo, srpo or oracle trains on: a plan of rollouts and a rule for resets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from cpi.advantages import group_advantages
from cpi.collect import Collection, collect
from cpi.plans import ALGORITHMS, World
from cpi.resets import OracleReset
from llm.batch import Batch
from llm.dynamic_sampling import sample_with_signal
from llm.localization import Verdict, WatchedRule, localization_metrics
from llm.localizers import PromptedLocalizer, checker_rule, make_localizer
from llm.metrics import collection_metrics
from llm.progress import Reporter, Staged
from llm.readout import ExactOracle, Readout
from llm.rollouts import step_records
from llm.rows import make_rows
from llm.streams import COLLECT, LOCALIZE, REPLACE, stream
from llm.tasks import Task
from llm.thoughts import Prompt, ThoughtSimulator

if TYPE_CHECKING:
    from llm.config import TrainConfig

#: Steps without a delimiter, or without a usable reply of the localizer, after which a run says so.
UNDIVIDED = UNNAMED = 3

#: Share of replies that name no step above which a localizer might as well not be asked.
USELESS = 0.9


class PlanAndRule:
    """Makes the batch of a step for an algorithm of `cpi.ALGORITHMS`.

    Parameters
    ----------
    simulator : ThoughtSimulator
    task : Task
        Checks steps, where it can, and phrases the request to localize.
    config : TrainConfig
    prompts : sequence of Prompt
        Of all training problems.
    read_out : function
        The policy's exact values for some prompts, on chain reasoning.
    reporter : Reporter
    """

    def __init__(
        self,
        simulator: ThoughtSimulator,
        task: Task,
        config: TrainConfig,
        prompts: Sequence[Prompt],
        read_out: Callable[[Sequence[Prompt]], Readout],
        reporter: Reporter,
    ) -> None:
        self.simulator, self.task, self.config = simulator, task, config
        self.prompts, self.read_out, self.reporter = prompts, read_out, reporter
        self.undivided = 0  # steps so far without a delimiter; -1 once there was one
        self.unnamed = 0  # the same, of steps without a usable reply

    def batch(self, step: int, chosen: Sequence[int]) -> Batch:
        """What a step trains on, which begins with the problems of these numbers."""
        config = self.config
        collection, verdicts, told = self.collect(step, chosen)
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
            rule=config.algorithm + (f" {config.localizer}" if config.algorithm == "srpo" else ""),
            verdicts=verdicts,
            mask_truncated_completions=truncated,
        )
        return Batch(rows, metrics | told, collection.ledger, records)

    def collect(
        self, step: int, chosen: Sequence[int]
    ) -> tuple[Collection, list[Verdict], dict[str, float]]:
        """Groups for the problems of a step, what the rule said, and metrics of how it went."""
        config, engine, seed = self.config, self.simulator.engine, self.config.seed
        localizer = PromptedLocalizer(
            engine,
            self.simulator.tokenizer,
            self.task,
            stream(seed, step, LOCALIZE),
            config.localization.temperature,
            config.localization.max_tokens,
            self.simulator.eos_token_ids,
        )
        verdicts: list[Verdict] = []
        rng = stream(seed, step, COLLECT)

        def groups(problems: Sequence[int]) -> Collection:
            prompts = [self.prompts[i] for i in problems]
            named = make_localizer(config.localizer, localizer, self.task)
            inner = ALGORITHMS[config.algorithm].rule(World(self._oracle(prompts), named))
            rule = WatchedRule(inner, self.task, self.reporter)
            simulator = Staged(self.simulator, self.reporter, "generate", "reset")
            found = collect(simulator, prompts, config.group_plan(), rule, rng)
            verdicts.extend(rule.verdicts)
            return found

        collection, told = sample_with_signal(
            groups,
            chosen,
            len(self.prompts),
            config.dynamic_sampling,
            stream(seed, step, REPLACE),
        )
        if localizer.asked:
            told["localize/parse_failure_rate"] = localizer.failed / localizer.asked
        return collection, verdicts, told

    def _oracle(self, prompts: Sequence[Prompt]) -> OracleReset | None:
        """What resets to the right place: the task's checker, or exact values on chains."""
        mask, tau = self.config.oracle.mask, self.config.oracle.tau
        if self.config.algorithm != "oracle" or mask == "first_error":
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
