"""Metrics log: `metrics.jsonl`, one line per step, and optionally TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm.common.atomic_files import append


class MetricsLog:
    """Writes metrics to JSONL and optionally TensorBoard.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    report_to : {"none", "tensorboard"}

    Raises
    ------
    ValueError
        If TensorBoard is requested but not installed.
    """

    def __init__(self, folder: Path, report_to: str) -> None:
        self.path = folder / "metrics.jsonl"
        self._events: Any = None
        if report_to == "tensorboard":
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ValueError(
                    "report_to: TensorBoard is not installed; pip install tensorboard, or "
                    "--report_to none (metrics.jsonl is always written)"
                ) from error
            self._events = SummaryWriter(folder / "tensorboard")

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
        if self._events is not None:
            for name, value in metrics.items():
                self._events.add_scalar(name, value, step)
            self._events.flush()
        return record

    def close(self) -> None:
        """Close the event file."""
        if self._events is not None:
            self._events.close()
