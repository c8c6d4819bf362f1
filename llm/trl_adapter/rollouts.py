"""Rollout function for TRL: collects groups with resets and returns them as rows."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console

from cpi.core.advantages import group_advantages
from cpi.core.collect import Collection, Ledger, collect
from cpi.core.episodes import Episode, Prefix
from cpi.core.plans import ALGORITHMS, GroupPlan, World
from cpi.core.resets import Localizer
from llm.algorithms.metrics import collection_metrics
from llm.algorithms.plan_and_rule import PATIENCE
from llm.common.progress import Reporter
from llm.engines import Engine
from llm.engines.live import LiveEngine
from llm.learner.rows import make_rows
from llm.models.policy import merged_state_dict
from llm.resets.localizers import LOCALIZERS, check_name, make_localizer
from llm.resets.options import LocalizationOptions
from llm.resets.oracles import checker_rule
from llm.resets.prompted import PromptedLocalizer
from llm.resets.quality import RecordingRule, localization_metrics
from llm.tasks.task import PromptText, Task
from llm.thoughts.simulator import token_ids
from llm.trl_adapter.settings import check_groups, check_sampling, group_size
from llm.trl_adapter.simulator import TRLSimulator, UserTask

if TYPE_CHECKING:
    from trl import GRPOTrainer

#: Keys of random streams, in addition to seed, step, call and process.
COLLECT, LOCALIZE, EVALUATE = range(3)


class ResetRollouts:
    r"""A `rollout_func` for one `trl.GRPOTrainer`.

    Parameters
    ----------
    algorithm : {"srpo", "rrpo", "oracle", "grpo"}
        A key of `cpi.ALGORITHMS`.
    localizer : str or function
        Localizer of srpo: a name in `llm.resets.localizers`, module:function; or a function from
        episodes to one array of weights each.
    delimiter : str
        A thought ends with the token that completes this text. If the model never writes it, a
        completion is one thought and `reset/empty_prefix_rate` is 1.
    success : float
        A completion has failed if the weighted sum of its rewards is below this.
    plan : GroupPlan, optional
        Replaces the algorithm's plan. All groups must have the same size, TRL's
        `num_generations`.
    localization : LocalizationOptions, optional
        Sampling of the prompted localizer's replies. Its request uses the tokenizer's chat
        template without TRL's `chat_template_kwargs`.
    localization_prompt : function, optional
        Maps a row of the data set and the texts of thoughts to the localization request, for
        models without a chat template. The reply ends with the number of the first wrong thought
        in `\boxed{}`.
    errors : function, optional
        Step checker: maps a row and the texts of thoughts to whether each is wrong. Needed by
        "oracle" and "checker"; also enables metrics of localization accuracy.
    engine : Engine, optional
        Samples instead of the model in training, such as a `VLLMEngine` of the same model. It
        receives the current weights before each rollout.

    Attributes
    ----------
    ledger : Ledger
        Cost of all rollouts in all processes since the start or the last resumption.
    collection : Collection or None
        Groups of the last training rollout in this process.

    Raises
    ------
    ValueError
        If a name is unknown, the plan has groups of several sizes, or a checker is missing.
    """

    def __init__(
        self,
        algorithm: str = "srpo",
        *,
        localizer: str | Localizer = "prompted",
        delimiter: str = Task.delimiter,
        success: float = Task.success,
        plan: GroupPlan | None = None,
        localization: LocalizationOptions | None = None,
        localization_prompt: Callable[[dict[str, Any], Sequence[str]], PromptText] | None = None,
        errors: Callable[[dict[str, Any], Sequence[str]], Any] | None = None,
        engine: Engine | None = None,
    ) -> None:
        if algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm: {algorithm!r} is none of {', '.join(ALGORITHMS)}")
        needs_checker = "oracle" in ALGORITHMS[algorithm].needs
        if isinstance(localizer, str):
            check_name(localizer)
            needs_checker |= localizer in LOCALIZERS and LOCALIZERS[localizer].needs_checker
        if errors is None and needs_checker:
            raise ValueError(
                "errors: none given, but resets to the first error need a step checker; give "
                "errors=function(row, thoughts), or use localizer='prompted'"
            )
        self.algorithm, self.localizer = algorithm, localizer
        self.plan = plan or ALGORITHMS[algorithm].plan
        self.groups = self.plan.rollouts // group_size(self.plan)
        self.localization = localization or LocalizationOptions()
        self.task = UserTask(delimiter, success, localization_prompt, errors)
        self.engine = engine
        self.ledger = Ledger()
        self.collection: Collection | None = None
        self._dataset: Any = None
        self._row_of: dict[str, int] = {}
        self._last_call: tuple[bool, int] | None = None
        self._calls = 0
        self._rollouts_without_delimiter = 0  # -1 after the first delimiter

    def dataset(self, dataset: Any, seed: int = 0) -> Any:
        """Shuffle the rows and repeat each one, once per group of a prompt.

        With `shuffle_dataset=False`, TRL keeps the repeated rows together. All epochs have the same
        order.

        Parameters
        ----------
        dataset : datasets.Dataset
            With a column "prompt" and the columns that the reward functions need.
        seed : int

        Raises
        ------
        ValueError
            If it is no such data set, or two rows have one prompt but different columns. TRL
            passes only prompts to a `rollout_func`, which looks up the columns by prompt.
        """
        if not hasattr(dataset, "select") or "prompt" not in (dataset.column_names or ()):
            raise ValueError(
                f"dataset: {type(dataset).__name__} is not a datasets.Dataset with a column "
                "'prompt'; load it without streaming, and rename its column of prompts"
            )
        row_of: dict[str, int] = {}
        for row, prompt in enumerate(dataset["prompt"]):
            first = row_of.setdefault(_prompt_key(prompt), row)
            if first != row and dataset[first] != dataset[row]:
                raise ValueError(
                    f"dataset: rows {first} and {row} have one prompt but different columns, and "
                    "TRL's hook passes only the prompt; drop one of them"
                )
        self._dataset, self._row_of = dataset, row_of
        order = np.random.default_rng(seed).permutation(len(dataset))
        return dataset.select(np.repeat(order, self.groups))

    def __call__(self, prompts: Sequence[PromptText], trainer: GRPOTrainer) -> dict[str, Any]:
        """Sample one completion per prompt; see `rollout_func` of `trl.GRPOTrainer`.

        Raises
        ------
        ValueError
            If a setting of the trainer is incompatible with resets.
        """
        check_sampling(trainer)
        training, key = trainer.model.training, self._random_key(trainer)
        if training:
            check_groups(trainer, self.plan, prompts)
        with self._engine(trainer) as engine:
            simulator = TRLSimulator(trainer, engine, self.task)
            if not training:
                return _evaluation(simulator, prompts, np.random.default_rng([*key, EVALUATE]))
            starts = simulator.starts([self._row(p) for p in prompts[:: self.plan.rollouts]])
            localizer = PromptedLocalizer(
                simulator, np.random.default_rng([*key, LOCALIZE]), self.localization
            )
            rule = self._rule(localizer)
            rng = np.random.default_rng([*key, COLLECT])
            self.collection = collect(simulator, starts, self.plan, rule, rng)
        self._log(trainer, self.collection, rule, localizer)
        return _completions(
            [(episode, group.prefix) for group in self.collection for episode in group.episodes],
            trainer.top_p,
        )

    @contextmanager
    def _engine(self, trainer: GRPOTrainer) -> Iterator[Engine]:
        """An engine with the current policy's weights."""
        model = trainer.accelerator.unwrap_model(trainer.model)
        if self.engine is None:
            yield LiveEngine(model)
            return
        self.engine.wake()
        self.engine.sync_weights(merged_state_dict(model, self.engine.dtype))
        yield self.engine
        self.engine.sleep()  # frees its memory for the update

    def _rule(self, prompted: PromptedLocalizer) -> RecordingRule:
        localizer = self.localizer
        if isinstance(localizer, str):
            localizer = make_localizer(localizer, self.task, prompted)
        rule = ALGORITHMS[self.algorithm].rule(World(checker_rule(self.task), localizer))
        return RecordingRule(
            rule, self.task, Reporter(1, Console(quiet=True))
        )  # TRL shows progress

    def _random_key(self, trainer: GRPOTrainer) -> list[int]:
        """Seed, step, call number and process: the key of this call's random streams."""
        call = (trainer.model.training, trainer.state.global_step)
        self._calls = self._calls + 1 if call == self._last_call else 0
        self._last_call = call
        process = trainer.accelerator.process_index
        return [trainer.args.seed, trainer.state.global_step, self._calls, process]

    def _row(self, prompt: PromptText) -> dict[str, Any]:
        row = self._row_of.get(_prompt_key(prompt))
        if row is None:
            raise ValueError(
                f"train_dataset: ResetRollouts.dataset has not seen the prompt "
                f"{str(prompt)[:60]!r}; train on the data set that it returns, unchanged"
            )
        return dict(self._dataset[row])

    def _log(
        self,
        trainer: GRPOTrainer,
        collection: Collection,
        rule: RecordingRule,
        localizer: PromptedLocalizer,
    ) -> None:
        """Log metrics as reward functions do; TRL averages them over processes."""
        advantages = group_advantages([group.returns for group in collection])
        rows = make_rows(collection, advantages)
        metrics = {
            name: value
            for name, value in collection_metrics(collection, advantages, rows).items()
            if name.startswith(("fresh/", "reset/"))  # TRL logs the others
        }
        metrics |= localization_metrics(rule.seed_weights, collection)
        if localizer.asked:
            metrics["localize/parse_failure_rate"] = localizer.failed / localizer.asked
        for name, value in metrics.items():
            trainer._log_metric(name, value)
        counts = collection.ledger.to_json()
        several = any(e.length > 1 for group in collection for e in group.episodes)
        local = torch.tensor([*counts.values(), several], device=trainer.accelerator.device)
        *totals, several = trainer.accelerator.reduce(local, "sum").tolist()
        self._watch_thoughts(several > 0, trainer)
        self.ledger += Ledger(**dict(zip(counts, totals, strict=True)))
        for name, count in self.ledger.to_json().items():
            trainer._metrics["train"][f"ledger/{name}"] = [count]

    def _watch_thoughts(self, several: bool, trainer: GRPOTrainer) -> None:
        """Warn once if no completion of the first rollouts has a second thought."""
        rollouts = self._rollouts_without_delimiter
        self._rollouts_without_delimiter = -1 if several or rollouts < 0 else rollouts + 1
        warns = self.plan.resets and trainer.accelerator.is_main_process
        if warns and self._rollouts_without_delimiter == PATIENCE:
            warnings.warn(
                f"in {PATIENCE} rollouts no completion had the delimiter {self.task.delimiter!r}: "
                f"with one thought each, {self.algorithm} resets to the prompt, which is GRPO for "
                "more tokens. Ask for the delimiter in the prompt, or name another: "
                "ResetRollouts(delimiter=…)",
                stacklevel=2,
            )


def _evaluation(
    simulator: TRLSimulator, prompts: Sequence[PromptText], rng: np.random.Generator
) -> dict[str, Any]:
    """Sample one fresh completion for each prompt."""
    starts = simulator.starts([{"prompt": prompt} for prompt in prompts])
    groups = simulator.rollout([Prefix(start) for start in starts], 1, rng)
    return _completions([(episode, episode.origin) for (episode,) in groups], simulator.top_p)


def _completions(pairs: Sequence[tuple[Episode, Prefix]], top_p: float) -> dict[str, Any]:
    """Episodes with their shared prefixes, in the format of TRL's `rollout_func`.

    TRL compares their log-probs with those of the full softmax. So there are none with top-p.
    """
    ids = [token_ids(episode.steps) for episode, _ in pairs]
    kept = [len(token_ids(prefix.steps)) for _, prefix in pairs]
    return {
        "prompt_ids": [list(prefix.start.ids) for _, prefix in pairs],
        "completion_ids": ids,
        "logprobs": None
        if top_p < 1
        else [
            np.concatenate([thought.logprobs for thought in episode.steps]).tolist()
            for episode, _ in pairs
        ],
        "env_mask": [[0] * k + [1] * (len(i) - k) for i, k in zip(ids, kept, strict=True)],
    }


def _prompt_key(prompt: PromptText) -> str:
    return json.dumps(prompt, sort_keys=True)
