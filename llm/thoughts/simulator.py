"""The thought MDP: a language model as a `Simulator`.

A state is a prompt and the thoughts so far. An action is one thought: the tokens up to and
including the one that completes the delimiter. Boundaries are token positions. Token ids are kept
as sampled and never tokenised again, so a reset continues exactly what the model has seen. Inside
an open code fence, a delimiter is part of the code and no boundary. A stop token (EOS) ends the
episode. A thought or an episode that is too long is cut, and marked as cut.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpi.core.episodes import Episode, Prefix, Steps
from llm.engines.engine import MAX_SEED, Completion, Engine, SamplingParams
from llm.tasks import checked
from llm.tasks.delimiters import end_of_thought
from llm.tasks.rows import lone_surrogate
from llm.tasks.task import Example, PromptText, Task
from llm.thoughts.options import ThoughtLimits
from llm.verifiers import Verification

#: Tokens of `<think>` and the blanks after it, at most: a byte each.
LONGEST_OPENING = 12


class Prompt(NamedTuple):
    """An initial state of the thought MDP: the token ids of a problem's prompt.

    `answer` is the problem's reference answer, for people to read.
    """

    ids: tuple[int, ...]
    example: Example
    answer: str = ""


class Thought(NamedTuple):
    """A step of the thought MDP.

    Attributes
    ----------
    ids : tuple of T int
        Token ids, delimiter or stop token included.
    logprobs : array (T,)
        Log-prob of each token under the policy that sampled it, at the run's temperature.
    text : str
        Text without special tokens.
    end : {"delimiter", "stop", "cut"}
        How the thought ended: at a delimiter (the episode continues), at a stop token, or at a
        limit (both end the episode).
    """

    ids: tuple[int, ...]
    logprobs: NDArray[np.float64]
    text: str
    end: Literal["delimiter", "stop", "cut"]


def token_ids(steps: Steps) -> list[int]:
    """The concatenated token ids of some thoughts."""
    return [token for thought in steps for token in thought.ids]


def is_cut(episode: Episode) -> bool:
    """Whether a limit ended the episode."""
    return bool(episode.steps[-1].end == "cut")


def encode(
    tokenizer: Any, text: PromptText, variables: Mapping[str, Any] | None = None
) -> tuple[int, ...]:
    """Token ids of a prompt: plain text as it is, messages through the chat template.

    `variables` are those of the template, `Task.chat_template_kwargs`.

    Both begin with one BOS, if the tokenizer or the template has one. No EOS is added to plain
    text, as the model goes on from it.

    Raises
    ------
    ValueError
        If messages are given and the tokenizer has no chat template, or it refuses them or the
        variables; or if a text has a lone surrogate, which tokenizers refuse.
    """
    for part in [text] if isinstance(text, str) else [str(m.get("content")) for m in text]:
        if surrogate := lone_surrogate(part):
            raise ValueError(
                f"prompt: it has half a character, the lone surrogate {surrogate!r}, in "
                f"{part[:60]!r}; repair the text"
            )
    if isinstance(text, str):
        ids = list(tokenizer(text).input_ids)
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        if bos is not None and ids[:2] == [bos, bos]:  # the text has one, and so has the tokenizer
            del ids[0]
        if eos is not None:
            own = [eos] * text.endswith(tokenizer.eos_token)
            if ids[-len(own) - 1 :] == [*own, eos]:
                del ids[-1]
        return tuple(ids)
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "prompt: chat messages, but the model's tokenizer has no chat template; "
            "use a chat model, or a task with plain prompts (--task_args.chat false for a data set)"
        )
    return tuple(tokenizer(render(tokenizer, text, variables), add_special_tokens=False).input_ids)


def render(
    tokenizer: Any, messages: list[dict[str, str]], variables: Mapping[str, Any] | None = None
) -> str:
    """Text of chat messages, up to the beginning of the assistant's reply.

    Raises
    ------
    ValueError
        If the chat template refuses the messages, or does not have a variable.
    """
    variables = variables or {}
    for name in variables:
        if not re.search(rf"\b{re.escape(name)}\b", str(tokenizer.chat_template)):
            raise ValueError(
                f"chat_template_kwargs: the model's chat template has no variable {name!r}; leave "
                "it out"
            )
    try:
        rendered: str = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, **variables
        )
    except Exception as error:  # of Jinja, or raised by the template
        roles = ", ".join(message.get("role", "?") for message in messages)
        given = f" with {dict(variables)}" if variables else ""
        raise ValueError(
            f"prompt: the model's chat template refuses messages of {roles}{given}: "
            f"{' '.join(str(error).split())}"
        ) from error
    return rendered


class ThoughtSimulator:
    """Samples episodes of thoughts from a language model, with one engine call for all.

    Parameters
    ----------
    engine : Engine
    tokenizer : Transformers tokenizer
    task : Task
        Has the delimiter, the stop texts and the reward.
    limits : ThoughtLimits
    temperature, top_p : float
        Sampling parameters.
    eos_token_ids : sequence of int
        Further ids that end an episode, from a model's generation config.

    Attributes
    ----------
    verified : int
        Number of episodes passed to the verifier since the last `take_verification_counts`.
    unverified : list of (Example, str)
        Those among them on which the verifier failed, with the reason.
    rewards : list of Verification
        Verifications since the last `take_rewards` whose reward has parts.

    Raises
    ------
    ValueError
        If neither the tokenizer has an EOS nor the task a stop text, or a stop text is not one
        token.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Any,
        task: Task,
        limits: ThoughtLimits,
        temperature: float = 1.0,
        top_p: float = 1.0,
        eos_token_ids: Sequence[int] = (),
    ) -> None:
        self.engine, self.tokenizer, self.task, self.limits = engine, tokenizer, task, limits
        self.temperature, self.top_p = temperature, top_p
        self.eos_token_ids = eos_token_ids
        self.stop_token_ids = stop_token_ids(tokenizer, task, eos_token_ids)
        self.verified, self.unverified = 0, list[tuple[Example, str]]()
        self.rewards: list[Verification] = []
        self._may_end: dict[int, bool] = {}

    def prompt(self, example: Example) -> Prompt:
        """The initial state of a problem."""
        ids = encode(self.tokenizer, example.prompt, self.task.chat_template_kwargs)
        return Prompt(ids, example, self.task.reference(example))

    def rollout(
        self, prefixes: Sequence[Prefix], n: int, rng: np.random.Generator
    ) -> list[list[Episode]]:
        """`n` episodes from each prefix; see `cpi.Simulator`."""
        return self.seeded(prefixes, n, rng.integers(MAX_SEED, size=len(prefixes)))

    def seeded(self, prefixes: Sequence[Prefix], n: int, seeds: ArrayLike) -> list[list[Episode]]:
        """`rollout` with a seed per prefix: episodes do not depend on the other prefixes."""
        if not prefixes:
            return []
        contexts = [[*prefix.start.ids, *token_ids(prefix.steps)] for prefix in prefixes]
        params = [
            SamplingParams(
                max_tokens=self._max_tokens(prefix),
                n=n,
                temperature=self.temperature,
                top_p=self.top_p,
                stop_token_ids=self.stop_token_ids,
                seed=int(seed),
            )
            for prefix, seed in zip(prefixes, np.asarray(seeds), strict=True)
        ]
        completions = self.engine.generate(contexts, params)
        grown = [
            (prefix, self._grow(prefix, group))
            for prefix, group in zip(prefixes, completions, strict=True)
        ]
        verifications = iter(self.verify([(p, steps) for p, group in grown for steps in group]))
        return [
            [
                self._episode(prefix, steps, next(verifications).reward, len(completion.ids))
                for steps, completion in zip(group, sampled, strict=True)
            ]
            for (prefix, group), sampled in zip(grown, completions, strict=True)
        ]

    def _max_tokens(self, prefix: Prefix) -> int:
        """Maximum number of tokens after a prefix."""
        limits = self.limits
        kept = sum(len(thought.ids) for thought in prefix.steps)
        thoughts = limits.max_thoughts - prefix.length
        return min(limits.max_completion_length - kept, thoughts * limits.max_thought_tokens)

    def _grow(self, prefix: Prefix, completions: Sequence[Completion]) -> list[Steps]:
        """The thoughts of episodes from one prefix."""
        rest, max_thoughts = self._rest(prefix.steps), self.limits.max_thoughts - prefix.length
        return [(*prefix.steps, *self._split(each, max_thoughts, rest)) for each in completions]

    def verify(self, completions: Sequence[tuple[Prefix, Steps]]) -> list[Verification]:
        """Verify complete episodes in one batch; each is its prefix and all its steps.

        Some chat templates end a prompt with `<think>`; the text for the verifier begins with it.
        """
        examples = [prefix.start.example for prefix, _ in completions]
        texts = [
            self._opened(prefix.start)
            + self.tokenizer.decode(token_ids(steps), skip_special_tokens=True)
            for prefix, steps in completions
        ]
        verifications = checked.verify(self.task, examples, texts)
        self.verified += len(verifications)
        self.rewards += [v for v in verifications if v.parts]
        pairs = zip(examples, verifications, strict=True)
        self.unverified += [(example, v.failure) for example, v in pairs if v.failure]
        return verifications

    def _opened(self, prompt: Prompt) -> str:
        """`<think>` if the prompt ends with it, else ""."""
        if not isinstance(prompt.example.prompt, list):
            return ""
        end = self.tokenizer.decode(list(prompt.ids[-LONGEST_OPENING:])).rstrip()
        return "<think>" if end.endswith("<think>") else ""

    def take_verification_counts(self) -> tuple[int, list[tuple[Example, str]]]:
        """Return `verified` and `unverified`, and reset both."""
        counts = self.verified, self.unverified
        self.verified, self.unverified = 0, []
        return counts

    def take_rewards(self) -> dict[str, float]:
        """Return mean and standard deviation of each part of `rewards`, and empty it."""
        values: dict[str, list[float]] = {}
        for verification in self.rewards:
            for name, value in verification.parts:
                values.setdefault(name, []).append(value)
        self.rewards = []
        metrics = {f"rewards/{name}/mean": float(np.mean(v)) for name, v in values.items()}
        return metrics | {f"rewards/{name}/std": float(np.std(v)) for name, v in values.items()}

    def _episode(self, prefix: Prefix, steps: Steps, reward: float, cost: int) -> Episode:
        return Episode(prefix, steps, float(reward), reward < self.task.success, cost)

    def _split(self, completion: Completion, max_thoughts: int, rest: str) -> list[Thought]:
        """Split a completion into thoughts; the last one's `end` is how the episode ended.

        `rest` is the text after the delimiter in the prefix's last token. It may open a fence.
        """
        thoughts: list[Thought] = []
        ids, begin = completion.ids.tolist(), 0
        stopped = completion.finish_reason == "stop"
        for end, token in enumerate(ids, 1):
            last = end == len(ids)
            too_long = end - begin == self.limits.max_thought_tokens
            text, after = rest, None
            if self._completes(token):
                text += self.tokenizer.decode(ids[begin:end])
                after = end_of_thought(text, self.task.delimiter, len(rest))
            if not (last or too_long or after is not None):
                continue
            ending: Literal["delimiter", "stop", "cut"] = "delimiter"
            if last and stopped:
                ending = "stop"
            elif last or after is None or len(thoughts) + 1 == max_thoughts:
                ending = "cut"
            thoughts.append(
                Thought(
                    tuple(ids[begin:end]),
                    completion.logprobs[begin:end],
                    self.tokenizer.decode(ids[begin:end], skip_special_tokens=True),
                    ending,
                )
            )
            if ending != "delimiter":
                break
            begin, rest = end, text[after:]
        return thoughts

    def _completes(self, token: int) -> bool:
        """Whether a token may complete the delimiter; only then is the thought decoded."""
        if token not in self._may_end:
            last, piece = self.task.delimiter[-1], self.tokenizer.decode([token])
            # Decoded alone, a token may lose a leading blank, or be part of a character.
            self._may_end[token] = last == " " or last in piece or "\ufffd" in piece
        return self._may_end[token]

    def _rest(self, steps: Steps) -> str:
        """The text after the delimiter in the last token of the last thought."""
        rest = ""
        for thought in steps:
            text = rest + self.tokenizer.decode(list(thought.ids))
            after = end_of_thought(text, self.task.delimiter, len(rest))
            rest = "" if after is None else text[after:]
        return rest


def stop_token_ids(
    tokenizer: Any, task: Task, eos_token_ids: Sequence[int] = ()
) -> tuple[int, ...]:
    """The ids of all stop tokens: EOS (the tokenizer's and others) and the task's stop texts.

    Raises
    ------
    ValueError
        If there is none, or a stop text is not one token.
    """
    stops = [int(token) for token in eos_token_ids]
    if tokenizer.eos_token_id is not None:
        stops.append(int(tokenizer.eos_token_id))
    for text in task.stop:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        if len(ids) != 1:
            raise ValueError(f"stop: {text!r} is {len(ids)} tokens of this tokenizer, not one")
        stops += ids
    if not stops:
        raise ValueError(
            "tokenizer: it has no EOS token, so no episode would ever end; set "
            "tokenizer.eos_token and save it with the model, or give the task a stop text"
        )
    return tuple(sorted(set(stops)))
