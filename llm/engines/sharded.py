"""One engine per rank; each serves a shard of the requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray

from llm.distributed.processes import gather, on_every_process, scatter_gather
from llm.engines.engine import Completion, Engine, EngineStats, SamplingParams


class ShardedEngine:
    """An `Engine` over one engine per rank; all ranks call it with the same requests.

    With n ranks, each serves every n-th request. A sample depends only on its request, which holds
    the seed, so samples equal those of a single engine (up to rounding of the logits). One rank
    draws all samples of a request, as they share the prompt. With fewer requests than ranks, some
    ranks are idle.

    Parameters
    ----------
    engine : Engine
        The engine of this rank.

    Attributes
    ----------
    stats : EngineStats
        Sums over all ranks, also of seconds.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.max_model_len, self.dtype = engine.max_model_len, engine.dtype
        self.stats = EngineStats()

    def generate(
        self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]
    ) -> list[list[Completion]]:
        """See `Engine.generate`; an error of one rank's engine is raised on all ranks."""
        if len(prompts) != len(params):
            raise ValueError(f"params: {len(params)} for {len(prompts)} prompts")

        def work(
            requests: Sequence[tuple[Sequence[int], SamplingParams]],
        ) -> list[list[Completion]]:
            return self.engine.generate([p for p, _ in requests], [p for _, p in requests])

        completions = scatter_gather(
            list(zip(prompts, params, strict=True)), work, _content(prompts, params)
        )
        self._add_up()
        return completions

    def logprobs(
        self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> list[NDArray[np.float64]]:
        """See `Engine.logprobs`; an error of one rank's engine is raised on all ranks."""
        if len(prompts) != len(continuations):
            raise ValueError(f"continuations: {len(continuations)} for {len(prompts)} prompts")

        def work(
            requests: Sequence[tuple[Sequence[int], Sequence[int]]],
        ) -> list[NDArray[np.float64]]:
            return self.engine.logprobs([p for p, _ in requests], [c for _, c in requests])

        content = (np.asarray(ids, dtype=np.int64).tobytes() for ids in [*prompts, *continuations])
        scores = scatter_gather(list(zip(prompts, continuations, strict=True)), work, content)
        self._add_up()
        return scores

    def _add_up(self) -> None:
        """Sum the statistics of all ranks."""
        stats = gather(self.engine.stats)
        self.stats = EngineStats(
            **{f.name: sum(getattr(each, f.name) for each in stats) for f in fields(self.stats)}
        )

    def sync_weights(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """See `Engine.sync_weights`: each rank passes the full weights to its engine."""
        on_every_process(lambda: self.engine.sync_weights(state_dict))

    def sleep(self) -> None:
        """See `Engine.sleep`."""
        on_every_process(self.engine.sleep)

    def wake(self) -> None:
        """See `Engine.wake`."""
        on_every_process(self.engine.wake)

    def close(self) -> None:
        """See `Engine.close`."""
        self.engine.close()


def _content(prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]) -> Iterator[bytes]:
    """Bytes of all requests, to verify that all ranks have the same."""
    for prompt, p in zip(prompts, params, strict=True):
        yield np.asarray(prompt, dtype=np.int64).tobytes()
        yield repr(p).encode()
