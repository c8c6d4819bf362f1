"""Measure localizers of a model on labelled solutions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from llm.localize.data import LabelledSolutions, Solution
from llm.localize.options import LocalizeOptions
from llm.localize.records import VerdictRecords
from llm.localize.report import LocalizationReport, summarize, verdict_records
from llm.localize.verdicts import make_judge
from llm.resets.localizers import check_localizer, requests
from llm.runs.saved_model import SavedModel, eos_ids

if TYPE_CHECKING:
    from pathlib import Path


def open_records(
    path: Path | None,
    saved: SavedModel,
    data: Sequence[LabelledSolutions],
    options: LocalizeOptions,
) -> VerdictRecords:
    """Records of verdicts of a model, in a file or, without a path, in memory.

    Raises
    ------
    ValueError, OSError
        If the model is not found, the data do not fit a localizer, or the records do not fit; see
        `VerdictRecords`.
    """
    from llm.models.policy import load_tokenizer

    for each in data:
        for name in options.localizers:
            check_localizer(name, each.task)
    load_tokenizer(saved.model)  # names a missing model better than its revision does
    kept = ("localizers", "may_be_right", "seed", "engine", "bf16", "localization")
    settings: dict[str, Any] = {name: asdict(options)[name] for name in kept}
    return VerdictRecords(path, {"model": saved.revision(), **settings}, data)


def measure(
    saved: SavedModel,
    data: Sequence[LabelledSolutions],
    options: LocalizeOptions,
    records: VerdictRecords,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> None:
    """Add the verdicts that are missing to the records.

    Parameters
    ----------
    saved : SavedModel
        From `llm.runs.saved_model.find_model`.
    data : sequence of LabelledSolutions
        From `llm.localize.data.read_data`.
    options : LocalizeOptions
    records : VerdictRecords
        From `open_records`.
    progress : function of (model, finished solutions, all solutions)
        Called at the start and after each batch.

    Raises
    ------
    ValueError, OSError, EngineError, llm.runs.checkpoints.CheckpointError
        If an input is invalid or the model cannot be loaded.
    """
    from llm.engines.transformers import TransformersEngine
    from llm.models.policy import default_device, load_tokenizer, use_bf16
    from llm.runs.sampling_engine import open_engine
    from llm.thoughts.options import ThoughtLimits
    from llm.thoughts.simulator import ThoughtSimulator

    todo = [records.missing(each) for each in data]
    total = sum(len(each.solutions) for each in data)
    done = total - sum(map(len, todo))
    progress(saved.name, done, total)
    if done == total:
        return
    tokenizer, bf16 = load_tokenizer(saved.model), use_bf16(options.bf16, default_device())
    engine = open_engine(saved, options.engine, bf16=bf16, seed=options.seed, vllm=options.vllm)
    if isinstance(engine, TransformersEngine):
        engine.keep_prompts = True
    try:
        judges = [
            make_judge(
                each,
                ThoughtSimulator(
                    engine, tokenizer, each.task, ThoughtLimits(),
                    eos_token_ids=eos_ids(saved.model),
                ),
                options,
            )
            for each in data
        ]  # fmt: skip
        for at, batch in batches(todo, options.batch_size):
            records.add(data[at].name, batch, judges[at](batch))
            done += len(batch)
            progress(saved.name, done, total)
    finally:
        engine.close()


def batches(todo: Sequence[Sequence[Solution]], size: int) -> Iterator[tuple[int, list[Solution]]]:
    """Batches of like length of some data sets, as (data set, solutions), in random order.

    Like length saves padding. In random order, the first batches are a sample of all, so that
    estimates of the time left, and tables of a part, are not those of the short solutions.
    """
    parts: list[tuple[int, list[Solution]]] = []
    for at, solutions in enumerate(todo):
        ordered = sorted(solutions, key=lambda s: len(s.problem) + sum(map(len, s.steps)))
        parts += [(at, ordered[i : i + size]) for i in range(0, len(ordered), size)]
    for number in np.random.default_rng(0).permutation(len(parts)):
        yield parts[number]


def make_report(
    saved: SavedModel,
    data: Sequence[LabelledSolutions],
    options: LocalizeOptions,
    records: VerdictRecords,
) -> LocalizationReport:
    """Results on the finished solutions; data sets without any are left out."""
    from llm.runs.folder import environment

    results, verdicts, notes = [], [], []
    for each in data:
        done = records.done[each.name]
        finished = each._replace(solutions=[s for s in each.solutions if s.number in done])
        if not finished.solutions:
            continue
        found = {
            name: [done[s.number][name] for s in finished.solutions] for name in options.localizers
        }
        for name in options.localizers:
            able = options.may_be_right and requests(name)
            results.append(summarize(finished, name, found[name], able))
        verdicts += verdict_records(finished, found)
        notes += [f"{each.name}: {note}" for note in each.notes]
        if len(finished.solutions) < len(each.solutions):
            notes.append(
                f"{each.name}: interrupted after {len(finished.solutions)} of "
                f"{len(each.solutions)} rows."
            )
    return LocalizationReport(
        saved.name, saved.step, saved.revision(), results, notes, asdict(options), environment(),
        verdicts,
    )  # fmt: skip
