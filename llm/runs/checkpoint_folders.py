"""Names of checkpoint folders, and which of them are complete."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from llm.common.errors import ReportedError

#: Written last: a folder without it is not a complete checkpoint.
MANIFEST = "manifest.json"

#: Suffixes of a folder that is being written, is about to be replaced, is being deleted.
PART, REPLACED, DELETED = ".part", ".replaced", ".deleted"

FOLDER = re.compile(r"step-([0-9]{6,})(\.part|\.replaced|\.deleted)?")


class CheckpointError(ReportedError):
    """A checkpoint cannot be written, read or resumed from; the message names the cure."""


def complete(folder: Path) -> dict[int, Path]:
    """The complete checkpoints of a folder, by ascending step.

    Complete means that the manifest was written; `load` verifies the other files.
    """
    checkpoints: dict[int, Path] = {}
    for step, suffix, path in folders(folder) if folder.is_dir() else ():
        # step-000012 sorts before step-000012.replaced, which counts only without the former.
        if suffix in ("", REPLACED) and (path / MANIFEST).is_file():
            checkpoints.setdefault(step, path)
    return dict(sorted(checkpoints.items()))


def latest(folder: Path) -> Path | None:
    """The complete checkpoint of the highest step, or None."""
    return next(reversed(complete(folder).values()), None)


def folders(folder: Path) -> Iterator[tuple[int, str, Path]]:
    """Step, suffix and path of every checkpoint folder, sorted by name."""
    for path in sorted(folder.iterdir()):
        match = FOLDER.fullmatch(path.name)
        # step-0000012 is ignored: it would be a second name for step 12.
        if match and f"{int(match[1]):06d}" == match[1]:
            yield int(match[1]), match[2] or "", path


def checkpoints_of(run: Path) -> dict[int, Path]:
    """The complete checkpoints of a run, by ascending step.

    Raises
    ------
    ValueError
        If the folder is no training run, or has no checkpoint.
    """
    if not (run / "config.yaml").is_file():
        raise ValueError(f"{run}: no config.yaml in it; name the folder of a training run")
    checkpoints = complete(run / "checkpoints")
    if not checkpoints:
        raise ValueError(f"{run}: no checkpoints/step-* in it, so there is no policy to read out")
    return checkpoints
