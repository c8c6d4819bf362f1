"""Check that a written model has the tokens and log-probs of the run's policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.common.errors import ReportedError
from llm.models.architecture import context_length

if TYPE_CHECKING:
    import torch

    from llm.thoughts.simulator import Prompt

#: Size of the parity check: prompts, and tokens that the policy generates for each.
PROMPTS, PROBE_TOKENS = 4, 24


class ExportError(ReportedError):
    """The written model differs from the run's policy."""

    exit_code = 1


def load(folder: Path, adapter: bool, dtype: torch.dtype) -> Any:
    """Load the written model as the model card describes."""
    from transformers import AutoModelForCausalLM

    if adapter:
        from peft import AutoPeftModelForCausalLM

        return AutoPeftModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def probe(policy: Any, prompt: Sequence[int]) -> list[int]:
    """A prompt with the policy's greedy continuation."""
    import torch

    ids = list(prompt)
    room = context_length(policy.config) - len(ids)
    device = next(policy.parameters()).device
    with torch.inference_mode():
        for _ in range(min(PROBE_TOKENS, room)):
            logits = policy(input_ids=torch.tensor([ids], device=device), use_cache=False).logits
            ids.append(int(logits[0, -1].argmax()))
    return ids


def scores(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """Log-probs of all tokens after the first, in float64 on the CPU."""
    import torch

    tokens = torch.tensor(ids, device=next(model.parameters()).device)
    with torch.inference_mode():
        logits = model(input_ids=tokens[None], use_cache=False).logits[0, :-1]
        return logits.double().log_softmax(-1).gather(-1, tokens[1:, None])[:, 0].cpu()


def compare(
    expected: Sequence[torch.Tensor], actual: Sequence[torch.Tensor], exact: bool
) -> tuple[float, float]:
    """Mean and largest absolute difference of log-probs, in nats.

    Raises
    ------
    ExportError
        If the difference exceeds rounding.
    """
    import torch

    from llm.learner.parity import BFLOAT16_MEAN, FLOAT32

    difference = (torch.cat(list(expected)) - torch.cat(list(actual))).abs()
    mean, largest = float(difference.mean()), float(difference.max())
    if not (largest <= FLOAT32 if exact else mean <= BFLOAT16_MEAN):  # refuses NaN as well
        raise ExportError(
            f"parity: log-probs of the written model differ by {mean:.1e} nats in the mean, "
            f"{largest:.1e} at most; nothing is exported"
        )
    return mean, largest


def check_tokenizer(
    folder: Path,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    variables: Mapping[str, Any] | None = None,
) -> None:
    """Check that AutoTokenizer loads the run's tokenizer from a folder.

    Raises
    ------
    ExportError
        If it loads a different one.
    """
    from llm.models.policy import load_tokenizer
    from llm.thoughts.simulator import encode

    written = load_tokenizer(str(folder))
    same = written.get_vocab() == tokenizer.get_vocab() and written.chat_template == (
        tokenizer.chat_template
    )
    if not same or any(encode(written, p.example.prompt, variables) != p.ids for p in prompts):
        raise ExportError(
            "tokenizer: AutoTokenizer reads the written one differently, so the model would see "
            "other tokens than in the run; nothing is exported"
        )
