"""A worker whose replies the request names."""

from __future__ import annotations

from typing import Any

from llm.verifiers.serving import work


def judge(request: dict[str, Any]) -> dict[str, Any]:
    if request["error"]:
        raise {"memory": MemoryError, "depth": RecursionError}[request["error"]]
    return {"reward": request["reward"]}


def main() -> None:
    work(judge, lambda: None)
