"""Which settings a resumed run may change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm.config.train import TrainConfig

#: What may differ between a run and its continuation.
MAY_CHANGE = (
    "steps",  # unless the schedule of the learning rate depends on it
    "token_budget",
    "resume",
    "save_steps",
    "save_total_limit",
    "rollout_steps",
    "report_to",
    "output",
    "evaluation",
    "vllm",  # where it runs, not what it samples
)


def recorded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from a file, in which one that did not exist when it was made is at its default."""

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
        if not (name == "rehearsal" and not value["file"])  # an option that is gone, at its default
    }
    return filled(TrainConfig(model="its").plain(), kept)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What a continuation may not change and does, as `name: old is now new`."""
    found = []
    scheduled = new.get("optimizer", {}).get("lr_scheduler_type", "constant")
    for name in old.keys() | new.keys():
        was, now = old.get(name), new.get(name)
        lasting = name == "steps" and not scheduled.startswith("constant")
        if not prefix and name in MAY_CHANGE and not lasting:
            continue
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            found += differences(was, now, f"{prefix}{name}.")
        elif was != now:
            found.append(f"{prefix}{name}: {was!r} is now {now!r}")
    return sorted(found)
