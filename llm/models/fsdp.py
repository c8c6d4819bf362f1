"""Sharding of the policy by FSDP2, and full tensors for checkpoints and engines.

Each rank stores its shard of every parameter, gradient and optimizer state. The parameters of a
decoder layer are gathered for its forward pass, and again for its backward pass.

Checkpoints do not depend on the number of processes: full tensors in safetensors, with a manifest.
They are gathered one by one and written by rank 0. `torch.distributed.checkpoint` would write
shards in parallel, but its index is a pickle, which can run code when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from llm.distributed.processes import rank, world_size
from llm.models.logprobs import CompletionLogprobs


def shard(model: Any) -> CompletionLogprobs:
    """Shard a model over the ranks, in place; use the returned module for forward passes.

    Each decoder layer is one FSDP unit. Embeddings, final norm and head are one more: log-probs use
    the head's weight outside its forward pass, and it may be tied to the embeddings.

    Parameters
    ----------
    model : PreTrainedModel or PeftModel
        On the CPU, with the same weights on all ranks; is moved to the device of the rank.

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
    # Reshard the root too. Otherwise it would stay gathered after a pass without gradients, and the
    # next pass would use parameters of before the optimizer's step.
    fully_shard(root, mesh=mesh, reshard_after_forward=True)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            # Gradients are summed, because token weights already refer to the rows of all ranks.
            # The second setting is needed as gloo does not support scaling within a reduction.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return root


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor (collective); other tensors are returned as they are."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def local_shard(tensor: Tensor) -> Tensor:
    """Local shard of a sharded tensor; other tensors are returned as they are."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def distribute(full: Tensor, like: Tensor) -> Tensor:
    """A copy of rank 0's `full`, sharded as `like` is; other ranks need only its shape."""
    if not hasattr(like, "device_mesh"):
        return full.clone()
    from torch.distributed.tensor import distribute_tensor

    placed: Any = like
    mesh = placed.device_mesh
    source = full if rank() == 0 else torch.empty(full.shape, dtype=full.dtype)
    return distribute_tensor(source.to(mesh.device_type), mesh, placed.placements)


def gather_full_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gather tensors one by one on the CPU of rank 0; other ranks get an empty dict."""
    if world_size() == 1:
        return dict(tensors)
    gathered = {}
    for name, tensor in tensors.items():
        full = full_tensor(tensor.detach())
        if rank() == 0:
            gathered[name] = full.cpu()
    return gathered
