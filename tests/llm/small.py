"""A scripted engine, tokenizers of a few words, a small task, and groups of random tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from cpi.core.collect import Group
from cpi.core.episodes import Episode, Prefix
from llm.engines import Completion, EngineStats, SamplingParams
from llm.tasks import Example, Task
from llm.thoughts.simulator import Prompt, Thought, token_ids

#: Returns the tokens that follow a prompt in its j-th sample; the engine cuts them at its limits.
Answer = Callable[[Sequence[int], SamplingParams, int], Sequence[int]]

#: Returns the log-prob of each token of a given continuation of a prompt.
Score = Callable[[Sequence[int], Sequence[int]], Sequence[float]]

EOS = "<eos>"


class ScriptedEngine:
    """An `Engine` whose tokens come from a function."""

    dtype = torch.float32

    def __init__(
        self, answer: Answer, max_model_len: int = 10_000, score: Score | None = None
    ) -> None:
        self.answer, self.max_model_len, self.score = answer, max_model_len, score
        self.stats = EngineStats()
        self.calls: list[tuple[list[list[int]], list[SamplingParams]]] = []

    def generate(
        self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]
    ) -> list[list[Completion]]:
        self.calls.append(([list(prompt) for prompt in prompts], list(params)))
        return [
            [self._completion(self.answer(prompt, p, j), p, j) for j in range(p.n)]
            for prompt, p in zip(prompts, params, strict=True)
        ]

    def logprobs(
        self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> list[Any]:
        assert self.score is not None
        pairs = zip(prompts, continuations, strict=True)
        return [np.array(self.score(prompt, ids), dtype=float) for prompt, ids in pairs]

    @staticmethod
    def _completion(words: Sequence[int], p: SamplingParams, j: int) -> Completion:
        ids = list(words)[: p.max_tokens]
        stops = [i for i, token in enumerate(ids) if token in p.stop_token_ids]
        if stops:
            ids = ids[: stops[0] + 1]
        assert stops or len(ids) == p.max_tokens, "the script ends before the completion does"
        scores = -0.1 * np.arange(1, len(ids) + 1) - j
        return Completion(np.array(ids, dtype=np.int64), scores, "stop" if stops else "length")

    def sync_weights(self, state_dict: Any) -> None: ...
    def sleep(self) -> None: ...
    def wake(self) -> None: ...
    def close(self) -> None: ...


def word_tokenizer(words: Sequence[str], eos: str | None = EOS) -> Any:
    """A tokenizer with a token per word; it matches the longest word first."""
    words = [*words, "<unk>", *([eos] if eos else [])]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    longest_first = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(longest_first), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token=eos)


def byte_tokenizer() -> Any:
    """A tokenizer with a token per byte: it encodes any text, and splits characters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS)


class Essay(Task):
    """A task of one problem; the reward is 1 for a text with the word "good". Keeps the texts."""

    def __init__(self, delimiter: str = "</thought>", stop: tuple[str, ...] = ()) -> None:
        self.delimiter, self.stop = delimiter, stop
        self.read: list[str] = []

    def examples(self, split: str) -> list[Example]:
        return [Example("essay", "a", "the secret answer 4711")]

    def reward(self, example: Example, completion: str) -> float:
        self.read.append(completion)
        return float("good" in completion)


# --- groups of random tokens, for models of 64 words ---


def random_thoughts(rng: np.random.Generator, lengths: Sequence[int], end: Any) -> list[Thought]:
    """Thoughts of these lengths in tokens; the last one has the end `end`."""
    ends = ["delimiter" if number < len(lengths) else end for number in range(1, len(lengths) + 1)]
    return [
        Thought(
            tuple(rng.integers(1, 63, n).tolist()),
            rng.normal(-3, 1, n),
            f"thought {n}",
            thought_end,
        )
        for n, thought_end in zip(lengths, ends, strict=True)
    ]


def random_group(
    rng: np.random.Generator,
    suffixes: Sequence[Sequence[int]],
    kept: Sequence[int] = (),
    returns: Sequence[float] | None = None,
    ends: Sequence[str] | None = None,
    prompt: int = 5,
) -> Group:
    """A group; its prefix has thoughts of `kept` tokens, its suffixes thoughts of `suffixes`."""
    start = Prompt(tuple(rng.integers(1, 63, prompt).tolist()), Example("random", ""))
    steps = tuple(random_thoughts(rng, kept, "delimiter"))
    prefix = Prefix(start, steps)
    returns = [float(i % 2) for i in range(len(suffixes))] if returns is None else returns
    episodes = []
    for number, (lengths, ret) in enumerate(zip(suffixes, returns, strict=True)):
        suffix = random_thoughts(rng, lengths, ends[number] if ends else "stop")
        cost = len(token_ids(suffix))
        episodes.append(Episode(prefix, (*steps, *suffix), ret, ret < 1, cost))
    seed = None
    if steps:
        more = tuple(random_thoughts(rng, (2, 3), "stop"))
        seed = Episode(Prefix(start), (*steps, *more), 0.0, True, len(token_ids((*steps, *more))))
    return Group(0, prefix, episodes, seed)


def dense_logprobs(model: Any, ids: Any, temperature: float = 1.0) -> Tensor:
    """Differentiable log-probs (T − 1,) of all tokens but the first, of a single sequence."""
    tokens = torch.tensor(np.asarray(ids).tolist())
    table = (model(tokens[None], use_cache=False).logits[0, :-1] / temperature).log_softmax(-1)
    return table.gather(-1, tokens[1:, None])[:, 0]
