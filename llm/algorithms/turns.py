"""Second turns: prompts that continue after an attempt and ask for another one.

The attempt's tokens are kept as sampled and never tokenised again; only the request is new. So a
second attempt is trained after exactly the tokens that it was sampled from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cpi.core.episodes import Episode
from llm.tasks import Example, Task, checked
from llm.tasks.task import PromptText
from llm.thoughts.simulator import Prompt, ThoughtSimulator, render, token_ids

#: Placeholder for an attempt in a rendered chat: a private-use character, not found in texts.
ATTEMPT = "\ue000"


def next_turn(simulator: ThoughtSimulator, attempt: Episode, request: str) -> Prompt:
    """The prompt after an attempt.

    Parameters
    ----------
    simulator : ThoughtSimulator
        The simulator that sampled the attempt; has its tokenizer and task.
    attempt : Episode
        An episode from an empty prefix.
    request : str
        The user's message. A task may replace it, see `llm.tasks.Task.follow_up`.
    """
    start: Prompt = attempt.origin.start
    attempt_ids = token_ids(attempt.steps)
    bridge = _bridge(simulator.tokenizer, simulator.task, start.example, request)
    # The template ends the attempt with a stop token; do not repeat one that the model sampled.
    stopped = bool(attempt_ids) and attempt_ids[-1] in simulator.stop_token_ids
    if stopped and bridge[:1] == attempt_ids[-1:]:
        bridge = bridge[1:]
    return Prompt((*start.ids, *attempt_ids, *bridge), start.example, start.answer)


def with_readable_prompt(simulator: ThoughtSimulator, turn: Prompt) -> Prompt:
    """The prompt, its example showing the full text that the model was given."""
    text = simulator.tokenizer.decode(turn.ids)
    return turn._replace(example=turn.example._replace(prompt=text))


def check_room(simulator: ThoughtSimulator, prompts: Sequence[Prompt], request: str) -> None:
    """`check_two_attempts` with the tokenizer, task and limits of a simulator."""
    length, max_model_len = simulator.limits.max_completion_length, simulator.engine.max_model_len
    check_two_attempts(simulator.tokenizer, simulator.task, prompts, request, length, max_model_len)


def check_two_attempts(
    tokenizer: Any,
    task: Task,
    prompts: Sequence[Prompt],
    request: str,
    max_completion_length: int,
    max_model_len: int,
) -> int:
    """Refuse prompts that leave no room for two attempts and the request between them.

    Parameters
    ----------
    tokenizer : Transformers tokenizer
    task : Task
    prompts : sequence of Prompt
    request : str
        As in `next_turn`.
    max_completion_length : int
        Maximum number of tokens of an attempt.
    max_model_len : int
        Maximum number of tokens of the model's context.

    Returns
    -------
    int
        Tokens of the longest request.

    Raises
    ------
    ValueError
        If a prompt is too long, or the chat template cannot show an assistant's turn.
    """
    longest = 0
    for prompt in prompts:
        request_tokens = len(_bridge(tokenizer, task, prompt.example, request))
        longest = max(longest, request_tokens)
        if len(prompt.ids) + request_tokens + 2 * max_completion_length > max_model_len:
            raise ValueError(
                f"sampling.max_completion_length: two attempts of {max_completion_length} tokens, "
                f"the {len(prompt.ids)} of prompt {prompt.example.id!r} and {request_tokens} that "
                f"ask for the second are more than the model's {max_model_len}; lower it or drop "
                "the prompt"
            )
    return longest


def _bridge(tokenizer: Any, task: Task, example: Example, request: str) -> list[int]:
    """The tokens between an attempt and the next one."""
    text = checked.follow_up(task, example, request)
    if text is None:
        plain = isinstance(example.prompt, str)
        if plain:
            text = f"\n\n{request}\n\n"
        else:
            text = _chat_bridge(tokenizer, example.prompt, request, task.chat_template_kwargs)
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def _chat_bridge(
    tokenizer: Any, messages: PromptText, request: str, variables: Mapping[str, Any]
) -> str:
    """The text that the chat template puts between an attempt and the next one."""
    turns = [*messages, _message("assistant", ATTEMPT), _message("user", request)]
    chat = render(tokenizer, turns, variables)
    _, attempt, after = chat.rpartition(ATTEMPT)
    if not attempt:
        raise ValueError(
            "prompt: the model's chat template leaves out what the assistant has said, so nothing "
            "can be asked about it; give the tokenizer a template for several turns"
        )
    return str(after)


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
