"""Faults in distributed training."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

JOB = ("tests/llm/distributed/test_processes.py",)
ROWS = ("tests/llm/learner/test_rows.py",)
START = ("tests/llm/engines/test_start.py",)

DISTRIBUTED = (
    Mutant(
        "llm/learner/rows.py",
        "shortest rows are sharded first",
        "key=lambda i: (-len(rows[i].ids), i)",
        "key=lambda i: (len(rows[i].ids), -i)",
        ROWS,
    ),
    Mutant(
        "llm/learner/rows.py",
        "rounds end with the first rank without rows",
        "longest = max(map(len, shards))",
        "longest = min(map(len, shards))",
        ROWS,
    ),
    Mutant(
        "llm/models/fsdp.py",
        "gradients are averaged over processes",
        "module.set_gradient_divide_factor(1.0)",
        "module.set_gradient_divide_factor(float(world_size()))",
        JOB,
    ),
    Mutant(
        "llm/models/fsdp.py",
        "stale weights after a pass without gradients",
        "reshard_after_forward=True",
        "reshard_after_forward=False",
        JOB,
    ),
    Mutant(
        "llm/learner/updater.py",
        "the loss counts only one process's rows",
        '"loss": sum(losses)',
        '"loss": losses[0]',
        JOB,
    ),
    Mutant(
        "llm/distributed/processes.py",
        "results in another order than the requests",
        "shard = items[rank() :: size]",
        "shard = items[size - 1 - rank() :: size]",
        JOB,
    ),
    Mutant(
        "llm/engines/vllm_process.py",
        "tensor-parallel engines of two processes share a GPU",
        "else first + local_rank * number",
        "else first + local_rank",
        START,
    ),
)
