"""Converts rows of a data set to problems and answers, as given by a declaration."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from llm.tasks import livecodebench
from llm.tasks.declaration import Declaration
from llm.tasks.rows import Row, RowError
from llm.tasks.source import Source
from llm.verifiers.boxed import last_boxed

#: A field in a prompt. Other braces are text, as in LaTeX.
_FIELD = re.compile(r"\{([A-Za-z_][\w.]*)\}")


def value(row: Row, field: str) -> Any:
    """Return the value of a field; `a.b` is field b of field a.

    Raises
    ------
    RowError
        If the field is missing or null.
    """
    content: Any = row
    for part in field.split("."):
        content = content.get(part) if isinstance(content, Mapping) else None
        if content is None:
            raise RowError(f"field {field!r} is missing")
    return content


class Schema:
    """Reads problems and answers from the rows of a declared data set.

    Parameters
    ----------
    task : Declaration

    Raises
    ------
    ValueError
        If `prompt`, `extract` or a condition of the declaration is invalid.
    """

    def __init__(self, task: Declaration) -> None:
        parts = [task.prompt] if isinstance(task.prompt, str) else task.prompt
        # A part that is only a name is a field.
        self.parts = [part if _FIELD.search(part) else f"{{{part}}}" for part in parts]
        for part in self.parts:
            if not _FIELD.search(part):
                raise ValueError(f"prompt: {part[1:-1]!r} is neither a field nor has a {{field}}")
        self.worked = task.worked or task.answer
        if not _FIELD.search(self.worked.replace("{delimiter}", "")):
            self.worked = f"{{{self.worked}}}"
        self.task = task
        self.extract = _extractor(task.extract)
        self.where = list(_conditions(task.where))
        required = task.answer_where
        self.answer_where = None if required is None else condition("answer_where", required)

    def check_columns(self, source: Source) -> None:
        """Check that a table has all columns that the declaration uses.

        Raises
        ------
        ValueError
            Names the missing column and the existing ones.
        """
        parts = (
            [*self.parts, self.worked.replace("{delimiter}", "")] if self.task.shots else self.parts
        )
        inside = [field for part in parts for field in _FIELD.findall(part)]
        where = [field for field, _ in self.where]
        fields = [*inside, self.task.answer, *where, *filter(None, [self.task.id])]
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
        """Return the indices of rows that meet `where`, or that cannot be read."""
        if not self.where:
            return list(range(len(source.rows)))
        roots = list(dict.fromkeys(field.partition(".")[0] for field, _ in self.where))
        return [
            number
            for number, row in enumerate(source.rows.columns(roots))
            if row is None or all(fits(_found(row, field)) for field, fits in self.where)
        ]

    def problem(self, row: Row) -> str:
        """Return the text of a row's problem, without instructions.

        Raises
        ------
        RowError
            If the text is empty or too long, or a field cannot be read.
        """
        messages = self.messages(row)
        if messages:
            texts = [m["content"] for m in messages if m["role"] != "system"]
        else:
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

    def messages(self, row: Row) -> list[dict[str, str]]:
        """Return the chat messages of a row's prompt; [] if the prompt is text.

        Raises
        ------
        RowError
            If the messages are not texts of roles, or the last is not the user's.
        """
        match = _FIELD.fullmatch(self.parts[0]) if len(self.parts) == 1 else None
        content = value(row, match[1]) if match else None
        if not (match and isinstance(content, list) and content and all(map(is_message, content))):
            return []
        messages = [{key: message[key] for key in ("role", "content")} for message in content]
        for number, message in enumerate(messages, 1):
            for key, text in message.items():
                if not isinstance(text, str):
                    raise RowError(
                        f"field {match[1]!r}: the {key} of message {number} is a "
                        f"{type(text).__name__}, not text"
                    )
        if messages[-1]["role"] != "user":
            raise RowError(
                f"field {match[1]!r}: the last message is of the {messages[-1]['role']}, not of "
                "the user"
            )
        return messages

    def solution(self, row: Row) -> str:
        """Return the worked solution of a row.

        Raises
        ------
        RowError
            If a field is missing, or the solution is empty.
        """
        parts = self.worked.split("{delimiter}")
        text = self.task.delimiter.join(self._filled(part, row, part) for part in parts).strip()
        if not text:
            raise RowError("the worked solution is empty")
        return text

    def _filled(self, part: str, row: Row, empty: str = "") -> str:
        """A part with the values of its fields; `empty` if all of them are."""
        values = {field: _shown(field, value(row, field)) for field in _FIELD.findall(part)}
        return _FIELD.sub(lambda m: values[m[1]], part) if any(values.values()) else empty

    def answer(self, row: Row) -> Any:
        """Return the answer of a row, as the verifier expects it.

        Raises
        ------
        RowError
            If the answer is missing, or `extract` does not find it.
        """
        return self.extract(row, self.task.answer)

    def usable(self, answer: Any) -> bool:
        """Whether an answer meets the conditions of `answer_where`."""
        return self.answer_where is None or self.answer_where(answer)


def _found(row: Row, field: str) -> Any:
    try:
        return value(row, field)
    except RowError:
        return None


def is_message(content: Any) -> bool:
    """Whether a value has the form of a chat message."""
    return isinstance(content, Mapping) and {"role", "content"} <= content.keys()


def _shown(field: str, content: Any) -> str:
    """Convert a value to text; choices to `A. text`, one per line."""
    if isinstance(content, str):
        return content.strip()
    if isinstance(content, int | float) and not isinstance(content, bool):
        return str(content)
    if isinstance(content, Mapping) and {"label", "text"} <= content.keys():
        content = [{"label": a, "text": b} for a, b in zip(content["label"], content["text"])]  # noqa: B905
    if isinstance(content, list) and content:
        if all(isinstance(each, str) for each in content) and len(content) <= 26:
            content = [{"label": a, "text": b} for a, b in zip(string.ascii_uppercase, content)]  # noqa: B905
        if all(isinstance(each, Mapping) and {"label", "text"} <= each.keys() for each in content):
            return "\n".join(f"{each['label']}. {str(each['text']).strip()}" for each in content)
    raise RowError(f"field {field!r} is a {type(content).__name__}, not text, a number or choices")


def _extractor(name: str) -> Callable[[Row, str], Any]:
    """Return the function that reads the answer from a row, given the name of its field."""
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
    parts = [part.strip() for part in find(text)]
    if not parts or not parts[-1]:
        raise RowError(f"field {field!r} has no answer by extract {name!r}: {_short(text)}")
    return parts[-1]


def _json(row: Row, field: str) -> Any:
    try:
        return json.loads(value(row, field))
    except (TypeError, ValueError, RecursionError) as error:
        raise RowError(f"field {field!r} is not JSON: {error}") from None


def _tests(row: Row, field: str) -> Any:
    try:
        return livecodebench.tests(row)
    except ValueError as error:
        raise RowError(str(error)) from None


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"…{text[-60:]}")


#: Tests of a condition.
_TESTS = ("matches", "not_matches", "integer", "balanced")


def _conditions(where: Mapping[str, Any]) -> Iterator[tuple[str, Callable[[Any], bool]]]:
    """Yield field and predicate of each condition; the key `field.matches` is one test."""
    for key, required in where.items():
        field, _, test = key.rpartition(".")
        if field and test in _TESTS:
            yield field, condition(field, {test: required})
        else:
            yield key, condition(key, required)


def condition(where: str, required: Any) -> Callable[[Any], bool]:
    """Return the predicate of a condition: a value, a list of allowed values, or a dict of tests.

    Raises
    ------
    ValueError
        If a test is unknown.
    """
    if isinstance(required, list):
        # Compared as text, since CSV files have no numbers.
        return lambda value: value is not None and str(value) in map(str, required)
    if not isinstance(required, Mapping):
        return condition(where, [required])
    tests = [_test(where, name, argument) for name, argument in required.items()]
    return lambda value: value is not None and all(test(str(value).strip()) for test in tests)


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
