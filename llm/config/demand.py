"""Demand of a training step, as plain data: generate calls, and rows to train on."""

from __future__ import annotations

from typing import NamedTuple


class Call(NamedTuple):
    """A call of `Engine.generate`.

    Attributes
    ----------
    name : str
        What the call generates.
    requests, samples : int
        Number of requests, and samples per request.
    context, new : int
        Tokens per sequence: between the prompt and the generated part, and generated.
    """

    name: str
    requests: int
    samples: int
    context: int
    new: int

    @property
    def tokens(self) -> int:
        """Tokens that the call generates in all."""
        return self.requests * self.samples * self.new

    @property
    def rows(self) -> Rows:
        """Rows that train on all generated tokens, each with its context."""
        return Rows(self.requests * self.samples, self.context, self.new, self.requests)


class Rows(NamedTuple):
    """Rows of equal size.

    Attributes
    ----------
    number : int
        Number of rows.
    context, trained : int
        Tokens per row: between the prompt and the trained part, and trained on.
    prefixes : int
        Number of distinct prefixes, each of equally many rows.
    """

    number: int
    context: int
    trained: int
    prefixes: int = 1


class Demand(NamedTuple):
    """The calls of a step, in order, and the rows that it trains on."""

    calls: list[Call]
    rows: list[Rows]

    @property
    def longest(self) -> tuple[int, int]:
        """Most tokens of a row without its prompt, and most trained tokens of a row."""
        completion = max(rows.context + rows.trained for rows in self.rows)
        return completion, max(rows.trained for rows in self.rows)
