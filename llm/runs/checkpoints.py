"""Checkpoints of a training run: atomic, bit-exact, read without unpickling.

::

    folder/step-000012/model.safetensors       one file per group of tensors
                       optimizer.safetensors
                       state.json              the step, the caller's state, shared tensors
                       manifest.json           size and SHA-256 of each file above; written last

A checkpoint is written as `step-000012.part`, and renamed when all of it is on the disk. Before
deletion it is renamed to `step-000012.deleted`. If a checkpoint of the same step exists, it is
renamed to `step-000012.replaced` and still counts as complete. The process may therefore be killed
at any moment: `latest` returns a complete checkpoint, and the next `save` removes the leftovers.
Only one process at a time may save into a folder.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llm.common.errors import NO_INODES, out_of_inodes
from llm.distributed.processes import on_main_process, rank
from llm.runs.checkpoint_folders import (
    DELETED,
    FOLDER,
    MANIFEST,
    PART,
    REPLACED,
    CheckpointError,
    complete,
    folders,
    latest,
)

JSON: TypeAlias = bool | int | float | str | list[Any] | dict[str, Any] | None

STATE = "state.json"

#: Version of the file layout; a checkpoint of another version is refused.
VERSION = 1

#: Lower case: some file systems do not distinguish Model from model.
_GROUP = re.compile(r"[a-z0-9][a-z0-9_-]*")
_FILE = re.compile(rf"{_GROUP.pattern}\.(safetensors|json)")

#: Dtypes that safetensors stores exactly.
_DTYPES = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.bool),
    *(torch.uint64, torch.uint32, torch.uint16, torch.uint8),
}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that `load` has read.

    Attributes
    ----------
    step : int
    path : Path
    state : dict
    tensors : dict of group name to dict of name to tensor
        On the CPU, in their own memory. Tied tensors are one tensor again.
    """

    step: int
    path: Path
    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, JSON],
    *,
    keep: int | None = None,
) -> Path:
    """Write a checkpoint atomically; replaces one of the same step.

    Parameters
    ----------
    folder : Path
        Folder of the run's checkpoints; created if absent.
    step : int
        At least 0.
    tensors : mapping of group name to mapping of name to tensor
        Each group becomes one file. Tensors of a group that share all their memory (tied
        embeddings) are written once, and `load` shares them again. Other views are written in
        full.
    state : mapping of str to JSON
        Lists, not tuples; finite numbers.
    keep : int, optional
        Afterwards delete all but the newest `keep` checkpoints up to this step. Checkpoints of
        later steps stay; they exist if the run was resumed from an earlier one.

    Returns
    -------
    Path
        `folder/step-000012`.

    Raises
    ------
    ValueError
        If an argument cannot be saved exactly. Nothing has been written then.
    CheckpointError
        If the disk is full or a file operation fails. Earlier checkpoints are untouched then.
    """
    if step < 0:
        raise ValueError(f"step: {step} is negative")
    if keep is not None and keep < 1:
        raise ValueError(f"keep: {keep} is less than 1; None keeps all")
    _check_tensors(tensors)
    _check_json(state)
    path = folder / f"step-{step:06d}"
    part, replaced = path.with_suffix(PART), path.with_suffix(REPLACED)
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True)
            _sync(folder.parent)
        _tidy(folder)
        _write(part, step, tensors, state)
        if path.exists():
            path.rename(replaced)
        part.rename(path)
        _sync(folder)
    except BaseException as error:  # on Ctrl-C as well
        no_inodes = isinstance(error, OSError | SafetensorError) and out_of_inodes(folder)
        with contextlib.suppress(OSError):
            _tidy(folder)
        if isinstance(error, OSError | SafetensorError):
            cure = NO_INODES if no_inodes else _cure(folder, tensors, error)
            raise CheckpointError(
                f"{folder}: step {step} not saved: {error}; {cure}. The checkpoints before it are "
                "untouched"
            ) from error
        raise
    try:
        _tidy(folder)
        _prune(folder, step, keep)
    except OSError as error:
        raise CheckpointError(
            f"{folder}: step {step} is saved, but an obsolete checkpoint cannot be deleted: "
            f"{error}; make the folder writable"
        ) from error
    return path


def load(path: Path, groups: Collection[str] | None = None) -> Checkpoint:
    """Read a checkpoint and verify the checksum of every file.

    Parameters
    ----------
    path : Path
    groups : collection of str, optional
        Groups of tensors to read and verify; by default all.

    Raises
    ------
    CheckpointError
        If a file is missing or differs from what was written; names the file and the cure.
    """
    files = _read_manifest(path)
    if groups is not None:
        wanted = {STATE, *map(_file_name, groups)}
        files = {name: entry for name, entry in files.items() if name in wanted}
    for name, entry in files.items():
        file = path / name
        try:
            actual = _describe(file)
        except OSError as error:
            raise _unreadable(path, file, error) from error
        if actual["bytes"] != entry.get("bytes"):
            problem = f"has {actual['bytes']} bytes instead of {entry.get('bytes')}"
            raise _damaged(path, file, problem)
        if actual != entry:
            raise _damaged(path, file, "is not what was written: its SHA-256 differs")
    record = json.loads((path / STATE).read_bytes())
    tensors: dict[str, dict[str, Tensor]] = {}
    for group, aliases in record["aliases"].items():
        if groups is not None and group not in groups:
            continue
        file = path / _file_name(group)
        if file.name not in files:
            raise _damaged(path, path / MANIFEST, f"does not list {file.name}")
        try:
            # Cloned: safetensors maps the file, which may be deleted or replaced.
            stored = {name: tensor.clone() for name, tensor in load_file(file).items()}
        except (OSError, SafetensorError) as error:
            raise _unreadable(path, file, error) from error
        tensors[group] = stored | {name: stored[kept] for name, kept in aliases.items()}
    return Checkpoint(record["step"], path, record["state"], tensors)


def _check_tensors(tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    for group, members in tensors.items():
        if not _GROUP.fullmatch(group):
            raise ValueError(
                f"tensors: {group!r} cannot name a file; use lower-case letters, digits, - and _"
            )
        for name, tensor in members.items():
            if name == "__metadata__":
                raise ValueError(f"tensors: {group} has a tensor {name}, which safetensors keeps")
            if tensor.dtype not in _DTYPES or tensor.layout != torch.strided or tensor.is_meta:
                raise ValueError(
                    f"tensors: {name} of {group} is {tensor.dtype}, {tensor.layout}, on "
                    f"{tensor.device}, which safetensors cannot hold; convert it"
                )


def _check_json(state: Mapping[str, JSON]) -> None:
    """Refuse values that JSON would change: tuples, keys that are not str, NaN, objects."""
    for key, value in state.items():
        try:
            same = json.loads(json.dumps({key: value}, allow_nan=False)) == {key: value}
        except (TypeError, ValueError) as error:
            raise ValueError(f"state: {key} is not JSON: {error}") from error
        if not same:
            raise ValueError(
                f"state: {key} would not survive JSON; use lists for tuples, str for keys"
            )


def _write(
    part: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, JSON],
) -> None:
    """Write all files of a checkpoint and wait until they are on the disk."""
    part.mkdir()
    aliases = {}
    for group, members in tensors.items():
        stored, aliases[group] = _without_sharing(members)
        # Transformers' from_pretrained requires this metadata.
        save_file(stored, part / _file_name(group), metadata={"format": "pt"})
    record = {"step": step, "aliases": aliases, "state": dict(state)}
    (part / STATE).write_text(json.dumps(record, indent=2) + "\n")
    files = {}
    for file in (*(part / _file_name(group) for group in tensors), part / STATE):
        # safetensors makes its files private; apply the user's umask instead.
        file.chmod((part / STATE).stat().st_mode)
        _sync(file)
        files[file.name] = _describe(file)
    manifest = {"version": VERSION, "files": files}
    (part / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    _sync(part / MANIFEST)
    _sync(part)


def _without_sharing(members: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Contiguous tensors without shared memory, as safetensors requires; and alias → tensor."""
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    storages: set[tuple[Any, int]] = set()
    alive = []  # keeps temporaries: the address of a freed one could be reused
    for name, tensor in members.items():
        # Lazily conjugated or negated views have the bytes of the original.
        tensor = tensor.detach().resolve_conj().resolve_neg()
        alive.append(tensor)
        storage = (tensor.device, tensor.untyped_storage().data_ptr())
        place = (*storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and place in seen:
            aliases[name] = seen[place]
            continue
        seen[place] = name
        stored[name] = tensor.clone() if storage in storages else tensor
        stored[name] = stored[name].contiguous()
        storages.add(storage)
    return stored, aliases


def _file_name(group: str) -> str:
    return f"{group}.safetensors"


def _describe(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"bytes": os.fstat(stream.fileno()).st_size, "sha256": digest}


def _sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _tidy(folder: Path) -> None:
    """Remove leftovers of earlier saves; restore a replaced checkpoint without a successor."""
    for _, suffix, path in list(folders(folder)):
        if suffix == REPLACED and not path.with_suffix("").exists():
            path.rename(path.with_suffix(""))
        elif suffix:
            _delete(path)


def _prune(folder: Path, step: int, keep: int | None) -> None:
    past = [path for number, path in complete(folder).items() if number <= step]
    for path in past[: -keep if keep else 0]:
        _delete(path)


def _delete(path: Path) -> None:
    """Delete a folder; half deleted, it no longer counts as a checkpoint."""
    gone = path.with_suffix(DELETED)
    if path != gone:
        path.rename(gone)
        _sync(path.parent)
    if gone.is_dir() and not gone.is_symlink():
        shutil.rmtree(gone)
    else:
        gone.unlink()


def _cure(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], error: Exception) -> str:
    """What to do about a failed save, by its error number."""
    written = re.search(r"os error (\d+)", str(error))  # in errors of safetensors
    number = error.errno if isinstance(error, OSError) else written and int(written[1])
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "make the folder writable, or save to another"
    if number not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "repair it, or save to another folder"
    needed = sum(tensor.nbytes for members in tensors.values() for tensor in members.values())
    disk = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(disk).free
    return (
        f"it needs {needed:,} bytes, and {free:,} bytes are free; free some, or save to another "
        "disk"
    )


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """Entries of the manifest by file name; only their form is checked."""
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
    except OSError as error:
        raise _unreadable(path, file, error) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, file, "is not JSON") from error
    version = manifest.get("version") if isinstance(manifest, dict) else None
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if version != VERSION:
        raise _damaged(path, file, f"says version {version!r}, which is not {VERSION}")
    if (
        not isinstance(files, dict)
        or not all(_FILE.fullmatch(name) and isinstance(files[name], dict) for name in files)
        or STATE not in files
    ):
        raise _damaged(path, file, "is not a list of files")
    return files


def _unreadable(path: Path, file: Path, error: Exception) -> CheckpointError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return _damaged(path, file, "is missing")
    return _damaged(path, file, f"cannot be read: {getattr(error, 'strerror', None) or error}")


def _damaged(path: Path, file: Path, problem: str) -> CheckpointError:
    """An error that names the file, and the checkpoint to resume from."""
    match = FOLDER.fullmatch(path.name)
    if not match or not path.is_dir():  # probably a mistyped path: advise no deletion
        other = latest(path) or latest(path.parent)
        cure = f"name a checkpoint, --resume {other}" if other else "there is no checkpoint here"
        return CheckpointError(f"{file} {problem}; {cure}")
    before = [other for step, other in complete(path.parent).items() if step < int(match[1])]
    if before:
        cure = f"the one before it is {before[-1]}: --resume {before[-1]}"
    else:
        cure = "there is none before it: start again without --resume"
    return CheckpointError(f"{file} {problem}; delete the folder {path}; {cure}")


def load_sharded(path: Path) -> Checkpoint:
    """A checkpoint, read on rank 0; other ranks get meta tensors, except for random states."""
    checkpoint: Checkpoint

    def outline() -> Checkpoint:
        nonlocal checkpoint
        checkpoint = load(path)
        tensors = {
            group: {n: t if group == "rng" else t.to("meta") for n, t in named.items()}
            for group, named in checkpoint.tensors.items()
        }
        return Checkpoint(checkpoint.step, path, checkpoint.state, tensors)

    received = on_main_process(outline)
    return checkpoint if rank() == 0 else received
