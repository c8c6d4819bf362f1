"""The prompted localizer of SRPO: the model names its own first error."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cpi.core.episodes import Episode
from envs.tabular import FloatArray
from llm.common.plugins import plugin_errors
from llm.engines.engine import MAX_SEED, SamplingParams
from llm.resets.options import LocalizationOptions
from llm.tasks.delimiters import after_thinking
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


#: The request for solutions that may be right.
REQUEST_OR_NONE = """\
Below are a problem and a solution attempt, divided into numbered steps.

Problem:
{problem}

Attempt:
{steps}

Find the earliest step that is itself wrong, not a later one in which its consequences show. Do \
not solve the problem again. Examine the steps in order, then end your reply with the number of \
that one step, from 1 to {n}, as \\boxed{{N}}, or with \\boxed{{0}} if no step is wrong."""


#: Start of the box with the number of the step.
_BOX = re.compile(r"\\boxed\s*\{")
_MARKS = r"(?:\\(?:text(?:bf|it)?|math(?:rm|bf))|[\s{}$*_#~:()\\])*+"
#: Content of a box with the number of a step.
_NUMBER = re.compile(rf"(?i){_MARKS}(?:step{_MARKS}(?:no\.|number)?)?{_MARKS}(\d+){_MARKS}\.?")
_MENTION = re.compile(rf"(?i)\bstep{_MARKS}(?:no\.|number\b)?{_MARKS}(\d+)")


def request(
    example: Example, thoughts: Sequence[str], may_be_right: bool = False
) -> list[dict[str, str]]:
    """Chat request with the problem and the numbered steps, and without the right answer."""
    if example.problem or isinstance(example.prompt, str):
        problem = (example.problem or str(example.prompt)).strip()
    else:
        problem = "\n\n".join(message["content"].strip() for message in example.prompt)
    steps = "\n".join(f"Step {k}: {thought.strip()}" for k, thought in enumerate(thoughts, 1))
    template = REQUEST_OR_NONE if may_be_right else REQUEST
    content = template.format(problem=problem, steps=steps, n=len(thoughts))
    return [{"role": "user", "content": content}]


def parse(reply: str, n: int, lowest: int = 1) -> int | None:
    r"""The step that a reply names, `lowest` … n, or None.

    The last balanced `\boxed{…}` counts if it holds one number, perhaps after "step" and in marks
    such as `\text{Step 3}` or `$3$`. Otherwise the last "step N" counts, in the box or else in
    the reply. The number must be in range.
    """
    box = next((content for content in boxes(reply, _BOX) if content is not None), "")
    number = _NUMBER.fullmatch(box)
    mentions = [number] if number else [*_MENTION.finditer(reply), *_MENTION.finditer(box)]
    named = mentions[-1][1] if mentions else ""
    # `int` refuses very long numbers, which a model that repeats itself may write.
    step = int(named) if 0 < len(named) < 10 else -1
    return step if lowest <= step <= n else None


class Reply(NamedTuple):
    """The replies about one solution.

    Attributes
    ----------
    votes : tuple of int or None
        The step that each reply names, from 1; 0 if it names none as wrong; None if it has no
        usable number.
    tokens : int
        Tokens of all replies.
    """

    votes: tuple[int | None, ...]
    tokens: int

    @property
    def winners(self) -> list[int]:
        """The steps with the most votes; empty if no reply has a usable number."""
        counts = Counter(vote for vote in self.votes if vote is not None)
        return sorted(step for step, count in counts.items() if count == max(counts.values()))

    def weights(self, n: int) -> FloatArray:
        """Weights of n steps: 1 on each winner, or on every step if there is none."""
        named = [step for step in self.winners if step]
        return np.isin(np.arange(1, n + 1), named).astype(float) if named else np.ones(n)


class PromptedLocalizer:
    """Localizer that prompts the model for the first wrong step of its failed solutions.

    A reply without a usable step number weighs all steps equally, and is counted.

    Parameters
    ----------
    simulator : ThoughtSimulator
        The simulator that sampled the episodes. Its task may phrase the request itself, for models
        without a chat template.
    rng : numpy Generator
        Draws the seeds of the replies.
    options : LocalizationOptions, optional
        Temperature, length and number of replies.
    may_be_right : bool
        Whether the request allows the reply that no step is wrong, and does not say that the
        answer is wrong.

    Attributes
    ----------
    cost : int
        Tokens generated.
    lowest : int
        Smallest number that a reply may give: 1, or 0 if solutions may be right.
    asked, failed : int
        Number of episodes, and of those without a usable step number.
    """

    def __init__(
        self,
        simulator: ThoughtSimulator,
        rng: np.random.Generator,
        options: LocalizationOptions | None = None,
        may_be_right: bool = False,
    ) -> None:
        self.engine, self.tokenizer, self.task = (
            simulator.engine,
            simulator.tokenizer,
            simulator.task,
        )
        self.rng, self.options = rng, options or LocalizationOptions()
        self.stop_token_ids = simulator.stop_token_ids
        self.lowest = 0 if may_be_right else 1
        self.cost = self.asked = self.failed = 0

    def __call__(self, episodes: Sequence[Episode]) -> list[FloatArray]:
        """Weight 1 on the step that the model names, for each episode."""
        replies = self.ask(episodes, self.rng.integers(MAX_SEED, size=len(episodes)))
        return [reply.weights(e.length) for reply, e in zip(replies, episodes, strict=True)]

    def ask(self, episodes: Sequence[Episode], seeds: ArrayLike) -> list[Reply]:
        """Prompt the model about all episodes in one batch; each episode has its own seed."""
        keys = np.asarray(seeds)
        prompts = [self.prompt(episode) for episode in episodes]
        # A request that is too long for the model is not sent, and counts as a failure.
        room = [self.engine.max_model_len - len(prompt) for prompt in prompts]
        sent = [i for i, tokens in enumerate(room) if tokens > 0]
        completions = self.engine.generate(
            [prompts[i] for i in sent],
            [
                SamplingParams(
                    max_tokens=min(self.options.max_tokens, room[i]),
                    n=self.options.votes,
                    temperature=self.options.temperature,
                    stop_token_ids=self.stop_token_ids,
                    seed=int(keys[i]),
                )
                for i in sent
            ],
        )
        replies = [Reply((), 0)] * len(episodes)
        for i, samples in zip(sent, completions, strict=True):
            texts = [self.tokenizer.decode(s.ids, skip_special_tokens=True) for s in samples]
            answers = [after_thinking(text) for text in texts]
            votes = tuple(parse(answer, episodes[i].length, self.lowest) for answer in answers)
            replies[i] = Reply(votes, sum(len(sample.ids) for sample in samples))
        self.cost += sum(reply.tokens for reply in replies)
        self.asked += len(replies)
        self.failed += sum(not reply.winners for reply in replies)
        return replies

    def prompt(self, episode: Episode) -> tuple[int, ...]:
        """Token ids of the request about an episode."""
        example: Example = episode.origin.start.example
        thoughts = [thought.text for thought in episode.steps]
        name = f"task: {type(self.task).__name__}.localization_prompt of {example.id!r}"
        with plugin_errors(name, self.task):
            text: PromptText | None = self.task.localization_prompt(example, thoughts)
        if text is None:
            messages = request(example, thoughts, may_be_right=not self.lowest)
            chats = getattr(self.tokenizer, "chat_template", None)
            text = messages if chats else messages[0]["content"] + "\n\n"
        return encode(self.tokenizer, text, self.task.chat_template_kwargs)
