"""A Transformers engine that shares the model in training, without a copy or weight transfer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm.engines.engine import Completion, EngineStats, SamplingParams
from llm.engines.transformers import TransformersEngine
from llm.models.architecture import check_cache, context_length, without_adapters


class LiveEngine(TransformersEngine):
    """A `TransformersEngine` that samples from the given model itself.

    Parameters
    ----------
    model : PreTrainedModel or PeftModel
        A causal language model; samples always use its current weights.
    max_num_seqs : int
        Maximum number of samples in a batch; more are split into several batches.

    Raises
    ------
    ValueError
        If the model has recurrent layers.
    """

    def __init__(self, model: Any, *, max_num_seqs: int = 256) -> None:
        # super().__init__ is skipped because it copies the model.
        check_cache(type(without_adapters(model)), model.config)
        self._model = model
        self.dtype = model.dtype
        self.max_num_seqs = max_num_seqs
        self.max_model_len = context_length(model.config)
        self._vocab_size = model.get_input_embeddings().weight.shape[0]
        self.stats = EngineStats()

    def generate(
        self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]
    ) -> list[list[Completion]]:
        """See `Engine.generate`; runs the model in evaluation mode."""
        with self._evaluation_mode():
            return super().generate(prompts, params)

    def logprobs(
        self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> list[NDArray[np.float64]]:
        """See `Engine.logprobs`; runs the model in evaluation mode."""
        with self._evaluation_mode():
            return super().logprobs(prompts, continuations)

    @contextmanager
    def _evaluation_mode(self) -> Iterator[None]:
        """Disable dropout, and gradient checkpointing, which would disable the KV cache."""
        training = self._model.training
        self._model.eval()
        try:
            yield
        finally:
            self._model.train(training)
