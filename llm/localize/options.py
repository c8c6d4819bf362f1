"""Options of `python -m llm.localize`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llm.engines.options import VLLMOptions
from llm.resets.localizers import check_name
from llm.resets.options import LocalizationOptions

Half = Literal["all", "tune", "report"]


@dataclass(frozen=True)
class LocalizeOptions:
    """Options of a measurement of localizers.

    Parameters
    ----------
    localizers : tuple of str
        Names in `llm.resets.localizers`, or module:function.
    may_be_right : bool
        Whether the model may answer that no step is wrong. It is then not told that the answer is
        wrong.
    half : {"all", "tune", "report"}
        Which problems are used: all, or one of two halves chosen by a hash of the problem's text.
    limit : int, optional
        Maximum number of solutions per data set: a random sample with a fixed seed.
    seed : int
    engine : {"transformers", "vllm"}
    bf16 : bool, optional
        Compute in bfloat16; by default where a GPU has it.
    batch_size : int
        Solutions per batch, of like length; records are written after each batch.
    localization : LocalizationOptions
    vllm : VLLMOptions
    """

    localizers: tuple[str, ...] = ("prompted", "step_logprob", "surprisal", "first", "random")
    may_be_right: bool = False
    half: Half = "all"
    limit: int | None = None
    seed: int = 0
    engine: str = "transformers"
    bf16: bool | None = None
    batch_size: int = 16
    localization: LocalizationOptions = field(default_factory=LocalizationOptions)
    vllm: VLLMOptions = field(default_factory=VLLMOptions)

    def __post_init__(self) -> None:
        for name in self.localizers:
            check_name(name)
            if self.localizers.count(name) > 1:
                raise ValueError(f"localizer: {name} is named twice")
        for name, minimum in (("limit", 1), ("seed", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise ValueError(f"{name}: {value} is not a whole number ≥ {minimum}")
