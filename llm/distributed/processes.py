"""Training by several processes: `torchrun --nproc_per_node 8 -m llm.train …`.

All ranks run the same program with the same random numbers, and hold the same rows, rewards and
metrics. Three things are sharded:

- sampling and verification: each rank serves a share of the requests, and all ranks gather the
  results (`scatter_gather`, used by `llm.engines.sharded` and `llm.tasks.shared`);
- the policy, its gradients and the optimizer's state, by FSDP2 (`llm.models.fsdp`);
- the rows of an optimizer step (`llm.learner.rows.shard_micro_batches`).

Only rank 0 writes files (`on_main_process`). A single process is a job of world size 1 and needs no
communication.

A plug-in localizer or task must return the same on all ranks. It may draw from the global random
generators of Python, numpy and torch, which are seeded alike at every step. Each request verifies
that all ranks request the same samples.

Ranks exchange pickled objects; no file holds a pickle.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist

from llm.common.errors import ReportedError

T = TypeVar("T")
R = TypeVar("R")

#: Longest wait for the other ranks' samples; a rank that ends is noticed at once.
TIMEOUT = timedelta(hours=2)


class JobError(ReportedError):
    """A rank lost its connection to the others; the message gives the cause."""


@contextmanager
def job() -> Iterator[None]:
    """Join the process group if `torchrun` started several processes; select the GPU of this rank.

    Raises
    ------
    ValueError
        If there are more processes than GPUs.
    """
    if not _several_processes():
        yield
        return
    device = None
    if torch.cuda.is_available():
        processes, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if processes > gpus:
            raise ValueError(f"--nproc_per_node: {processes} processes, but only {gpus} GPUs")
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # Objects are exchanged by gloo, also on GPUs, because it needs no GPU memory.
    backend = "cpu:gloo,cuda:nccl" if device else "gloo"
    with losing_others():
        dist.init_process_group(backend, timeout=TIMEOUT)
    yield
    # Skipped after an error, as other ranks may be gone. The gather is a barrier: torchrun stops a
    # rank that is still running when the others have ended.
    gather(None)
    dist.destroy_process_group()


def world_size() -> int:
    """Number of processes that train this policy."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Rank of this process; rank 0 writes the files and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather(value: T) -> list[T]:
    """Values of all ranks, in order; tensors must be on the CPU."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    with losing_others():
        dist.all_gather_object(values, value)
    return values


def on_main_process(work: Callable[[], T]) -> T:
    """Run on rank 0, broadcast the result or the exception."""
    if world_size() == 1:
        return work()
    outcome = [_attempt(work) if rank() == 0 else None]
    with losing_others():
        dist.broadcast_object_list(outcome, src=0)
    return _values_or_raise(outcome)[0]


def on_every_process(work: Callable[[], None]) -> None:
    """Run on every rank; if one raises, all raise its exception."""
    if world_size() == 1:
        work()
    else:
        _values_or_raise(gather(_attempt(work)))


def scatter_gather(
    items: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]], same: Iterable[bytes]
) -> list[R]:
    """Compute `work(items)` in shards, one per rank, and gather the results.

    Parameters
    ----------
    items : sequence
        Must be the same on all ranks.
    work : function of a sequence
        Returns one result per item, which must not depend on the other items.
    same : iterable of bytes
        Content of the items, to verify that all ranks have the same.

    Raises
    ------
    RuntimeError
        If the items differ between ranks.
    Exception
        An exception of `work` on any rank is raised on all ranks.
    """
    size = world_size()
    if size == 1:
        return list(work(items))
    digest = hashlib.sha256()
    for content in same:
        digest.update(content + b"\0")
    shard = items[rank() :: size]
    outcomes = gather((digest.digest(), _attempt(lambda: list(work(shard)) if shard else [])))
    if len({digest for digest, _ in outcomes}) > 1:
        raise on_all_ranks(
            RuntimeError(
                "the processes of this job disagree about the requested samples; a task or a "
                "localizer of yours does not return the same on all of them: seed it"
            )
        )
    results: list[Any] = [None] * len(items)
    for source, part in enumerate(_values_or_raise([outcome for _, outcome in outcomes])):
        results[source::size] = part
    return results


class _Outcome(NamedTuple):
    value: Any
    error: Exception | None


def _attempt(work: Callable[[], Any]) -> _Outcome:
    try:
        return _Outcome(work(), None)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # of any type, as the class may be a user's
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return _Outcome(None, error)


def _values_or_raise(outcomes: Sequence[Any]) -> list[Any]:
    """The values of all ranks; raises the first error, if any."""
    for outcome in outcomes:
        if outcome.error is not None:
            raise on_all_ranks(outcome.error)
    return [outcome.value for outcome in outcomes]


# ------------------------------------------------------------------ errors


E = TypeVar("E", bound=Exception)


def on_all_ranks(error: E) -> E:
    """Mark an error as raised on all ranks at this point."""
    error.on_all_ranks = True  # type: ignore[attr-defined]
    return error


def still_together(error: BaseException) -> bool:
    """Whether all ranks raised this error, so that collective operations still work."""
    if world_size() == 1 or getattr(error, "on_all_ranks", False):
        return True
    return error.__cause__ is not None and still_together(error.__cause__)


@contextmanager
def losing_others() -> Iterator[None]:
    """Turn a lost connection to other ranks, in a collective operation, into a `JobError`."""
    try:
        yield
    except RuntimeError as error:  # gloo has no error class of its own
        lost = isinstance(error, dist.DistError) or any(text in str(error) for text in LOST)
        if lost and _several_processes():
            raise JobError("another process of this job ended") from error
        raise


#: Parts of gloo's messages after a process has ended.
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")


def first_to_fail() -> bool:
    """Whether this is the first rank to call this; only the first failure is reported."""
    if not dist.is_initialized():
        return os.environ.get("RANK", "0") == "0"
    try:
        return bool(dist.distributed_c10d._get_default_store().add("failed", 1) == 1)
    except RuntimeError:  # torchrun has ended, and the store with it
        return True


def _several_processes() -> bool:
    """Whether torchrun started several processes; they need not have joined yet."""
    return os.environ.get("WORLD_SIZE", "1") != "1"
