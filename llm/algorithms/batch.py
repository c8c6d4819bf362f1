"""What a training step needs of an algorithm, whichever it is: the trainer knows nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cpi.core.collect import Group, Ledger
from envs.tabular import FloatArray
from llm.learner.rows import Row
from llm.runs.rollout_records import Record, group_record


class Batch(NamedTuple):
    """What a step trains on, and what is told of it.

    Attributes
    ----------
    rows : list of Row
    metrics : dict of float
    ledger : Ledger
        What it cost.
    records : function
        Makes the groups plain data, for `llm.runs.rollout_records`.
    """

    rows: list[Row]
    metrics: dict[str, float]
    ledger: Ledger
    records: Callable[[], list[Record]]


def records_of_rows(
    step: int, groups: Sequence[Group], advantages: Sequence[FloatArray], rows: Sequence[Row]
) -> list[Record]:
    """The records of groups without resets; what was trained on is read from the rows themselves.

    Parameters
    ----------
    step : int
    groups : sequence of Group
    advantages : sequence of arrays (G,)
    rows : sequence of Row
        One an episode, in order.
    """
    of_episode = iter(rows)
    records = []
    for number, (group, values) in enumerate(zip(groups, advantages, strict=True)):
        record = group_record(step, number, group, values, reset_planned=False)
        for told in record["continuations"]:
            row = next(of_episode)
            mask = np.zeros(len(told["ids"]), dtype=np.int64)
            prompt = len(row.ids) - len(mask)
            trained = slice(row.trained_from - prompt, row.trained_to - prompt)
            mask[trained] = 1 if row.mask is None else row.mask
            told["mask"], told["tokens"] = mask.tolist(), row.trained
        records.append(record)
    return records
