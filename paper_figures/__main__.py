"""`python -m paper_figures`: draw the paper's figures from recorded data, and write the report."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from paper_figures import HOME

__all__ = ["HOME", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code, 130 after Ctrl-C, whatever it hit upon.

    Libraries swallow a KeyboardInterrupt in callbacks, or raise another error in its stead: that
    one was asked for is therefore noted.
    """
    asked: list[int] = []

    def stop(number: int, frame: object) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # else it is ignored, or somebody's else
        signal.signal(signal.SIGINT, stop)
    code = 0
    try:
        arguments = sys.argv[1:] if argv is None else list(argv)
        if arguments[:1] == ["pack"]:
            from paper_figures.framework import packing

            code = packing.run(arguments[1:])
        else:
            from paper_figures.framework.command import run

            code = run(arguments, lambda: bool(asked))
    except KeyboardInterrupt:
        asked.append(signal.SIGINT)
    except Exception:
        if not asked:
            raise
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        print("Interrupted: what was written until then is whole.", file=sys.stderr)
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
