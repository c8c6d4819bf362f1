"""Batched sampling, in this process, from a Transformers model with a KV cache.

The engine owns a copy of the model, so its weights change only in `sync_weights`. Prompts are
padded on the left. Each distinct prompt is computed once for all its samples. Completed rows are
removed from the batch.

Sample j of a request draws its t-th token by inverting the distribution function at the t-th number
of the random stream keyed (seed, j). So a sample does not depend on the rest of the batch.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llm.engines.contexts import (
    Context,
    extend,
    logprobs_of,
    new_tokens,
    padded,
    positions_of,
    read,
)
from llm.engines.engine import (
    Completion,
    EngineError,
    EngineStats,
    SamplingParams,
    check_requests,
    check_state,
    check_texts,
)
from llm.engines.sampler import Sampler
from llm.models.architecture import (
    check_cache,
    context_length,
    position_ids,
    without_adapters,
)

#: Completed rows are removed once they are this share of the batch, as removal copies the cache.
DROP_SHARE = 0.1

#: Bytes of the float32 logits of a batch of given continuations.
LOGIT_BYTES = 256 * 2**20


class TransformersEngine:
    """An `Engine` in this process, on any torch device.

    Parameters
    ----------
    model : PreTrainedModel, str or Path
        A causal language model, which is copied, or its folder or hub name.
    device : str or torch.device, optional
        By default the device of the model, or the CPU.
    dtype : torch.dtype, optional
        Type of the weights; by default as in the model.
    max_num_seqs : int
        Maximum number of samples in a batch; more are split into several batches.
    max_model_len : int, optional
        By default the model's maximum length.

    Raises
    ------
    ValueError
        If the model has recurrent layers.

    Attributes
    ----------
    keep_prompts : bool
        Keep keys and values of the last batch of prompts, for a next call with the same prompts or
        longer ones. They take memory until then, or until the weights change.
    """

    keep_prompts = False
    _kept: tuple[dict[tuple[int, ...], int], Context] | None = None

    def __init__(
        self,
        model: Any,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        max_num_seqs: int = 256,
        max_model_len: int | None = None,
    ) -> None:
        if isinstance(model, str | Path):
            from transformers import AutoModelForCausalLM

            model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype or "auto")
        else:
            model = copy.deepcopy(model)
        check_cache(type(without_adapters(model)), model.config)
        self._model = model.to(device=device or model.device, dtype=dtype or model.dtype)
        self._model.eval().requires_grad_(False)
        self.dtype: torch.dtype = self._model.dtype
        self.max_num_seqs = max_num_seqs
        longest = context_length(self._model.config)
        self.max_model_len = min(longest, max_model_len or longest)
        self._vocab_size: int = self._model.get_input_embeddings().weight.shape[0]
        self.stats = EngineStats()

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]
    ) -> list[list[Completion]]:
        """See `Engine.generate`."""
        self._check_open()
        check_requests(prompts, params, self.max_model_len, self._vocab_size)
        began = time.perf_counter()
        completions: list[list[Completion]] = [[] for _ in prompts]
        for batch in self._batches(prompts, params):
            rows = [(i, j) for i in batch for j in range(params[i].n)]
            for (i, _), completion in zip(rows, self._sample(prompts, params, rows), strict=True):
                completions[i].append(completion)
                self.stats.prompt_tokens += len(prompts[i])
                self.stats.generated_tokens += len(completion.ids)
        self.stats.seconds += time.perf_counter() - began
        return completions

    @torch.inference_mode()
    def logprobs(
        self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> list[NDArray[np.float64]]:
        """See `Engine.logprobs`; each distinct prompt of a batch is computed once.

        A prompt with one continuation is read with it, in one pass.
        """
        self._check_open()
        texts = check_texts(prompts, continuations, self.max_model_len, self._vocab_size)
        began = time.perf_counter()
        results = [np.zeros(0) for _ in prompts]
        counts = Counter(map(tuple, prompts))
        order = [i for i in range(len(prompts)) if len(continuations[i])]
        alone = [i for i in order if counts[tuple(prompts[i])] == 1]
        together = [i for i in order if counts[tuple(prompts[i])] > 1]
        alone.sort(key=lambda i: len(texts[i]))
        together.sort(key=lambda i: (len(prompts[i]), tuple(prompts[i]), len(continuations[i])))
        for kind, method in ((alone, self._text_logprobs), (together, self._logprobs)):
            for rows in self._logprob_batches(kind, continuations):
                self.stats.prompt_tokens += sum(len(texts[i]) for i in rows)
                for i, scores in zip(rows, method(prompts, continuations, rows), strict=True):
                    results[i] = scores
        self.stats.seconds += time.perf_counter() - began
        return results

    def sync_weights(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """See `Engine.sync_weights`."""
        self._check_open()
        self._kept = None
        weights = self._model.state_dict()
        check_state(weights, state_dict, self.dtype)
        with torch.no_grad():
            for name, tensor in weights.items():
                tensor.copy_(state_dict[name])

    def sleep(self) -> None:
        """Do nothing."""

    def wake(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Drop the model."""
        self._model = self._kept = None

    def _check_open(self) -> None:
        if self._model is None:
            raise EngineError("the engine is closed; make a new one")

    def _batches(
        self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]
    ) -> Iterator[list[int]]:
        """Split requests into batches of at most `max_num_seqs` samples.

        A larger request is a batch by itself. Prompts of similar length share a batch, to limit
        padding.
        """
        batch: list[int] = []
        size = 0
        for i in sorted(range(len(prompts)), key=lambda i: len(prompts[i])):
            if batch and size + params[i].n > self.max_num_seqs:
                yield batch
                batch, size = [], 0
            batch.append(i)
            size += params[i].n
        if batch:
            yield batch

    def _logprob_batches(
        self, order: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> Iterator[list[int]]:
        """Batches of continuations, in order, whose float32 logits fit `LOGIT_BYTES`, or of one."""
        tokens = LOGIT_BYTES // (4 * self._vocab_size)
        batch: list[int] = []
        for i in order:
            longest = max(len(continuations[j]) for j in [*batch, i])
            size = len(batch) + 1
            if batch and (size > self.max_num_seqs or size * longest > tokens):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _text_logprobs(
        self,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        rows: Sequence[int],
    ) -> list[NDArray[np.float64]]:
        """Log-probs of the continuations of some requests, whose texts are one batch."""
        targets = [torch.tensor(list(continuations[i])) for i in rows]
        ids, mask = padded(
            [[*map(int, prompts[i]), *map(int, continuations[i])][:-1] for i in rows],
            self._model.device,
        )
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            use_cache=False,
            logits_to_keep=max(map(len, targets)),
            **position_ids(self._model, positions_of(mask)),
        )
        pairs = zip(output.logits, targets, strict=True)
        return [logprobs_of(logits[-len(target) :], target) for logits, target in pairs]

    def _logprobs(
        self,
        prompts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        rows: Sequence[int],
    ) -> list[NDArray[np.float64]]:
        """Log-probs of several continuations of each prompt, in one batch."""
        context = self._read_prompts([prompts[i] for i in rows])
        lengths = [len(continuations[i]) for i in rows]
        ids = torch.zeros((len(rows), max(lengths)), dtype=torch.long)
        for row, i in enumerate(rows):
            ids[row, : lengths[row]] = torch.tensor(list(continuations[i]))
        ids = ids.to(self._model.device)
        logits = context.logits[:, None]
        if max(lengths) > 1:
            # Padding follows the tokens, which causal attention keeps from seeing it.
            steps = torch.arange(1, max(lengths), device=ids.device)
            output = self._model(
                input_ids=ids[:, :-1],
                attention_mask=torch.cat([context.mask, torch.ones_like(ids[:, :-1])], dim=1),
                past_key_values=context.cache,
                use_cache=True,
                **position_ids(self._model, context.position[:, None] + steps),
            )
            logits = torch.cat([logits, output.logits], dim=1)
        return [logprobs_of(logits[row, :n], ids[row, :n]) for row, n in enumerate(lengths)]

    def _read_prompts(self, prompts: Sequence[Sequence[int]]) -> Context:
        """Compute each distinct prompt once, and select the results for all rows."""
        distinct: dict[tuple[int, ...], int] = {}
        source = [distinct.setdefault(tuple(map(int, p)), len(distinct)) for p in prompts]
        self.stats.cached_tokens += sum(map(len, prompts)) - sum(map(len, distinct))
        context = self._continued(list(distinct)) or read(self._model, list(distinct))
        if self.keep_prompts:
            self._kept = distinct, copy.deepcopy(context)
        return context.select(source)

    def _continued(self, prompts: Sequence[tuple[int, ...]]) -> Context | None:
        """Read the prompts from the kept ones on, if all of them begin with kept ones."""
        if self._kept is None or (more := new_tokens(self._kept[0], prompts)) is None:
            return None
        rows, context = self._kept
        self.stats.cached_tokens += sum(map(len, prompts)) - more * len(prompts)
        context = copy.deepcopy(context).select([rows[p[: len(p) - more]] for p in prompts])
        return extend(self._model, context, [p[-more:] for p in prompts]) if more else context

    def _sample(
        self,
        prompts: Sequence[Sequence[int]],
        params: Sequence[SamplingParams],
        rows: Sequence[tuple[int, int]],
    ) -> list[Completion]:
        """Sample one completion per row, each a pair (request, sample)."""
        device = self._model.device
        chosen = [params[i] for i, _ in rows]
        limits = np.array([p.max_tokens for p in chosen])
        uniforms = np.zeros((len(rows), limits.max()))
        for row, (_, j) in enumerate(rows):
            if chosen[row].temperature > 0:
                bits = np.random.Philox(key=np.array([chosen[row].seed, j], dtype=np.uint64))
                uniforms[row, : limits[row]] = np.random.Generator(bits).random(limits[row])
        draw = Sampler(chosen, device)
        stops = _StopTable(chosen)

        logits, mask, position, cache = self._read_prompts([prompts[i] for i, _ in rows])
        tokens = np.zeros((len(rows), limits.max()), dtype=np.int64)
        logprobs = np.zeros((len(rows), limits.max()))
        lengths = np.zeros(len(rows), dtype=np.int64)
        stopped = np.zeros(len(rows), dtype=bool)
        live = np.arange(len(rows))  # for each row of the batch, its index in `rows`
        one = torch.ones((len(rows), 1), dtype=torch.long, device=device)
        t = 0
        while True:
            drawn, scores = draw(logits, uniforms[live, t], live)
            new = drawn.cpu().numpy()
            unfinished = ~stopped[live] & (t < limits[live])
            active = live[unfinished]
            tokens[active, t] = new[unfinished]
            logprobs[active, t] = scores.cpu().numpy()[unfinished]
            lengths[active] = t + 1
            stopped[active] = stops(new[unfinished], active)
            t += 1
            unfinished = ~stopped[live] & (t < limits[live])
            if not unfinished.any():
                break
            if (~unfinished).sum() > DROP_SHARE * len(live):
                keep = torch.from_numpy(np.flatnonzero(unfinished)).to(device)
                cache.batch_select_indices(keep)
                mask, position, drawn = mask[keep], position[keep], drawn[keep]
                live = live[unfinished]
            mask = torch.cat([mask, one[: len(live)]], dim=1)
            position = position + 1
            output = self._model(
                input_ids=drawn[:, None],
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                **position_ids(self._model, position[:, None]),
            )
            logits = output.logits[:, -1]
        return [
            Completion(tokens[r, :n], logprobs[r, :n], "stop" if stopped[r] else "length")
            for r, n in enumerate(lengths)
        ]


class _StopTable:
    """Stop tokens of each row."""

    def __init__(self, params: Sequence[SamplingParams]) -> None:
        self.sets = [frozenset(p.stop_token_ids) for p in params]

    def __call__(self, tokens: NDArray[np.int64], rows: NDArray[np.intp]) -> list[bool]:
        """Whether each token ends the completion of its row."""
        return [int(token) in self.sets[row] for token, row in zip(tokens, rows, strict=True)]
