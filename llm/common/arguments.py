"""Keyword arguments of tasks and plug-ins on a command line, each read as its type says."""

from __future__ import annotations

import copy
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from llm.common.yaml_text import check_yaml

#: Spellings of None.
NULLS = ("null", "Null", "NULL", "~")


def kinds_of(make: Callable[..., Any]) -> dict[str, Any]:
    """Types of the keyword arguments of a function or class: annotations, or types of defaults."""
    try:
        parameters = inspect.signature(make, eval_str=True).parameters.values()
    except Exception:  # an annotation that cannot be evaluated, or no signature
        return {}
    return {
        p.name: type(p.default) if p.annotation is p.empty else p.annotation
        for p in parameters
        if p.annotation is not p.empty or p.default not in (p.empty, None)
    }


def with_argument(
    args: Mapping[str, Any], kinds: Mapping[str, Any], name: str, text: str
) -> dict[str, Any]:
    """Arguments with one more, whose value is given as text.

    Parameters
    ----------
    args : mapping
        Not changed.
    kinds : mapping of str to type
        Types of the arguments, and of a dictionary's entries by their last part (`a.c` for the
        entry `b.c` of a); others may be anything.
    name : str
        `a.b` sets entry b of the argument a; keys of a dictionary may have dots.
    text : str
        Text if the argument is text, else YAML.

    Raises
    ------
    ValueError
        If `a` of `a.b` has no entries.
    """
    root, dot, _ = name.partition(".")
    kind = kinds.get(root, Any)
    entry = next((get_args(each)[1] for each in _members(kind) if get_origin(each) is dict), None)
    *groups, key = name.split(".") if entry is None else name.split(".", 1)
    changed = entries = copy.deepcopy(dict(args))
    for group in groups:
        entries = entries.setdefault(group, {})
        if not isinstance(entries, dict):
            raise ValueError(
                f"{f'{name}={text}'!r}: {group} is {entries!r}, which has no part {key}"
            )
    if dot:
        kind = kinds.get(f"{root}.{key.rpartition('.')[2]}", entry or Any)
    entries[key] = from_text(text, kind)
    return changed


def from_text(text: str, kind: Any) -> Any:
    """Value of a type, given as text; text that is no YAML of this type is returned as it is."""
    import yaml
    from jsonargparse import get_loader

    try:
        check_yaml(text)
        value = get_loader("yaml")(text)
    except (yaml.YAMLError, ValueError):
        return text
    if isinstance(value, str) or (value is None and text not in NULLS):
        return text  # YAML drops white space, quotes and comments
    changed = isinstance(value, int) and not isinstance(value, bool) and str(value) != text  # 007
    if (kind is Any and changed) or (str in _members(kind) and not fits(value, kind)):
        return text
    return value


def fits(value: Any, kind: Any) -> bool:
    """Whether a value read from YAML has a type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is Literal:
        return value in arguments
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in arguments)
    if origin is list:
        return isinstance(value, list) and all(fits(each, arguments[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            isinstance(key, str) and fits(each, arguments[1]) for key, each in value.items()
        )
    return isinstance(value, origin or kind) and not (kind is int and isinstance(value, bool))


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
