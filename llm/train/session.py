"""One training run from its settings to its end; the command and `llm.train_model` call it."""

from __future__ import annotations

import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue
from types import FrameType

from llm.common.commands import handle_signals, quiet_transformers
from llm.common.progress import Reporter
from llm.config.train import TrainConfig
from llm.distributed.processes import on_main_process, world_size
from llm.runs.folder import alone, begin_run, open_run
from llm.train.trainer import Trainer

#: Debounce window in seconds: under torchrun, Ctrl-C arrives from the terminal and from torchrun.
DEBOUNCE = 5.0


def run_training(
    config: TrainConfig, reporter: Reporter, on_begin: Callable[[], None] = lambda: None
) -> Trainer:
    """Train to the end, or until a signal asks to stop; returns the closed trainer.

    Parameters
    ----------
    config : TrainConfig
    reporter : Reporter
    on_begin : function
        Called when the folder is locked, before its first file is written.

    Raises
    ------
    ValueError, OSError, ReportedError
        If the run cannot be made, or cannot continue.
    """
    quiet_transformers()
    with warnings.catch_warnings():
        # A warning of `float(loss)`, where it is harmless.
        warnings.filterwarnings("ignore", "Converting a tensor with requires_grad", UserWarning)
        resume = on_main_process(lambda: open_run(config))
        reporter.message(f"{config.algorithm} on {config.task}, in {config.folder}")
        if resume is not None:
            reporter.message(f"going on from {resume}")
        trainer = Trainer(config, reporter, resume)
        try:
            with ExitStack() as lock, stop_on_signals(trainer, reporter):
                on_main_process(lambda: lock.enter_context(alone(config.folder)))
                on_begin()
                on_main_process(lambda: begin_run(config, trainer.step))
                trainer.run()
        finally:
            trainer.close()
    return trainer


@contextmanager
def stop_on_signals(trainer: Trainer, reporter: Reporter) -> Iterator[None]:
    """Ctrl-C or SIGTERM stops the trainer after its step; a second one stops it at once."""
    if threading.current_thread() is not threading.main_thread():  # signals go to the main thread
        yield
        return
    requested_at = 0.0
    requests: SimpleQueue[bool] = SimpleQueue()  # `put` is safe in a signal handler

    def confirm() -> None:
        """Print from a thread: a handler may interrupt a print, and the output is not reentrant."""
        if requests.get():
            reporter.message("finishing this step, then saving; a second signal stops at once")

    def request_stop(number: int, frame: FrameType | None) -> None:
        nonlocal requested_at
        if trainer.stop_requested:
            if world_size() > 1 and time.monotonic() - requested_at < DEBOUNCE:
                return
            raise KeyboardInterrupt
        trainer.stop_requested, requested_at = True, time.monotonic()
        if world_size() == 1:  # torchrun also sends SIGTERM if another process has died
            requests.put(True)

    thread = threading.Thread(target=confirm, daemon=True)
    thread.start()
    try:
        with handle_signals(request_stop, signal.SIGINT, signal.SIGTERM):
            yield
    finally:
        requests.put(False)
        thread.join()
