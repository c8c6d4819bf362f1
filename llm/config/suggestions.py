"""Options that were probably meant, for messages about unknown ones."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

#: Names in TRL and in other scripts, and the options that do the same here.
ELSEWHERE = {
    "dataset": "task",
    "dataset_name": "task",
    "eval_steps": "evaluation.steps",
    "generation_batch_size": "prompts_per_step",
    "gradient_accumulation_steps": "prompts_per_step",
    "lr": "optimizer.learning_rate",
    "max_steps": "steps",
    "model_name_or_path": "model",
    "num_generations": "plan.fresh",
    "num_train_epochs": "steps",
    "output_dir": "output",
    "resume_from_checkpoint": "resume",
    "use_vllm": "engine vllm",
}


def option_names(settings: Any, prefix: str = "") -> Iterator[str]:
    """Names of all options of a dataclass of settings; those of sections have dots."""
    for name, kind in get_type_hints(settings).items():
        if dataclasses.is_dataclass(kind):
            yield from option_names(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def unknown_names(values: Mapping[str, Any], settings: Any, prefix: str = "") -> Iterator[str]:
    """Keys of a settings file, and of its sections, that are no options.

    Keys with dots, and arguments of a user's code, are left to the parser.
    """
    hints = get_type_hints(settings)
    for name, value in values.items():
        kind = hints.get(name)
        if kind is None and "." not in str(name):
            yield f"{prefix}{name}"
        elif dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
            yield from unknown_names(value, kind, f"{prefix}{name}.")


def suggestion(name: str, settings: Any) -> str:
    """The end of a message about an unknown option: similar ones, or where all are listed."""
    names = list(option_names(settings))
    last = name.rpartition(".")[2]
    elsewhere = ELSEWHERE.get(last, "")
    similar = [elsewhere] if elsewhere.partition(" ")[0] in names else []
    similar = similar or [n for n in names if last in (n.rpartition(".")[2], n.replace(".", "_"))]
    similar = similar or difflib.get_close_matches(name, names, 2, 0.75)
    if not similar:
        ends = {n.rpartition(".")[2]: n for n in reversed(names)}
        similar = [ends[end] for end in difflib.get_close_matches(last, ends, 2, 0.75)]
    if not similar:
        return "; --help_all lists the options"
    return f"; did you mean {' or '.join(similar)}?"
