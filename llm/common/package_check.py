"""Detects PyPI's other package `llm`, which can overwrite files of this one."""

from __future__ import annotations

import sys


def check_package(prog: str) -> None:
    """Exit if the imported package `llm` is not this project's.

    Raises
    ------
    SystemExit
        With code 2, after printing the cure.
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
