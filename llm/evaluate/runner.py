"""Evaluation loop: measures a model on held-out problems and writes records after each batch.

The random numbers of a problem are keyed by its number, seed, round and sample, never by its batch.
So a resumed evaluation gives the same results as an uninterrupted one. More problems leave the
results of the first ones unchanged. In bfloat16, however, the rounding of logits depends on the
batch, which occasionally changes a token.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cpi.core.episodes import Episode, Prefix
from llm.evaluate.correction import (
    GroupLocalizer,
    correct,
    localize_by_prompt,
    localize_by_weights,
    seed_of,
)
from llm.evaluate.correction_report import RANDOM, control_rounds
from llm.evaluate.measurement import Measurement, measurements
from llm.evaluate.options import EvaluateOptions, TaskSpec
from llm.evaluate.records import EvaluationRecords, prompt_hash
from llm.evaluate.report import EvaluationReport, Result, summarize
from llm.models.policy import default_device, load_tokenizer, use_bf16
from llm.resets.localizers import make_localizer, random
from llm.resets.localizers import prompts as uses_model
from llm.resets.prompted import PromptedLocalizer
from llm.runs.sampling_engine import open_engine
from llm.runs.saved_model import SavedModel, eos_ids
from llm.tasks.digest import code_digest, digest
from llm.thoughts.simulator import (
    Prompt,
    ThoughtSimulator,
    is_cut,
    token_ids,
)

#: Uses of random numbers, part of the key of a seed: first completions, and arms of correction.
SAMPLE, ARM = 0, 1


class EvaluationRunner:
    """Measures a loaded model.

    Parameters
    ----------
    saved : SavedModel
    options : EvaluateOptions
    folder : Path
        Folder of the records; made if absent.
    about : dict
        JSON for the headers of new record files.

    Raises
    ------
    ValueError, OSError, EngineError, llm.runs.checkpoints.CheckpointError
        If the model cannot be loaded.
    """

    def __init__(
        self, saved: SavedModel, options: EvaluateOptions, folder: Path, about: dict[str, Any]
    ) -> None:
        self.saved, self.options, self.folder, self.about = saved, options, folder, about
        self.bf16 = use_bf16(options.bf16, default_device())
        self.tokenizer = load_tokenizer(saved.model)
        self.engine = open_engine(
            saved, options.engine, bf16=self.bf16, seed=options.seed, vllm=options.vllm
        )
        self.eos = eos_ids(saved.model)
        self.revision = saved.revision()

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()

    def measure(self, measurement: Measurement, progress: Callable[[int], None]) -> Result:
        """Evaluate the remaining problems and summarize.

        Parameters
        ----------
        measurement : Measurement
        progress : function of int
            Called after each batch with the number of finished problems.

        Raises
        ------
        ValueError
            If the folder holds records of other settings, or a prompt leaves no room for a
            completion.
        """
        simulator = ThoughtSimulator(
            self.engine, self.tokenizer, measurement.task, self.options.sampling.limits(),
            measurement.temperature, measurement.top_p, self.eos,
        )  # fmt: skip
        prompts = [simulator.prompt(example) for example in measurement.examples]
        self._check_lengths(prompts)
        settings = self.settings(measurement)
        digests = [digest(measurement.task, [example]) for example in measurement.examples]
        file = self.folder / measurement.file
        records = EvaluationRecords(file, settings, prompts, digests, self.about)
        progress(len(records.done))
        missing = records.missing
        size = max(1, self.options.batch_size // measurement.samples)
        for at in range(0, len(missing), size):
            numbers = missing[at : at + size]
            batch = self._batch(measurement, simulator, prompts, numbers)
            records.add(
                {**record, "problem": digests[i]} for i, record in zip(numbers, batch, strict=True)
            )
            progress(len(records.done))
        return summarize(measurement, records.in_order(), self.options.ks, settings)

    def settings(self, measurement: Measurement) -> dict[str, Any]:
        """Settings that the results depend on, except the problems."""
        options = self.options
        sampling = {**asdict(options.sampling), "temperature": measurement.temperature}
        settings = {
            "model": self.revision,
            "task": measurement.spec.name,
            "task_args": measurement.spec.args,
            "task_code": code_digest(measurement.task),
            "samples": measurement.samples,
            "sampling": {**sampling, "top_p": measurement.top_p},
            "seed": options.seed,
            "engine": options.engine,
            "bf16": self.bf16,
        }
        if measurement.correct:
            settings |= {
                "correct": measurement.correct,
                "localizer": options.localizer,
                "localization": asdict(options.localization),
            }
        return settings

    def _batch(
        self,
        measurement: Measurement,
        simulator: ThoughtSimulator,
        prompts: Sequence[Prompt],
        numbers: Sequence[int],
    ) -> list[dict[str, Any]]:
        """Evaluate problems by number; returns their records."""
        seed = self.options.seed
        groups = simulator.seeded(
            [Prefix(prompts[i]) for i in numbers], measurement.samples,
            [seed_of(seed, SAMPLE, i) for i in numbers],
        )  # fmt: skip
        records = [
            self._record(i, prompts[i], group) for i, group in zip(numbers, groups, strict=True)
        ]
        _, failures = simulator.take_verification_counts()
        for i, record in zip(numbers, records, strict=True):
            record["unjudged"] = [why for example, why in failures if example is prompts[i].example]
        if measurement.correct:
            for record in records:
                record["correction"] = {}
            for arm, (name, localize, rounds) in enumerate(self._arms(measurement, simulator)):
                histories = correct(simulator, localize, groups, rounds, (seed, ARM, arm), numbers)
                for record, history in zip(records, histories, strict=True):
                    record["correction"][name] = history
        return records

    def _arms(
        self, measurement: Measurement, simulator: ThoughtSimulator
    ) -> list[tuple[str, GroupLocalizer, int]]:
        """Correction and its control by random resets: name, localizer and rounds of each."""
        options = self.options
        prompted = PromptedLocalizer(simulator, np.random.default_rng(0), options.localization)
        if uses_model(options.localizer):
            localize = localize_by_prompt(prompted)
        else:
            localizer = make_localizer(options.localizer, measurement.task, prompted)
            localize = localize_by_weights(localizer)
        arms = [(options.localizer, localize, measurement.correct)]
        if options.localizer != RANDOM:
            arms.append((RANDOM, localize_by_weights(random), control_rounds(measurement.correct)))
        return arms

    def _record(self, number: int, prompt: Prompt, group: Sequence[Episode]) -> dict[str, Any]:
        """Record of a problem and its first completions."""
        record = {
            "index": number,
            "id": prompt.example.id,
            "prompt": prompt_hash(prompt),
            "prompt_tokens": len(prompt.ids),
            "n": len(group),
            "c": sum(not episode.failed for episode in group),
            "rewards": [episode.ret for episode in group],
            "failed": [episode.failed for episode in group],
            "tokens": [episode.cost for episode in group],
            "cut": [is_cut(episode) for episode in group],
        }
        if self.options.completions:
            record["completions"] = [
                self.tokenizer.decode(token_ids(episode.steps), skip_special_tokens=True)
                for episode in group
            ]
        return record

    def _check_lengths(self, prompts: Sequence[Prompt]) -> None:
        completion, capacity = (
            self.options.sampling.max_completion_length,
            self.engine.max_model_len,
        )
        for prompt in prompts:
            if not prompt.ids:
                raise ValueError(f"tasks: the prompt of {prompt.example.id!r} has no token")
            if len(prompt.ids) + completion > capacity:
                raise ValueError(
                    f"sampling.max_completion_length: {completion} and the {len(prompt.ids)} "
                    f"tokens of prompt {prompt.example.id!r} are more than the model's {capacity}; "
                    "lower it"
                )


def evaluate_model(
    saved: SavedModel,
    specs: Sequence[TaskSpec],
    options: EvaluateOptions,
    folder: Path,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> EvaluationReport:
    """Evaluate a model on the test problems of some tasks, resuming an interrupted evaluation.

    Parameters
    ----------
    saved : SavedModel
        From `llm.runs.saved_model.find_model`.
    specs : sequence of TaskSpec
    options : EvaluateOptions
    folder : Path
        Folder of the records, one file per measurement.
    progress : function of (measurement, finished problems, all problems)

    Raises
    ------
    ValueError, OSError, EngineError, llm.runs.checkpoints.CheckpointError
        If an input is invalid or the model cannot be loaded. Finished problems stay recorded.
    """
    from llm.runs.folder import alone, environment

    planned = measurements(saved, specs, options)
    parent = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"output: {folder} cannot be written, by {parent}; choose another")
    current = environment()
    about = {"of": saved.name, "step": saved.step, "environment": current}
    runner = EvaluationRunner(saved, options, folder, about)
    results = []
    try:
        with alone(folder):
            for measurement in planned:

                def report(done: int, measurement: Measurement = measurement) -> None:
                    name = f"{measurement.spec.label}, {measurement.how}"
                    progress(name, done, len(measurement.examples))

                results.append(runner.measure(measurement, report))
    finally:
        runner.close()
    return EvaluationReport(
        saved.name, saved.step, runner.revision, results, current,
        asdict(dataclasses.replace(options, k=tuple(options.ks))),
    )  # fmt: skip
