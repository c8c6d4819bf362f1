"""Task over a declared data set: makes problems from rows and verifies completions."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np

from llm.tasks.declaration import Declaration
from llm.tasks.delimiters import after_thinking, without_delimiters
from llm.tasks.prompts import Shot, prompt_of
from llm.tasks.rows import Row, RowError
from llm.tasks.schema import Schema, value
from llm.tasks.source import Source, load
from llm.tasks.task import Example, PromptText, Split, Task
from llm.verifiers import Verification, make_verifier, make_weighted
from llm.verifiers.math_text import without_unicode


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
        if declaration.reward:
            self.verifier, self.success = make_weighted(declaration.reward)
        else:
            self.verifier = make_verifier(declaration.verifier, **declaration.verifier_args)
        self._sources: list[Source] = []
        self._notes: list[str] = []
        self._shots: list[Shot] = []
        self.chat_template_kwargs = declaration.chat_template_kwargs

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
        """Verify completions without delimiters, which are no part of a program, and thinking."""
        answers: dict[Any, Any] = {}
        for example in examples:
            if example.data not in answers:  # completions of a group share an answer
                answers[example.data] = self.answer(example)
        return self.verifier(
            [answers[example.data] for example in examples],
            [without_delimiters(after_thinking(text), self.delimiter) for text in completions],
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
        self._shots = []
        rows = self._rows("test", task.test if task.named_splits else None)
        share = isinstance(task.test, float) and task.test < 1
        number = max(1, round(task.test * len(rows))) if share and task.test else task.test
        remaining = iter(rows)
        test = self._take("test", remaining, None if number is None else int(number), taken)
        within, held_out = taken, dict[str, tuple[int, int]]()
        if task.named_splits:
            remaining = iter(self._rows("train", task.train))
            within, held_out = held_out, taken
        if task.shots:
            worked = self._take("shots", remaining, task.shots, within, held_out)
            self._shots = self._worked(worked)
            test = [e._replace(prompt=self._prompt_of(self._row(e.data))) for e in test]
        train = self._take("train", remaining, task.train, within, held_out)
        return {"train": train, "test": test}

    def _worked(self, examples: Sequence[Example]) -> list[Shot]:
        """Worked examples of these problems; they must be right.

        Raises
        ------
        ValueError
            If there are fewer than `shots`, or the verifier finds a solution wrong.
        """
        asked = self.declaration.shots
        if len(examples) < asked:
            raise ValueError(
                f"task_args.shots: {asked} worked examples, but {self} has {len(examples)} "
                "training problems"
            )
        shots = [Shot(e.problem, self.schema.solution(self._row(e.data))) for e in examples]
        answers = [self._answer(self._row(e.data)) for e in examples]
        texts = [without_delimiters(shot.solution, self.delimiter) for shot in shots]
        for example, shot, result in zip(
            examples, shots, self.verifier(answers, texts), strict=True
        ):
            if result.reward < self.success:
                raise ValueError(
                    f"task_args.worked: the verifier finds no right answer in the worked solution "
                    f"of {example.id!r}, {shot.solution[-60:]!r}; write it as the verifier reads "
                    "it, as in --task_args.worked '{steps} Answer: {answer}'"
                )
        return shots

    def _rows(self, split: Split, number: float | None) -> list[tuple[int, int]]:
        """Indices of sources and rows that meet the conditions, in random order."""
        if number == 0:
            return []
        chosen: list[tuple[int, int]] = []
        for source in load(self.declaration, split):
            self.schema.check_columns(source)
            chosen += [(len(self._sources), row) for row in self.schema.selected(source)]
            self._sources.append(source)
        order = np.random.default_rng(self.declaration.seed).permutation(len(chosen))
        return [chosen[i] for i in order]

    def _take(
        self,
        split: Split | Literal["shots"],
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

    def _check(self, split: str, size: int, number: int | None, skipped: str) -> None:
        """Note missing problems and skipped rows; raise if a requested split is empty."""
        task = self.declaration
        if split == "shots":
            return
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
        problem = self.schema.problem(row)
        if reason := self._refusal(answer):
            raise RowError(reason)
        field = self.declaration.id
        name = str(value(row, field)) if field else f"{source.label}-{place[1] + 1}"
        return Example(name, self._prompt_of(row), place, problem)

    def _prompt_of(self, row: Row) -> PromptText:
        """Prompt of a row's problem.

        Raises
        ------
        RowError
            If it is a conversation that has a system message already, or cannot be plain text.
        """
        task = self.declaration
        messages = self.schema.messages(row)
        messages = messages or [{"role": "user", "content": self.schema.problem(row)}]
        roles = [*["system"] * bool(task.system), *(message["role"] for message in messages[:-1])]
        if roles.count("system") > 1:
            raise RowError("its messages have a system message of their own; leave out `system`")
        if not task.chat and set(roles) - {"system"}:
            raise RowError("its prompt is a conversation, which needs `chat: true`")
        return prompt_of(
            messages, task.chat, task.system, task.instruction, task.delimiter, self._shots
        )


def _key(text: str) -> str:
    """Normalise a problem's text: blanks, case and Unicode forms do not distinguish problems.

    10² differs from 102, of which it is a form in Unicode.
    """
    return " ".join(without_unicode(text).casefold().split())
