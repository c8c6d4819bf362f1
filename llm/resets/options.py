"""Options of localizers and oracles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: The paper's temperature for localization.
TEMPERATURE = 0.3


@dataclass(frozen=True)
class LocalizationOptions:
    """How the prompted localizer samples its replies.

    Parameters
    ----------
    temperature : float
        Low values give the model's best guess; 0 is greedy.
    max_tokens : int
        Maximum number of tokens of a reply.
    votes : int
        Replies per solution; the step that most of them name is chosen.
    """

    temperature: float = TEMPERATURE
    max_tokens: int = 1024
    votes: int = 1

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"localization.temperature: {self.temperature} is not ≥ 0")
        for name in ("max_tokens", "votes"):
            if getattr(self, name) < 1:
                raise ValueError(f"localization.{name}: {getattr(self, name)} is not ≥ 1")


@dataclass(frozen=True)
class OracleOptions:
    """Which steps the algorithm oracle resets to; see `cpi.OracleReset`.

    Parameters
    ----------
    mask : {"first_error", "improvable", "largest"}
        The first wrong step by the task's checker; any state with an advantage above tau; or the
        state with the largest advantage. The last two need exact values (chain reasoning).
    tau : float
        Threshold of "improvable".
    """

    mask: Literal["first_error", "improvable", "largest"] = "first_error"
    tau: float = 0.0
