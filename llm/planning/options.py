"""The options of a dry run, and how they are told from those of the run."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from llm.config.command_line import parse

FLAGS = ("--dry-run", "--dry_run")


@dataclass(frozen=True)
class DryRunOptions:
    """What to plan for, if not for this machine.

    Parameters
    ----------
    gpus : int, optional
        GPUs, with a process each; by default WORLD_SIZE, as torchrun sets it, or 1.
    gpu_memory : float, optional
        GiB of each; by default what is here: the GPU's, or the machine's where there is none.
    tflops : float, optional
        Peak of each, in 10¹² operations a second; by default measured here, or that of an A100 if
        the memory is given.
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
    """The arguments without those of a dry run, and its options; None if none is asked for.

    Raises
    ------
    ValueError
        If an option is unknown or makes no sense.
    """
    others: list[str] = []
    options: list[str] = []
    wanted = False
    rest = iter(sys.argv[1:] if argv is None else argv)
    for argument in rest:
        flag, dot, option = argument.partition(".")
        if flag not in FLAGS and argument not in FLAGS:
            others.append(argument)
            continue
        wanted = True
        if dot:
            options.append(f"--{option}")
            if "=" not in option:
                options += [value for value in [next(rest, None)] if value is not None]
    return others, parse(DryRunOptions, options, f"{prog} --dry-run") if wanted else None
