"""Task over a declared data set: makes problems from rows and verifies completions."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from llm.tasks.declaration import Declaration
from llm.tasks.delimiters import without_delimiters
from llm.tasks.rows import Row, RowError
from llm.tasks.schema import Schema, value
from llm.tasks.source import Source, load
from llm.tasks.task import Example, PromptText, Split, Task
from llm.verifiers import Verification, make_verifier
from llm.verifiers.math_text import without_unicode

#: Names of whitespace delimiters in an instruction.
BLANKS = {"\n": "a line break", "\n\n": "an empty line"}


class DataTask(Task):
    """Problems of a declared data set.

    `Example.data` holds the index of a problem's row instead of its answer, because the tests of a
    program may take megabytes. `answer` reads the answer.

    Parameters
    ----------
    declaration : Declaration

    Raises
    ------
    ValueError
        If the declaration is invalid. The data are read later, at the first use.
    """

    def __init__(self, declaration: Declaration) -> None:
        self.declaration = declaration
        self.delimiter, self.stop = declaration.delimiter, tuple(declaration.stop)
        self.schema = Schema(declaration)
        self.verifier = make_verifier(declaration.verifier, **declaration.verifier_args)
        self._sources: list[Source] = []
        self._notes: list[str] = []

    def __str__(self) -> str:
        return self.declaration.name

    def examples(self, split: Split) -> Sequence[Example]:
        """See `Task.examples`.

        Raises
        ------
        ValueError
            If the data cannot be loaded, or a row is bad; the message names the row.
        """
        return self._splits[split]

    def notes(self) -> Sequence[str]:
        """See `Task.notes`."""
        return self._notes

    def answer(self, example: Example) -> Any:
        """Return the answer of a problem, as its verifier expects it."""
        self.examples("test")  # reads the data at the first use
        return self._answer(self._row(example.data))

    def reference(self, example: Example) -> str:
        """See `Task.reference`; "" for tests of a program."""
        answer = self.answer(example)
        several = answer if isinstance(answer, list) else [answer]
        simple = all(isinstance(each, str | int | float) for each in several)
        return ", ".join(map(str, several)) if simple else ""

    def _row(self, place: tuple[int, int]) -> Row:
        source, row = place
        return self._sources[source].rows[row]

    def _answer(self, row: Row) -> Any:
        """Answer of a row; a list of one is this one, if the verifier takes no lists."""
        answer = self.schema.answer(row)
        if isinstance(answer, list) and len(answer) == 1 and self._refusal(answer):
            return answer[0]
        return answer

    def _refusal(self, answer: Any) -> str:
        """Why the verifier does not take an answer; "" if it does."""
        check = getattr(self.verifier, "check_answer", None)
        try:
            if check is not None:
                check(answer)
        except ValueError as error:
            return str(error)
        return ""

    def verify(self, examples: Sequence[Example], completions: Sequence[str]) -> list[Verification]:
        """Verify completions without their delimiters, which are no part of a program."""
        answers: dict[Any, Any] = {}
        for example in examples:
            if example.data not in answers:  # completions of a group share an answer
                answers[example.data] = self.answer(example)
        return self.verifier(
            [answers[example.data] for example in examples],
            [without_delimiters(text, self.delimiter) for text in completions],
        )

    def reward(self, example: Example, completion: str) -> float:
        """See `Task.reward`."""
        return self.verify([example], [completion])[0].reward

    # ------------------------------------------------------------------ the splits

    @cached_property
    def _splits(self) -> dict[Split, list[Example]]:
        # Test problems are drawn first: they must not depend on the number of training problems.
        task, taken = self.declaration, dict[str, tuple[int, int]]()
        self._sources.clear()
        self._notes.clear()
        if task.named_splits:
            test = self._take("test", self._rows("test", task.test), task.test, taken)
            within = dict[str, tuple[int, int]]()
            rows = self._rows("train", task.train)
            train = self._take("train", rows, task.train, within, held_out=taken)
        else:
            rows = self._rows("test", None)
            test = self._take("test", rows, task.test, taken)
            train = self._take("train", rows, task.train, taken)
        return {"train": train, "test": test}

    def _rows(self, split: Split, number: int | None) -> Iterator[tuple[int, int]]:
        """Yield indices of sources and rows that meet the conditions, in random order."""
        if number == 0:
            return
        chosen: list[tuple[int, int]] = []
        for source in load(self.declaration, split):
            self.schema.check_columns(source)
            chosen += [(len(self._sources), row) for row in self.schema.selected(source)]
            self._sources.append(source)
        for i in np.random.default_rng(self.declaration.seed).permutation(len(chosen)):
            yield chosen[i]

    def _take(
        self,
        split: Split,
        rows: Iterator[tuple[int, int]],
        number: int | None,
        taken: dict[str, tuple[int, int]],
        held_out: Container[str] = (),
    ) -> list[Example]:
        """Take up to `number` problems whose texts are not in `taken`, and add them to it."""
        examples: list[Example] = []
        dropped, repeated, differing, reason, contradiction = 0, 0, 0, "", ""
        while number is None or len(examples) < number:
            place = next(rows, None)
            if place is None:
                break
            source = self._sources[place[0]]
            try:
                example = self._example(place)
                if example is None:
                    continue
                if (key := _key(example.problem)) in taken:
                    repeated += 1
                    if self._answer(self._row(taken[key])) != self._answer(self._row(place)):
                        differing += 1
                        contradiction = contradiction or source.place(place[1])
                    continue
                if key in held_out:
                    raise RowError("the problem is a test problem, too")
            except (RowError, RecursionError) as error:
                cause = error if isinstance(error, RowError) else "it is nested too deeply"
                message = f"{source.place(place[1])}: {cause}"
                if self.declaration.bad_rows == "error":
                    raise ValueError(
                        f"task: {message}; mend it, or leave such rows out with "
                        "--task_args.bad_rows drop"
                    ) from None
                dropped, reason = dropped + 1, reason or message
                continue
            taken[key] = place
            examples.append(example)
        skipped = f"; {repeated} rows repeat a problem" if repeated else ""
        if differing:
            skipped += f", {differing} with another answer, the first: {contradiction}"
        if dropped:
            skipped += f"; {dropped} rows left out, the first: {reason}"
        self._check(split, len(examples), number, skipped)
        return examples

    def _check(self, split: Split, size: int, number: int | None, skipped: str) -> None:
        """Note missing problems and skipped rows; raise if a requested split is empty."""
        task = self.declaration
        if not size and number != 0 and split == "train" and not task.named_splits:
            raise ValueError(
                f"task: {self} has no train problems: test takes all there are, up to {task.test}; "
                f"give a smaller --task_args.test{skipped}{''.join(f' ({n})' for n in self._notes)}"
            )
        if not size and number != 0:
            raise ValueError(
                f"task: {self} has no {split} problems: no row is left that meets the conditions "
                f"(where, answer_where, test){skipped}"
            )
        fewer = number is not None and size < number
        if fewer or skipped:
            requested = f", {number} asked for" if fewer else ""
            self._notes.append(f"task: {self}: {size} {split} problems{requested}{skipped}")

    def _example(self, place: tuple[int, int]) -> Example | None:
        """Make the problem of a row; None if its answer does not meet the conditions.

        Raises
        ------
        RowError
            If the row has no valid problem and answer.
        """
        source = self._sources[place[0]]
        row = source.rows[place[1]]
        try:
            answer = self._answer(row)
        except RowError:
            if self.declaration.answer_where is None:
                raise
            return None
        if not self.schema.usable(answer):
            return None
        problem, messages = self.schema.problem(row), self.schema.messages(row)
        if reason := self._refusal(answer):
            raise RowError(reason)
        field = self.declaration.id
        name = str(value(row, field)) if field else f"{source.label}-{place[1] + 1}"
        prompt = self._prompt(messages or [{"role": "user", "content": problem}])
        return Example(name, prompt, place, problem)

    def _prompt(self, messages: list[dict[str, str]]) -> PromptText:
        """Add the system message, and the instruction at the end of the last message."""
        task = self.declaration
        *before, last = messages
        shown = BLANKS.get(task.delimiter, task.delimiter)
        instruction = task.instruction.replace("{delimiter}", shown)
        content = "\n\n".join(filter(None, (last["content"].strip(), instruction)))
        system = [{"role": "system", "content": task.system}] if task.system else []
        roles = [message["role"] for message in (*system, *before)]
        if roles.count("system") > 1:
            raise RowError("its messages have a system message of their own; leave out `system`")
        if task.chat:
            return [*system, *before, {"role": last["role"], "content": content}]
        if set(roles) - {"system"}:
            raise RowError("its prompt is a conversation, which needs `chat: true`")
        texts = [message["content"] for message in (*system, *before)]
        return "\n\n".join(filter(None, (*texts, content))) + "\n"


def _key(text: str) -> str:
    """Normalise a problem's text: blanks, case and Unicode forms do not distinguish problems.

    10² differs from 102, of which it is a form in Unicode.
    """
    return " ".join(without_unicode(text).casefold().split())
