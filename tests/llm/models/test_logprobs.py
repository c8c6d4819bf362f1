"""Chunked log-probs against dense ones, finite differences and complete small models."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    BertConfig,
    BertLMHeadModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertDecoderConfig,
    ModernBertDecoderForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from llm.models import logprobs
from llm.models.logprobs import completion_logprobs, nucleus_floor, token_logprobs
from tests.cpi.worlds import repeatable


def dense(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Any = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Tensor:
    """Textbook definition, with all logits at once; words join the nucleus one by one."""
    logprobs = ((hidden @ weight.T + (0 if bias is None else bias)) / temperature).log_softmax(-1)
    values = []
    for row, target in zip(logprobs, targets.tolist(), strict=True):
        nucleus: list[int] = []
        for word in row.argsort(descending=True).tolist():
            if row[nucleus].exp().sum() >= top_p and target in nucleus:
                break
            nucleus.append(word)
        values.append(row[target] - row[nucleus].logsumexp(0))
    return torch.stack(values) if values else logprobs.sum() * torch.zeros(0, dtype=logprobs.dtype)


def problem(
    seed: int, tokens: int, width: int, words: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random hidden, weight, bias (leaves that need gradients) and targets."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((tokens, width), (words, width), (words,))
    leaves = [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in shapes
    ]
    targets = torch.randint(words, (tokens,), generator=generator)
    return leaves[0], leaves[1], leaves[2], targets


class Largest(TorchDispatchMode):
    """Records the largest number of elements of a tensor returned by an operation."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self.numel = max(self.numel, value.numel())
        return result


# --- token_logprobs


def test_token_logprobs__by_hand() -> None:
    # Logits (log 1, log 3) at temperature 1, doubled at 1/2: 1 : 9; with bias log 2: 1 : 6.
    hidden, weight = torch.tensor([[1.0], [1.0]]), torch.tensor([[0.0], [math.log(3)]])
    targets, bias = torch.tensor([0, 1]), torch.tensor([0.0, math.log(2)])
    for settings, ways in (({}, (1, 3)), ({"temperature": 0.5}, (1, 9)), ({"bias": bias}, (1, 6))):
        expected = torch.tensor([way / sum(ways) for way in ways]).log()
        assert_close(token_logprobs(hidden, weight, targets, **settings), expected)  # type: ignore[arg-type]


@repeatable
@given(
    seed=st.integers(0, 10**6),
    tokens=st.integers(0, 9),
    words=st.integers(1, 7),
    chunk=st.sampled_from([1, 2, 3, 4, 8, 9, 100, None]),
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 1e-9]),
    biased=st.booleans(),
)
def test_token_logprobs__values_and_gradients_of_dense_softmax(
    seed: int,
    tokens: int,
    words: int,
    chunk: int | None,
    temperature: float,
    top_p: float,
    biased: bool,
) -> None:
    hidden, weight, bias, targets = problem(seed, tokens, 3, words)
    leaves = (hidden, weight, bias) if biased else (hidden, weight)
    used = bias if biased else None
    ours = token_logprobs(
        hidden,
        weight,
        targets,
        bias=used,
        temperature=temperature,
        top_p=top_p,
        chunk_size=chunk,
    )
    theirs = dense(hidden, weight, targets, used, temperature, top_p)
    assert ours.shape == (tokens,)
    assert_close(ours, theirs)
    cotangent = torch.randn(tokens, generator=torch.Generator().manual_seed(seed)).double()
    for actual, expected in zip(
        torch.autograd.grad(ours, leaves, cotangent),
        torch.autograd.grad(theirs, leaves, cotangent),
        strict=True,
    ):
        assert_close(actual, expected)


def test_token_logprobs__top_p_by_hand() -> None:
    # Probabilities 4/8, 2/8, 1/8, 1/8, of which 0.7 needs the first two and 0.8 all four: the last
    # two are equally likely.
    hidden, weight = torch.ones((4, 1)), torch.tensor([[4.0], [2.0], [1.0], [1.0]]).log()
    for top_p, shares in (
        (0.5, (1, 2 / 6, 1 / 8, 1 / 8)),  # a word outside is in the nucleus that reaches it
        (0.7, (4 / 6, 2 / 6, 1 / 8, 1 / 8)),
        (0.8, (4 / 8, 2 / 8, 1 / 8, 1 / 8)),
    ):
        logprobs = token_logprobs(hidden, weight, torch.arange(4), top_p=top_p)
        assert_close(logprobs.exp(), torch.tensor(shares))
    floors = nucleus_floor(weight.T.expand(3, 4), torch.tensor([0.5, 0.8, 1.0]))
    assert_close(floors.exp(), torch.tensor([4.0, 1.0, 0.0]))


@pytest.mark.parametrize("looked_at", [1, 10, 100, 1000, 3000])
def test_nucleus_floor__however_large_the_nucleus_is(
    looked_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the rows have nuclei of some tokens, others of a thousand and more."""
    monkeypatch.setattr(logprobs, "NUCLEUS", looked_at)
    draws = torch.Generator().manual_seed(0)
    scale = torch.tensor([8.0, 0.5] * 10)[:, None]
    logits = scale * torch.randn((20, 3000), generator=draws, dtype=torch.float64)
    top_p = torch.linspace(0.05, 0.999, 20, dtype=torch.float64)
    floors = nucleus_floor(logits, top_p)
    for values, share, floor in zip(logits, top_p, floors, strict=True):
        probs = values.softmax(-1)
        assert probs[values >= floor].sum() >= share
        assert probs[values > floor].sum() < share


@pytest.mark.parametrize("chunk", [1, 2, 5, None])
def test_token_logprobs__finite_differences(chunk: int | None) -> None:
    hidden, weight, bias, targets = problem(0, 5, 3, 4)

    def function(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return token_logprobs(hidden, weight, targets, bias=bias, temperature=0.7, chunk_size=chunk)

    assert torch.autograd.gradcheck(function, (hidden, weight, bias))


@pytest.mark.parametrize("needed", range(1, 8))
def test_token_logprobs__any_subset_of_inputs_may_be_frozen(needed: int) -> None:
    hidden, weight, bias, targets = problem(1, 6, 3, 5)
    everything = (hidden, weight, bias)
    expected = torch.autograd.grad(dense(hidden, weight, targets, bias).sum(), everything)
    wanted = [bool(needed & 1 << place) for place in range(3)]
    leaves = [
        leaf.detach().requires_grad_(want) for leaf, want in zip(everything, wanted, strict=True)
    ]
    out = token_logprobs(leaves[0], leaves[1], targets, bias=leaves[2], chunk_size=4)
    out.sum().backward()
    for leaf, want, gradient in zip(leaves, wanted, expected, strict=True):
        if want:
            assert_close(leaf.grad, gradient)
        else:
            assert leaf.grad is None


def test_token_logprobs__no_graph_without_gradients() -> None:
    hidden, weight, _, targets = problem(1, 6, 3, 5)
    assert not token_logprobs(hidden.detach(), weight.detach(), targets).requires_grad
    with torch.no_grad():
        assert not token_logprobs(hidden, weight, targets).requires_grad


def test_token_logprobs__expected_score_is_zero() -> None:
    # Σ_y π(y) ∇ log π(y) = 0, the score identity.
    hidden, weight, bias, _ = problem(2, 1, 4, 6)
    every = token_logprobs(hidden.expand(6, 4), weight, torch.arange(6), bias=bias, chunk_size=4)
    assert_close(every.exp().sum(), torch.tensor(1.0, dtype=torch.float64))
    for gradient in torch.autograd.grad(every, (hidden, weight, bias), every.detach().exp()):
        assert_close(gradient, torch.zeros_like(gradient))


def test_token_logprobs__shifted_and_large_logits() -> None:
    hidden, weight, bias, targets = problem(3, 6, 3, 5)
    plain = token_logprobs(hidden, weight, targets, bias=bias)
    assert_close(token_logprobs(hidden, weight, targets, bias=bias + 1e4), plain, rtol=1e-9, atol=0)
    huge = token_logprobs(1e5 * hidden.float(), weight.float(), targets)
    assert huge.isfinite().all()
    for gradient in torch.autograd.grad(huge.sum(), (hidden, weight)):
        assert gradient.isfinite().all()


def test_token_logprobs__bfloat16_has_float32_softmax() -> None:
    hidden, weight, bias, targets = problem(4, 40, 8, 500, torch.bfloat16)
    out = token_logprobs(hidden, weight, targets, bias=bias, chunk_size=7)
    assert out.dtype == torch.float32
    logits = torch.nn.functional.linear(hidden, weight, bias)
    # Equal within float32 accuracy; a bfloat16 softmax would be 1 % off.
    expected = logits.double().log_softmax(-1)[torch.arange(40), targets].float()
    assert_close(out, expected, rtol=1e-5, atol=1e-5)
    cotangent = torch.randn(40, generator=torch.Generator().manual_seed(0))
    gradients = torch.autograd.grad(out, (hidden, weight, bias), cotangent)
    exact = [leaf.detach().double().requires_grad_() for leaf in (hidden, weight, bias)]
    dense_ = dense(exact[0], exact[1], targets, exact[2])
    for ours, theirs, leaf in zip(
        gradients,
        torch.autograd.grad(dense_, exact, cotangent.double()),
        (hidden, weight, bias),
        strict=True,
    ):
        assert ours.dtype == leaf.dtype
        error = (ours.double() - theirs).norm() / theirs.norm()
        assert float(error) < 0.02


def test_token_logprobs__bfloat16_gradients_summed_in_float32() -> None:
    # 1000 equal tokens, one per chunk. A bfloat16 sum of equal terms would stop growing at 256.
    hidden = torch.ones(1000, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    bias = torch.zeros(2, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.zeros(1000, dtype=torch.int64)
    token_logprobs(hidden, weight, targets, bias=bias, chunk_size=1).sum().backward()
    expected = torch.tensor([500.0, -500.0], dtype=torch.bfloat16)
    assert_close(weight.grad, expected[:, None])
    assert_close(bias.grad, expected)


def test_token_logprobs__autocast_in_both_passes() -> None:
    hidden, weight, bias, targets = problem(5, 12, 4, 9, torch.float32)
    low = [leaf.detach().bfloat16().requires_grad_() for leaf in (hidden, weight, bias)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = token_logprobs(hidden, weight, targets, bias=bias, chunk_size=5)
    expected = token_logprobs(low[0], low[1], targets, bias=low[2], chunk_size=5)
    assert out.dtype == torch.float32
    assert_close(out, expected, rtol=0, atol=0)
    gradients = torch.autograd.grad(out.sum(), (hidden, weight, bias))
    for ours, theirs in zip(gradients, torch.autograd.grad(expected.sum(), low), strict=True):
        assert ours.dtype == torch.float32
        assert_close(ours, theirs.float(), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("frozen", [False, True])
def test_token_logprobs__no_tensor_of_all_logits(dtype: torch.dtype, frozen: bool) -> None:
    tokens, width, words, chunk = 64, 4, 200, 8
    hidden, weight, bias, targets = problem(6, tokens, width, words, dtype)
    weight.requires_grad_(not frozen)
    with Largest() as forward:
        out = token_logprobs(hidden, weight, targets, bias=bias, chunk_size=chunk).sum()
    with Largest() as backward:
        out.backward()
    for largest in (forward, backward):
        assert largest.numel == chunk * words
    with Largest() as control:  # verifies that `Largest` sees the logits
        dense(hidden, weight, targets).sum().backward()
    assert control.numel == tokens * words


def test_token_logprobs__no_logits_saved_for_backward() -> None:
    hidden, weight, bias, targets = problem(7, 64, 4, 200)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        token_logprobs(hidden, weight, targets, bias=bias, chunk_size=8)
    assert kept
    assert max(tensor.numel() for tensor in kept) == weight.numel()


def test_token_logprobs__default_chunk_is_64_mib(monkeypatch: pytest.MonkeyPatch) -> None:
    assert logprobs.CHUNK_BYTES == 64 * 1024 * 1024
    monkeypatch.setattr(logprobs, "CHUNK_BYTES", 4 * 200 * 8 + 799)
    hidden, weight, bias, targets = problem(6, 64, 4, 200, torch.float32)
    with Largest() as forward:
        token_logprobs(hidden, weight, targets, bias=bias)
    assert forward.numel == 8 * 200
    monkeypatch.setattr(logprobs, "CHUNK_BYTES", 1)  # gives chunks of one token
    with Largest() as forward:
        token_logprobs(hidden, weight, targets, bias=bias)
    assert forward.numel == 4 * 200  # the weight, of which `detach` returns a view


def test_token_logprobs__second_derivative_is_an_error() -> None:
    hidden, weight, _, targets = problem(8, 3, 2, 4)
    out = token_logprobs(hidden, weight, targets).exp().sum()
    (first,) = torch.autograd.grad(out, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_token_logprobs__errors_name_shapes_and_settings() -> None:
    hidden, weight, bias, targets = problem(9, 3, 2, 4)
    with pytest.raises(ValueError, match=r"shapes \(3, 2\) and \(4, 1\) are not \(tokens, width\)"):
        token_logprobs(hidden, weight[:, :1], targets)
    with pytest.raises(ValueError, match=r"shapes \(1, 3, 2\) and \(4, 2\)"):
        token_logprobs(hidden[None], weight, targets)
    with pytest.raises(ValueError, match=r"targets: .* of shape \(2,\) is not .* shape \(3,\)"):
        token_logprobs(hidden, weight, targets[:2])
    with pytest.raises(ValueError, match=r"targets: torch\.int32 of shape"):
        token_logprobs(hidden, weight, targets.int())
    with pytest.raises(ValueError, match=r"bias: shape \(3,\) is not \(4,\), one per word"):
        token_logprobs(hidden, weight, targets, bias=bias[:3])
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"temperature: {temperature} is not > 0"):
            token_logprobs(hidden, weight, targets, temperature=temperature)
    with pytest.raises(ValueError, match="chunk_size: 0 is not ≥ 1"):
        token_logprobs(hidden, weight, targets, chunk_size=0)
    with pytest.raises(RuntimeError, match="out of bounds"):
        token_logprobs(hidden, weight, torch.full((3,), -100))


# --- completion_logprobs

SMALL: dict[str, Any] = {
    "vocab_size": 23,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def build(kind: str) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "tied":
            return Qwen2ForCausalLM(Qwen2Config(**SMALL, tie_word_embeddings=True)).double()
        if kind == "untied":
            return LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=False)).double()
        if kind == "biased":
            model = PhiForCausalLM(PhiConfig(**SMALL, resid_pdrop=0.0)).double()
            torch.nn.init.normal_(model.lm_head.bias)
            return model
        settings = GPT2Config(vocab_size=23, n_positions=32, n_embd=16, n_layer=2, n_head=2)
        settings.resid_pdrop = settings.embd_pdrop = settings.attn_pdrop = 0.0
        return GPT2LMHeadModel(settings).double()  # learned absolute positions


KINDS = ("tied", "untied", "biased", "gpt2")


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> Iterator[PreTrainedModel]:
    model = build(request.param)
    # Larger logits, as the initialized distribution is almost uniform.
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    yield model


#: Rows of 7, 4 and 5 tokens, padded to 7. Masks: a suffix with a hole, a suffix, nothing.
LENGTHS = torch.tensor([7, 4, 5])
ATTENTION = (torch.arange(7) < LENGTHS[:, None]).long()
MASK = torch.tensor([[0, 0, 1, 1, 0, 1, 1], [0, 1, 1, 1, 0, 0, 0], [0] * 7], dtype=torch.bool)
TOKENS = torch.randint(3, 23, (3, 7), generator=torch.Generator().manual_seed(0)) * ATTENTION


def alone(model: PreTrainedModel, temperature: float = 1.0) -> Tensor:
    """Log-probs by the complete model, row by row, without padding."""
    selected = []
    for tokens, length, mask in zip(TOKENS, LENGTHS.tolist(), MASK, strict=True):
        logits = model(input_ids=tokens[None, :length]).logits[0] / temperature
        rows = logits.log_softmax(-1)
        selected += [rows[place - 1, tokens[place]] for place in range(length) if mask[place]]
    return torch.stack(selected)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_completion_logprobs__independent_of_padding_and_chunks(
    model: PreTrainedModel, temperature: float
) -> None:
    expected = alone(model, temperature)
    assert float(expected.detach().std()) > 0.5
    for chunk in (1, 3, None):
        actual = completion_logprobs(
            model, TOKENS, ATTENTION, MASK, temperature=temperature, chunk_size=chunk
        )
        assert_close(actual, expected)


def test_completion_logprobs__left_padding(model: PreTrainedModel) -> None:
    shifts = (7 - LENGTHS).tolist()
    tokens, attention, mask = (
        torch.stack([row.roll(shift) for row, shift in zip(values, shifts, strict=True)])
        for values in (TOKENS, ATTENTION, MASK)
    )
    shifted = completion_logprobs(model, tokens, attention, mask)
    assert_close(shifted, completion_logprobs(model, TOKENS, ATTENTION, MASK))


def test_completion_logprobs__gradients_of_the_full_model(model: PreTrainedModel) -> None:
    names, parameters = zip(*model.named_parameters(), strict=True)
    weights = torch.linspace(-1, 2, int(MASK.sum()), dtype=torch.float64)
    actual = torch.autograd.grad(
        completion_logprobs(model, TOKENS, ATTENTION, MASK, chunk_size=3),
        parameters,
        weights,
        allow_unused=True,
    )
    expected = torch.autograd.grad(alone(model), parameters, weights, allow_unused=True)
    for name, ours, theirs in zip(names, actual, expected, strict=True):
        assert ours is not None, name
        assert_close(ours, theirs)
        assert float(ours.norm()) > 0 or "k_proj.bias" in name


def test_completion_logprobs__depend_on_prefix_only() -> None:
    model = build("untied")
    changed = TOKENS.clone()
    changed[0, 6], changed[1, 3] = (changed[0, 6] + 1) % 23, (changed[1, 3] + 1) % 23
    before, after = (completion_logprobs(model, ids, ATTENTION, MASK) for ids in (TOKENS, changed))
    same = torch.tensor([True, True, True, False, True, True, False])
    assert_close(before[same], after[same])
    assert (before != after)[~same].all()


def test_completion_logprobs__padding_may_hold_any_token() -> None:
    model = build("untied")
    noise = torch.where(ATTENTION.bool(), TOKENS, 17)
    noisy = completion_logprobs(model, noise, ATTENTION, MASK)
    assert_close(noisy, completion_logprobs(model, TOKENS, ATTENTION, MASK))


def test_completion_logprobs__decoder_gets_mask_and_no_cache(model: PreTrainedModel) -> None:
    seen: dict[str, Any] = {}
    model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    completion_logprobs(model, TOKENS, ATTENTION, MASK)
    assert_close(seen["attention_mask"], ATTENTION)
    assert seen["use_cache"] is False


def test_completion_logprobs__empty_mask_has_zero_gradient() -> None:
    model = build("tied")
    out = completion_logprobs(model, TOKENS, ATTENTION, torch.zeros_like(MASK))
    assert out.shape == (0,)
    out.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) == 0


def adapted(**changes: Any) -> Any:
    settings = {"r": 2, "target_modules": ["q_proj", "up_proj"], "task_type": TaskType.CAUSAL_LM}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = get_peft_model(build("tied"), LoraConfig(**(settings | changes))).double()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # initialized to 0, so that the adapter would have no effect
                torch.nn.init.normal_(parameter)
    return model


def test_completion_logprobs__only_adapters_are_trained() -> None:
    model = adapted()
    trained = completion_logprobs(model, TOKENS, ATTENTION, MASK, chunk_size=3)
    assert_close(trained, alone(model))
    trained.sum().backward()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            assert parameter.grad is not None and float(parameter.grad.norm()) > 0
        else:
            assert parameter.grad is None
    with model.disable_adapter():
        reference = completion_logprobs(model, TOKENS, ATTENTION, MASK)
    assert_close(reference, completion_logprobs(build("tied"), TOKENS, ATTENTION, MASK))
    assert float((reference - trained).detach().abs().max()) > 0.01


def test_completion_logprobs__gradient_checkpointing() -> None:
    model = build("untied").train()
    expected = completion_logprobs(model, TOKENS, ATTENTION, MASK)
    wanted = torch.autograd.grad(expected.sum(), list(model.parameters()))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    recomputed = completion_logprobs(model, TOKENS, ATTENTION, MASK)
    for ours, theirs in zip(
        torch.autograd.grad(recomputed.sum(), list(model.parameters())), wanted, strict=True
    ):
        assert_close(ours, theirs)


def test_completion_logprobs__no_tensor_of_all_logits() -> None:
    words = 4000
    settings = LlamaConfig(**(SMALL | {"vocab_size": words}), tie_word_embeddings=False)
    model = LlamaForCausalLM(settings)
    tokens = torch.randint(3, words, (4, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(4, 20, dtype=torch.bool)
    mask[:, 0] = False
    with Largest() as forward:
        out = completion_logprobs(model, tokens, mask | True, mask, chunk_size=2).sum()
    with Largest() as backward:
        out.backward()
    for largest in (forward, backward):
        assert largest.numel == words * 16  # the head; the logits of 76 tokens would be 76 · words


@pytest.mark.parametrize(
    ("build_it", "message"),
    [
        (lambda: adapted(target_modules=["q_proj", "lm_head"]), "the head is a Linear, not a "),
        (lambda: adapted(modules_to_save=["lm_head"]), "the head is a ModulesToSaveWrapper, not"),
        (
            lambda: get_peft_model(
                build("tied"),
                PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=2),
            ),
            "prompt learning adds tokens",
        ),
        (lambda: build("tied").model, "Qwen2Model is not a decoder with a head"),
        (
            lambda: BertLMHeadModel(BertConfig(**SMALL, is_decoder=True)),
            "BertLMHeadModel is not a decoder with a head",  # layers between the two
        ),
        (
            lambda: ModernBertDecoderForCausalLM(ModernBertDecoderConfig(**SMALL)),
            "ModernBertDecoderForCausalLM is not a decoder with a head",
        ),
        (
            lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=8)),
            r"final_logit_softcapping = 30\.0 changes its logits",
        ),
        (
            lambda: GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=2.0)),
            r"logits_scaling = 2\.0 changes its logits",
        ),
        (
            lambda: T5ForConditionalGeneration(
                T5Config(vocab_size=23, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
            ),
            "T5ForConditionalGeneration is not a decoder with a head",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_completion_logprobs__unsupported_models_are_an_error(build_it: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"model: .*{message}"):
        completion_logprobs(build_it(), TOKENS, ATTENTION, MASK)


def test_completion_logprobs__logit_scale_of_one_is_allowed() -> None:
    model = GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=1.0)).double()
    assert_close(completion_logprobs(model, TOKENS, ATTENTION, MASK), alone(model))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_ids": TOKENS[0]}, r"input_ids: shape \(7,\) is not \(rows, length\)"),
        ({"attention_mask": ATTENTION[:, 1:]}, r"attention_mask: shape \(3, 6\) is not \(3, 7\)"),
        ({"mask": MASK[:2]}, r"mask: shape \(2, 7\) is not \(3, 7\), as input_ids'"),
        ({"mask": MASK.long()}, r"mask: dtype torch\.int64 is not torch\.bool"),
        ({"mask": MASK.roll(-2, 1)}, r"mask: row 0 asks for token 0, which .* no token before"),
        ({"mask": MASK.roll(1, 1)}, r"mask: row 0 asks for token 0, which"),
        ({"mask": MASK.flip(0)}, r"mask: row 2 asks for token 5, which is padding"),
        (
            {"attention_mask": ATTENTION.flip(1), "mask": torch.arange(21).view(3, 7) == 10},
            r"mask: row 1 asks for token 3, which .* no token before",
        ),
        (
            {"attention_mask": ATTENTION.flip(1), "mask": MASK},
            r"mask: row 1 asks for token 1, which is padding",
        ),
    ],
)
def test_completion_logprobs__errors_name_masks(changes: dict[str, Tensor], message: str) -> None:
    arguments = {"input_ids": TOKENS, "attention_mask": ATTENTION, "mask": MASK} | changes
    with pytest.raises(ValueError, match=message):
        completion_logprobs(build("tied"), **arguments)
