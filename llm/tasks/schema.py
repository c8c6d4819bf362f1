"""From a row of a data set to a problem and its answer, as a declaration says."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Mapping
from typing import Any

from llm.tasks import livecodebench
from llm.tasks.declaration import Declaration
from llm.tasks.source import Source
from llm.verifiers.boxed import last_boxed

Row = Mapping[str, Any]

#: A field in a prompt. Other braces are text, as LaTeX has them.
_FIELD = re.compile(r"\{([A-Za-z_][\w.]*)\}")


class RowError(ValueError):
    """A row that cannot be used, and why."""


def value(row: Row, field: str) -> Any:
    """A field's value; of `a.b`, that of b in a.

    Raises
    ------
    RowError
        If it is missing, or null.
    """
    found: Any = row
    for part in field.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
        if found is None:
            raise RowError(f"field {field!r} is missing")
    return found


class Schema:
    """What a declaration says about rows.

    Parameters
    ----------
    task : Declaration

    Raises
    ------
    ValueError
        If it says nothing that makes sense.
    """

    def __init__(self, task: Declaration) -> None:
        parts = [task.prompt] if isinstance(task.prompt, str) else task.prompt
        # A name alone is a field.
        self.parts = [part if _FIELD.search(part) else f"{{{part}}}" for part in parts]
        for part in self.parts:
            if not _FIELD.search(part):
                raise ValueError(f"prompt: {part[1:-1]!r} is neither a field nor has a {{field}}")
        self.task = task
        self.extract = _extractor(task.extract)
        self.where = {field: condition(field, c) for field, c in task.where.items()}
        asked = task.answer_where
        self.answer_where = None if asked is None else condition("answer_where", asked)

    def check_columns(self, source: Source) -> None:
        """Refuse a table that lacks a column.

        Raises
        ------
        ValueError
            Naming it, and those that are there.
        """
        inside = [field for part in self.parts for field in _FIELD.findall(part)]
        fields = [*inside, self.task.answer, *self.where, *filter(None, [self.task.id])]
        if self.task.extract == "livecodebench":
            fields += livecodebench.FIELDS
        columns = source.rows.column_names
        for field in fields:
            if field.partition(".")[0] not in columns:
                raise ValueError(
                    f"task: {source.name} has no field {field!r}; its fields are "
                    f"{', '.join(columns)}"
                )

    def selected(self, source: Source) -> list[int]:
        """The rows that meet the conditions of `where`."""
        chosen = list(range(len(source.rows)))
        for field, fits in self.where.items():
            # A column at a time, off the file: the others may be large.
            root, _, rest = field.partition(".")
            column = _column(source, root)
            chosen = [i for i in chosen if fits(_inside(column[i], rest))]
        return chosen

    def problem(self, row: Row) -> str:
        """The problem's text, without instructions.

        Raises
        ------
        RowError
            If it has none.
        """
        texts = [self._filled(part, row) for part in self.parts]
        text = "\n\n".join(filter(None, texts)).strip()
        if not text:
            raise RowError("the prompt is empty")
        if len(text) > self.task.max_prompt_chars:
            raise RowError(
                f"the prompt has {len(text)} characters, more than task_args.max_prompt_chars "
                f"({self.task.max_prompt_chars})"
            )
        return text

    def _filled(self, part: str, row: Row) -> str:
        values = {field: _shown(field, value(row, field)) for field in _FIELD.findall(part)}
        return _FIELD.sub(lambda m: values[m[1]], part) if any(values.values()) else ""

    def answer(self, row: Row) -> Any:
        """What the verifier judges by.

        Raises
        ------
        RowError
            If it is missing, or cannot be found where `extract` says.
        """
        return self.extract(row, self.task.answer)

    def usable(self, answer: Any) -> bool:
        """Whether an answer meets the conditions of `answer_where`."""
        return self.answer_where is None or self.answer_where(answer)


def _column(source: Source, name: str) -> list[Any]:
    column, values = source.rows.data.column(name), []
    for row, scalar in enumerate(column):
        try:
            values.append(scalar.as_py())
        except UnicodeDecodeError as error:
            raise ValueError(f"task: {source.place(row)}: field {name!r}: {error}") from None
    return values


def _inside(found: Any, field: str) -> Any:
    try:
        return value(found, field) if field else found
    except RowError:
        return None


def _shown(field: str, found: Any) -> str:
    """A value as text; choices as `A. text`, one a line."""
    if isinstance(found, str):
        return found.strip()
    if isinstance(found, int | float) and not isinstance(found, bool):
        return str(found)
    if isinstance(found, Mapping) and {"label", "text"} <= found.keys():
        found = [{"label": a, "text": b} for a, b in zip(found["label"], found["text"])]  # noqa: B905
    if isinstance(found, list) and found:
        if all(isinstance(each, str) for each in found) and len(found) <= 26:
            found = [{"label": a, "text": b} for a, b in zip(string.ascii_uppercase, found)]  # noqa: B905
        if all(isinstance(each, Mapping) and {"label", "text"} <= each.keys() for each in found):
            return "\n".join(f"{each['label']}. {str(each['text']).strip()}" for each in found)
    raise RowError(f"field {field!r} is a {type(found).__name__}, not text, a number or choices")


def _extractor(name: str) -> Callable[[Row, str], Any]:
    """From a row and the field of the answer to the answer."""
    if name == "livecodebench":
        return _tests
    verb, _, rest = name.partition(" ")
    if verb == "after" and rest:
        return lambda row, field: _part(row, field, name, lambda t: t.split(rest)[1:])
    if verb == "regex" and rest:
        pattern = _compiled("extract", rest)
        if pattern.groups != 1:
            raise ValueError(f"extract: {rest!r} has {pattern.groups} groups, not one")
        return lambda row, field: _part(row, field, name, lambda t: pattern.findall(t)[-1:])
    if name == "boxed":
        return lambda row, field: _part(row, field, name, lambda t: [last_boxed(t) or ""])
    if name == "json":
        return _json
    if name:
        raise ValueError(
            f"extract: {name!r} is none of 'after …', 'regex …', boxed, json, livecodebench"
        )
    return value


def _part(row: Row, field: str, name: str, find: Callable[[str], Any]) -> str:
    text = value(row, field)
    if not isinstance(text, str):
        raise RowError(f"field {field!r} is a {type(text).__name__}, not text")
    found = [part.strip() for part in find(text)]
    if not found or not found[-1]:
        raise RowError(f"field {field!r} has no answer by extract {name!r}: {_short(text)}")
    return found[-1]


def _json(row: Row, field: str) -> Any:
    try:
        return json.loads(value(row, field))
    except (TypeError, ValueError) as error:
        raise RowError(f"field {field!r} is not JSON: {error}") from None


def _tests(row: Row, field: str) -> Any:
    try:
        return livecodebench.tests(row)
    except ValueError as error:
        raise RowError(str(error)) from None


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"…{text[-60:]}")


def condition(where: str, asked: Any) -> Callable[[Any], bool]:
    """Whether a value meets a condition: equal, one of a list, or all of some tests.

    Raises
    ------
    ValueError
        If a test is unknown.
    """
    if isinstance(asked, list):
        # As text, for CSV files know no numbers.
        return lambda found: found is not None and str(found) in map(str, asked)
    if not isinstance(asked, Mapping):
        return condition(where, [asked])
    tests = [_test(where, name, argument) for name, argument in asked.items()]
    return lambda found: found is not None and all(test(str(found).strip()) for test in tests)


def _test(where: str, name: str, argument: Any) -> Callable[[str], bool]:
    if name in ("matches", "not_matches") and isinstance(argument, str):
        pattern, wanted = _compiled(f"{where}.{name}", argument), name == "matches"
        return lambda text: (pattern.search(text) is not None) == wanted
    if name in ("integer", "balanced") and isinstance(argument, bool):
        check = _is_integer if name == "integer" else _is_balanced
        return lambda text: check(text) == argument
    raise ValueError(
        f"{where}: {name}: {argument!r} is no condition; give a value, a list, or matches: regex, "
        "not_matches: regex, integer: true, balanced: true"
    )


def _compiled(where: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise ValueError(f"{where}: {pattern!r} is not a regular expression: {error}") from None


def _is_integer(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d+|[-+]?\d{1,3}(,\d{3})+", text) is not None


def _is_balanced(text: str) -> bool:
    return all(text.count(a) == text.count(b) for a, b in ("{}", "()", "[]"))
