"""Options of a dry run, and their separation from the run's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cpi.reporting.options import underscored
from llm.config.command_line import parse

FLAG = "--dry_run"


@dataclass(frozen=True)
class DryRunOptions:
    """Hardware to plan for; this machine by default.

    Parameters
    ----------
    gpus : int, optional
        Number of GPUs, one process each; by default torchrun's WORLD_SIZE, or 1.
    gpu_memory : float, optional
        GiB of each GPU; by default those of this GPU, or of this machine if it has none.
    tflops : float, optional
        Peak of each GPU in 10¹² operations a second; by default measured on this machine, or an
        A100's if `gpu_memory` is given.
    """

    gpus: int | None = None
    gpu_memory: float | None = None
    tflops: float | None = None

    def __post_init__(self) -> None:
        for name in ("gpus", "gpu_memory", "tflops"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"dry_run.{name}: {value} is not > 0")


def split(argv: Sequence[str] | None, prog: str) -> tuple[list[str], DryRunOptions | None]:
    """Split the arguments into those of the run and dry-run options, None without dry-run flags.

    Raises
    ------
    ValueError
        If an option is unknown or invalid.
    """
    others: list[str] = []
    options: list[str] = []
    wanted = False
    rest = iter(underscored(argv, groups=True))
    for argument in rest:
        flag, dot, option = argument.partition(".")
        if FLAG not in (flag, argument):
            others.append(argument)
            continue
        wanted = True
        if dot:
            options.append(f"--{option}")
            if "=" not in option:
                options += [value for value in [next(rest, None)] if value is not None]
    return others, parse(DryRunOptions, options, f"{prog} {FLAG}") if wanted else None
