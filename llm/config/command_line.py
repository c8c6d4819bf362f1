"""Command lines over dataclasses: typed flags, YAML files, presets.

`--config` may be given several times, and names a file or a preset of `llm/presets/`; a file may
name parents (`config: [one.yaml, two.yaml]`, relative to its folder), which come before it. Later
files win over earlier ones, and flags over all files, wherever they stand on the command line.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from llm.config.presets import presets

Settings = TypeVar("Settings")


def parse(
    settings: type[Settings],
    argv: Sequence[str] | None,
    prog: str,
    description: str = "",
    epilog: str = "",
    named_presets: Sequence[str] = (),
) -> Settings:
    """Settings from a command line, by default this process's.

    Parameters
    ----------
    settings : dataclass
        Its docstring, in numpydoc form, is the help.
    argv : sequence of str, optional
    prog, description, epilog : str
    named_presets : sequence of str
        Presets of these settings, for the help.

    Raises
    ------
    ValueError
        If an option is unknown or a value makes no sense; the message is one line.
    SystemExit
        After --help.
    """
    from jsonargparse import (
        ArgumentError,
        ArgumentParser,
        DefaultHelpFormatter,
        set_parsing_settings,
    )

    set_parsing_settings(docstring_parse_style=_numpydoc())

    class Formatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
        """Leaves description and examples as they are written."""

    parser = ArgumentParser(
        prog=prog,
        description=description,
        epilog=epilog,
        exit_on_error=False,
        formatter_class=Formatter,
    )
    named = f", or the name of a preset: {', '.join(named_presets)}" if named_presets else ""
    help_ = f"A YAML file{named}."
    parser.add_argument("--config", action="config", help=help_)
    parser.add_class_arguments(settings, None)
    try:
        arguments = _files_first(sys.argv[1:] if argv is None else argv)
        arguments = _switched_on(arguments, set(_switches(settings)))
        values = parser.instantiate(parser.parse_args(arguments))
    except ArgumentError as error:
        raise ValueError(" ".join(str(error).split())) from None
    names = [f.name for f in dataclasses.fields(settings)]  # type: ignore[arg-type]
    return settings(**{name: values[name] for name in names})


def _numpydoc() -> Any:
    from docstring_parser import DocstringStyle

    return DocstringStyle.NUMPYDOC


def _files_first(argv: Sequence[str]) -> list[str]:
    """The arguments with `--config` ones in front, presets by their path."""
    files: list[str] = []
    others: list[str] = []
    rest = iter(argv)
    for argument in rest:
        if argument == "--config":
            files.append(next(rest, ""))
        elif argument.startswith("--config="):
            files.append(argument.removeprefix("--config="))
        else:
            others.append(argument)
    paths = [path for file in files for found in _find(file) for path in _with_parents(found)]
    return [part for path in paths for part in ("--config", str(path))] + others


def _switches(settings: Any, prefix: str = "--") -> Iterator[str]:
    """Flags of the settings that are true or false."""
    for name, kind in get_type_hints(settings).items():
        if kind in (bool, bool | None):
            yield prefix + name
        elif dataclasses.is_dataclass(kind):
            yield from _switches(kind, f"{prefix}{name}.")


def _switched_on(argv: Sequence[str], switches: Collection[str]) -> list[str]:
    """The arguments, `--quick` alone as `--quick=true`: the parser wants a value."""
    following = [*argv, "--"][1:]
    return [
        f"{argument}=true" if argument in switches and after.startswith("--") else argument
        for argument, after in zip(argv, following, strict=True)
    ]


def _find(file: str) -> list[Path]:
    """The file of this path, or those of the preset of this name."""
    if Path(file).is_file():
        return [Path(file)]
    known = presets()
    if (name := file.removesuffix(".yaml")) not in known:
        raise ValueError(
            f"--config: {file!r} is neither a file nor a preset; presets: {', '.join(known)}"
        )
    return known[name]


def _with_parents(path: Path, children: tuple[Path, ...] = ()) -> list[Path]:
    """A file and before it its parents, theirs before them."""
    import yaml

    if path.resolve() in children:
        raise ValueError(f"--config: {path} is a parent of its own")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config: {path} is not YAML: {' '.join(str(error).split())}") from None
    named = content.get("config") if isinstance(content, Mapping) else None
    parents = [named] if isinstance(named, str) else named or []
    found: list[Path] = []
    for parent in parents:
        place = path.parent / str(parent)
        if not place.is_file():
            raise ValueError(f"--config: {path} has the parent {parent!r}, which is not a file")
        found += _with_parents(place, (*children, path.resolve()))
    return [*found, path]
