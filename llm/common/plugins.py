"""What a user plugs in: found by its import path `module:name`, and called so that it may fail."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
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
    except Exception as error:  # the module's own
        raise ValueError(
            f"{what}: cannot import {module_name}: {type(error).__name__}: {error}"
        ) from error
    try:
        return getattr(module, name)
    except AttributeError:
        raise ValueError(f"{what}: module {module_name} has no {name}") from None


@contextmanager
def users_code(what: str, code: Any) -> Iterator[None]:
    """Around a call of a user's own code: what it raises becomes a ValueError that says where.

    Parameters
    ----------
    what : str
        Begins the message.
    code : function or object
        What is called, or whose method is; errors are placed in its file.

    Raises
    ------
    ValueError
        For any error; `sys.exit` is one, too.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        module = sys.modules.get(getattr(code, "__module__", ""))
        file = getattr(module, "__file__", None)
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
        place = f" ({file}, line {lines[-1]})" if lines else ""
        raise ValueError(f"{what}: {type(error).__name__}: {error}{place}") from error
