"""What a user plugs in, by its import path `module:name`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any


def import_object(path: str, what: str) -> Any:
    """The object behind `module:name`; modules of the working directory are found too.

    Parameters
    ----------
    path : str
    what : str
        The option that named it, for messages.

    Raises
    ------
    ValueError
        If the path has another form, the module cannot be imported or has no such name.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name or module_name.startswith("."):  # it is relative to nothing
        raise ValueError(f"{what}: {path!r} is not of the form module:name")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"{what}: cannot import {module_name}: {error}") from error
    try:
        return getattr(module, name)
    except AttributeError:
        raise ValueError(f"{what}: module {module_name} has no {name}") from None
