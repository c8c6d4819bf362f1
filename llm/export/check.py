"""Whether a written model is the run's: its tokens, and its log-probs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.common.errors import ReportedError

if TYPE_CHECKING:
    import torch

    from llm.thoughts.simulator import Prompt

#: Probes of parity: prompts, and tokens that the policy adds to each.
PROMPTS, PROBE_TOKENS = 4, 24


class ExportError(ReportedError):
    """What was written is not the run's model."""

    exit_code = 1


def load(folder: Path, adapter: bool, dtype: torch.dtype) -> Any:
    """The written model, as anybody would load it who follows the card."""
    from transformers import AutoModelForCausalLM

    if adapter:
        from peft import AutoPeftModelForCausalLM

        return AutoPeftModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def probe(policy: Any, prompt: Sequence[int]) -> list[int]:
    """A prompt, and what the policy finds most likely to follow."""
    import torch

    ids = list(prompt)
    room = policy.config.max_position_embeddings - len(ids)
    device = next(policy.parameters()).device
    with torch.inference_mode():
        for _ in range(min(PROBE_TOKENS, room)):
            logits = policy(input_ids=torch.tensor([ids], device=device), use_cache=False).logits
            ids.append(int(logits[0, -1].argmax()))
    return ids


def scores(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """Log-probs of all tokens but the first, on the CPU."""
    import torch

    tokens = torch.tensor(ids, device=next(model.parameters()).device)
    with torch.inference_mode():
        logits = model(input_ids=tokens[None], use_cache=False).logits[0, :-1]
        return logits.double().log_softmax(-1).gather(-1, tokens[1:, None])[:, 0].cpu()


def compare(
    expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor], exact: bool
) -> tuple[float, float]:
    """Mean and largest difference of log-probs.

    Raises
    ------
    ExportError
        If it is more than rounding.
    """
    import torch

    from llm.learner.parity import BFLOAT16_MEAN, FLOAT32_MAX

    off = (torch.cat(list(expected)) - torch.cat(list(found))).abs()
    mean, most = float(off.mean()), float(off.max())
    if not (most <= FLOAT32_MAX if exact else mean <= BFLOAT16_MEAN):  # a NaN is not, either
        raise ExportError(
            f"parity: log-probs of the written model are off by {mean:.1e} nats in the mean, "
            f"{most:.1e} at most; nothing is exported"
        )
    return mean, most


def check_tokenizer(folder: Path, tokenizer: Any, prompts: Sequence[Prompt]) -> None:
    """Load the written tokenizer as anybody would, and see whether it is the run's.

    Raises
    ------
    ExportError
        If it is another one.
    """
    from llm.models.policy import load_tokenizer
    from llm.thoughts.simulator import encode

    again = load_tokenizer(str(folder))
    same = again.get_vocab() == tokenizer.get_vocab() and again.chat_template == (
        tokenizer.chat_template
    )
    if not same or any(encode(again, p.example.prompt) != p.ids for p in prompts):
        raise ExportError(
            "tokenizer: AutoTokenizer reads the written one differently, so the model would see "
            "other tokens than in the run; nothing is exported"
        )
