r"""A small language model for chain reasoning: its tokenizer and its architecture.

Every number, operation, space, line break, `\boxed{` and `}` is one token. So a step of the chain
MDP has two or three tokens, of which one is a choice.
"""

from __future__ import annotations

from typing import Any

from envs.reasoning import ChainTask

#: Sizes of the default model of 0.4 M parameters. vLLM's CPU attention needs a head_dim ≥ 32.
HIDDEN_SIZE, LAYERS, HEAD_DIM = 96, 3, 32

#: Maximum number of tokens of prompt and completion together.
MAX_POSITIONS = 512

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"


def chain_tokenizer(chain: ChainTask, numbers: int | None = None) -> Any:
    """Transformers tokenizer for the texts of a task.

    Parameters
    ----------
    chain : ChainTask
    numbers : int, optional
        Numbers 0 … numbers−1 are tokens: values, and step numbers for localization. By default
        twice the modulus.

    Returns
    -------
    PreTrainedTokenizerFast
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    numbers = max(numbers or 2 * chain.modulus, chain.modulus)
    words = [PAD, EOS, UNKNOWN, " ", "\n", "\\boxed{", "}", "?"]
    words += [str(number) for number in range(numbers)] + list(chain.operations)
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    pattern = Regex(r"\\boxed\{|[-+*][0-9]+|[0-9]+|[ \n}?]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


def chain_model(
    tokenizer: Any,
    *,
    hidden_size: int = HIDDEN_SIZE,
    layers: int = LAYERS,
    tied: bool = True,
    seed: int = 0,
) -> Any:
    """Untrained Qwen3 model for a tokenizer, in float32.

    Not Qwen2: for that type, `AutoTokenizer` loads Qwen2's tokenizer instead of the saved one.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
    hidden_size : int
        A multiple of 32, the head dimension.
    layers : int
    tied : bool
        Whether the output embedding is the input embedding.
    seed : int
        Seed of the weights.

    Raises
    ------
    ValueError
        If `hidden_size` is not a multiple of 32.
    """
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    if hidden_size % HEAD_DIM:
        raise ValueError(f"hidden_size: {hidden_size} is not a multiple of {HEAD_DIM}")
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // HEAD_DIM,
        num_key_value_heads=hidden_size // HEAD_DIM,
        head_dim=HEAD_DIM,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=tied,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
