"""What the commands of `llm` have in common: how they begin, and how they end with an error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from llm.common.errors import ReportedError
from llm.common.package_check import check_package

#: Errors whose message is for the user.
EXPECTED = (ValueError, OSError, ReportedError)


def prepare(prog: str) -> None:
    """Begin a command: see that this is our package, and let idle threads sleep.

    Must come before torch is loaded, which reads the environment then. On shared cores, threads
    that spin make two of them many times slower than one.
    """
    check_package(prog)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def quiet_transformers() -> None:
    """No progress bars and no advice of Transformers; loads it."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def run_command(
    prog: str, work: Callable[[], int], interrupted: Callable[[], str] = lambda: "interrupted"
) -> int:
    """Do the work of a command; returns the exit code.

    Parameters
    ----------
    prog : str
    work : function
        Returns an exit code.
    interrupted : function
        What to say after Ctrl-C, whose exit code is 130.
    """
    try:
        return work()
    except EXPECTED as error:
        print(f"{prog}: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code if isinstance(error, ReportedError) else 2
    except KeyboardInterrupt:
        print(f"{prog}: {interrupted()}", file=sys.stderr)
        return 130
