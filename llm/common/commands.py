"""Start-up and error handling shared by the commands of `llm`."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from llm.common.errors import ReportedError, message_of
from llm.common.package_check import check_package

#: Errors reported to the user in one line, without a traceback.
EXPECTED = (ValueError, OSError, ReportedError)


def prepare(prog: str) -> None:
    """Start a command: check the package and let idle threads sleep.

    Call it before torch is imported: torch reads the environment at import. On shared cores,
    spinning threads make two threads many times slower than one.
    """
    check_package(prog)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def quiet_transformers() -> None:
    """Import Transformers and disable its progress bars and warnings."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def leave(code: int) -> NoReturn:
    """End this process with an exit code, after Python's exit handlers.

    A signal that comes meanwhile ends it with the same code. C++ destructors do not run: one that
    finds a library's thread still running aborts the process, and torchrun would then report a
    finished job as failed.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(code))
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # missing or closed
            stream.flush()
    os._exit(code)


@contextlib.contextmanager
def handle_signals(
    handler: Callable[[int, FrameType | None], None], *signals: signal.Signals
) -> Iterator[None]:
    """Install a handler for these signals, and restore the previous ones."""
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


def run_command(
    prog: str, work: Callable[[], int], interrupted: Callable[[], str] = lambda: "interrupted"
) -> int:
    """Run a command, report its errors in one line, and return the exit code.

    Parameters
    ----------
    prog : str
        Name of the command, for messages.
    work : function
        Returns an exit code.
    interrupted : function
        Returns the message after Ctrl-C; the exit code is then 130.
    """
    try:
        return work()
    except EXPECTED as error:
        print(f"{prog}: {message_of(error)}", file=sys.stderr)
        return error.exit_code if isinstance(error, ReportedError) else 2
    except KeyboardInterrupt:
        print(f"{prog}: {interrupted()}", file=sys.stderr)
        return 130
