"""Objects in place of names: what `llm.train_model` is given, as settings of a run.

A class or function of a module is named by its import path. Anything else is named `object:NAME`;
only the process that has the object can resume, evaluate and export such a run. A model is saved
into the run's folder, so nothing is lost by giving it as an object.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm.common.plugins import OBJECT, given_objects, import_path
from llm.config.suggestions import suggestion
from llm.config.train import TrainConfig, parse_config
from llm.tasks import Task, make_task
from llm.tasks.rewarded import Reward, RewardedTask

#: Folder of a run that holds a model given as an object.
MODEL = "model"


@dataclass
class Given:
    """Settings and objects of a run.

    Attributes
    ----------
    config : TrainConfig
    objects : dict of str to object
        By name, without `object:`.
    """

    config: TrainConfig
    objects: dict[str, Any] = field(default_factory=dict)


def read(
    model: Any, task: Any, algorithm: Any, localizer: Any, reward: Reward | None,
    settings: Mapping[str, Any],
) -> Given:  # fmt: skip
    """Settings of a run, and the objects among them.

    Raises
    ------
    ValueError
        If a setting is unknown or invalid.
    """
    objects: dict[str, Any] = {}

    def name_of(thing: Any, option: str) -> str:
        if isinstance(thing, str | os.PathLike):
            return os.fspath(thing)
        if not callable(thing):
            raise ValueError(f"{option}: {thing!r:.60} is neither a name nor a function")
        if (path := import_path(thing)) is not None:
            return path
        return _name(objects, getattr(thing, "__name__", type(thing).__name__), thing)

    known = {f.name for f in dataclasses.fields(TrainConfig)} | {"config"}
    unknown = sorted(name for name in settings if name.partition(".")[0] not in known)
    if unknown:
        cure = suggestion(unknown[0], TrainConfig)
        raise ValueError(f"{unknown[0]}: no setting of this name; see llm.TrainConfig{cure}")
    chosen = dict(settings)
    files = chosen.pop("config", [])
    named = {"algorithm": algorithm, "localizer": localizer}
    chosen |= {name: name_of(v, name) for name, v in named.items() if v is not None}
    if reward is not None and not isinstance(task, Task):
        task = make_task(name_of(task or "chain", "task"), **chosen.pop("task_args", {}))
    if reward is not None:
        task = RewardedTask(task, reward)
    if isinstance(task, Task):
        chosen["task"] = _name(objects, str(task), lambda: task)
    elif task is not None:
        chosen["task"] = name_of(task, "task")
    if model is not None:
        by_name = isinstance(model, str | os.PathLike)
        chosen["model"] = os.fspath(model) if by_name else MODEL
    words = [f"--config={file}" for file in ([files] if isinstance(files, str | Path) else files)]
    config = parse_config([*words, *_flags(chosen)], "llm.train_model")
    if model is not None and not by_name:
        config = dataclasses.replace(config, model=str(config.folder / MODEL))
    return Given(config, objects)


def saved_again(config: TrainConfig, model: Any, tokenizer: Any) -> None:
    """Save a loaded model and its tokenizer into the run's folder, for the run to start from.

    Raises
    ------
    ValueError
        If there is no tokenizer, or the model has adapters.
    """
    if tokenizer is None:
        raise ValueError("tokenizer: none given; a loaded model needs its tokenizer")
    if hasattr(model, "peft_config"):
        raise ValueError("model: it has adapters; give model.merge_and_unload(), and lora={'r': …}")
    folder = Path(config.model)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def available(given: Mapping[str, Any]) -> Any:
    """Context manager in which the objects of a run have their names."""
    return given_objects(given)


def _name(objects: dict[str, Any], name: str, thing: Any) -> str:
    """The name `object:NAME` of an object, which is entered in `objects`."""
    clean = re.sub(r"\W+", "_", name).strip("_")
    while clean in objects:
        clean += "_"
    objects[clean] = thing
    return f"{OBJECT}:{clean}"


def _flags(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Settings as words of a command line, so that both are read and checked by one parser."""
    sections = {f.name for f in dataclasses.fields(TrainConfig) if _is_section(f)}
    for name, value in settings.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = dataclasses.asdict(value)
        if isinstance(value, Mapping) and name in sections and not prefix:
            yield from _flags(value, f"{name}.")
        elif isinstance(value, str | os.PathLike):
            yield f"--{prefix}{name}={os.fspath(value)}"
        else:
            yield f"--{prefix}{name}={json.dumps(value)}"


def _is_section(f: dataclasses.Field[Any]) -> bool:
    return dataclasses.is_dataclass(f.default_factory)
