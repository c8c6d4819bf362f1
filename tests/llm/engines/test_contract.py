"""What every engine must do, on both of them; what is special about vLLM is in `test_vllm`.

Expected log-probs come from one pass of the Transformers model over the whole text, without cache
or padding, and from numpy in float64; the trainer's from `llm.models.logprobs`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from llm.engines import Completion, Engine, EngineError, SamplingParams
from llm.engines.live import LiveEngine
from llm.engines.transformers import TransformersEngine
from llm.engines.vllm import VLLMEngine
from llm.learner.parity import ParityError, check_parity
from llm.learner.rows import MicroBatch
from llm.models.logprobs import completion_logprobs
from llm.models.lora import LoraOptions, adapt
from llm.models.policy import (
    load_policy,
    load_trainable,
    merged_state_dict,
    trainable,
)
from llm.runs import checkpoints
from tests.llm.engines.process import state_of_process
from tests.llm.tiny_models import MAX_LENGTH, VLLM, VOCABULARY, tiny_qwen2

Start = Callable[..., Engine]

#: Of unequal lengths, from less than a block of vLLM's cache (32 tokens) to more than two.
PROMPTS = [[(7 * i + 3 * t * t) % VOCABULARY for t in range(n)] for i, n in enumerate((70, 3, 41))]

#: Nats that two ways of computing a log-prob in float32 may differ by.
TOLERANCE = 1e-4

EOS = VOCABULARY - 1

ENGINES = ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)]


@pytest.fixture(scope="session")
def transformers_engine(tiny_model: Callable[[bool], Path]) -> Callable[[bool], Engine]:
    engines: dict[bool, Engine] = {}

    def engine(tied: bool) -> Engine:
        if tied not in engines:
            engines[tied] = TransformersEngine(tiny_model(tied))
        return engines[tied]

    return engine


@pytest.fixture(params=ENGINES)
def start(
    request: pytest.FixtureRequest,
    transformers_engine: Callable[[bool], Engine],
    vllm_engine: Callable[[bool], Engine],
) -> Iterator[Start]:
    """The engine on a tiny model, tied or untied; gets its first weights back in the end."""
    kind = vllm_engine if request.param == "vllm" else transformers_engine
    used = {}

    def engine(tied: bool = True) -> Engine:
        used[tied] = kind(tied)
        return used[tied]

    yield engine
    for tied, each in used.items():
        each.sync_weights(tiny_qwen2(tied=tied).state_dict())


@pytest.fixture
def engine(start: Start) -> Engine:
    return start()


def logits(model: Any, ids: Sequence[int]) -> NDArray[np.float64]:
    """Of the token after each, (len(ids), V)."""
    with torch.no_grad():
        return model(torch.tensor([list(ids)])).logits[0].double().numpy()


def distribution(
    row: NDArray[np.float64], temperature: float, top_p: float = 1.0
) -> NDArray[np.float64]:
    """softmax(row / temperature), cut to the fewest tokens that hold top_p, and normalised."""
    weights = np.exp((row - row.max()) / temperature)
    p = weights / weights.sum()
    held, kept = 0.0, np.zeros(len(p), dtype=bool)
    for token in np.argsort(-p):
        if held >= top_p:
            break
        kept[token] = True
        held += p[token]
    return np.where(kept, p, 0) / p[kept].sum()


def expected_logprobs(
    model: Any, prompt: Sequence[int], ids: Sequence[int], temperature: float, top_p: float = 1.0
) -> NDArray[np.float64]:
    rows = logits(model, [*prompt, *ids])[len(prompt) - 1 : -1]
    with np.errstate(divide="ignore"):
        return np.array(
            [
                np.log(distribution(row, temperature, top_p)[token])
                for row, token in zip(rows, ids, strict=True)
            ]
        )


def assert_same(found: Completion, expected: Completion) -> None:
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.finish_reason == expected.finish_reason
    assert np.abs(found.logprobs - expected.logprobs).max() <= TOLERANCE


def one(engine: Engine, prompt: Sequence[int], params: SamplingParams) -> Completion:
    ((completion,),) = engine.generate([prompt], [params])
    return completion


def greedy(engine: Engine) -> list[list[int]]:
    params = SamplingParams(max_tokens=16, temperature=0.0)
    return [c.ids.tolist() for (c,) in engine.generate(PROMPTS, [params] * len(PROMPTS))]


# --- the caller's process; first, because vLLM does most when it is imported and started first


def test_caller_finds_its_process_as_it_was(
    tiny_model: Callable[[bool], Path], start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny_model(False)  # imports transformers, which sets variables of its own
    params = [SamplingParams(max_tokens=12, n=2)] * len(PROMPTS)
    random.seed(1)
    before = state_of_process()
    engine = start(False)
    assert state_of_process() == before
    engine.generate(PROMPTS, params)
    engine.generate(PROMPTS, [replace(p, temperature=0.0) for p in params])
    assert state_of_process() == before
    engine.sync_weights(tiny_qwen2(tied=False).state_dict())
    assert state_of_process() == before
    assert capfd.readouterr() == ("", "")


# --- parity with the trainer


def load(folder: Path, lora: int = 0) -> Any:
    return load_policy(str(folder), lora=LoraOptions(r=lora), device=torch.device("cpu"))


def assert_parity(engine: Engine, policy: Any) -> None:
    for temperature, top_p in ((0.7, 1.0), (1.0, 1.0), (0.7, 0.8)):
        how = {"temperature": temperature, "top_p": top_p}

        def logprobs(batch: MicroBatch, how: dict[str, float] = how) -> torch.Tensor:
            return completion_logprobs(policy, *batch[1:4], **how)

        parity = check_parity(engine, logprobs, PROMPTS, **how, device=torch.device("cpu"))
        assert parity.tokens == 48 * len(PROMPTS)
        assert parity.max <= TOLERANCE


class Training:
    """AdamW steps that make texts likelier or less likely."""

    def __init__(self, policy: Any, learning_rate: float = 0.02) -> None:
        self.policy = policy
        self.optimizer = torch.optim.AdamW(trainable(policy).values(), lr=learning_rate)
        self.generator = torch.Generator().manual_seed(0)

    def step(self) -> None:
        ids = torch.randint(VOCABULARY, (4, 20), generator=self.generator)
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[:, 0] = False
        signs = torch.randn(4 * 19, generator=self.generator)
        self.optimizer.zero_grad()
        (completion_logprobs(self.policy, ids, mask | True, mask) * signs).mean().backward()
        self.optimizer.step()


@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize("tied", [True, False])
def test_parity_at_the_start_after_updates_and_after_a_resume(
    start: Start, tiny_model: Callable[[bool], Path], tmp_path: Path, tied: bool, lora: int
) -> None:
    engine, folder = start(tied), tiny_model(tied)
    policy = load(folder, lora)
    engine.sync_weights(merged_state_dict(policy, engine.dtype))
    assert_parity(engine, policy)
    training = Training(policy)
    for _ in range(3):
        training.step()
        with pytest.raises(ParityError):  # so that the next parity says something
            assert_parity(engine, policy)
        engine.sync_weights(merged_state_dict(policy, engine.dtype))
        assert_parity(engine, policy)
    reached = greedy(engine)
    weights = {name: p.detach() for name, p in trainable(policy).items()}
    checkpoints.save(tmp_path, 3, {"model": weights}, {})

    engine.sync_weights(tiny_qwen2(tied=tied).state_dict())  # what a new engine holds
    found = checkpoints.latest(tmp_path)
    assert found is not None
    resumed = load(folder, lora)
    load_trainable(resumed, checkpoints.load(found).tensors["model"])
    with pytest.raises(ParityError):
        assert_parity(engine, resumed)
    engine.sync_weights(merged_state_dict(resumed, engine.dtype))
    assert_parity(engine, resumed)
    assert_parity(engine, policy)
    assert greedy(engine) == reached


def test_a_forgotten_sync_is_found_out(engine: Engine, tiny_model: Callable[[bool], Path]) -> None:
    policy = load(tiny_model(True))
    training = Training(policy, learning_rate=1e-3)  # little is enough
    training.step()
    engine.sync_weights(merged_state_dict(policy, engine.dtype))
    assert_parity(engine, policy)
    training.step()
    with pytest.raises(ParityError, match=r"parity FAILED.*different weights.*Nothing was trained"):
        assert_parity(engine, policy)


@pytest.mark.parametrize("tied", [True, False])
def test_nothing_cached_survives_new_weights(start: Start, tied: bool) -> None:
    engine, prompt = start(tied), PROMPTS[0]
    params = SamplingParams(max_tokens=8, n=4)
    for seed in (1, 2, 0):
        engine.generate([prompt], [params])  # twice, so that the second could have been cached
        engine.generate([prompt], [params])
        model = tiny_qwen2(tied=tied, seed=seed)
        engine.sync_weights(model.state_dict())
        for completion in engine.generate([prompt], [params])[0]:
            expected = expected_logprobs(model, prompt, completion.ids.tolist(), 1.0)
            assert np.abs(completion.logprobs - expected).max() <= TOLERANCE


# --- the distribution that is sampled


@pytest.mark.parametrize("tied", [True, False])
def test_logprobs_are_those_of_the_truncated_distribution(start: Start, tied: bool) -> None:
    engine, model = start(tied), tiny_qwen2(tied=tied)
    kinds = list(product((0.7, 1.0), (1.0, 0.95, 0.4)))
    cases = [(prompt, *kind) for prompt in PROMPTS for kind in kinds]
    answers = engine.generate(
        [prompt for prompt, *_ in cases],
        [SamplingParams(24, n=3, temperature=t, top_p=p, seed=8) for _, t, p in cases],
    )
    for (prompt, temperature, top_p), completions in zip(cases, answers, strict=True):
        for c in completions:
            expected = expected_logprobs(model, prompt, c.ids.tolist(), temperature, top_p)
            assert np.isfinite(expected).all()  # no token from outside
            assert np.abs(c.logprobs - expected).max() <= TOLERANCE


@pytest.mark.parametrize("top_p", [1.0, 0.4])
def test_greedy_takes_the_likeliest_and_says_its_plain_logprob(
    engine: Engine, top_p: float
) -> None:
    model, params = tiny_qwen2(), SamplingParams(20, temperature=0.0, top_p=top_p)
    sampled = SamplingParams(5, temperature=0.7, top_p=0.9)  # in the same batch
    answers = engine.generate([*PROMPTS, *PROMPTS], [params] * 3 + [sampled] * 3)
    for prompt, (completion,) in zip(PROMPTS, answers[:3], strict=True):
        ids = completion.ids.tolist()
        rows = logits(model, [*prompt, *ids])[len(prompt) - 1 : -1]
        assert ids == rows.argmax(1).tolist()
        expected = expected_logprobs(model, prompt, ids, 1.0)
        assert np.abs(completion.logprobs - expected).max() <= TOLERANCE


def p_value(tokens: NDArray[np.int64], p: NDArray[np.float64]) -> float:
    """Of the chi-square test; tokens that are expected fewer than five times count as one."""
    counts, expected = np.bincount(tokens, minlength=len(p)), len(tokens) * p
    rare = expected < 5
    pooled = [np.append(x[~rare], x[rare].sum()) for x in (counts, expected)]
    assert len(pooled[0]) > 10
    return float(stats.chisquare(*pooled).pvalue)


def test_samples_have_the_distribution_of_the_softmax(engine: Engine) -> None:
    model, prompt = tiny_qwen2(), PROMPTS[1]
    first = distribution(logits(model, prompt)[-1], 0.7)
    # P(second) = Σ P(first) P(second | first): were both drawn by one number, it would differ.
    after = [distribution(logits(model, [*prompt, x])[-1], 0.7) for x in range(VOCABULARY)]
    second = first @ np.stack(after)
    params = [SamplingParams(2, n=100, temperature=0.7, seed=seed) for seed in range(40)]
    answers = engine.generate([prompt] * len(params), params)
    tokens = np.array([c.ids for completions in answers for c in completions])
    assert tokens.shape == (4000, 2)
    assert p_value(tokens[:, 0], first) > 1e-3
    assert p_value(tokens[:, 1], second) > 1e-3
    # One sample of each of many requests is as good as many samples of one.
    params = [SamplingParams(1, temperature=0.7, seed=seed) for seed in range(4000)]
    answers = engine.generate([prompt] * len(params), params)
    assert p_value(np.array([c.ids[0] for (c,) in answers]), first) > 1e-3
    # The test is able to fail.
    assert p_value(tokens[:, 0], distribution(logits(model, prompt)[-1], 0.8)) < 1e-6


# --- log-probs of given continuations


def test_logprobs__of_given_texts(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    # Repeated prompts, unequal lengths, one token, none.
    prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[2], PROMPTS[1], PROMPTS[1]]
    texts = [[1, 2, 3, 4, 5], [6], [2], list(range(40)), [], [6, 7]]
    expected = [
        expected_logprobs(tiny_qwen2(), prompt, text, 1.0) if text else np.zeros(0)
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    for limit in (2**28, 4 * VOCABULARY * 8):  # one batch, several
        monkeypatch.setattr("llm.engines.transformers.LOGIT_BYTES", limit)
        scores = engine.logprobs(prompts, texts)
        assert [len(each) for each in scores] == [len(text) for text in texts]
        for actual, right in zip(scores, expected, strict=True):
            assert not len(right) or np.abs(actual - right).max() <= TOLERANCE
    assert engine.logprobs([], []) == []


def test_logprobs__of_samples(engine: Engine) -> None:
    answers = engine.generate(PROMPTS, [SamplingParams(12, seed=3)] * len(PROMPTS))
    before = replace(engine.stats)
    scores = engine.logprobs(PROMPTS, [completion.ids.tolist() for (completion,) in answers])
    for actual, (completion,) in zip(scores, answers, strict=True):
        assert np.abs(actual - completion.logprobs).max() <= TOLERANCE
    work = engine.stats - before
    assert (work.prompt_tokens, work.generated_tokens) == (sum(map(len, PROMPTS)) + 36, 0)


def test_logprobs__errors(engine: Engine) -> None:
    for prompts, texts, message in (
        ([[1]], [], "continuations: 0 for 1 prompts"),
        ([[]], [[1]], "prompts: number 0 is empty"),
        ([[1]], [[VOCABULARY]], "outside the model's vocabulary"),
        ([[1]], [[1] * (MAX_LENGTH - 1)], "leaves no room"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.logprobs(prompts, texts)
    assert len(engine.logprobs([[1]], [[1] * (MAX_LENGTH - 2)])[0]) == MAX_LENGTH - 2


# --- continuing from a prefix, which is what a reset does


def test_greedy_goes_on_from_each_of_its_prefixes(engine: Engine) -> None:
    length, params = 40, SamplingParams(40, temperature=0.0)
    for prompt in PROMPTS:
        whole = one(engine, prompt, params)
        ids = whole.ids.tolist()
        answers = engine.generate(
            [prompt + ids[:k] for k in range(length)],
            [replace(params, max_tokens=length - k) for k in range(length)],
        )
        for k, (rest,) in enumerate(answers):
            assert_same(rest, Completion(whole.ids[k:], whole.logprobs[k:], "length"))


def test_samples_go_on_from_each_prefix_with_the_logprobs_of_the_whole(engine: Engine) -> None:
    model, length, met = tiny_qwen2(), 40, 0
    for prompt in PROMPTS:
        whole = one(engine, prompt, SamplingParams(length, temperature=0.7, seed=4))
        ids = whole.ids.tolist()
        answers = engine.generate(
            [prompt + ids[:k] for k in range(length)],
            [SamplingParams(3, n=8, temperature=0.7, seed=k) for k in range(length)],
        )
        for k, completions in enumerate(answers):
            for c in completions:
                text = ids[:k] + c.ids.tolist()
                expected = expected_logprobs(model, prompt, text, 0.7)[k:]
                assert np.abs(c.logprobs - expected).max() <= TOLERANCE
                if c.ids[0] == ids[k]:
                    met += 1
                    assert abs(c.logprobs[0] - whole.logprobs[k]) <= TOLERANCE
    assert met > 100


# --- seeds


def texts(completions: Sequence[Completion]) -> list[tuple[int, ...]]:
    return [tuple(c.ids.tolist()) for c in completions]


def test_a_seed_gives_the_same_samples_in_any_company(engine: Engine) -> None:
    params = [SamplingParams(12 + i, n=3, temperature=0.9, seed=5 + i) for i in range(3)]
    first = engine.generate(PROMPTS, params)
    assert [texts(c) for c in engine.generate(PROMPTS, params)] == [texts(c) for c in first]
    # In another order, among others, and alone.
    order = [2, 0, 1]
    others = [SamplingParams(30, n=5, seed=77)] * 3
    mixed = engine.generate(
        [*PROMPTS, *(PROMPTS[i] for i in order)], [*others, *(params[i] for i in order)]
    )
    alone = [engine.generate([PROMPTS[i]], [params[i]])[0] for i in order]
    for at, i in enumerate(order):
        for found in (mixed[3 + at], alone[at]):
            for completion, expected in zip(found, first[i], strict=True):
                assert_same(completion, expected)


def test_a_sample_is_the_same_among_more(engine: Engine) -> None:
    few, many = (
        engine.generate(PROMPTS, [SamplingParams(10, n=n, seed=3)] * len(PROMPTS)) for n in (2, 7)
    )
    for a, b in zip(few, many, strict=True):
        assert texts(a) == texts(b)[:2]
    longer = engine.generate(PROMPTS, [SamplingParams(20, n=2, seed=3)] * len(PROMPTS))
    for a, b in zip(few, longer, strict=True):
        assert texts(a) == [text[:10] for text in texts(b)]


def test_seeds_and_samples_differ(engine: Engine) -> None:
    # Neighbours, which seed + j would mix up, and seeds with equal low halves.
    seeds = [*range(8), 2**31, 2**32, 2**33, 2**62 - 1, 2**62]
    answers = engine.generate(
        [PROMPTS[1]] * len(seeds), [SamplingParams(12, n=8, seed=seed) for seed in seeds]
    )
    found = [text for completions in answers for text in texts(completions)]
    assert len(set(found)) == len(found) == 8 * len(seeds)


def test_two_prompts_of_one_request_are_two_requests(engine: Engine) -> None:
    params = SamplingParams(12, n=2, seed=9)
    first, second = engine.generate([PROMPTS[0], list(PROMPTS[0])], [params, params])
    assert texts(first) == texts(second)
    other = replace(params, seed=10)
    first, second = engine.generate([PROMPTS[0], PROMPTS[0]], [params, other])
    assert not set(texts(first)) & set(texts(second))


# --- limits and stops


def test_each_prompt_has_its_own_parameters(engine: Engine) -> None:
    stops = one(engine, PROMPTS[2], SamplingParams(20, seed=3)).ids.tolist()
    params = [
        SamplingParams(7, n=2, temperature=0.7, seed=1),
        SamplingParams(31, n=1, temperature=1.0, top_p=0.8, seed=2),
        SamplingParams(20, n=3, stop_token_ids=(stops[6], stops[11]), seed=3),
        SamplingParams(13, temperature=0.0),
        SamplingParams(1, n=4, temperature=1.3, top_p=0.5, seed=4),
        SamplingParams(25, n=2, temperature=0.7, top_p=0.95, stop_token_ids=(5, 9, 60), seed=5),
    ]
    prompts = [PROMPTS[i % 3] for i in range(len(params))]
    together = engine.generate(prompts, params)
    for prompt, p, completions in zip(prompts, params, together, strict=True):
        (alone,) = engine.generate([prompt], [p])
        assert len(completions) == p.n
        for found, expected in zip(completions, alone, strict=True):
            assert_same(found, expected)
            assert len(found.ids) == len(found.logprobs) <= p.max_tokens
            assert (found.ids.dtype, found.logprobs.dtype) == (np.int64, np.float64)
    assert texts(together[2])[0] == tuple(stops[: 1 + min(map(stops.index, (stops[6], stops[11])))])


def first_uses(ids: Sequence[int]) -> list[int]:
    """Places whose token has not occurred before."""
    return [k for k, token in enumerate(ids) if token not in ids[:k]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_stop_is_the_last_token(engine: Engine, temperature: float) -> None:
    plain = SamplingParams(20, temperature=temperature, seed=6)
    for prompt in PROMPTS:
        whole = one(engine, prompt, plain)
        assert (len(whole.ids), whole.finish_reason) == (20, "length")
        ids = whole.ids.tolist()
        places = first_uses(ids)
        absent = next(token for token in range(VOCABULARY) if token not in ids)
        for k, later in zip(places, [*places[1:], 0], strict=True):
            stopped = Completion(whole.ids[: k + 1], whole.logprobs[: k + 1], "stop")
            cut = Completion(whole.ids[: k + 1], whole.logprobs[: k + 1], "length")
            several = (absent, ids[max(k, later)], ids[k])
            at_the_limit = replace(plain, max_tokens=k + 1)
            (a,), (b,), (c,), (d,) = engine.generate(
                [prompt] * 4,
                [
                    replace(plain, stop_token_ids=(ids[k],)),
                    replace(plain, stop_token_ids=several),
                    replace(at_the_limit, stop_token_ids=(ids[k],)),
                    replace(at_the_limit, stop_token_ids=(absent,)),
                ],
            )
            assert_same(a, stopped)
            assert_same(b, stopped)
            assert_same(c, stopped)
            assert_same(d, cut)


def test_eos_ends_a_completion_where_it_is_named(engine: Engine) -> None:
    params = SamplingParams(60, n=32)
    (unstopped,) = engine.generate([PROMPTS[1]], [params])
    (stopped,) = engine.generate([PROMPTS[1]], [replace(params, stop_token_ids=(EOS,))])
    ended = 0
    for whole, found in zip(unstopped, stopped, strict=True):
        ids = whole.ids.tolist()
        assert (len(ids), whole.finish_reason) == (60, "length")
        end = ids.index(EOS) + 1 if EOS in ids else 60
        ended += end < 60
        reason = "stop" if EOS in ids else "length"
        assert_same(found, Completion(whole.ids[:end], whole.logprobs[:end], reason))
    assert 0 < ended < 32


def test_stops_outside_the_vocabulary_never_come(engine: Engine) -> None:
    params = SamplingParams(6, seed=1)
    found = one(engine, PROMPTS[1], replace(params, stop_token_ids=(-1, VOCABULARY, 10**6)))
    assert_same(found, one(engine, PROMPTS[1], params))


def test_prompts_of_unequal_length_do_not_disturb_each_other(engine: Engine) -> None:
    prompts = [PROMPTS[0][:n] for n in (1, 2, 3, 17, 31, 32, 33, 64, 70)]
    for temperature in (0.0, 1.0):
        params = [SamplingParams(16, temperature=temperature, seed=i) for i in range(len(prompts))]
        together = engine.generate(prompts, params)
        for prompt, p, (found,) in zip(prompts, params, together, strict=True):
            assert_same(found, one(engine, prompt, p))
            expected = expected_logprobs(tiny_qwen2(), prompt, found.ids.tolist(), 1.0)
            assert np.abs(found.logprobs - expected).max() <= TOLERANCE


def test_a_call_may_be_larger_than_a_batch(engine: Engine) -> None:
    # 300 samples, more than the 256 of a batch; 6000 tokens of prompts, more than vLLM's 4096.
    prompts = [[(i * t + t * t) % VOCABULARY for t in range(200)] for i in range(30)]
    params = [SamplingParams(3, n=10, temperature=0.7, seed=i) for i in range(30)]
    together = engine.generate(prompts, params)
    for i in (0, 14, 29):
        (alone,) = engine.generate(prompts[i : i + 1], params[i : i + 1])
        for found, expected in zip(together[i], alone, strict=True):
            assert_same(found, expected)


def test_a_completion_may_fill_the_model(engine: Engine) -> None:
    assert engine.max_model_len == MAX_LENGTH
    model = tiny_qwen2()
    for room in (1, 40):
        prompt = [(5 * t) % VOCABULARY for t in range(MAX_LENGTH - room)]
        found = one(engine, prompt, SamplingParams(room))
        assert (len(found.ids), found.finish_reason) == (room, "length")
        expected = expected_logprobs(model, prompt, found.ids.tolist(), 1.0)
        assert np.abs(found.logprobs - expected).max() <= TOLERANCE


def test_ids_may_be_lists_tuples_or_arrays(engine: Engine) -> None:
    params, prompt = SamplingParams(5), PROMPTS[1]
    kinds: list[Any] = [prompt, tuple(prompt), np.array(prompt), np.array(prompt, dtype=np.int32)]
    answers = engine.generate(kinds, [params] * len(kinds))
    assert len({texts(c)[0] for c in answers}) == 1
    assert engine.generate([], []) == []


# --- errors


def test_impossible_requests_are_named_and_change_nothing(engine: Engine) -> None:
    before = greedy(engine)
    good, params = PROMPTS[1], SamplingParams(16)
    cases: list[tuple[list[Any], int, str]] = [
        ([good, [1] * 250], 2, "number 1 has 250 tokens.* max_tokens=16 in max_model_len=256;"),
        ([[1] * (MAX_LENGTH - 15)], 1, "number 0 has 241 tokens, which leaves no room"),
        ([good, []], 2, "prompts: number 1 is empty"),
        ([good, good], 1, "params: 1 for 2 prompts"),
        ([good], 2, "params: 2 for 1 prompts"),
        ([good, [3, VOCABULARY]], 2, "number 1 has a token outside .* 0 … 63: 64$"),
        ([[5, -1, 3]], 1, "number 0 has a token outside .* 0 … 63: -1$"),
    ]
    spent = replace(engine.stats)
    for prompts, count, message in cases:
        with pytest.raises(ValueError, match=message):
            engine.generate(prompts, [params] * count)
    assert engine.stats == spent
    assert greedy(engine) == before


def without(weights: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in weights.items() if key != name}


@pytest.mark.parametrize("tied", [True, False])
def test_weights_that_do_not_fit_are_named_and_change_nothing(start: Start, tied: bool) -> None:
    engine, last = start(tied), "model.norm.weight"
    before = greedy(engine)
    new = tiny_qwen2(tied=tied, seed=5).state_dict()
    down, wide = "model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight"
    cases = [
        (without(new, last), f"missing {last}, unknown none"),
        (without(new, "lm_head.weight"), "missing lm_head.weight"),
        (new | {"model.other": new[last]}, "missing none, unknown model.other"),
        ({f"base.{k}": v for k, v in new.items()}, r"missing .* and \d+ more, unknown base"),
        (new | {down: new[down][:-1]}, r"down_proj.weight has shape \(63, 128\).* \(64, 128\)"),
        (new | {wide: new[wide][:-1]}, r"embed_tokens.weight has shape \(63, 64\)"),
        (new | {last: new[last].bfloat16()}, f"{last} is torch.bfloat16, .* torch.float32"),
        ({}, "missing .* more, unknown none"),
    ]
    for weights, message in cases:
        with pytest.raises(ValueError, match=f"^state_dict: .*{message}"):
            engine.sync_weights(weights)
        assert greedy(engine) == before
    engine.sync_weights(new)
    assert greedy(engine) != before


@pytest.mark.parametrize("kind", ENGINES)
def test_a_closed_engine_says_so(tiny_model: Callable[[bool], Path], kind: str) -> None:
    folder, other = tiny_model(True), None
    if kind == "vllm":
        other = VLLMEngine(folder, **VLLM)
    engine: Engine = other or TransformersEngine(folder)
    one(engine, PROMPTS[0], SamplingParams(2))
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="is closed; make a new one"):
        one(engine, PROMPTS[0], SamplingParams(2))
    with pytest.raises(EngineError, match="is closed; make a new one"):
        engine.sync_weights(tiny_qwen2().state_dict())


# --- the rest


def test_work_is_counted(engine: Engine) -> None:
    engine.sync_weights(tiny_qwen2().state_dict())  # nothing is cached
    stop = one(engine, [1], SamplingParams(9, seed=2)).ids.tolist()[3]
    counts = (4, 1, 3)
    params = [SamplingParams(9, n=n, stop_token_ids=(stop,)) for n in counts]
    engine.sync_weights(tiny_qwen2().state_dict())
    before = replace(engine.stats)
    answers = engine.generate(PROMPTS, params)
    work = engine.stats - before
    lengths = [len(prompt) for prompt in PROMPTS]
    assert work.prompt_tokens == sum(n * size for n, size in zip(counts, lengths, strict=True))
    assert work.generated_tokens == sum(len(c.ids) for answer in answers for c in answer)
    blocks = [size // 32 * 32 for size in lengths]
    cached = [sum((n - 1) * x for n, x in zip(counts, xs, strict=True)) for xs in (blocks, lengths)]
    assert cached[0] <= work.cached_tokens <= cached[1]
    assert work.seconds > 0
    assert engine.stats - engine.stats == type(work)()


def test_sleeping_and_waking_lose_nothing(engine: Engine) -> None:
    weights = tiny_qwen2(seed=5).state_dict()
    engine.sync_weights(weights)
    before = greedy(engine)
    engine.wake()
    engine.sleep()
    engine.sleep()
    engine.wake()
    engine.wake()
    assert greedy(engine) == before
    engine.sleep()
    engine.wake()
    engine.sync_weights(weights)
    assert greedy(engine) == before


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_copied(start: Start, tied: bool) -> None:
    engine, model = start(tied), tiny_qwen2(tied=tied, seed=5)
    weights = {name: w.clone() for name, w in model.state_dict().items()}
    engine.sync_weights(weights)
    before = greedy(engine)
    for tensor in weights.values():
        tensor.zero_()  # as the optimizer does, in place
    assert greedy(engine) == before


# --- what only the Transformers engine could get wrong


def test_turns_do_not_show(tiny_model: Callable[[bool], Path]) -> None:
    whole = TransformersEngine(tiny_model(True))
    turns = TransformersEngine(tiny_model(True), max_num_seqs=3)
    params = [SamplingParams(9, n=n, seed=n) for n in (2, 5, 1)]
    for a, b in zip(whole.generate(PROMPTS, params), turns.generate(PROMPTS, params), strict=True):
        for found, expected in zip(b, a, strict=True):
            assert_same(found, expected)


def test_its_model_is_a_copy(tiny_model: Callable[[bool], Path]) -> None:
    model = tiny_qwen2()
    engine = TransformersEngine(model)
    before = greedy(engine)
    assert greedy(TransformersEngine(tiny_model(True))) == before
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert greedy(engine) == before


@pytest.mark.parametrize("engine_class", [TransformersEngine, LiveEngine])
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
def test_absolute_positions_count_no_padding(engine_class: Any, adapted: bool) -> None:
    # Rotary embeddings, as in Qwen2, look the same if all positions of a row are shifted.
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=96, n_embd=32, n_layer=2, n_head=2, eos_token_id=EOS
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    if adapted:
        model = adapt(model, LoraOptions(r=2, target_modules=["c_fc"])).eval()
    engine = engine_class(model)
    params = [SamplingParams(20 - 6 * i, n=2, seed=i) for i in range(len(PROMPTS))]
    for prompt, completions in zip(PROMPTS, engine.generate(PROMPTS, params), strict=True):
        for c in completions:
            expected = expected_logprobs(model, prompt, c.ids.tolist(), 1.0)
            assert np.abs(c.logprobs - expected).max() <= TOLERANCE
