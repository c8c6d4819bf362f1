"""Command lines over dataclasses: typed flags, YAML files, presets.

`--config` names a file or a preset of `llm/presets/`, and may be given several times. A file may
name parents, relative to its folder: `config: [one.yaml, two.yaml]`. Parents come before the file.
Later files win over earlier ones. Flags win over all files, wherever they stand.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import re
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from cpi.reporting.options import HELP_ALL, underscored
from llm.common.yaml_text import check_yaml, read_yaml
from llm.config.presets import presets
from llm.config.suggestions import suggestion, unknown_names

Settings = TypeVar("Settings")


def parse(
    settings: type[Settings],
    argv: Sequence[str] | None,
    prog: str,
    description: str = "",
    epilog: str = "",
    named_presets: Sequence[str] = (),
) -> Settings:
    """Parse a command line into settings.

    Parameters
    ----------
    settings : dataclass
        Its numpydoc docstring is the help text.
    argv : sequence of str, optional
        By default the arguments of this process.
    prog, description, epilog : str
    named_presets : sequence of str
        Presets of these settings, for the help text.

    Raises
    ------
    ValueError
        If an option is unknown or a value is invalid; the message is one line.
    SystemExit
        After --help or --help_all.
    """
    from jsonargparse import ArgumentError

    words = underscored(argv, groups=True)
    if _has_sections(settings) and {"-h", "--help"} & set(words):
        print(short_help(settings, prog, description, epilog))
        raise SystemExit(0)
    words = ["--help" if word == HELP_ALL else word for word in words]
    kind: Any = settings
    parser = _parser(kind, prog, description, epilog, tuple(named_presets))
    try:
        arguments = _files_first(words, settings)
        arguments = _switched_on(arguments, set(_switches(settings)))
        values = parser.instantiate(parser.parse_args(arguments))
    except ArgumentError as error:
        raise ValueError(_message(" ".join(str(error).split()), settings)) from None
    names = [f.name for f in dataclasses.fields(settings)]  # type: ignore[arg-type]
    return settings(**{name: values[name] for name in names})


@functools.cache  # several times as expensive as parsing
def _parser(
    settings: Any, prog: str, description: str, epilog: str, named_presets: tuple[str, ...]
) -> Any:
    from jsonargparse import (
        ArgumentParser,
        DefaultHelpFormatter,
        get_loader,
        set_loader,
        set_parsing_settings,
    )
    from yaml import YAMLError

    set_parsing_settings(docstring_parse_style=_numpydoc())

    def load(text: str) -> Any:
        check_yaml(text)
        return get_loader("yaml")(text)

    set_loader("unique keys", load, (YAMLError,))

    class Formatter(argparse.RawDescriptionHelpFormatter, DefaultHelpFormatter):
        """Keeps the line breaks of description and examples."""

    parser = ArgumentParser(
        allow_abbrev=False,
        prog=prog,
        description=description,
        epilog=epilog,
        exit_on_error=False,
        parser_mode="unique keys",
        formatter_class=Formatter,
    )
    preset_help = f", or the name of a preset: {', '.join(named_presets)}" if named_presets else ""
    help_ = f"A YAML file{preset_help}."
    parser.add_argument("--config", action="config", help=help_)
    parser.add_class_arguments(settings, None)
    return parser


def _message(error: str, settings: Any) -> str:
    """The parser's message, with the option that was probably meant."""
    if error.startswith("unrecognized arguments: ") and (name := re.search(r"--([\w.]+)", error)):
        return error + suggestion(name[1], settings)
    if name := re.match(r'Parser key "(\w+_args)": ', error):
        return f"{name[1]}: name each argument, as in --{name[1]}.NAME VALUE"
    return error


def _has_sections(settings: Any) -> bool:
    return any(map(dataclasses.is_dataclass, get_type_hints(settings).values()))


def short_help(settings: Any, prog: str, description: str, epilog: str) -> str:
    """The run's own options, and the groups of the others; `--help_all` has every option."""
    from docstring_parser import parse as parse_docstring

    hints = get_type_hints(settings)
    about = {
        p.arg_name: " ".join((p.description or "").split())
        for p in parse_docstring(settings.__doc__ or "", _numpydoc()).params
    }
    own = [name for name, kind in hints.items() if not dataclasses.is_dataclass(kind)]
    groups = [name for name, kind in hints.items() if dataclasses.is_dataclass(kind)]
    width = 2 + max(map(len, hints))
    lines = [f"usage: {prog} [--config FILE_OR_PRESET] [--OPTION VALUE] ...", "", description, ""]
    lines += ["options:", _entry("config", "A YAML file, or a preset.", width)]
    lines += [_entry(name, about[name], width) for name in own]
    lines += ["", f"groups, --GROUP.OPTION VALUE ({HELP_ALL} shows the options of each):"]
    lines += [_entry(name, (hints[name].__doc__ or "").splitlines()[0], width) for name in groups]
    return "\n".join([*lines, "", epilog])


def _entry(name: str, text: str, width: int) -> str:
    """An option with its text, wrapped and indented."""
    indent = " " * (width + 4)
    wrapped = textwrap.wrap(text, max(30, 96 - len(indent)))
    return f"  --{name:{width}}" + f"\n{indent}".join(wrapped)


def _numpydoc() -> Any:
    from docstring_parser import DocstringStyle

    return DocstringStyle.NUMPYDOC


def _files_first(argv: Sequence[str], settings: Any) -> list[str]:
    """The arguments, with all `--config` first and presets replaced by their paths."""
    files: list[str] = []
    others: list[str] = []
    arguments = iter(argv)
    for argument in arguments:
        if argument == "--config":
            files.append(next(arguments, ""))
        elif argument.startswith("--config="):
            files.append(argument.removeprefix("--config="))
        else:
            others.append(argument)
    paths = [path for file in files for named in _files_of(file) for path in _with_parents(named)]
    contents = [content for path in paths if (content := _content(path, settings))]
    return [part for content in contents for part in ("--config", content)] + others


#: Sections that earlier versions wrote and this one has not; all were off unless `file` was given.
REMOVED = ("rehearsal",)


def _content(path: Path, settings: Any) -> str:
    """The path of a file for the parser, or its text without empty and removed sections.

    It is "" for a file without settings, such as one of comments only.

    Raises
    ------
    ValueError
        If the file is not a mapping, a section is not one, an option is unknown, or a removed
        section was in use.
    """
    import yaml

    values = read_yaml(path)
    if values is None:
        return ""
    if not isinstance(values, Mapping):
        raise ValueError(f"--config: {path} holds {values!r:.40}, not settings, `name: value`")
    given = {name: value for name, value in values.items() if name not in ("config", *REMOVED)}
    for name in unknown_names(given, settings):
        raise ValueError(f"--config: {path}: no option {name}{suggestion(name, settings)}")
    sections = {
        name for name, kind in get_type_hints(settings).items() if dataclasses.is_dataclass(kind)
    }
    for name in sections & values.keys():
        if not isinstance(values[name], Mapping | str | None):  # a text names a file
            raise ValueError(
                f"--config: {path}: {name} is a section of options, `name: value`, not "
                f"{values[name]!r:.40}"
            )
    removed = [name for name in REMOVED if name in values]
    empty = [name for name in sections & values.keys() if values[name] is None]
    if not removed and not empty:
        return str(path)
    for name in removed:
        if (values[name] or {}).get("file"):
            raise ValueError(
                f"--config: {path} uses {name}, which this version has not; take the section out "
                "for a run without it, or go on with the version that made the file"
            )
    kept = {name: value for name, value in values.items() if name not in (*removed, *empty)}
    return str(yaml.safe_dump(kept)) if kept else ""


def _switches(settings: Any, prefix: str = "--") -> Iterator[str]:
    """The boolean flags of the settings."""
    for name, kind in get_type_hints(settings).items():
        if kind in (bool, bool | None):
            yield prefix + name
        elif dataclasses.is_dataclass(kind):
            yield from _switches(kind, f"{prefix}{name}.")


def _switched_on(argv: Sequence[str], switches: Collection[str]) -> list[str]:
    """The arguments, with a bare `--quick` as `--quick=true`: the parser requires a value."""
    following = [*argv, "--"][1:]
    return [
        f"{argument}=true" if argument in switches and after.startswith("--") else argument
        for argument, after in zip(argv, following, strict=True)
    ]


def _files_of(file: str) -> list[Path]:
    """The file at this path, or the files of the preset of this name."""
    if Path(file).is_file():
        return [Path(file)]
    known = presets()
    if (name := file.removesuffix(".yaml")) not in known:
        raise ValueError(
            f"--config: {file!r} is neither a file nor a preset; presets: {', '.join(known)}"
        )
    return known[name]


def _with_parents(path: Path, children: tuple[Path, ...] = ()) -> list[Path]:
    """A file, preceded by its parents, each preceded by its own parents."""
    if path.resolve() in children:
        raise ValueError(f"--config: {path} is a parent of its own")
    try:
        content = read_yaml(path)
    except ValueError as error:
        raise ValueError(f"--config: {error}") from None
    entry = content.get("config") if isinstance(content, Mapping) else None
    parents = [entry] if isinstance(entry, str) else entry or []
    ancestors: list[Path] = []
    for parent in parents:
        parent_path = path.parent / str(parent)
        if not parent_path.is_file():
            raise ValueError(f"--config: {path} has the parent {parent!r}, which is not a file")
        ancestors += _with_parents(parent_path, (*children, path.resolve()))
    return [*ancestors, path]
