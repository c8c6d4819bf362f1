"""Tables and lines of a dry run's report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from llm.config.train import TrainConfig
from llm.planning.demand import TYPICAL, Lengths, uses_prompted_localizer
from llm.planning.fitting import GPUS
from llm.planning.footprint import Footprint
from llm.planning.hardware import GIB, USABLE, Hardware
from llm.planning.host_plan import HostPlan
from llm.planning.memory_plan import (
    PHASES,
    MemoryPlan,
    sequences,
)
from llm.planning.step_cost import LAYER_SECONDS, UTILISATION, StepCost


def heading(config: TrainConfig, footprint: Footprint, hardware: Hardware) -> str:
    """Lines that name the run, the hardware and the number of parameters."""
    kind = "GPU" if hardware.device == "cuda" else "process on CPUs"
    count = f"{hardware.gpus} {kind}{'s' if hardware.gpus > 1 and kind == 'GPU' else ''}"
    size = f"{hardware.memory / GIB:.0f} GiB{'' if hardware.gpus == 1 else ' each'}"
    lora = f" (LoRA, r = {config.lora.r})" if config.lora.r else ""
    return (
        f"{config.algorithm} on {config.task} with {Path(config.model).name}: {count}, {size}"
        f"{'' if hardware.here else ' (assumed)'}\n"
        f"parameters: {footprint.parameters:,}, of which {footprint.trained:,} are trained{lora}"
    )


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    return table


def memory_table(plan: MemoryPlan, hardware: Hardware) -> Table:
    """Memory of a process: a row for each use, a column for each phase."""
    owner = "per GPU" if hardware.device == "cuda" else "of the process on CPUs"
    table = _table(f"memory {owner}, GiB", "", *PHASES)

    def cells(row: Sequence[int]) -> list[str]:
        digits = 2 if max(plan.totals()) >= GIB else 4
        return [f"{bytes_ / GIB:.{digits}f}" if bytes_ else "–" for bytes_ in row]

    for name, row in plan.parts.items():
        table.add_row(name, *cells(row))
    table.add_section()
    table.add_row("total", *cells(plan.totals()))
    table.add_row(f"usable, {USABLE:.0%} of all", *cells([hardware.usable] * len(PHASES)))
    return table


def cost_table(config: TrainConfig, cost: StepCost) -> Table:
    """Tokens and time of a step, an evaluation and the run."""
    table = _table("a step", "", "expected", "at most")
    for name, pair in cost.generated.items():
        table.add_row(f"{name} tokens", *(f"{tokens:,}" for tokens in pair))
    table.add_row("tokens of the update", *(f"{tokens:,}" for tokens in cost.trained))
    table.add_row(" through the model", *(f"{tokens:,}" for tokens in cost.computed))
    table.add_row("generate, seconds", *map(rounded, cost.seconds["generate"]))
    table.add_row("train, seconds", *map(rounded, cost.seconds["train"]))
    table.add_row("step, seconds", *map(rounded, cost.step))
    if config.evaluation.steps:
        table.add_section()
        table.add_row("an evaluation, tokens", *(f"{tokens:,}" for tokens in cost.evaluation))
        table.add_row("an evaluation, seconds", *map(rounded, cost.seconds["evaluation"]))
    table.add_section()
    steps = config.steps
    evaluations = 2 + (steps - 1) // config.evaluation.steps if config.evaluation.steps else 0
    run = [
        steps * step + evaluations * evaluation
        for step, evaluation in zip(cost.step, cost.seconds["evaluation"], strict=True)
    ]
    table.add_row(f"{steps} steps, hours", *(rounded(seconds / 3600) for seconds in run))
    return table


def rounded(value: float) -> str:
    """A time as two digits, without an exponent: an estimate has no more."""
    digits = float(f"{value:.2g}")
    return f"{digits:,.0f}" if digits >= 10 else f"{digits:.2f}".rstrip("0").rstrip(".")


def notes(
    config: TrainConfig,
    hardware: Hardware,
    plan: MemoryPlan | None,
    host: HostPlan | None,
    lengths: Lengths,
) -> list[str]:
    """Assumptions and warnings, one line each."""
    replaced = f", {TYPICAL:.0%} of prompts replaced" if config.dynamic_sampling else ""
    if config.group_plan().retries:
        replaced += f", {TYPICAL:.0%} of groups fail, and again of the resets from there"
    lines = [
        f"assumed: prompts of {lengths.prompt} tokens, completions and replies of {TYPICAL:.0%} of "
        f"their limit, resets at {TYPICAL:.0%} of a completion{replaced}; time counts matrix "
        "products only, 2 operations a parameter and token forward, at "
        f"{hardware.flops / 1e12:.3g} TFLOP/s × "
        f"{UTILISATION['generate']:.0%} (sampling) and {UTILISATION['train']:.0%} (training): "
        "models of a few layers take longer"
    ]
    if config.engine == "transformers" and hardware.device == "cuda":
        lines[0] += (
            f"; Transformers samples tokens one by one, {1000 * LAYER_SECONDS:g} ms for each layer "
            "and token: --engine vllm is faster"
        )
    if plan is not None and plan.cached:
        longest_call = max(tokens for _, _, tokens in sequences(config, lengths))
        lines.append(
            f"vLLM's cache holds {plan.cached:,} tokens, {plan.cached / longest_call:.1f} of the "
            f"longest sequences ({longest_call:,} tokens)"
        )
    if host is not None:
        lines.append(f"needed of the host, for all processes together: {host}")
    room = config.vllm.max_model_len
    if config.engine == "vllm" and room is not None and uses_prompted_localizer(config):
        left = room - lengths.prompt - config.sampling.limits().longest
        if left < config.localization.max_tokens:
            lines.append(
                f"warning: vllm.max_model_len leaves {left} tokens to localize the longest "
                f"solutions, less than localization.max_tokens ({config.localization.max_tokens})"
            )
    return lines


def advice(change: dict[str, Any] | None) -> str:
    """The suggested change as a sentence."""
    if change is None:
        return "no change of settings that was tried fits; use a smaller model"
    parts = [
        f"{value} GPUs (torchrun --nproc_per_node {value} -m llm.train --config …)"
        if name == GPUS
        else f"{name} {str(value).lower() if isinstance(value, bool) else value}"
        for name, value in change.items()
    ]
    return f"{' and '.join(parts)} {'fits' if len(parts) == 1 else 'fit'}"
