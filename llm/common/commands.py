"""Start-up and error handling shared by the commands of `llm`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from llm.common.errors import ReportedError
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
        print(f"{prog}: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code if isinstance(error, ReportedError) else 2
    except KeyboardInterrupt:
        print(f"{prog}: {interrupted()}", file=sys.stderr)
        return 130
