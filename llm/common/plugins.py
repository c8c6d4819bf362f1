"""Plug-ins: import of `module:name` paths, and errors of a user's code as ValueErrors."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def import_object(path: str, option: str) -> Any:
    """Import the object `module:name`; the working directory is searched last.

    Parameters
    ----------
    path : str
    option : str
        Name of the option that holds the path, for messages.

    Raises
    ------
    ValueError
        If the path has another form, the import fails, or the module lacks the name.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name or module_name.startswith("."):  # no package to be relative to
        raise ValueError(f"{option}: {path!r} is not of the form module:name")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"{option}: cannot import {module_name}: {error}") from error
    except Exception as error:  # any other error raised by the module
        raise ValueError(
            f"{option}: cannot import {module_name}: {type(error).__name__}: {error}"
        ) from error
    try:
        return getattr(module, name)
    except AttributeError:
        raise ValueError(f"{option}: module {module_name} has no {name}") from None


@contextmanager
def plugin_errors(label: str, code: Any) -> Iterator[None]:
    """Turn errors of a user's code into ValueErrors that name its file and line.

    Parameters
    ----------
    label : str
        Start of the message.
    code : function or object
        The called function, or the object whose method is called. The reported line is the last
        one of the traceback in its file.

    Raises
    ------
    ValueError
        For any error, `sys.exit` included.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        module = sys.modules.get(getattr(code, "__module__", ""))
        file = getattr(module, "__file__", None)
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
        place = f" ({file}, line {lines[-1]})" if lines else ""
        raise ValueError(f"{label}: {type(error).__name__}: {error}{place}") from error
