"""Settings that a resumed run may change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm.config.train import TrainConfig

#: Settings that a resumed run may change.
MAY_CHANGE = (
    "steps",  # unless the learning-rate schedule depends on it
    "token_budget",
    "resume",
    "save_steps",
    "save_total_limit",
    "rollout_steps",
    "report_to",
    "output",
    "evaluation",
    "vllm",  # affects where the engine runs, not what it samples
)


def recorded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from a file; options that the file predates get their defaults."""

    def filled(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        sections = {
            name: filled(defaults[name], value)
            for name, value in given.items()
            if isinstance(value, Mapping) and isinstance(defaults.get(name), Mapping)
        }
        return {**defaults, **given, **sections}

    kept = {
        name: value
        for name, value in settings.items()
        if not (name == "rehearsal" and not value["file"])  # a removed option, at its default
    }
    # Adaptive plans have equal costs by default since there is the option.
    if kept.get("algorithm") == "adaptive" and "plan" in kept:
        kept["plan"] = {"equal_cost": False} | kept["plan"]
    return filled(TrainConfig(model="its").plain(), kept)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Changed settings that forbid resuming, as `name: old is now new`."""
    changes = []
    schedule = new.get("optimizer", {}).get("lr_scheduler_type", "constant")
    for name in old.keys() | new.keys():
        was, now = old.get(name), new.get(name)
        fixed = name == "steps" and not schedule.startswith("constant")
        if not prefix and name in MAY_CHANGE and not fixed:
            continue
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            changes += differences(was, now, f"{prefix}{name}.")
        elif was != now:
            changes.append(f"{prefix}{name}: {was!r} is now {now!r}")
    return sorted(changes)
