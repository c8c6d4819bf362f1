"""Faults where several processes train together."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

JOB = ("tests/llm/distributed/test_processes.py",)
ROWS = ("tests/llm/learner/test_rows.py",)
START = ("tests/llm/engines/test_start.py",)

DISTRIBUTED = (
    Mutant(
        "llm/learner/rows.py",
        "shortest rows are dealt first",
        "key=lambda i: (-len(rows[i].ids), i)",
        "key=lambda i: (len(rows[i].ids), -i)",
        ROWS,
    ),
    Mutant(
        "llm/learner/rows.py",
        "rounds end with the first who has no row",
        "most = max(map(len, dealt))",
        "most = min(map(len, dealt))",
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
        "weights of before the step after a pass without gradients",
        "reshard_after_forward=True",
        "reshard_after_forward=False",
        JOB,
    ),
    Mutant(
        "llm/learner/updater.py",
        "the loss of the first process's rows alone",
        '"loss": sum(losses)',
        '"loss": losses[0]',
        JOB,
    ),
    Mutant(
        "llm/distributed/processes.py",
        "answers in another order than requests",
        "mine = items[rank() :: size]",
        "mine = items[size - 1 - rank() :: size]",
        JOB,
    ),
    Mutant(
        "llm/engines/vllm_process.py",
        "tensor-parallel engines of two processes share a GPU",
        "else first + here * number",
        "else first + here",
        START,
    ),
)
