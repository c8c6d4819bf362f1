"""Prompts of problems: system message, worked examples, problem and instruction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from llm.tasks.task import PromptText

#: Names of whitespace delimiters in an instruction.
BLANKS = {"\n": "a line break", "\n\n": "an empty line"}


class Shot(NamedTuple):
    """A worked example: a problem and its solution."""

    problem: str
    solution: str


def prompt_of(
    messages: Sequence[dict[str, str]],
    chat: bool,
    system: str,
    instruction: str,
    delimiter: str,
    shots: Sequence[Shot] = (),
) -> PromptText:
    """Prompt of a problem, as chat messages or as plain text.

    Parameters
    ----------
    messages : sequence of dict
        The last one is the problem.
    chat : bool
    system : str
        System message; "" for none.
    instruction : str
        Follows the problem, and the problem of each worked example.
    delimiter : str
        Stands for {delimiter} in the instruction.
    shots : sequence of Shot
    """
    *before, last = messages
    instruction = instruction.replace("{delimiter}", BLANKS.get(delimiter, delimiter))

    def asked(problem: str) -> str:
        return "\n\n".join(filter(None, (problem.strip(), instruction)))

    content = asked(last["content"])
    if chat:
        start = [{"role": "system", "content": system}] if system else []
        for shot in shots:
            start.append({"role": "user", "content": asked(shot.problem)})
            start.append({"role": "assistant", "content": shot.solution})
        return [*start, *before, {"role": last["role"], "content": content}]
    worked = [f"{asked(shot.problem)}\n{shot.solution}" for shot in shots]
    texts = [message["content"] for message in before]
    return "\n\n".join(filter(None, (system, *worked, *texts, content))) + "\n"
