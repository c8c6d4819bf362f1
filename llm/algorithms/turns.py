"""A second turn: the prompt that goes on after an attempt and asks for another one.

The attempt's tokens are those that were sampled, never tokenised again; only the request is new. So
what a second attempt is trained on is, token for token, what it was sampled from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cpi.core.episodes import Episode
from llm.tasks import Example, Task, checked
from llm.tasks.task import PromptText
from llm.thoughts.simulator import Prompt, ThoughtSimulator, token_ids

#: Stands for an attempt in a rendered chat; no template and no request has such a character.
ATTEMPT = "\ue000"


def next_turn(simulator: ThoughtSimulator, attempt: Episode, request: str) -> Prompt:
    """The prompt after an attempt.

    Parameters
    ----------
    simulator : ThoughtSimulator
        Of the attempt; gives tokenizer and task.
    attempt : Episode
        From an empty prefix.
    request : str
        The user's words; a task may have others, see `llm.tasks.Task.follow_up`.
    """
    start: Prompt = attempt.origin.start
    said = token_ids(attempt.steps)
    bridge = _bridge(simulator.tokenizer, simulator.task, start.example, request)
    # The template ends the attempt with a token that the model has most likely sampled itself.
    if said and bridge[:1] == said[-1:] and said[-1] in simulator.stop_token_ids:
        bridge = bridge[1:]
    return Prompt((*start.ids, *said, *bridge), start.example)


def shown(simulator: ThoughtSimulator, turn: Prompt) -> Prompt:
    """The prompt with all that the model was given in its example, for people to read."""
    text = simulator.tokenizer.decode(turn.ids)
    return turn._replace(example=turn.example._replace(prompt=text))


def check_room(simulator: ThoughtSimulator, prompts: Sequence[Prompt], request: str) -> None:
    """`check_two_attempts` for the tokenizer, the task and the limits of a simulator."""
    most, room = simulator.limits.max_completion_length, simulator.engine.max_model_len
    check_two_attempts(simulator.tokenizer, simulator.task, prompts, request, most, room)


def check_two_attempts(
    tokenizer: Any, task: Task, prompts: Sequence[Prompt], request: str, most: int, room: int
) -> int:
    """Refuse prompts after which two attempts and the request do not fit, before any is sampled.

    Parameters
    ----------
    tokenizer : Transformers tokenizer
    task : Task
    prompts : sequence of Prompt
    request : str
        As in `next_turn`.
    most : int
        Tokens of an attempt.
    room : int
        Tokens that the model takes.

    Returns
    -------
    int
        Most tokens of a request.

    Raises
    ------
    ValueError
        If a prompt is too long, or the chat template cannot show an assistant's turn.
    """
    longest = 0
    for prompt in prompts:
        asked = len(_bridge(tokenizer, task, prompt.example, request))
        longest = max(longest, asked)
        if len(prompt.ids) + asked + 2 * most > room:
            raise ValueError(
                f"sampling.max_completion_length: two attempts of {most} tokens, the "
                f"{len(prompt.ids)} of prompt {prompt.example.id!r} and {asked} that ask for the "
                f"second are more than the model's {room}; lower it or drop the prompt"
            )
    return longest


def _bridge(tokenizer: Any, task: Task, example: Example, request: str) -> list[int]:
    """The tokens between an attempt and the next."""
    text = checked.follow_up(task, example, request)
    if text is None:
        chats = not isinstance(example.prompt, str)
        text = _rendered(tokenizer, example.prompt, request) if chats else f"\n\n{request}\n\n"
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def _rendered(tokenizer: Any, messages: PromptText, request: str) -> str:
    """What the chat template puts between an attempt and the next."""
    turns = [*messages, _message("assistant", ATTEMPT), _message("user", request)]
    chat = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    _, found, after = chat.rpartition(ATTEMPT)
    if not found:
        raise ValueError(
            "prompt: the model's chat template leaves out what the assistant has said, so nothing "
            "can be asked about it; give the tokenizer a template for several turns"
        )
    return str(after)


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
