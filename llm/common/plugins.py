"""Plug-ins: import of `module:name` paths, and errors of a user's code as ValueErrors.

Objects that no import path leads to, such as a function in a notebook, have names of the form
`object:name` inside `given_objects`.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: The module in names of objects without an import path.
OBJECT = "object"

_given: dict[str, Any] = {}


@contextmanager
def given_objects(objects: Mapping[str, Any]) -> Iterator[None]:
    """Let `import_object` find these objects under `object:name`."""
    before = dict(_given)
    _given.update(objects)
    try:
        yield
    finally:
        _given.clear()
        _given.update(before)


def import_path(thing: Any) -> str | None:
    """The path `module:name` of a class or function; None where another process has none."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", "")
    if module in (None, "__main__"):
        return None
    return f"{module}:{name}" if getattr(sys.modules.get(module), name, None) is thing else None


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
    if module_name == OBJECT:
        if name in _given:
            return _given[name]
        raise ValueError(
            f"{option}: {name} was given to llm.train_model as an object, which only the Run that "
            "it returned has; put it into a module and name it module:name, so that any process "
            "can resume, evaluate and export the run"
        )
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
