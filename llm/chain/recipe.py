"""The recipe of a base model for chain reasoning; its command is `llm.pretrain`."""

from __future__ import annotations

from dataclasses import dataclass

from llm.chain.model import HIDDEN_SIZE, LAYERS


@dataclass(frozen=True)
class PretrainConfig:
    """Recipe of a base model.

    Parameters
    ----------
    output : str
        Folder of the model.
    modulus : int
        Values are 0 … modulus−1.
    operations : list of str
        Each is a sign +, - or * and a whole number.
    lengths : list of int
        Number of steps of the shortest and of the longest problem.
    error_rate : float
        Probability that a fact is wrong in a trace.
    localization : float
        Share of the texts that localize the first wrong step of a wrong trace.
    hidden_size : int
        A multiple of 32.
    layers : int
        Number of decoder layers.
    steps : int
        Optimizer steps.
    batch : int
        Texts per step.
    learning_rate : float
        Peak learning rate, after a warm-up and before a cosine decay to 0.
    seed : int
        Seed of weights, texts and wrong values.
    """

    output: str = "models/chain"
    modulus: int = 10
    operations: tuple[str, ...] = ("+3", "-4", "*3")
    lengths: tuple[int, int] = (2, 8)
    error_rate: float = 0.5
    localization: float = 0.5
    hidden_size: int = HIDDEN_SIZE
    layers: int = LAYERS
    steps: int = 1200
    batch: int = 64
    learning_rate: float = 4e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("error_rate", "localization"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not in [0, 1]")
        if not 1 <= self.lengths[0] <= self.lengths[1]:
            raise ValueError(
                f"lengths: {self.lengths} are not a shortest length ≥ 1 and a longest one"
            )
        if self.localization > 0 and self.error_rate == 0:
            raise ValueError(
                f"error_rate: 0, but localization={self.localization} needs wrong traces; give an "
                "error rate, or localization 0"
            )
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"steps={self.steps}, batch={self.batch}: both must be at least 1")
