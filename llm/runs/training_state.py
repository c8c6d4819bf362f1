"""State of the optimizer and of the random generators, as tensors and JSON.

`llm.runs.checkpoints` stores both parts; they are restored bit for bit.
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
    """State of AdamW, or of an optimizer like it, by parameter name.

    Parameters
    ----------
    optimizer : Optimizer
        Its state is a step count and tensors of the parameter's shape.
    names : sequence of str
        Names of its parameters, in the order of its groups.

    Returns
    -------
    tensors : dict
        "exp_avg/model.layers.0.weight" and so on. Parameters without a gradient so far have no
        entry. The tensors are those of the optimizer, not copies.
    record : dict
        JSON: the class, step counts, and hyperparameters of each group.

    Raises
    ------
    ValueError
        If there is not one name per parameter, or the state has another form.
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
    groups, remaining = [], iter(names)
    for number, group in enumerate(optimizer.param_groups):
        hyper = {key: value for key, value in group.items() if key != "params"}
        try:
            hyper = json.loads(json.dumps(hyper))  # the record then equals the loaded one
        except TypeError as error:
            raise ValueError(f"optimizer: group {number}: {error}; use floats") from error
        named = [next(remaining) for _ in group["params"]]
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
    """Restore the state that `optimizer_tensors` returned, hyperparameters included.

    Parameters
    ----------
    optimizer : Optimizer
        Of the same class as the saved one, with the same parameters in each group. Within a group
        their order may differ.
    names : sequence of str
        Names of its parameters, in its order.
    tensors : mapping of name to tensor
        Full tensors; with several processes, those of rank 0. They are copied.
    record : mapping
        The JSON part.

    Raises
    ------
    ValueError
        If there is not one name per parameter.
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
            # Copied: optimizer steps would otherwise change the caller's tensors.
            parameter = parameters[name]
            state[number] = {
                key: distribute(tensors[f"{key}/{name}"], parameter) for key in record["keys"]
            }
            state[number]["step"] = torch.tensor(steps[name], dtype=dtype)
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def rng_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State of the global random generators: Python, numpy, torch on CPU and GPU.

    Returns
    -------
    tensors : dict
    record : dict
        JSON.

    Raises
    ------
    ValueError
        If numpy's global generator is not MT19937.
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
    """Restore the state that `rng_state` returned.

    Raises
    ------
    CheckpointError
        If a GPU state was saved, but there is no GPU. Nothing has changed then.
    """
    if record["cuda"] and not torch.cuda.is_available():
        raise CheckpointError(
            "random generators: the checkpoint has the state of a GPU, but there is no GPU; resume "
            "on a machine with one"
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
    parameters = [param for group in optimizer.param_groups for param in group["params"]]
    if len(names) != len(parameters) or len(set(names)) != len(names):
        raise ValueError(
            f"names: {len(names)}, {len(set(names))} of them distinct, for the optimizer's "
            f"{len(parameters)} parameters; give each its own name"
        )
    return dict(zip(names, parameters, strict=True))


def _check_names(subject: str, saved: Sequence[str], expected: Sequence[str]) -> None:
    missing, unknown = sorted(set(expected) - set(saved)), sorted(set(saved) - set(expected))
    if missing or unknown:
        raise CheckpointError(
            f"{subject}: not of this model; the checkpoint lacks {_first_names(missing)} and has "
            f"{_first_names(unknown)} besides"
        )


def _check_fit(name: str, saved: Tensor, parameter: Tensor) -> None:
    if (saved.shape, saved.dtype) != (parameter.shape, parameter.dtype):
        raise CheckpointError(
            f"optimizer: {name} is {tuple(saved.shape)}, {saved.dtype} in the checkpoint; its "
            f"parameter here is {tuple(parameter.shape)}, {parameter.dtype}"
        )


def _hyperparameters(saved: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
    """The saved values, with lists turned back into the tuples of the group."""
    return {
        key: tuple(value) if isinstance(group.get(key), tuple) else value
        for key, value in saved.items()
    }


def _first_names(names: Sequence[str]) -> str:
    return (", ".join(names[:3]) or "none") + (f" and {len(names) - 3} more" * (len(names) > 3))
