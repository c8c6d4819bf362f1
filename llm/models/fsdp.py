"""The policy in pieces: FSDP2, and tensors whole again for checkpoints and engines.

Between its uses every process holds its part of each parameter, gradient and optimizer state. The
parameters of a decoder layer come together for its forward pass, and again for its backward pass.

Checkpoints are those of one process, safetensors and a manifest: whole tensors, gathered one by one
and written by the first process, so that any number of processes goes on from any of them.
`torch.distributed.checkpoint` would write parts side by side, but its index is a pickle, which runs
whatever it holds when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from llm.distributed.processes import rank, world_size
from llm.models.logprobs import CompletionLogprobs


def shard(model: Any) -> CompletionLogprobs:
    """Divide a model among the processes, in place; its forward pass is then to be this module's.

    A layer's parameters are one unit; embeddings, final norm and head are another, because the
    log-probs need the head's weight outside its own forward pass, and it may be the embeddings'.

    Parameters
    ----------
    model : PreTrainedModel or PeftModel
        On the CPU, the same everywhere. Afterwards on this process's device.

    Notes
    -----
    Not yet run on several GPUs.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    root = CompletionLogprobs(model)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (world_size(),))
    for layer in getattr(base.get_decoder(), "layers", ()):
        fully_shard(layer, mesh=mesh)
    # The root too: else it stays whole after a pass without gradients, and an optimizer's step
    # would not reach what the next pass uses.
    fully_shard(root, mesh=mesh, reshard_after_forward=True)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            # Summed, not averaged: the weight of a token is that in the loss of all rows. (The
            # factor alone would have gloo multiply before it sums, which it cannot.)
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return root


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor that may be divided, in full; all processes must ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def local_shard(tensor: Tensor) -> Tensor:
    """Our part of a tensor that may be divided."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def distribute(full: Tensor, like: Tensor) -> Tensor:
    """A copy of the first process's `full`, divided as `like` is; elsewhere its values are free."""
    if not hasattr(like, "device_mesh"):
        return full.clone()
    from torch.distributed.tensor import distribute_tensor

    placed: Any = like
    mesh = placed.device_mesh
    here = full if rank() == 0 else torch.empty(full.shape, dtype=full.dtype)
    return distribute_tensor(here.to(mesh.device_type), mesh, placed.placements)


def gather_full_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors, on the first process's CPU; nothing elsewhere. One is whole at a time."""
    if world_size() == 1:
        return dict(tensors)
    found = {}
    for name, tensor in tensors.items():
        full = full_tensor(tensor.detach())
        if rank() == 0:
            found[name] = full.cpu()
    return found
