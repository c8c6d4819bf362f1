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
        Low, so that the reply is the model's best guess; 0 is greedy.
    max_tokens : int
        Most tokens of a reply.
    """

    temperature: float = TEMPERATURE
    max_tokens: int = 1024

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"localization.temperature: {self.temperature} is not ≥ 0")
        if self.max_tokens < 1:
            raise ValueError(f"localization.max_tokens: {self.max_tokens} is not ≥ 1")


@dataclass(frozen=True)
class OracleOptions:
    """Which steps the algorithm oracle resets to; see `cpi.OracleReset`.

    Parameters
    ----------
    mask : {"first_error", "improvable", "largest"}
        The first wrong step by the task's checker; or, where the model's values can be computed
        exactly (chain reasoning), any state with an advantage above tau, or the one with the
        largest.
    tau : float
        Threshold of "improvable".
    """

    mask: Literal["first_error", "improvable", "largest"] = "first_error"
    tau: float = 0.0
