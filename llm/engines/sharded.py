"""An engine for each process of a job, each of which answers its share of the requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields

import numpy as np
import torch

from llm.distributed.processes import gather, on_every_process, scatter_gather
from llm.engines.engine import Completion, Engine, EngineStats, SamplingParams


class ShardedEngine:
    """An `Engine` made of one for each process: all of them ask, each answers every n-th request.

    A sample depends on its request alone, which has its seed, so the samples are those that one
    engine would draw (up to rounding of the logits). All samples of a request are one process's, as
    they share the prompt: with fewer requests than processes, some have nothing to do.

    Parameters
    ----------
    engine : Engine
        This process's.

    Attributes
    ----------
    stats : EngineStats
        The sums over all processes, seconds included.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.max_model_len, self.dtype = engine.max_model_len, engine.dtype
        self.stats = EngineStats()

    def generate(
        self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]
    ) -> list[list[Completion]]:
        """See `Engine.generate`; errors of one process's engine are raised everywhere."""
        if len(prompts) != len(params):
            raise ValueError(f"params: {len(params)} for {len(prompts)} prompts")

        def work(
            requests: Sequence[tuple[Sequence[int], SamplingParams]],
        ) -> list[list[Completion]]:
            return self.engine.generate([p for p, _ in requests], [p for _, p in requests])

        completions = scatter_gather(
            list(zip(prompts, params, strict=True)), work, _seen(prompts, params)
        )
        everywhere = gather(self.engine.stats)
        self.stats = EngineStats(
            **{
                f.name: sum(getattr(each, f.name) for each in everywhere)
                for f in fields(self.stats)
            }
        )
        return completions

    def sync_weights(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """See `Engine.sync_weights`: each process gives its engine the whole weights."""
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


def _seen(prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]) -> Iterator[bytes]:
    for prompt, p in zip(prompts, params, strict=True):
        yield np.asarray(prompt, dtype=np.int64).tobytes()
        yield repr(p).encode()
