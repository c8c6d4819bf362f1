"""The rest of a training run's state as tensors and JSON: AdamW's, and every random generator's.

What `llm.runs.checkpoints` stores; all of it comes back bit for bit.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm.models.fsdp import distribute
from llm.runs.checkpoints import CheckpointError


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of AdamW, or of an optimizer like it, by name of parameter.

    Parameters
    ----------
    optimizer : Optimizer
        Whose state is a step count and tensors of the parameter's shape.
    names : sequence of str
        Of its parameters, in the order of its groups.

    Returns
    -------
    tensors : dict
        "exp_avg/model.layers.0.weight" and so on; parameters that had no gradient yet have none.
        They are the optimizer's own, not copies.
    record : dict
        JSON: the class, step counts, and hyperparameters of each group.

    Raises
    ------
    ValueError
        If the names are not one for each parameter, or the state is of another kind.
    """
    tensors: dict[str, Tensor] = {}
    steps: dict[str, float] = {}
    keys: set[str] = set()
    step_dtype = torch.float32
    for name, parameter in _named(optimizer, names).items():
        entries = dict(optimizer.state.get(parameter, {}))
        if not entries:
            continue
        step = entries.pop("step", None)
        if not isinstance(step, Tensor) or step.dim():
            raise ValueError(f"optimizer: no step count for {name}; only AdamW's kind is supported")
        steps[name], step_dtype = step.item(), step.dtype
        keys |= entries.keys()
        for key, value in entries.items():
            if not isinstance(value, Tensor) or value.shape != parameter.shape:
                raise ValueError(f"optimizer: {key} of {name} is not a tensor of its shape")
            tensors[f"{key}/{name}"] = value
    groups, left = [], iter(names)
    for number, group in enumerate(optimizer.param_groups):
        hyper = {key: value for key, value in group.items() if key != "params"}
        try:
            hyper = json.loads(json.dumps(hyper))  # so that the record equals what is loaded
        except TypeError as error:
            raise ValueError(f"optimizer: group {number}: {error}; use floats") from error
        named = [next(left) for _ in group["params"]]
        groups.append({"names": named, "hyperparameters": hyper})
    record = {
        "optimizer": type(optimizer).__name__,
        "steps": steps,
        "step_dtype": str(step_dtype).removeprefix("torch."),
        "keys": sorted(keys),
        "groups": groups,
    }
    return tensors, record


def load_optimizer(
    optimizer: torch.optim.Optimizer,
    names: Sequence[str],
    tensors: Mapping[str, Tensor],
    record: Mapping[str, Any],
) -> None:
    """Put back what `optimizer_tensors` returned, hyperparameters included.

    Parameters
    ----------
    optimizer : Optimizer
        Made like the one saved: the same class and the same parameters in each group. Within a
        group their order may differ.
    names : sequence of str
        Of its parameters, in its order.
    tensors : mapping of name to tensor
        Copied; whole ones, the first process's where there are several.
    record : mapping
        The JSON part.

    Raises
    ------
    ValueError
        If the names are not one for each parameter.
    CheckpointError
        If class, names, shapes or dtypes differ. Nothing has changed then.
    """
    parameters = _named(optimizer, names)
    kind = type(optimizer).__name__
    if record["optimizer"] != kind:
        raise CheckpointError(
            f"optimizer: the checkpoint is of {record['optimizer']}, this run uses {kind}"
        )
    if len(record["groups"]) != len(optimizer.param_groups):
        raise CheckpointError(
            f"optimizer: the checkpoint has {len(record['groups'])} groups of parameters, "
            f"this run {len(optimizer.param_groups)}"
        )
    order, start = list(parameters), 0
    groups: list[dict[str, Any]] = []
    for number, (old, new) in enumerate(zip(record["groups"], optimizer.param_groups, strict=True)):
        stop = start + len(new["params"])
        _check_names(f"group {number} of the optimizer", old["names"], order[start:stop])
        groups.append(_hyperparameters(old["hyperparameters"], new))
        groups[-1]["params"] = list(range(start, stop))
        start = stop
    steps = record["steps"]
    expected = [f"{key}/{name}" for key in record["keys"] for name in steps]
    _check_names("the optimizer's state", list(tensors), expected)
    for key in record["keys"]:
        for name in steps:
            _check_fit(f"{key}/{name}", tensors[f"{key}/{name}"], parameters[name])
    dtype = getattr(torch, record["step_dtype"])
    state: dict[int, dict[str, Tensor]] = {}
    for number, name in enumerate(order):
        if name in steps:
            # Copied, because steps of the optimizer would change the caller's tensors.
            own = parameters[name]
            state[number] = {k: distribute(tensors[f"{k}/{name}"], own) for k in record["keys"]}
            state[number]["step"] = torch.tensor(steps[name], dtype=dtype)
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def rng_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State of the global random generators: Python's, numpy's, torch's on the CPU and its GPU.

    Returns
    -------
    tensors : dict
    record : dict
        JSON.

    Raises
    ------
    ValueError
        If numpy's global generator has been exchanged for another kind.
    """
    version, words, gauss = random.getstate()
    legacy: dict[str, Any] = np.random.get_state(legacy=False)  # noqa: NPY002
    if legacy["bit_generator"] != "MT19937":
        raise ValueError(f"numpy: the global generator is {legacy['bit_generator']}, not MT19937")
    tensors = {
        "python": torch.tensor(words, dtype=torch.int64),
        "numpy": torch.from_numpy(legacy["state"]["key"].astype(np.int64)),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    record = {
        "python": {"version": version, "gauss": gauss},
        "numpy": {
            "pos": int(legacy["state"]["pos"]),
            "has_gauss": int(legacy["has_gauss"]),
            "gauss": float(legacy["gauss"]),
        },
        "cuda": "cuda" in tensors,
    }
    return tensors, record


def set_rng_state(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Put back what `rng_state` returned.

    Raises
    ------
    CheckpointError
        If a GPU's was saved and none is here. Nothing has changed then.
    """
    if record["cuda"] and not torch.cuda.is_available():
        raise CheckpointError(
            "random generators: the checkpoint has a GPU's, and none is here; resume where one is, "
            "or leave the generators as they are for an inexact resume"
        )
    python, legacy = record["python"], record["numpy"]
    random.setstate((python["version"], tuple(tensors["python"].tolist()), python["gauss"]))
    key = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state(  # noqa: NPY002
        ("MT19937", key, legacy["pos"], legacy["has_gauss"], legacy["gauss"])
    )
    torch.set_rng_state(tensors["torch"])
    if record["cuda"]:
        torch.cuda.set_rng_state(tensors["cuda"])


def _named(optimizer: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, Tensor]:
    """The optimizer's parameters by name, in its order."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    if len(names) != len(parameters) or len(set(names)) != len(names):
        raise ValueError(
            f"names: {len(names)}, {len(set(names))} of them distinct, for the optimizer's "
            f"{len(parameters)} parameters; give each its own name"
        )
    return dict(zip(names, parameters, strict=True))


def _check_names(what: str, saved: Sequence[str], here: Sequence[str]) -> None:
    missing, unknown = sorted(set(here) - set(saved)), sorted(set(saved) - set(here))
    if missing or unknown:
        raise CheckpointError(
            f"{what}: not of this model; the checkpoint lacks {_some(missing)} and has "
            f"{_some(unknown)} besides"
        )


def _check_fit(name: str, saved: Tensor, parameter: Tensor) -> None:
    if (saved.shape, saved.dtype) != (parameter.shape, parameter.dtype):
        raise CheckpointError(
            f"optimizer: {name} is {tuple(saved.shape)}, {saved.dtype} in the checkpoint; its "
            f"parameter here is {tuple(parameter.shape)}, {parameter.dtype}"
        )


def _hyperparameters(saved: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
    """As saved, with the tuples that JSON made lists of."""
    return {
        key: tuple(value) if isinstance(group.get(key), tuple) else value
        for key, value in saved.items()
    }


def _some(names: Sequence[str]) -> str:
    return (", ".join(names[:3]) or "none") + (f" and {len(names) - 3} more" * (len(names) > 3))
