"""Groups of options, such as --vllm.max_num_seqs, in commands with an argparse parser."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from typing import TypeVar, get_type_hints

T = TypeVar("T")


def add_option_groups(
    parser: argparse.ArgumentParser, groups: Mapping[str, type], shown: bool = True
) -> None:
    """Add an option per field of each dataclass, with the help texts of its docstring.

    Unless `shown`, the help has the groups without their options.
    """
    from docstring_parser import DocstringStyle, parse

    for group, options in groups.items():
        help_text = parse(options.__doc__ or "", DocstringStyle.NUMPYDOC)
        help_of = {p.arg_name: " ".join((p.description or "").split()) for p in help_text.params}
        section = parser.add_argument_group(
            f"{group} (default: the run's, or as in llm.train)", help_text.short_description
        )
        hints = get_type_hints(options)
        for f in dataclasses.fields(options):
            name = f"--{group}.{f.name}"
            if hints[f.name] in (bool, bool | None):
                text = help_of[f.name] if shown else argparse.SUPPRESS
                section.add_argument(name, action="store_true", default=None, help=text)
                continue
            kind = float if hints[f.name] is float else int
            default = "" if f.default is None else f" (default: {f.default})"
            section.add_argument(
                name, type=kind, metavar="X" if kind is float else "N",
                help=help_of[f.name].rstrip(".") + default if shown else argparse.SUPPRESS,
            )  # fmt: skip


def read_option_group(args: argparse.Namespace, group: str, default: T) -> T:
    """The options of a group that were given; the others are those of `default`."""
    changes = {
        name.removeprefix(f"{group}."): value
        for name, value in vars(args).items()
        if name.startswith(f"{group}.") and value is not None
    }
    changed: T = dataclasses.replace(default, **changes)  # type: ignore[type-var]
    return changed
