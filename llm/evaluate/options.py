"""Options and tasks of an evaluation."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from llm.common.arguments import with_argument
from llm.engines.options import VLLMOptions
from llm.resets.options import LocalizationOptions
from llm.tasks import argument_kinds
from llm.thoughts.options import SamplingOptions


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of an evaluation.

    Parameters
    ----------
    samples : int
        Sampled completions per problem; 0 for none.
    greedy : bool
        Also decode one greedy completion per problem.
    k : tuple of int
        Values of k for pass@k; by default the powers of two up to `samples`, and `samples`.
    problems : int, optional
        Maximum number of problems per task.
    correct : int
        Rounds of self-correction; 0 for none.
    localizer : str
        Localizer of self-correction; see `llm.resets.localizers`.
    seed : int
    engine : {"transformers", "vllm"}
    bf16 : bool, optional
        Compute in bfloat16; by default where a GPU has it.
    batch_size : int
        Completions per batch; records are written after each batch.
    completions : bool
        Keep the texts in the records.
    sampling : SamplingOptions
    localization : LocalizationOptions
    vllm : VLLMOptions
    """

    samples: int = 8
    greedy: bool = False
    k: tuple[int, ...] = ()
    problems: int | None = None
    correct: int = 0
    localizer: str = "prompted"
    seed: int = 0
    engine: str = "transformers"
    bf16: bool | None = None
    batch_size: int = 256
    completions: bool = True
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    localization: LocalizationOptions = field(default_factory=LocalizationOptions)
    vllm: VLLMOptions = field(default_factory=VLLMOptions)

    def __post_init__(self) -> None:
        for name, minimum in (("samples", 0), ("correct", 0), ("seed", 0), ("batch_size", 1)):
            if getattr(self, name) < minimum:
                raise ValueError(f"{name}: {getattr(self, name)} is not a whole number ≥ {minimum}")
        if self.problems is not None and self.problems < 1:
            raise ValueError(f"problems: {self.problems} is not a whole number ≥ 1")
        if not (self.samples or self.greedy):
            raise ValueError("samples: 0, and no --greedy: nothing would be measured; give one")
        if self.correct and not self.samples:
            raise ValueError(
                f"correct: {self.correct}, but samples is 0; only sampled completions can be "
                "corrected; give --samples"
            )
        for k in self.k:
            if not 1 <= k <= max(self.samples, 1):
                raise ValueError(f"k: {k} is not in 1 … {self.samples}, the samples of a problem")

    @property
    def ks(self) -> list[int]:
        """All values of k for pass@k."""
        powers = [2**i for i in range(self.samples.bit_length())]
        return sorted(set(self.k) or {*powers, self.samples} - {0} or {1})


class TaskSpec(NamedTuple):
    """A task's name, its arguments, and its label in tables and file names."""

    name: str
    args: dict[str, Any]
    label: str

    def with_argument(self, word: str) -> TaskSpec:
        """The task with one more argument, NAME=VALUE; NAME.KEY=VALUE sets an entry of NAME.

        Raises
        ------
        ValueError
            If the argument has no entries.
        """
        name, _, value = word.partition("=")
        try:
            args = with_argument(self.args, argument_kinds(self.name), name, value)
        except ValueError as error:
            raise ValueError(f"tasks: {error}") from None
        shown = word if word.isprintable() else f"{name}={value!r}"
        return self._replace(args=args, label=f"{self.label} {shown}")


def slug(name: str) -> str:
    """A name with all characters replaced that do not belong in a file name."""
    return re.sub(r"[^\w=.,+-]+", "-", name)
