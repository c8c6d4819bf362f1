"""The thought MDP: a language model as a `Simulator`.

A state is a prompt and the thoughts so far, an action is one thought: the tokens up to and with the
one that completes the delimiter. Boundaries are token positions, ids are appended as they were
sampled and never tokenised again, so a reset continues exactly what the model has seen. Where a
code fence is open a delimiter is part of the code, and no boundary. A stop token (EOS) ends the
episode; a thought or an episode that is too long is cut and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpi.core.episodes import Episode, Prefix, Steps
from llm.engines.engine import MAX_SEED, Completion, Engine, SamplingParams
from llm.tasks import checked
from llm.tasks.delimiters import end_of_thought
from llm.tasks.task import Example, PromptText, Task
from llm.thoughts.options import ThoughtLimits
from llm.verifiers import Verification


class Prompt(NamedTuple):
    """A start of the thought MDP: the token ids of a problem's prompt."""

    ids: tuple[int, ...]
    example: Example


class Thought(NamedTuple):
    """A step of the thought MDP.

    Attributes
    ----------
    ids : tuple of T int
        Its tokens, delimiter or stop token included.
    logprobs : array (T,)
        Of each token, under the policy that sampled it at the run's temperature.
    text : str
        Without special tokens.
    end : {"delimiter", "stop", "cut"}
        What ended it: the delimiter (the episode goes on), a stop token (the episode's end), or a
        limit (the episode's end, too, but not of the model's making).
    """

    ids: tuple[int, ...]
    logprobs: NDArray[np.float64]
    text: str
    end: Literal["delimiter", "stop", "cut"]


def token_ids(steps: Steps) -> list[int]:
    """The tokens of some thoughts, in order."""
    return [token for thought in steps for token in thought.ids]


def is_cut(episode: Episode) -> bool:
    """Whether a limit ended the episode."""
    return bool(episode.steps[-1].end == "cut")


def encode(tokenizer: Any, text: PromptText) -> tuple[int, ...]:
    """Token ids of a prompt: plain text as it is, messages through the chat template.

    Raises
    ------
    ValueError
        If messages are given and the tokenizer has no chat template, or it refuses them.
    """
    if isinstance(text, str):
        return tuple(tokenizer(text).input_ids)
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "prompt: chat messages, but the model's tokenizer has no chat template; "
            "use a chat model, or a task with plain prompts (--task_args.chat false for a data set)"
        )
    try:
        rendered = tokenizer.apply_chat_template(text, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # of Jinja, or raised by the template
        roles = ", ".join(message.get("role", "?") for message in text)
        raise ValueError(
            f"prompt: the model's chat template refuses messages of {roles}: "
            f"{' '.join(str(error).split())}"
        ) from error
    return tuple(tokenizer(rendered, add_special_tokens=False).input_ids)


class ThoughtSimulator:
    """Rolls a language model out, thought by thought; one engine call for all that is asked.

    Parameters
    ----------
    engine : Engine
    tokenizer : Transformers tokenizer
    task : Task
        Gives the delimiter, the stop texts and the reward.
    limits : ThoughtLimits
    temperature, top_p : float
        Of the sampling.
    eos_token_ids : sequence of int
        Further ids that end an episode, from a model's generation config.

    Attributes
    ----------
    judged : int
        Episodes given to the verifier, and
    unjudged : list of (Example, str)
        those of which no verdict could be had, with the reason; both since the last `verdicts`.

    Raises
    ------
    ValueError
        If the tokenizer has no EOS and the task no stop text of its own, or such a text is not one
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
        self.judged, self.unjudged = 0, list[tuple[Example, str]]()
        self._may_end: dict[int, bool] = {}

    def prompt(self, example: Example) -> Prompt:
        """The start for a problem."""
        return Prompt(encode(self.tokenizer, example.prompt), example)

    def rollout(
        self, prefixes: Sequence[Prefix], n: int, rng: np.random.Generator
    ) -> list[list[Episode]]:
        """`n` episodes from each prefix; see `cpi.Simulator`."""
        return self.seeded(prefixes, n, rng.integers(MAX_SEED, size=len(prefixes)))

    def seeded(self, prefixes: Sequence[Prefix], n: int, seeds: ArrayLike) -> list[list[Episode]]:
        """`rollout` with a seed for each prefix: no episode depends on what else is asked for."""
        if not prefixes:
            return []
        contexts = [[*prefix.start.ids, *token_ids(prefix.steps)] for prefix in prefixes]
        params = [
            SamplingParams(
                max_tokens=self._room(prefix),
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
        verdicts = iter(self.judge([(p, steps) for p, group in grown for steps in group]))
        return [
            [
                self._episode(prefix, steps, next(verdicts).reward, len(completion.ids))
                for steps, completion in zip(group, drawn, strict=True)
            ]
            for (prefix, group), drawn in zip(grown, completions, strict=True)
        ]

    def _room(self, prefix: Prefix) -> int:
        """Most tokens that may follow a prefix."""
        limits = self.limits
        kept = sum(len(thought.ids) for thought in prefix.steps)
        thoughts = limits.max_thoughts - prefix.length
        return min(limits.max_completion_length - kept, thoughts * limits.max_thought_tokens)

    def _grow(self, prefix: Prefix, completions: Sequence[Completion]) -> list[Steps]:
        """The thoughts of episodes from one prefix."""
        rest, most = self._rest(prefix.steps), self.limits.max_thoughts - prefix.length
        return [(*prefix.steps, *self._split(each, most, rest)) for each in completions]

    def judge(self, grown: Sequence[tuple[Prefix, Steps]]) -> list[Verification]:
        """Verdicts of whole episodes, all at once: what they grew from, and all their steps."""
        examples = [prefix.start.example for prefix, _ in grown]
        texts = [
            self.tokenizer.decode(token_ids(steps), skip_special_tokens=True) for _, steps in grown
        ]
        verdicts = checked.verify(self.task, examples, texts)
        self.judged += len(verdicts)
        told = zip(examples, verdicts, strict=True)
        self.unjudged += [(example, v.failure) for example, v in told if v.failure]
        return verdicts

    def verdicts(self) -> tuple[int, list[tuple[Example, str]]]:
        """`judged` and `unjudged`, which begin anew."""
        found = self.judged, self.unjudged
        self.judged, self.unjudged = 0, []
        return found

    def _episode(self, prefix: Prefix, steps: Steps, reward: float, cost: int) -> Episode:
        return Episode(prefix, steps, float(reward), reward < self.task.success, cost)

    def _split(self, completion: Completion, most: int, rest: str) -> list[Thought]:
        """The thoughts of a completion, at most `most`; the last says how the episode ended.

        `rest` is what the prefix's last token holds after its delimiter. It may open a fence.
        """
        thoughts: list[Thought] = []
        ids, begin = completion.ids.tolist(), 0
        stopped = completion.finish_reason == "stop"
        for end, token in enumerate(ids, 1):
            last = end == len(ids)
            over = end - begin == self.limits.max_thought_tokens
            text, after = rest, None
            if self._completes(token):
                text += self.tokenizer.decode(ids[begin:end])
                after = end_of_thought(text, self.task.delimiter, len(rest))
            if not (last or over or after is not None):
                continue
            how: Literal["delimiter", "stop", "cut"] = "delimiter"
            if last and stopped:
                how = "stop"
            elif last or after is None or len(thoughts) + 1 == most:
                how = "cut"
            thoughts.append(
                Thought(
                    tuple(ids[begin:end]),
                    completion.logprobs[begin:end],
                    self.tokenizer.decode(ids[begin:end], skip_special_tokens=True),
                    how,
                )
            )
            if how != "delimiter":
                break
            begin, rest = end, text[after:]
        return thoughts

    def _completes(self, token: int) -> bool:
        """Whether a token may complete the delimiter: only then is the thought's text read."""
        if token not in self._may_end:
            last, piece = self.task.delimiter[-1], self.tokenizer.decode([token])
            # Alone, a token may lose a blank in front, or be part of a character.
            self._may_end[token] = last == " " or last in piece or "\ufffd" in piece
        return self._may_end[token]

    def _rest(self, steps: Steps) -> str:
        """What the last of these thoughts' last token holds after the delimiter."""
        rest = ""
        for thought in steps:
            text = rest + self.tokenizer.decode(list(thought.ids))
            after = end_of_thought(text, self.task.delimiter, len(rest))
            rest = "" if after is None else text[after:]
        return rest


def stop_token_ids(
    tokenizer: Any, task: Task, eos_token_ids: Sequence[int] = ()
) -> tuple[int, ...]:
    """EOS (the tokenizer's and others) and the task's stop texts as token ids.

    Raises
    ------
    ValueError
        If there is none, or a stop text is not one token.
    """
    found = [int(token) for token in eos_token_ids]
    if tokenizer.eos_token_id is not None:
        found.append(int(tokenizer.eos_token_id))
    for text in task.stop:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        if len(ids) != 1:
            raise ValueError(f"stop: {text!r} is {len(ids)} tokens of this tokenizer, not one")
        found += ids
    if not found:
        raise ValueError(
            "tokenizer: it has no EOS token, so no episode would ever end; set "
            "tokenizer.eos_token and save it with the model, or give the task a stop text"
        )
    return tuple(sorted(set(found)))
