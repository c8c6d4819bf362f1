"""Memory of a model and its updates, traced from its configuration without weights or a GPU.

Memory depends on shapes and dtypes, not on values. The policy is therefore built on torch's meta
device, and an update runs on fake tensors, forward and backward. A dispatch mode counts the bytes
of all live tensors. The traced code is the training code, with adapters, autocast and
checkpointing, so no formula can fall behind it.

Two things are not counted. GPU kernels use other temporary buffers than the traced CPU kernels;
both save the same tensors for the backward pass. Allocators keep freed memory; on a CPU this can
exceed the rest of a small update.
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

from llm.models.architecture import context_length, position_ids
from llm.models.logprobs import CHUNK_BYTES, _decoder_and_head, token_logprobs
from llm.models.lora import LoraOptions, adapt
from llm.models.policy import trainable
from llm.models.shipped import locate
from llm.models.tree_attention import attention_width, tree_masks, unsupported

#: Number of layers that are traced; each further layer needs as much as the third.
TRACED_LAYERS = 3


def load_architecture(model: str) -> Any:
    """Load the configuration of a model from a folder or the hub.

    Raises
    ------
    FileNotFoundError
        If it has no config.json, or the hub is unreachable.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(locate(model))
    except Exception as error:  # Transformers raises many types, as in `llm.models.policy`
        reason = " ".join(f"{error}\n".lstrip().splitlines()[0].split())[:200]
        raise FileNotFoundError(
            f"model: no config.json of {model!r} is here or can be had from the hub ({reason}); "
            "name a folder that has one, weights are not needed"
        ) from error


class Footprint:
    """Bytes of a policy and of its updates.

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
        Numbers of the policy's parameters, adapters included, and of the trained ones.
    model_class : type
        Class of the base model.
    base : int
        Number of the base model's parameters.
    edges : int
        Number of parameters of rank-1 adapters on all of its matrices.
    weights, gradients, optimizer : int
        Bytes; `optimizer` is AdamW's state.
    layer, rest, largest : int
        Bytes of the largest decoder layer's weights, of the weights outside layers, and of the
        largest tensor.
    vocabulary, layers, positions : int
        Sizes of the model; `positions` is its maximum sequence length in tokens.
    width : int
        See `llm.models.tree_attention.attention_width`.
    why_not_shared : str
        Why rows cannot share prefixes, as far as the configuration shows.

    Raises
    ------
    ValueError
        If adapters do not fit the model, or its head is of a kind that training does not support.
    """

    def __init__(self, architecture: Any, lora: LoraOptions, bf16: bool) -> None:
        self.architecture, self.lora, self.bf16 = architecture, lora, bf16
        text = architecture.get_text_config()
        self.layers, self.vocabulary = int(text.num_hidden_layers), int(text.vocab_size)
        self.positions = context_length(architecture)
        self._chunk = max(1, CHUNK_BYTES // (4 * self.vocabulary))
        base = self._build(architecture)
        self.model_class: type = type(base)
        self.width, self.why_not_shared = attention_width(base.config), unsupported(base)
        self.base = sum(p.numel() for p in base.parameters())
        self.edges = sum(sum(p.shape) for p in base.parameters() if p.ndim == 2)
        with torch.device("meta"):  # adapters are not drawn
            policy = adapt(base, lora)
        decoder, _ = _decoder_and_head(policy)
        moved = list(trainable(policy).values())
        self.parameters = sum(p.numel() for p in policy.parameters())
        self.trained = sum(p.numel() for p in moved)
        self.weights = _bytes(policy.parameters())
        self.gradients = _bytes(moved)
        self.largest = max(_bytes([p]) for p in policy.parameters())
        # AdamW: two moments in the parameters' dtype, and a float32 step count per tensor.
        self.optimizer = 2 * self.gradients + 4 * len(moved)
        layer_bytes = [_bytes(layer.parameters()) for layer in getattr(decoder, "layers", [])]
        self.layer, self.rest = max(layer_bytes, default=0), self.weights - sum(layer_bytes)
        self._traced: dict[Any, int] = {}
        self._full_model: Any = None

    def update(
        self, rows: int, prompt: int, completion: int, checkpointing: bool, tries: bool = False
    ) -> int:
        """Peak bytes of an update of one micro-batch, without weights and gradients.

        Parameters
        ----------
        rows : int
            Rows of the micro-batch, all of the same length.
        prompt, completion : int
            Tokens of each row; only those of the completion are trained on.
        checkpointing : bool
            Gradient checkpointing.
        tries : bool
            With an attention mask for each row, as if it were a trie.

        Raises
        ------
        NotImplementedError
            If the model cannot be traced without values, such as a mixture of experts.
        """

        def traced(layers: int) -> int:
            key = (layers, rows, prompt, completion, checkpointing, tries)
            if key not in self._traced:
                self._traced[key] = self._trace(*key)
            return self._traced[key]

        if self.layers <= TRACED_LAYERS:
            return traced(self.layers)
        last = traced(TRACED_LAYERS)
        return last + (self.layers - TRACED_LAYERS) * (last - traced(TRACED_LAYERS - 1))

    def logits(self, tokens: int) -> int:
        """Bytes of `update` for the logits of a chunk, their gradients and the head's gradient.

        Parameters
        ----------
        tokens : int
            Trained tokens of a micro-batch; bytes stop growing beyond one chunk.
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
        """Bytes of a sequence's keys and values in Transformers' cache.

        0 for a model with another kind of cache.
        """
        key = ("cache", tokens, dtype)
        if key not in self._traced:
            with torch.device("meta"), torch.no_grad():
                if self._full_model is None:
                    self._full_model = _from_config(self.architecture, dtype)
                    # Some models would look for padding among the ids, which have no values here.
                    self._full_model.config.pad_token_id = None
                ids = torch.zeros((1, tokens), dtype=torch.int64)
                try:
                    output = self._full_model.to(dtype)(
                        input_ids=ids, use_cache=True, logits_to_keep=1
                    )
                except Exception as error:  # of many types, as in `_trace`
                    raise _untraceable(self._full_model) from error
            cache_layers = getattr(getattr(output, "past_key_values", None), "layers", [])
            self._traced[key] = _bytes(
                tensor
                for layer in cache_layers
                for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None))
                if tensor is not None
            )
        return self._traced[key]

    def _build(self, architecture: Any) -> Any:
        dtype = torch.bfloat16 if self.bf16 and self.lora.r else torch.float32
        with torch.device("meta"):
            return _from_config(architecture, dtype)

    def _trace(
        self,
        layers: int,
        rows: int,
        prompt: int,
        completion: int,
        checkpointing: bool,
        tries: bool = False,
    ) -> int:
        with torch.device("meta"):
            base = self._build(_shorter(self.architecture, layers))
            policy = adapt(base, self.lora, checkpointing)
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
            # As in `completion_logprobs`, but without masks that depend on values.
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                positions = (present.cumsum(1) - 1).clamp(min=0)
                mask = present
                if tries:
                    dtype = torch.bfloat16 if self.bf16 else decoder.dtype
                    mask = tree_masks(decoder.config, positions, positions + 1, dtype)
                hidden = decoder(
                    input_ids=ids,
                    attention_mask=mask,
                    use_cache=False,
                    **position_ids(decoder, positions),
                ).last_hidden_state
                scored = hidden[:, prompt - 1 : -1].reshape(rows * completion, -1)
                # Chunks run one after the other, so two of them already reach the peak.
                head_tokens = slice(2 * self._chunk)
                targets = ids[:, prompt:].reshape(-1)[head_tokens]
                logprobs = token_logprobs(scored[head_tokens], head.weight, targets, bias=head.bias)
            logprobs.sum().backward()

        try:
            return _peak(work)
        except Exception as error:  # of many types: sizes that depend on values, missing kernels
            raise _untraceable(decoder) from error


def _untraceable(model: Any) -> NotImplementedError:
    return NotImplementedError(f"a {type(model).__name__} cannot be traced without its weights")


def _from_config(architecture: Any, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(architecture, dtype=dtype)


def _shorter(architecture: Any, layers: int) -> Any:
    """A copy of a configuration with fewer layers."""
    shorter = copy.deepcopy(architecture)
    text = shorter.get_text_config()
    text.num_hidden_layers = layers
    if "layer_types" in vars(text) and text.layer_types:
        text.layer_types = text.layer_types[:layers]
    return shorter


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _peak(work: Callable[[], Any]) -> int:
    """Peak of the live bytes while `work` runs on fake tensors, without its inputs.

    `work` is a generator function that yields once: its inputs, which are not counted.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True), _LiveBytes() as live:
        steps = work()
        live.start(next(steps))
        next(steps, None)
    return live.peak


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all live storages that operations have created."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def start(self, existing: Iterable[Tensor]) -> None:
        """Start to count, without the existing tensors."""
        excluded = list(existing)
        self._known.clear()
        self._count(excluded)
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
            # The address identifies a storage while it lives.
            key, size = storage._cdata, storage.nbytes()
            if key in self._known:
                continue

            def released(ref: weakref.ref[Any], key: int = key, size: int = size) -> None:
                if self._known.get(key) is ref:
                    self.now -= size
                    del self._known[key]

            self._known[key] = weakref.ref(storage, released)
            self.now += size
            self.peak = max(self.peak, self.now)
