"""Trackers of a run: TensorBoard, Weights & Biases, Trackio; each is imported when it is used.

All get the metrics of each step and, for the steps with rollout records, a table of completions
with TRL's columns.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from llm.runs.rollout_records import Record
from llm.tasks.task import PromptText

#: Columns of the table of completions.
COLUMNS = ("step", "prompt", "completion", "reward", "advantage")

Row = tuple[int, str, str, float, float]


class Tracker(Protocol):
    """Receives the metrics and completions of steps."""

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log numbers by name."""
        ...

    def completions(self, step: int, rows: Sequence[Row]) -> None:
        """Log a table with the columns `COLUMNS`."""
        ...

    def close(self) -> None:
        """Write everything."""
        ...


class TensorBoard:
    """Event files in the folder `tensorboard` of the run."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._events = SummaryWriter(folder / "tensorboard")

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker.metrics`."""
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)
        self._events.flush()

    def completions(self, step: int, rows: Sequence[Row]) -> None:
        """See `Tracker.completions`; a table in Markdown."""
        lines = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
        lines += [" | ".join(_cell(value) for value in row) for row in rows]
        self._events.add_text("completions", "\n".join(f"| {line} |" for line in lines), step)

    def close(self) -> None:
        """See `Tracker.close`."""
        self._events.close()


class Wandb:
    """A run of Weights & Biases; a resumed run continues it.

    Its variables WANDB_MODE, WANDB_PROJECT and so on apply.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        import wandb

        name = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        self._wandb = wandb
        self._run = wandb.init(
            id=name, name=folder.name, dir=str(folder), config=dict(config), resume="allow"
        )

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker.metrics`."""
        self._run.log(dict(metrics), step=step)

    def completions(self, step: int, rows: Sequence[Row]) -> None:
        """See `Tracker.completions`."""
        table = self._wandb.Table(columns=list(COLUMNS), data=[list(row) for row in rows])
        self._run.log({"completions": table}, step=step)

    def close(self) -> None:
        """See `Tracker.close`."""
        self._run.finish()


class Trackio:
    """A run of Trackio, in the project credit-resets; a resumed run continues it."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        import trackio

        self._trackio = trackio
        self._run = trackio.init(
            project="credit-resets", name=folder.name, config=dict(config), resume="allow",
            embed=False, auto_log_cpu=False, auto_log_gpu=False,
        )  # fmt: skip

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker.metrics`."""
        self._run.log(dict(metrics), step=step)

    def completions(self, step: int, rows: Sequence[Row]) -> None:
        """See `Tracker.completions`."""
        table = self._trackio.Table(columns=list(COLUMNS), data=[list(row) for row in rows])
        self._run.log({"completions": table}, step=step)

    def close(self) -> None:
        """See `Tracker.close`."""
        self._run.finish()


class Entry(NamedTuple):
    """A tracker in the table: its class and the package that it needs."""

    make: Callable[[Path, Mapping[str, Any]], Tracker]
    package: str


TRACKERS: dict[str, Entry] = {
    "tensorboard": Entry(TensorBoard, "tensorboard"),
    "wandb": Entry(Wandb, "wandb"),
    "trackio": Entry(Trackio, "trackio"),
}


def check_installed(name: str) -> None:
    """Refuse a tracker whose package cannot be imported; "none" needs no package.

    Raises
    ------
    ValueError
        The message has the command that installs it.
    """
    if name == "none":
        return
    package = TRACKERS[name].package
    try:
        importlib.import_module(package)
    except Exception as error:  # an incomplete installation may raise anything
        absent = isinstance(error, ModuleNotFoundError) and error.name == package
        reason = "is not installed" if absent else f"cannot be imported: {error}"
        raise ValueError(
            f"report_to: {package} {reason}; pip install 'credit-resets[{name}]', or --report_to "
            "none (metrics.jsonl is always written)"
        ) from error


def make_tracker(name: str, folder: Path, config: Mapping[str, Any]) -> Tracker | None:
    """Start the tracker of this name; None for "none".

    Parameters
    ----------
    name : str
    folder : Path
        Folder of the run.
    config : mapping
        Settings of the run, as plain data.

    Raises
    ------
    ValueError
        If it is not installed, or does not start.
    """
    check_installed(name)
    if name == "none":
        return None
    try:
        return TRACKERS[name].make(folder, config)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"report_to: {name} does not start: {reason}") from error


def completion_rows(records: Sequence[Record]) -> list[Row]:
    """The completions of a step, with the prefix that their group shares."""
    return [
        (
            record["step"],
            _text(record["prompt"]),
            "".join([*record["prefix"], *continuation["thoughts"]]),
            continuation["reward"],
            continuation["advantage"],
        )
        for record in records
        for continuation in record["continuations"]
    ]


def _text(prompt: PromptText) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def _cell(value: object) -> str:
    """A value in a cell of a Markdown table."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value).replace("|", "\\|").replace("\n", "<br>")
