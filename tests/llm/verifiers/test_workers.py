from __future__ import annotations

from typing import NamedTuple

import pytest

from llm.verifiers import Verification
from llm.verifiers.workers import WorkerPool


class Request(NamedTuple):
    reward: float = 0.0
    error: str = ""


def test_verify_all__rewards_and_failures_by_request() -> None:
    pool = WorkerPool(20.0, 1, 512, "tests.llm.verifiers.echo_worker")
    requests = [Request(0.25), Request(error="depth"), Request(error="memory"), Request(0.25)]
    assert pool.verify_all(requests) == {
        Request(0.25): Verification(0.25),
        Request(error="depth"): Verification(0.0, "nested too deeply"),
        Request(error="memory"): Verification(0.0, "memory"),
    }
    pool.close()


def test_verify_all__names_the_worker_that_does_not_start() -> None:
    pool = WorkerPool(20.0, 1, 512, "tests.llm.verifiers.no_such_worker")
    with pytest.raises(RuntimeError, match=r"^no_such: a worker did not start: ModuleNotFound"):
        pool.verify_all([Request()])
