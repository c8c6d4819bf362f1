"""The embedded engine on a model in training: no copy of it, and no weights to hand over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm.engines.engine import Completion, EngineStats, SamplingParams
from llm.engines.transformers import TransformersEngine


class LiveEngine(TransformersEngine):
    """A `TransformersEngine` that samples from the very model it is given.

    Parameters
    ----------
    model : PreTrainedModel or PeftModel
        A causal language model; what is sampled follows its weights.
    max_num_seqs : int
        Most samples in a batch; more are done in turns.
    """

    def __init__(self, model: Any, *, max_num_seqs: int = 256) -> None:
        # Not the parent's, which copies the model.
        self._model = model
        self.dtype = model.dtype
        self.max_num_seqs = max_num_seqs
        self.max_model_len = model.config.max_position_embeddings
        self._vocab_size = model.get_input_embeddings().weight.shape[0]
        self.stats = EngineStats()

    def generate(
        self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]
    ) -> list[list[Completion]]:
        """See `Engine.generate`; in between the model is in evaluation mode.

        So there is no dropout, and no gradient checkpointing, which does without a cache.
        """
        training = self._model.training
        self._model.eval()
        try:
            return super().generate(prompts, params)
        finally:
            self._model.train(training)
