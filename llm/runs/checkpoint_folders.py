"""The folders of checkpoints: their names, and which of them are complete."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from llm.common.errors import ReportedError

#: Written last into a checkpoint, so that one without it is not complete.
MANIFEST = "manifest.json"

#: Being written, complete but about to go, and being deleted.
PART, REPLACED, DELETED = ".part", ".replaced", ".deleted"

FOLDER = re.compile(r"step-([0-9]{6,})(\.part|\.replaced|\.deleted)?")


class CheckpointError(ReportedError):
    """A checkpoint cannot be written, read or continued from; the message says what to do."""


def complete(folder: Path) -> dict[int, Path]:
    """The complete checkpoints here, by ascending step.

    Complete means that it was once; `load` finds out whether it still is.
    """
    found: dict[int, Path] = {}
    for step, suffix, path in folders(folder) if folder.is_dir() else ():
        # step-000012 sorts before step-000012.replaced, which counts where the former is missing.
        if suffix in ("", REPLACED) and (path / MANIFEST).is_file():
            found.setdefault(step, path)
    return dict(sorted(found.items()))


def latest(folder: Path) -> Path | None:
    """The complete checkpoint of the highest step, or None."""
    return next(reversed(complete(folder).values()), None)


def folders(folder: Path) -> Iterator[tuple[int, str, Path]]:
    """Step, suffix and path of everything here that `save` has named; by name."""
    for path in sorted(folder.iterdir()):
        match = FOLDER.fullmatch(path.name)
        # step-0000012 is not ours: it would be a second name for step 12.
        if match and f"{int(match[1]):06d}" == match[1]:
            yield int(match[1]), match[2] or "", path


def checkpoints_of(run: Path) -> dict[int, Path]:
    """The complete checkpoints of a run's folder, by ascending step.

    Raises
    ------
    ValueError
        If it is no training run, or has none.
    """
    if not (run / "config.yaml").is_file():
        raise ValueError(f"{run}: no config.yaml in it; name the folder of a training run")
    found = complete(run / "checkpoints")
    if not found:
        raise ValueError(f"{run}: no checkpoints/step-* in it, so there is no policy to read out")
    return found
