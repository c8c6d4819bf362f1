"""What a model takes in memory, found from its configuration alone: no weights, no GPU.

Memory follows from shapes and dtypes, not from values. So the policy is built on torch's meta
device, where a tensor is a shape, and an update goes through it, forward and backward, as fake
tensors, while everything that is alive is counted. What counts is the code that trains, adapters,
autocast and checkpointing included; there is no formula to fall behind it.

GPUs have kernels of their own, which differ from the CPU's that are counted here in what they keep
for a moment, not in what they keep for the backward pass. What an allocator keeps of what is freed
is not counted; on a CPU that can be more than all the rest of a small update.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llm.models.logprobs import CHUNK_BYTES, _decoder_and_head, token_logprobs
from llm.models.lora import LoraOptions, adapt
from llm.models.policy import trainable
from llm.models.shipped import locate

#: Layers beyond the third take what the third takes; that many are traced.
TRACED = 3


def load_architecture(model: str) -> Any:
    """The configuration of a model: a folder with a config.json, or a hub name.

    Raises
    ------
    FileNotFoundError
        If there is none, or the hub cannot be reached.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(locate(model))
    except Exception as error:  # of any type, as in `llm.models.policy`
        reason = " ".join(f"{error}\n".lstrip().splitlines()[0].split())[:200]
        raise FileNotFoundError(
            f"model: no config.json of {model!r} is here or can be had from the hub ({reason}); "
            "name a folder that has one, weights are not needed"
        ) from error


class Footprint:
    """Bytes of a policy and of what an update of it needs.

    Parameters
    ----------
    architecture : PreTrainedConfig
        See `load_architecture`.
    lora : LoraOptions
    bf16 : bool
        As in `llm.models.policy.load_policy`.

    Attributes
    ----------
    parameters, trained : int
        Numbers of the policy's parameters, adapters included, and of those that training moves.
    base : int
        Number of the model's own.
    edges : int
        Number that adapters of rank 1 of each of its matrices would have.
    weights, gradients, optimizer : int
        Bytes; the last one is AdamW's state.
    layer, rest, largest : int
        Bytes of the weights of the largest decoder layer, of all that is in no layer, and of the
        largest tensor.
    vocabulary, layers, positions : int
        Of the model; the last one is the most tokens that it can read.

    Raises
    ------
    ValueError
        If adapters do not fit it, or it computes its logits in a way that training does not know.
    """

    def __init__(self, architecture: Any, lora: LoraOptions, bf16: bool) -> None:
        self.architecture, self.lora, self.bf16 = architecture, lora, bf16
        text = architecture.get_text_config()
        self.layers, self.vocabulary = int(text.num_hidden_layers), int(text.vocab_size)
        if not getattr(text, "max_position_embeddings", None):
            raise ValueError("model: its config.json has no max_position_embeddings")
        self.positions = int(text.max_position_embeddings)
        self._chunk = max(1, CHUNK_BYTES // (4 * self.vocabulary))
        base = self._build(architecture)
        self.base = sum(p.numel() for p in base.parameters())
        self.edges = sum(sum(p.shape) for p in base.parameters() if p.ndim == 2)
        policy = adapt(base, lora)
        decoder, _ = _decoder_and_head(policy)
        moved = list(trainable(policy).values())
        self.parameters = sum(p.numel() for p in policy.parameters())
        self.trained = sum(p.numel() for p in moved)
        self.weights = _bytes(policy.parameters())
        self.gradients = _bytes(moved)
        self.largest = max(_bytes([p]) for p in policy.parameters())
        # Two moments of the parameters' dtype, and a count of steps in float32 for each of them.
        self.optimizer = 2 * self.gradients + 4 * len(moved)
        each = [_bytes(layer.parameters()) for layer in getattr(decoder, "layers", [])]
        self.layer, self.rest = max(each, default=0), self.weights - sum(each)
        self._traced: dict[Any, int] = {}
        self._whole: Any = None

    def update(self, rows: int, prompt: int, completion: int, checkpointing: bool) -> int:
        """Bytes that an update of one micro-batch needs beside weights and gradients, at its peak.

        Parameters
        ----------
        rows : int
            Rows of the micro-batch, all of the same length.
        prompt, completion : int
            Tokens of each, of which those of the completion are trained on.
        checkpointing : bool
            Gradient checkpointing.

        Raises
        ------
        NotImplementedError
            If the model cannot be traced without values, as where they say which expert to ask.
        """

        def traced(layers: int) -> int:
            key = (layers, rows, prompt, completion, checkpointing)
            if key not in self._traced:
                self._traced[key] = self._trace(*key)
            return self._traced[key]

        if self.layers <= TRACED:
            return traced(self.layers)
        last = traced(TRACED)
        return last + (self.layers - TRACED) * (last - traced(TRACED - 1))

    def logits(self, tokens: int) -> int:
        """Bytes of `update` that are logits of a chunk, their slopes and the head's gradient.

        Parameters
        ----------
        tokens : int
            Trained on in a micro-batch; beyond a chunk, more of them change nothing.
        """
        text = self.architecture.get_text_config()
        dtype = torch.bfloat16 if self.bf16 else torch.float32
        tokens = min(tokens, self._chunk)

        def work() -> Any:
            weight = torch.empty(
                (self.vocabulary, text.hidden_size),
                dtype=dtype if self.lora.r else torch.float32,
                requires_grad=not self.lora.r,
            )
            hidden = torch.empty((tokens, text.hidden_size), dtype=dtype, requires_grad=True)
            yield weight, hidden
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                logprobs = token_logprobs(hidden, weight, hidden[:, 0].long())
            logprobs.sum().backward()

        if ("logits", tokens) not in self._traced:
            self._traced["logits", tokens] = _peak(work)
        return self._traced["logits", tokens]

    def cache(self, tokens: int, dtype: torch.dtype) -> int:
        """Bytes of the keys and values of a sequence, as Transformers keeps them.

        0 for a model that keeps something else.
        """
        key = ("cache", tokens, dtype)
        if key not in self._traced:
            with torch.device("meta"), torch.no_grad():
                if self._whole is None:
                    self._whole = _from_config(self.architecture, dtype)
                ids = torch.zeros((1, tokens), dtype=torch.int64)
                output = self._whole.to(dtype)(input_ids=ids, use_cache=True, logits_to_keep=1)
            kept = getattr(getattr(output, "past_key_values", None), "layers", [])
            self._traced[key] = _bytes(
                tensor
                for layer in kept
                for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None))
                if tensor is not None
            )
        return self._traced[key]

    def _build(self, architecture: Any) -> Any:
        dtype = torch.bfloat16 if self.bf16 and self.lora.r else torch.float32
        with torch.device("meta"):
            return _from_config(architecture, dtype)

    def _trace(
        self, layers: int, rows: int, prompt: int, completion: int, checkpointing: bool
    ) -> int:
        from torch._subclasses.fake_tensor import (
            DataDependentOutputException,
            DynamicOutputShapeException,
        )

        policy = adapt(self._build(_shorter(self.architecture, layers)), self.lora, checkpointing)
        decoder, head = _decoder_and_head(policy)

        def work() -> Any:
            policy.to_empty(device="cpu")
            policy.tie_weights()
            moved = list(trainable(policy).values())
            for parameter in moved:
                parameter.grad = torch.zeros_like(parameter)
            ids = torch.zeros((rows, prompt + completion), dtype=torch.int64)
            present = torch.ones_like(ids)
            yield *policy.parameters(), *policy.buffers(), *(p.grad for p in moved), ids, present
            # As in `completion_logprobs`, whose masks have values.
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                hidden = decoder(
                    input_ids=ids,
                    attention_mask=present,
                    position_ids=(present.cumsum(1) - 1).clamp(min=0),
                    use_cache=False,
                ).last_hidden_state
                asked = hidden[:, prompt - 1 : -1].reshape(rows * completion, -1)
                # Chunks come one after the other: more than two of them take time, not memory.
                few = slice(2 * self._chunk)
                targets = ids[:, prompt:].reshape(-1)[few]
                logprobs = token_logprobs(asked[few], head.weight, targets, bias=head.bias)
            logprobs.sum().backward()

        try:
            return _peak(work)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise NotImplementedError(
                f"the memory of a {type(decoder).__name__} depends on its values"
            ) from error


def _from_config(architecture: Any, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(architecture, dtype=dtype)


def _shorter(architecture: Any, layers: int) -> Any:
    """The same model with fewer layers."""
    shorter = copy.deepcopy(architecture)
    text = shorter.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    return shorter


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _peak(work: Callable[[], Any]) -> int:
    """Most bytes alive at once while fake tensors do something, less those of what it yields.

    `work` is a generator function, which yields once: the tensors that are there before.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True), _Alive() as alive:
        steps = work()
        alive.begin(next(steps))
        next(steps, None)
    return alive.peak


class _Alive(TorchDispatchMode):
    """Counts the bytes of all storages that operations have made and nobody has let go of."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def begin(self, there: Iterable[Tensor]) -> None:
        """Count from here, without what is there."""
        kept = list(there)
        self._known.clear()
        self._count(kept)
        self.now = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._count(tree_leaves(result))
        return result

    def _count(self, values: Iterable[Any]) -> None:
        for value in values:
            if not isinstance(value, Tensor):
                continue
            storage = value.untyped_storage()
            # An object stands for its storage as long as that lives, and so does its address.
            key, size = storage._cdata, storage.nbytes()
            if key in self._known:
                continue

            def gone(ref: weakref.ref[Any], key: int = key, size: int = size) -> None:
                if self._known.get(key) is ref:
                    self.now -= size
                    del self._known[key]

            self._known[key] = weakref.ref(storage, gone)
            self.now += size
            self.peak = max(self.peak, self.now)
