"""PyPI has another package called `llm`; installed over this one, it takes the place of parts."""

from __future__ import annotations

import sys


def check_package(prog: str) -> None:
    """Stop a command that finds the other package where ours should be.

    Raises
    ------
    SystemExit
        With what to do about it.
    """
    import llm

    if getattr(llm, "PROJECT", None) != "credit-resets":
        print(
            f"{prog}: the package llm in {next(iter(llm.__path__))} is another one of that name "
            "from PyPI; `pip uninstall llm`, then install credit-resets again (or use an "
            "environment of its own)",
            file=sys.stderr,
        )
        raise SystemExit(2)
