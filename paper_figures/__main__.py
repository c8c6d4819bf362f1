"""`python -m paper_figures`: draw the paper's figures from recorded data, and write the report."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from paper_figures import HOME

__all__ = ["HOME", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, 130 after Ctrl-C.

    Libraries may swallow a KeyboardInterrupt or raise another error instead. The signal handler
    therefore records each interrupt.
    """
    interrupts: list[int] = []

    def handle_interrupt(number: int, frame: object) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    previous_handler = signal.getsignal(signal.SIGINT)
    if previous_handler is signal.default_int_handler:  # else it is ignored or custom
        signal.signal(signal.SIGINT, handle_interrupt)
    code = 0
    try:
        arguments = sys.argv[1:] if argv is None else list(argv)
        if arguments[:1] == ["pack"]:
            from paper_figures.framework import packing

            code = packing.run(arguments[1:])
        else:
            from paper_figures.framework.command import run

            code = run(arguments, lambda: bool(interrupts))
    except KeyboardInterrupt:
        interrupts.append(signal.SIGINT)
    except Exception:
        if not interrupts:
            raise
    finally:
        signal.signal(signal.SIGINT, previous_handler)
    if interrupts:
        print("Interrupted: all files written so far are complete.", file=sys.stderr)
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
