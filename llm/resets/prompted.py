"""The prompted localizer of SRPO: the model is asked for its own first error."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cpi.core.episodes import Episode
from envs.tabular import FloatArray
from llm.common.plugins import users_code
from llm.engines.engine import MAX_SEED, SamplingParams
from llm.resets.options import LocalizationOptions
from llm.tasks.task import Example, PromptText
from llm.thoughts.simulator import ThoughtSimulator, encode
from llm.verifiers.boxed import boxes

REQUEST = """\
Below are a problem and a solution attempt, divided into numbered steps. The final answer of the \
attempt is wrong.

Problem:
{problem}

Attempt:
{steps}

Find the step in which the error originates: the earliest step that is itself wrong, not a later \
one in which its consequences show. Do not solve the problem again. Examine the steps in order, \
then end your reply with the number of that one step, from 1 to {n}, as \\boxed{{N}}."""


#: A reply names its step in this box.
_BOX = re.compile(r"\\boxed\s*\{")


def request(example: Example, thoughts: Sequence[str]) -> list[dict[str, str]]:
    """The chat request: problem, numbered steps, the bit that the answer is wrong; no answer."""
    if example.problem or isinstance(example.prompt, str):
        problem = (example.problem or str(example.prompt)).strip()
    else:
        problem = "\n\n".join(message["content"].strip() for message in example.prompt)
    steps = "\n".join(f"Step {k}: {thought.strip()}" for k, thought in enumerate(thoughts, 1))
    content = REQUEST.format(problem=problem, steps=steps, n=len(thoughts))
    return [{"role": "user", "content": content}]


def parse(reply: str, n: int) -> int | None:
    r"""The step that a reply names, 1 … n.

    The last balanced `\boxed{…}` if there is one, which must hold a whole number in range; else
    the last "step N"; None if that is missing or out of range, too.
    """
    box = next((content for content in boxes(reply, _BOX) if content is not None), None)
    if box is not None:
        digits = re.fullmatch(r"\s*(?:step\s*)?(\d+)\s*", box, re.IGNORECASE)
        named = digits[1] if digits else ""
    else:
        mentions = re.findall(r"\bstep\s*(\d+)", reply, re.IGNORECASE)
        named = mentions[-1] if mentions else ""
    # A model that repeats a digit for ever writes more of them than `int` takes.
    step = int(named) if 0 < len(named) < 10 else 0
    return step if 1 <= step <= n else None


class Reply(NamedTuple):
    """The step that a model named, 1 … n, or None; and the tokens that its reply took."""

    step: int | None
    tokens: int

    def weights(self, n: int) -> FloatArray:
        """For an episode of n steps: 1 on that one, or on each if there is none."""
        return np.ones(n) if self.step is None else np.eye(1, n, self.step - 1)[0]


class PromptedLocalizer:
    """Asks the model for the first wrong step of its own failed solutions, all in one batch.

    A reply without a usable step number leaves every step equally likely and is counted.

    Parameters
    ----------
    simulator : ThoughtSimulator
        Of the episodes. Its task may phrase the request itself, for models that do not chat.
    rng : numpy Generator
        Seeds the replies.
    options : LocalizationOptions, optional
        Temperature and length of a reply.

    Attributes
    ----------
    cost : int
        Tokens generated.
    asked, failed : int
        Replies, and those without a usable step number.
    """

    def __init__(
        self,
        simulator: ThoughtSimulator,
        rng: np.random.Generator,
        options: LocalizationOptions | None = None,
    ) -> None:
        self.engine, self.tokenizer, self.task = (
            simulator.engine,
            simulator.tokenizer,
            simulator.task,
        )
        self.rng, self.options = rng, options or LocalizationOptions()
        self.stop_token_ids = simulator.stop_token_ids
        self.cost = self.asked = self.failed = 0

    def __call__(self, episodes: Sequence[Episode]) -> list[FloatArray]:
        """Weight 1 on the step that the model names, for each episode."""
        replies = self.ask(episodes, self.rng.integers(MAX_SEED, size=len(episodes)))
        return [reply.weights(e.length) for reply, e in zip(replies, episodes, strict=True)]

    def ask(self, episodes: Sequence[Episode], seeds: ArrayLike) -> list[Reply]:
        """What the model says of each episode, by the random numbers of a seed each."""
        keys = np.asarray(seeds)
        prompts = [self._prompt(episode) for episode in episodes]
        # A request that is too long for the model cannot be asked; that is a failure like another.
        room = [self.engine.max_model_len - len(prompt) for prompt in prompts]
        asked = [i for i, tokens in enumerate(room) if tokens > 0]
        replies = self.engine.generate(
            [prompts[i] for i in asked],
            [
                SamplingParams(
                    max_tokens=min(self.options.max_tokens, room[i]),
                    temperature=self.options.temperature,
                    stop_token_ids=self.stop_token_ids,
                    seed=int(keys[i]),
                )
                for i in asked
            ],
        )
        found = [Reply(None, 0)] * len(episodes)
        for i, (reply,) in zip(asked, replies, strict=True):
            text = self.tokenizer.decode(reply.ids, skip_special_tokens=True)
            found[i] = Reply(parse(text, episodes[i].length), len(reply.ids))
        self.cost += sum(reply.tokens for reply in found)
        self.asked += len(found)
        self.failed += sum(reply.step is None for reply in found)
        return found

    def _prompt(self, episode: Episode) -> tuple[int, ...]:
        example: Example = episode.origin.start.example
        thoughts = [thought.text for thought in episode.steps]
        name = f"task: {type(self.task).__name__}.localization_prompt of {example.id!r}"
        with users_code(name, self.task):
            text: PromptText | None = self.task.localization_prompt(example, thoughts)
        if text is None:
            messages = request(example, thoughts)
            chats = getattr(self.tokenizer, "chat_template", None)
            text = messages if chats else messages[0]["content"] + "\n\n"
        return encode(self.tokenizer, text)
