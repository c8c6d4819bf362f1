"""Sharded verification: each rank verifies its shard, and all ranks gather all results."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from llm.distributed.processes import on_main_process, scatter_gather, world_size
from llm.tasks.task import Example, Task


def shard_verification(task: Task) -> Task:
    """Return the task, with its verification sharded over the ranks of a distributed job.

    A verifier may return different results on different ranks, for example if it times out or
    samples from a model. With gathered results all ranks use the same rewards.
    """
    if world_size() == 1:
        return task
    sharded: Any = copy.copy(task)
    verify_shard: Any = getattr(task, "verify", None)

    def verify(examples: Sequence[Example], completions: Sequence[str]) -> list[Any]:
        pairs = list(zip(examples, completions, strict=True))
        same = (text.encode(errors="surrogatepass") for text in completions)
        return scatter_gather(
            pairs, lambda shard: verify_shard(*map(list, zip(*shard, strict=True))), same
        )

    if callable(verify_shard):
        sharded.verify = verify
    sharded.reward = lambda example, completion: on_main_process(
        lambda: task.reward(example, completion)
    )
    return sharded
