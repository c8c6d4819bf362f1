"""Metrics log: `metrics.jsonl`, one line per step, and optionally a tracker."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from llm.common.atomic_files import append
from llm.config.train import TrainConfig
from llm.runs.rollout_records import Record
from llm.runs.trackers import completion_rows, make_tracker


class MetricsLog:
    """Writes metrics to JSONL and optionally to a tracker.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    report_to : str
        "none", or a name in `llm.runs.trackers.TRACKERS`.
    config : TrainConfig
        Settings of the run, for the tracker.

    Raises
    ------
    ValueError
        If the tracker is not installed, or does not start.
    """

    def __init__(self, folder: Path, report_to: str, config: TrainConfig) -> None:
        self.path = folder / "metrics.jsonl"
        self._tracker = make_tracker(report_to, folder, config.plain())

    def write(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Append the line of a step; returns its content.

        Raises
        ------
        ValueError
            If a number is not finite.
        OSError
            If the disk is full.
        """
        record = {"step": step, **metrics}
        invalid = [name for name, value in metrics.items() if not math.isfinite(value)]
        if invalid:
            value = metrics[invalid[0]]
            raise ValueError(f"step {step}: {invalid[0]} is {value}, not a finite number")
        append(self.path, json.dumps(record) + "\n")
        if self._tracker is not None:
            self._tracker.metrics(step, metrics)
        return record

    def completions(self, step: int, records: Sequence[Record]) -> None:
        """Send the completions of a step to the tracker."""
        if self._tracker is not None:
            self._tracker.completions(step, completion_rows(records))

    def close(self) -> None:
        """Close the tracker."""
        if self._tracker is not None:
            self._tracker.close()
