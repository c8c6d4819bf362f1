"""Verdicts of a job of several processes: each judges its share, and all know all."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from llm.distributed.processes import on_main_process, scatter_gather, world_size
from llm.tasks.task import Example, Task


def shared_verdicts(task: Task) -> Task:
    """The task, with a verifier for a job.

    Even one that is not the same function everywhere (that times out, or asks a model) gives all
    processes the same rewards, without which their gradients would not fit together.
    """
    if world_size() == 1:
        return task
    shared: Any = copy.copy(task)
    judge: Any = getattr(task, "verify", None)

    def verify(examples: Sequence[Example], completions: Sequence[str]) -> list[Any]:
        pairs = list(zip(examples, completions, strict=True))
        same = (text.encode(errors="surrogatepass") for text in completions)
        return scatter_gather(pairs, lambda mine: judge(*map(list, zip(*mine, strict=True))), same)

    if callable(judge):
        shared.verify = verify
    shared.reward = lambda example, completion: on_main_process(
        lambda: task.reward(example, completion)
    )
    return shared
