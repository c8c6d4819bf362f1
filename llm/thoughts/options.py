"""Sampling options and length limits of completions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SamplingOptions:
    """How completions are sampled.

    Parameters
    ----------
    temperature : float
        Temperature of training and evaluation rollouts.
    top_p : float
        Below 1, tokens are sampled from the nucleus alone, and the loss is that of this policy.
    max_completion_length : int
        Maximum number of tokens of a completion.
    max_thoughts : int
        Maximum number of thoughts of a completion.
    max_thought_tokens : int
        Maximum number of tokens of a thought.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_completion_length: int = 256
    max_thoughts: int = 20
    max_thought_tokens: int = 256

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(
                f"sampling.temperature: {self.temperature} is not > 0; greedy rollouts of a group "
                "are all the same and teach nothing"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"sampling.top_p: {self.top_p} is not in (0, 1]")
        self.limits()

    def limits(self) -> ThoughtLimits:
        """The length limits of an episode."""
        return ThoughtLimits(self.max_completion_length, self.max_thoughts, self.max_thought_tokens)


@dataclass(frozen=True)
class ThoughtLimits:
    """Length limits of an episode.

    Parameters
    ----------
    max_completion_length : int
        Maximum number of tokens of a completion, reset prefix included.
    max_thoughts : int
        Maximum number of thoughts; an episode that has not stopped by then is cut.
    max_thought_tokens : int
        Maximum number of tokens of a thought; a longer one is cut and ends the episode.
    """

    max_completion_length: int = 256
    max_thoughts: int = 20
    max_thought_tokens: int = 256

    def __post_init__(self) -> None:
        for name in ("max_completion_length", "max_thoughts", "max_thought_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not a whole number ≥ 1")

    @property
    def longest(self) -> int:
        """Maximum number of tokens of an episode."""
        return min(self.max_completion_length, self.max_thoughts * self.max_thought_tokens)
