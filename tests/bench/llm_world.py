"""Model and task of the language-model benchmarks, with known completion lengths.

The logit of EOS is so low that no completion ends before its limit. Every eighth word ends with the
delimiter, so thoughts have 8 tokens on average.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from llm.tasks import Example, Split, Task

#: WORDS excludes EOS. The model has 0.98 M parameters, 0.85 M of them in the decoder.
WORDS, HIDDEN_SIZE, LAYERS, HEAD_DIM = 512, 128, 4, 32
MAX_POSITIONS = 512
DELIMITER = ";"
EOS = "<eos>"

Signal = Literal["all", "half", "binary"]


def word(number: int) -> str:
    """Text of a token."""
    return f"w{number}" + (DELIMITER if number % 8 == 0 else "")


def tokenizer(words: int = WORDS) -> Any:
    """A word-level tokenizer: one token per word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word(number): number for number in range(words)} | {EOS: words}
    word_level = Tokenizer(models.WordLevel(vocabulary, unk_token=word(0)))
    word_level.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=word_level,
        eos_token=EOS,
        pad_token=word(0),
        clean_up_tokenization_spaces=False,
    )


def save_model(folder: Path) -> str:
    """Save an untrained Qwen3 and its tokenizer; returns the folder."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    config = Qwen3Config(
        vocab_size=WORDS + 1,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=3 * HIDDEN_SIZE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HIDDEN_SIZE // HEAD_DIM,
        num_key_value_heads=HIDDEN_SIZE // HEAD_DIM,
        head_dim=HEAD_DIM,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=WORDS,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # a large first entry of the hidden states lowers the logit of EOS
        model.get_input_embeddings().weight[:, 0] = 1.0
        model.get_output_embeddings().weight[:, 0] = 0.0
        model.get_output_embeddings().weight[WORDS] = -100.0 * torch.eye(1, HIDDEN_SIZE)[0]
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


class Words(Task):
    """Prompts of random words; the reward is a hash of the completion.

    Parameters
    ----------
    prompts : int
    length : int
        Words per prompt.
    signal : {"all", "half", "binary"}
        "all": rewards in [0, 1), so every group has a signal and no completion succeeds. "half":
        the same, but 0 for every second prompt. "binary": 0 or 1, with equal probability.
    """

    delimiter = DELIMITER

    def __init__(self, prompts: int = 16, length: int = 32, signal: Signal = "all") -> None:
        self.prompts, self.length, self.signal = prompts, length, signal

    @cached_property
    def _examples(self) -> list[Example]:
        draw = random.Random(0)
        return [
            # The first word encodes whether the prompt has a signal.
            Example(str(i), " ".join(["w1" if i % 2 else "w2", *self._words(draw)]))
            for i in range(self.prompts)
        ]

    def _words(self, draw: random.Random) -> list[str]:
        return [word(draw.randrange(WORDS)) for _ in range(self.length - 1)]

    def examples(self, split: Split) -> Sequence[Example]:
        """The same problems for both splits; nothing is evaluated."""
        return self._examples

    def reward(self, example: Example, completion: str) -> float:
        """The reward of a completion; see `Words`."""
        assert isinstance(example.prompt, str)
        return reward(example.prompt, completion, self.signal)


def reward(prompt: str, completion: str, signal: Signal) -> float:
    """A hash of the completion, scaled according to `signal`; see `Words`."""
    if signal == "half" and prompt.startswith("w2 "):
        return 0.0
    number = zlib.crc32(completion.encode()) / 2**32
    return float(number < 0.5) if signal == "binary" else number


def reward_function(signal: Signal) -> Callable[..., list[float]]:
    """The same reward as a TRL reward function."""

    def words(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        return [reward(p, c, signal) for p, c in zip(prompts, completions, strict=True)]

    return words
