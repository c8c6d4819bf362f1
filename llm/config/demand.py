"""What a training step asks for, as plain data: generate calls, and rows to train on."""

from __future__ import annotations

from typing import NamedTuple


class Call(NamedTuple):
    """A generate call.

    Attributes
    ----------
    name : str
        What it generates.
    requests, samples : int
        Requests, and samples of each.
    context, new : int
        Tokens of a sequence between the prompt and what is generated, and of what is.
    """

    name: str
    requests: int
    samples: int
    context: int
    new: int

    @property
    def tokens(self) -> int:
        """Generated, in all."""
        return self.requests * self.samples * self.new

    @property
    def rows(self) -> Rows:
        """What trains on all that it generates, after what it was generated from."""
        return Rows(self.requests * self.samples, self.context, self.new)


class Rows(NamedTuple):
    """Rows of a kind.

    Attributes
    ----------
    number : int
    context, trained : int
        Tokens of one between its prompt and those that are trained on, and of those.
    """

    number: int
    context: int
    trained: int


class Demand(NamedTuple):
    """The calls of a step in their order, and the rows that it trains on."""

    calls: list[Call]
    rows: list[Rows]

    @property
    def longest(self) -> tuple[int, int]:
        """Most tokens of a row beside its prompt, and most that are trained on."""
        whole = max(rows.context + rows.trained for rows in self.rows)
        return whole, max(rows.trained for rows in self.rows)
