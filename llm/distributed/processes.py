"""Several processes, one training run: `torchrun --nproc_per_node 8 -m llm.train …`.

Every process does everything, with the same random numbers, so all of them know all rows, verdicts
and metrics. Three things are divided:

- samples and verdicts: each process has its share of what is asked (`share`), and all of them get
  all answers (`llm.engines.sharded`, `llm.tasks.shared`);
- the policy, its gradients and the optimizer's state: FSDP2 (`llm.models.fsdp`);
- rows of an optimizer step (`llm.learner.rows.deal`).

Files are written by the first process alone (`first`). A process that stands alone is a job of one:
it gathers from nobody but itself, and none of this costs it anything.

Who plugs in a localizer or a task must see to it that it is the same function everywhere: one that
draws random numbers draws the same from Python's, numpy's and torch's global generators, which are
seeded every step. That all processes ask for the same samples is verified with every request.

Objects travel by pickle, between processes of one job; files never hold any.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, NoReturn, TypeVar

import torch
import torch.distributed as dist

from llm.common.errors import ReportedError

T = TypeVar("T")
R = TypeVar("R")

#: How long a process waits for the others' samples. One that ends is noticed at once.
PATIENCE = timedelta(hours=2)


class JobError(ReportedError):
    """The processes of the job have lost each other; the message says how."""


@contextmanager
def job() -> Iterator[None]:
    """Join the others, if `torchrun` started several processes; on GPUs, take the one of our own.

    Raises
    ------
    ValueError
        If there are more processes than GPUs.
    """
    if not _have_others():
        yield
        return
    device = None
    if torch.cuda.is_available():
        processes, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if processes > gpus:
            raise ValueError(f"--nproc_per_node: {processes} processes, and {gpus} GPUs are here")
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # Objects go by gloo, on GPUs as well: they need none of their memory.
    backend = "cpu:gloo,cuda:nccl" if device else "gloo"
    with losing_others():
        dist.init_process_group(backend, timeout=PATIENCE)
    yield
    # Not after an error: there may be nobody to take leave of. Together, because torchrun stops
    # who is left behind.
    gather(None)
    dist.destroy_process_group()


def world_size() -> int:
    """How many processes train this policy."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is; the first, 0, writes the files and speaks."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather(value: T) -> list[T]:
    """Everybody's value, by rank; tensors on the CPU."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    with losing_others():
        dist.all_gather_object(values, value)
    return values


def on_main_process(work: Callable[[], T]) -> T:
    """What a function returns, or raises, in the first process: nobody else calls it."""
    if world_size() == 1:
        return work()
    outcome = [_attempt(work) if rank() == 0 else None]
    with losing_others():
        dist.broadcast_object_list(outcome, src=0)
    return _agreed(outcome)[0]


def on_every_process(work: Callable[[], None]) -> None:
    """Everybody does its part; what one raises, all raise."""
    if world_size() == 1:
        work()
    else:
        _agreed(gather(_attempt(work)))


def scatter_gather(
    items: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]], same: Iterable[bytes]
) -> list[R]:
    """`work(items)`, of which each process does a part.

    Parameters
    ----------
    items : sequence
        The same everywhere.
    work : function of a sequence
        Returns a result for each item, which does not depend on the other items.
    same : iterable of bytes
        What shows that the items are the same everywhere.

    Raises
    ------
    RuntimeError
        If they are not.
    Exception
        What `work` raised anywhere is raised everywhere.
    """
    size = world_size()
    if size == 1:
        return list(work(items))
    digest = hashlib.sha256()
    for seen in same:
        digest.update(seen + b"\0")
    mine = items[rank() :: size]
    outcomes = gather((digest.digest(), _attempt(lambda: list(work(mine)) if mine else [])))
    if len({digest for digest, _ in outcomes}) > 1:
        raise on_all_ranks(
            RuntimeError(
                "the processes of this job disagree about what is to be sampled; a task or a "
                "localizer of yours does not give the same answer twice: seed it"
            )
        )
    results: list[Any] = [None] * len(items)
    for each, part in enumerate(_agreed([outcome for _, outcome in outcomes])):
        results[each::size] = part
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
        except Exception:  # of any kind: it is a user's class
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return _Outcome(None, error)


def _agreed(outcomes: Sequence[Any]) -> list[Any]:
    """The values, or the first error."""
    for outcome in outcomes:
        if outcome.error is not None:
            raise on_all_ranks(outcome.error)
    return [outcome.value for outcome in outcomes]


def leave(code: int) -> NoReturn:
    """End a process of a job, all of Python's work done, without the destructors of C++.

    A thread of a library's that one of them finds running aborts the process, and torchrun then
    takes a finished job for a failed one.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


# ------------------------------------------------------------------ errors


E = TypeVar("E", bound=Exception)


def on_all_ranks(error: E) -> E:
    """Mark an error that every process raises at this point."""
    error.on_all_ranks = True  # type: ignore[attr-defined]
    return error


def still_together(error: BaseException) -> bool:
    """Whether all processes have met this error and can go on doing things together."""
    if world_size() == 1 or getattr(error, "on_all_ranks", False):
        return True
    return error.__cause__ is not None and still_together(error.__cause__)


@contextmanager
def losing_others() -> Iterator[None]:
    """Around what the processes do together: that others are gone is a `JobError`."""
    try:
        yield
    except RuntimeError as error:  # gloo's are of no class of their own
        known = isinstance(error, dist.DistError) or any(sign in str(error) for sign in SIGNS)
        if known and _have_others():
            raise JobError("another process of this job ended") from error
        raise


#: What gloo says when a process is gone.
SIGNS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")


def first_to_fail() -> bool:
    """Whether no process of the job has called this before: who fails first says so, alone."""
    if not dist.is_initialized():
        return os.environ.get("RANK", "0") == "0"
    try:
        return bool(dist.distributed_c10d._get_default_store().add("failed", 1) == 1)
    except RuntimeError:  # the store went with torchrun
        return True


def _have_others() -> bool:
    """Whether torchrun has started several processes, joined or not yet."""
    return os.environ.get("WORLD_SIZE", "1") != "1"
