"""One spelling of options on all command lines."""

from __future__ import annotations

import sys
from collections.abc import Sequence

#: Shows every option where `--help` shows groups of them.
HELP_ALL = "--help_all"


def underscored(argv: Sequence[str] | None, groups: bool = False) -> list[str]:
    """The arguments (by default of this process) with `--dry-run` as `--dry_run`.

    Names of arguments of a user's code, `--task_args.NAME`, are left as they are. In a command
    without groups of options, `--help_all` is `--help`.
    """
    words = [_underscored(word) for word in (sys.argv[1:] if argv is None else argv)]
    return words if groups else ["--help" if word == HELP_ALL else word for word in words]


def _underscored(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    section, dot, rest = name.partition(".")
    section = section.replace("-", "_")
    rest = rest if section.endswith("_args") else rest.replace("-", "_")
    return f"--{section}{dot}{rest}{equals}{value}"
