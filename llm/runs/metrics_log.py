"""Where metrics go: `metrics.jsonl`, a line a step, and TensorBoard for who wants it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm.common.atomic_files import append


class MetricsLog:
    """Appends to a run's metrics.

    Parameters
    ----------
    folder : Path
        Of the run.
    report_to : {"none", "tensorboard"}

    Raises
    ------
    ValueError
        If TensorBoard is wanted and not installed.
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
        """Append a step's line; returns it.

        Raises
        ------
        ValueError
            If a number is not finite.
        OSError
            If the disk is full.
        """
        record = {"step": step, **metrics}
        odd = [name for name, value in metrics.items() if not math.isfinite(value)]
        if odd:
            raise ValueError(f"step {step}: {odd[0]} is {metrics[odd[0]]}, not a finite number")
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
