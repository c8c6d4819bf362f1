"""Interface between algorithms and the trainer: the batch of a training step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cpi.core.collect import Group, Ledger
from envs.tabular import FloatArray
from llm.learner.rows import Row
from llm.runs.rollout_records import Record, group_record


class Batch(NamedTuple):
    """Training batch of a step, with its metrics and its cost.

    Attributes
    ----------
    rows : list of Row
    metrics : dict of float
    ledger : Ledger
        Cost of sampling the batch.
    records : function
        Converts the groups to plain data for `llm.runs.rollout_records`.
    """

    rows: list[Row]
    metrics: dict[str, float]
    ledger: Ledger
    records: Callable[[], list[Record]]


def records_of_rows(
    step: int, groups: Sequence[Group], advantages: Sequence[FloatArray], rows: Sequence[Row]
) -> list[Record]:
    """Rollout records of groups without resets; masks show the tokens that the rows train on.

    Parameters
    ----------
    step : int
    groups : sequence of Group
    advantages : sequence of arrays (G,)
    rows : sequence of Row
        One row per episode, in order.
    """
    remaining_rows = iter(rows)
    records = []
    for number, (group, values) in enumerate(zip(groups, advantages, strict=True)):
        record = group_record(step, number, group, values, reset_planned=False)
        for continuation in record["continuations"]:
            row = next(remaining_rows)
            mask = np.zeros(len(continuation["ids"]), dtype=np.int64)
            prompt = len(row.ids) - len(mask)
            trained = slice(row.trained_from - prompt, row.trained_to - prompt)
            mask[trained] = 1 if row.mask is None else row.mask
            continuation["mask"], continuation["tokens"] = mask.tolist(), row.trained
        records.append(record)
    return records
