"""Second turns: the sampled tokens of an attempt, and a request."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cpi.core.episodes import Episode, Prefix
from llm.algorithms.turns import (
    check_room,
    check_two_attempts,
    next_turn,
    with_readable_prompt,
)
from llm.tasks import Example, Task
from llm.thoughts.options import ThoughtLimits
from llm.thoughts.simulator import Prompt, Thought, ThoughtSimulator
from tests.llm.algorithms.worlds import (
    EOS,
    Good,
    at_random,
    starts,
    world,
)
from tests.llm.small import Essay, ScriptedEngine, byte_tokenizer

CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
ASKED = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "2+2?"}]


class Chat(Task):
    def examples(self, split: str) -> list[Example]:
        return [Example("sum", ASKED)]

    def reward(self, example: Example, completion: str) -> float:
        return 0.0


def chat_simulator(template: str = CHAT) -> ThoughtSimulator:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return ThoughtSimulator(ScriptedEngine(at_random), tokenizer, Chat(), ThoughtLimits())


def attempt(start: Prompt, ids: list[int], end: Any = "stop") -> Episode:
    thought = Thought(tuple(ids), np.zeros(len(ids)), "", end)
    return Episode(Prefix(start), (thought,), 0.0, True, len(ids))


@pytest.mark.parametrize("end", ["stop", "cut"])
def test_next_turn__equals_chat_template(end: str) -> None:
    simulator = chat_simulator()
    (start,) = starts(simulator)
    words = simulator.tokenizer("it is 5").input_ids
    stop = [simulator.tokenizer.eos_token_id] if end == "stop" else []
    turn = next_turn(simulator, attempt(start, [*words, *stop], end), "Look again.")
    conversation = [
        *ASKED,
        {"role": "assistant", "content": "it is 5"},
        {"role": "user", "content": "Look again."},
    ]
    rendered = simulator.tokenizer.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=False
    )
    assert list(turn.ids) == simulator.tokenizer(rendered, add_special_tokens=False).input_ids
    assert turn.ids.count(simulator.tokenizer.eos_token_id) == 4  # none twice
    assert turn.example is start.example  # the verifier uses the same example
    assert with_readable_prompt(simulator, turn).example.prompt == rendered


def test_next_turn__keeps_sampled_tokens() -> None:
    # Half of "é", a character of two byte tokens: no text encodes to these tokens.
    simulator = chat_simulator()
    (start,) = starts(simulator)
    half = simulator.tokenizer("é").input_ids[:1]
    turn = next_turn(simulator, attempt(start, half, "cut"), "Again.")
    assert list(turn.ids[: len(start.ids) + 1]) == [*start.ids, *half]


#: As that of Qwen3: it drops the thinking of earlier turns.
THINKING = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'].split('</think>')[-1] }}<eos>\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant><think>{% endif %}"
)


def test_next_turn__keeps_thinking_that_the_template_drops() -> None:
    simulator = chat_simulator(THINKING)
    (start,) = starts(simulator)
    ids = simulator.tokenizer("2+2=5</think>5<eos>").input_ids
    turn = next_turn(simulator, attempt(start, ids), "Again.")
    assert turn.ids[: len(start.ids) + len(ids)] == (*start.ids, *ids)
    text = simulator.tokenizer.decode(turn.ids)
    assert text.endswith("2+2=5</think>5<eos>\n<user>Again.<eos>\n<assistant><think>")


def test_next_turn__plain_prompts() -> None:
    simulator = world()
    start = starts(simulator)[0]
    turn = next_turn(simulator, attempt(start, [1, EOS]), "No word of this is known here.")
    question = simulator.tokenizer("?").input_ids
    assert list(turn.ids) == [*start.ids, 1, EOS, *question]
    tokenizer = byte_tokenizer()
    essay = ThoughtSimulator(ScriptedEngine(at_random), tokenizer, Essay(), ThoughtLimits())
    (start,) = starts(essay)
    turn = next_turn(essay, attempt(start, tokenizer("b").input_ids, "cut"), "Try again.")
    assert tokenizer.decode(turn.ids) == "ab\n\nTry again.\n\n"


def test_check_room__template_without_earlier_turns_refused() -> None:
    simulator = chat_simulator("{{ messages[0]['content'] }}{{ messages[-1]['content'] }}")
    (start,) = starts(simulator)
    with pytest.raises(ValueError, match="leaves out what the assistant has said"):
        check_room(simulator, [start], "Again.")


def test_check_room__two_attempts_must_fit() -> None:
    # Prompt 2, attempts 12 each, "?" 1.
    check_room(world(room=27), starts(world()), "")
    simulator = world()
    tokens = check_two_attempts(simulator.tokenizer, Good(), starts(simulator), "", 12, 27)
    assert tokens == 1
    with pytest.raises(ValueError, match=r"two attempts of 12 tokens, the 2 of prompt 'one' and 1"):
        check_room(world(room=26), starts(world()), "")


def test_check_room__empty_follow_up_refused() -> None:
    class Silent(Essay):
        def follow_up(self, example: Example, request: str) -> str:
            return ""

    simulator = ThoughtSimulator(
        ScriptedEngine(at_random), byte_tokenizer(), Silent(), ThoughtLimits()
    )
    with pytest.raises(ValueError, match=r"Silent\.follow_up of 'essay' is ''; give it a text"):
        check_room(simulator, starts(simulator), "Again.")


#: As templates of models that think: earlier thinking is left out, and the reply begins with it.
SWITCHED = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{{ '<think>\n' if enable_thinking }}{% endif %}"
)


def test_next_turn__keeps_thinking_that_the_template_would_strip() -> None:
    simulator = chat_simulator(SWITCHED)
    simulator.task.chat_template_kwargs = {"enable_thinking": True}
    (start,) = starts(simulator)
    assert simulator.tokenizer.decode(start.ids).endswith("<assistant><think>\n")
    ids = simulator.tokenizer("so 5?</think>5").input_ids
    turn = next_turn(simulator, attempt(start, ids, "cut"), "Look again.")
    assert turn.ids[: len(start.ids) + len(ids)] == (*start.ids, *ids)
    rest = simulator.tokenizer.decode(turn.ids[len(start.ids) + len(ids) :])
    assert rest == "<eos>\n<user>Look again.<eos>\n<assistant><think>\n"
