"""Groups of options, such as --vllm.max_num_seqs, in commands with an argparse parser."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints

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


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the model, its checkpoint, and the options of the engine that loads it."""
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL_OR_RUN",
        help="folder of a training run, folder or hub name of a model, or chain-base",
    )
    add("--step", type=int, metavar="N", help="checkpoint of a run (default: the newest)")
    add("--seed", type=int, metavar="S", help="seed of all random numbers (default: 0)")
    add("--engine", choices=["transformers", "vllm"], help="engine (default: transformers)")
    add(
        "--bf16",
        action=argparse.BooleanOptionalAction,
        help="compute in bfloat16 (default: as in the run, or if the GPU supports it)",
    )


def given_options(args: argparse.Namespace, options: type) -> dict[str, Any]:
    """The options of a dataclass, and of its groups, that a command line gives."""
    names = {f.name for f in dataclasses.fields(options)}
    return {n: v for n, v in vars(args).items() if v is not None and n.partition(".")[0] in names}


def with_options(defaults: T, given: Mapping[str, Any]) -> T:
    """Options with some values replaced; the name `group.name` is one of a group's.

    Raises
    ------
    ValueError
        If there is no option of a name, or a value is out of range.
    """
    values = {f.name: getattr(defaults, f.name) for f in dataclasses.fields(defaults)}  # type: ignore[arg-type]
    for name, value in given.items():
        group, dot, part = name.partition(".")
        if group not in values:
            module = type(defaults).__module__
            raise ValueError(f"{name}: no option of this name; see {module}")
        if dot or isinstance(value, Mapping):
            changes = {part: value} if dot else value
            values[group] = dataclasses.replace(values[group], **changes)
        else:
            values[group] = tuple(value) if isinstance(value, list) else value
    return type(defaults)(**values)
