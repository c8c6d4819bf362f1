"""The thought MDP: splits into thoughts, engine requests, agreement with the tabular world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

import cpi
from cpi.core.collect import collect
from cpi.core.episodes import Episode, Prefix
from cpi.core.plans import GroupPlan
from cpi.core.resets import OracleReset, RandomReset, SelfReset
from cpi.tabular.simulator import TabularOracle, TabularSimulator
from envs.reasoning import ChainTask, Problem
from llm.chain.model import chain_model, chain_tokenizer
from llm.engines import SamplingParams
from llm.engines.transformers import TransformersEngine
from llm.learner.rows import make_rows
from llm.resets.oracles import checker_rule
from llm.tasks import ChainReasoning, Example
from llm.thoughts.options import ThoughtLimits
from llm.thoughts.simulator import (
    Prompt,
    ThoughtSimulator,
    encode,
    is_cut,
    stop_token_ids,
    token_ids,
)
from tests.cpi.scripted import ScriptedLocalizer, assert_drawn_from, assert_mean, at_step
from tests.cpi.worlds import repeatable
from tests.llm.small import EOS, Essay, ScriptedEngine, byte_tokenizer, word_tokenizer

#: The delimiter as one token, in pieces, and inside tokens that hold more.
WORDS = [
    *("a", "b", "ab", "good", "</", "thought", ">", "</thou", "ght>", "</thought>", "}"),
    *("x</thought>y", "</thought></thought>", "</thought></thou"),
]
TOKENIZER = word_tokenizer(WORDS)
ID = TOKENIZER.get_vocab()
D = "</thought>"
WIDE = ThoughtLimits(max_completion_length=40, max_thoughts=20, max_thought_tokens=40)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def ids_of(*words: str) -> list[int]:
    return [ID[word] for word in words]


def simulator(
    script: Any, limits: ThoughtLimits = WIDE, *, stop: tuple[str, ...] = (), **options: Any
) -> tuple[ThoughtSimulator, ScriptedEngine, Essay]:
    """A simulator whose engine returns `script`, a list of tokens or a function."""
    engine = ScriptedEngine(script if callable(script) else lambda prompt, params, j: script)
    task = Essay(stop=stop)
    return ThoughtSimulator(engine, TOKENIZER, task, limits, **options), engine, task


def start() -> Prefix:
    return Prefix(Prompt((ID["a"], ID["b"]), Example("essay", "ab")))


def words_and_ends(episode: Episode) -> list[tuple[str, str]]:
    """The words of each thought, separated by blanks, and its end."""
    return [
        (" ".join(TOKENIZER.convert_ids_to_tokens(list(thought.ids))), thought.end)
        for thought in episode.steps
    ]


# --- where thoughts end ---

SPLITS: dict[str, tuple[str, dict[str, int], list[tuple[str, str]]]] = {
    "one token": (
        f"a {D} b {EOS}", {}, [(f"a {D}", "delimiter"), (f"b {EOS}", "stop")],
    ),
    "with more in the token": (
        f"a x{D}y b {EOS}", {}, [(f"a x{D}y", "delimiter"), (f"b {EOS}", "stop")],
    ),
    "three tokens": (
        f"a </ thought > b {EOS}", {}, [("a </ thought >", "delimiter"), (f"b {EOS}", "stop")],
    ),
    "two tokens": (
        f"</thou ght> ght> {EOS}", {}, [("</thou ght>", "delimiter"), (f"ght> {EOS}", "stop")],
    ),
    "interrupted": (f"</ a thought > {EOS}", {}, [(f"</ a thought > {EOS}", "stop")]),
    "twice in a token": (
        f"a {D}{D} b {EOS}", {}, [(f"a {D}{D}", "delimiter"), (f"b {EOS}", "stop")],
    ),
    "what is left of a token opens no delimiter": (
        f"{D}</thou ght> {EOS}", {}, [(f"{D}</thou", "delimiter"), (f"ght> {EOS}", "stop")],
    ),
    "EOS right after": (f"a {D} {EOS}", {}, [(f"a {D}", "delimiter"), (EOS, "stop")]),
    "EOS alone": (EOS, {}, [(EOS, "stop")]),
    "EOS before the delimiter is complete": (f"</ {EOS}", {}, [(f"</ {EOS}", "stop")]),
    "too long a thought": (
        f"a {D} a b a b", {"max_thought_tokens": 2, "max_thoughts": 3},
        [(f"a {D}", "delimiter"), ("a b", "cut")],
    ),
    "delimiter on the last token allowed": (
        f"a b {D} b {EOS}", {"max_thought_tokens": 3},
        [(f"a b {D}", "delimiter"), (f"b {EOS}", "stop")],
    ),
    "EOS on the last token allowed": (
        f"a b {EOS}", {"max_thought_tokens": 3}, [(f"a b {EOS}", "stop")],
    ),
    "EOS one token too late": (f"a b a {EOS}", {"max_thought_tokens": 3}, [("a b a", "cut")]),
    "too many thoughts": (
        f"a {D} b {D} a {EOS}", {"max_thoughts": 2}, [(f"a {D}", "delimiter"), (f"b {D}", "cut")],
    ),
    "last thought allowed stops": (
        f"a {D} b {EOS}", {"max_thoughts": 2}, [(f"a {D}", "delimiter"), (f"b {EOS}", "stop")],
    ),
    "too long an episode": (
        f"a {D} b a", {"max_completion_length": 4}, [(f"a {D}", "delimiter"), ("b a", "cut")],
    ),
    "too long, and delimited": (
        f"a {D} b {D}", {"max_completion_length": 4}, [(f"a {D}", "delimiter"), (f"b {D}", "cut")],
    ),
    "EOS on the last token of the episode": (
        f"a {D} b {EOS}", {"max_completion_length": 4},
        [(f"a {D}", "delimiter"), (f"b {EOS}", "stop")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPLITS)
def test_rollout__splits_into_thoughts(name: str) -> None:
    text, limits, expected = SPLITS[name]
    script = ids_of(*text.split())
    sim, engine, task = simulator(script, replace(WIDE, **limits))
    ((episode,),) = sim.rollout([start()], 1, rng())
    assert words_and_ends(episode) == expected
    kept = token_ids(episode.steps)
    assert kept == script[: len(kept)]
    assert is_cut(episode) == (expected[-1][1] == "cut")
    # The cost includes generated tokens that a limit discards.
    generated = min(len(script), engine.calls[0][1][0].max_tokens)
    assert episode.cost == generated
    assert task.read == [TOKENIZER.decode(kept, skip_special_tokens=True)]


def test_rollout__discarded_tokens_cost_but_are_not_verified() -> None:
    limits = ThoughtLimits(max_completion_length=9, max_thoughts=2, max_thought_tokens=3)
    sim, _, task = simulator(ids_of("a", D, "b", D, "good", EOS), limits)
    ((episode,),) = sim.rollout([start()], 1, rng())
    assert (len(token_ids(episode.steps)), episode.cost) == (4, 6)
    assert (episode.ret, episode.failed, task.read) == (0.0, True, [f"a{D}b{D}"])


@st.composite
def token_sequences(draw: st.DrawFn) -> tuple[list[int], ThoughtLimits]:
    limits = ThoughtLimits(*(draw(st.integers(1, most)) for most in (14, 5, 6)))
    longest = min(limits.max_completion_length, limits.max_thoughts * limits.max_thought_tokens)
    likely = st.sampled_from([D, "</", "thought", ">", "</thou", "ght>"])
    word = st.one_of(st.sampled_from([*WORDS, EOS]), likely)
    return ids_of(*draw(st.lists(word, min_size=longest, max_size=longest))), limits


@repeatable
@given(token_sequences())
def test_rollout__any_token_sequence(case: tuple[list[int], ThoughtLimits]) -> None:
    script, limits = case
    sim, engine, task = simulator(script, limits, stop=("}",))
    ((episode,),) = sim.rollout([start()], 1, rng())
    (params,) = engine.calls[0][1]
    (completion,) = ScriptedEngine(lambda *_: script).generate([[1]], [params])[0]
    ids, thoughts = completion.ids.tolist(), episode.steps

    kept = token_ids(thoughts)
    assert thoughts and all(thought.ids for thought in thoughts)
    assert kept == ids[: len(kept)]
    scores = np.concatenate([thought.logprobs for thought in thoughts])
    np.testing.assert_array_equal(scores, completion.logprobs[: len(kept)])
    assert len(thoughts) <= limits.max_thoughts
    for number, thought in enumerate(thoughts, 1):
        words = [TOKENIZER.convert_ids_to_tokens(token) for token in thought.ids]
        delimited, early = D in "".join(words), D in "".join(words[:-1])
        assert not early  # the thought would have ended earlier
        assert len(words) <= limits.max_thought_tokens
        assert thought.text == "".join(words).removesuffix(EOS)
        assert (thought.end == "delimiter") == (number < len(thoughts))
        if thought.end == "delimiter":
            assert delimited
        elif thought.end == "stop":
            assert kept == ids and completion.finish_reason == "stop"
        else:
            too_long = len(words) == limits.max_thought_tokens and not delimited
            too_many = number == limits.max_thoughts
            assert too_long or too_many or (kept == ids and completion.finish_reason == "length")
            assert not (kept == ids and completion.finish_reason == "stop")
    assert episode.cost == len(ids)
    text = TOKENIZER.decode(kept, skip_special_tokens=True)
    assert task.read == [text] and episode.ret == float("good" in text)
    assert episode.failed == (episode.ret < 1)


@repeatable
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=4))
def test_rollout__characters_of_several_tokens(texts: list[str]) -> None:
    # Every token is a byte, so characters and the delimiter span several tokens.
    tokenizer = byte_tokenizer()
    texts = [text.replace("<", "") for text in texts]
    text = D.join(texts)
    script = [*tokenizer(text).input_ids, tokenizer.eos_token_id]
    engine = ScriptedEngine(lambda *_: script)
    sim = ThoughtSimulator(engine, tokenizer, Essay(), ThoughtLimits(999, 99, 999))
    ((episode,),) = sim.rollout([start()], 1, rng())
    assert [t.text for t in episode.steps] == [t + D for t in texts[:-1]] + [*texts[-1:], ""][:1]
    assert token_ids(episode.steps) == script


# --- engine requests ---


def test_rollout__one_engine_call_with_unchanged_prefix_tokens() -> None:
    # Tokenising the text again would merge "a" and "b" to "ab".
    sim, engine, _ = simulator(
        ids_of("a", "b", D, "</", "thought", ">", "b", EOS),
        ThoughtLimits(max_completion_length=12, max_thoughts=3, max_thought_tokens=6),
        temperature=0.7,
        top_p=0.9,
        eos_token_ids=(ID[">"] + 1000,),
    )
    ((episode, _),) = sim.rollout([start()], 2, rng())
    assert len(engine.calls) == 1
    prefixes = [start(), *(episode.prefix(k) for k in range(episode.length))]
    groups = sim.rollout(prefixes, 3, rng(1))
    assert len(engine.calls) == 2
    contexts, params = engine.calls[1]
    prompt = list(start().start.ids)
    assert contexts == [
        prompt,
        prompt,
        prompt + ids_of("a", "b", D),
        prompt + ids_of("a", "b", D, "</", "thought", ">"),
    ]
    assert [p.max_tokens for p in params] == [12, 12, 9, 6]
    assert {(p.n, p.temperature, p.top_p) for p in params} == {(3, 0.7, 0.9)}
    assert {p.stop_token_ids for p in params} == {tuple(sorted((ID[EOS], ID[">"] + 1000)))}
    assert len({p.seed for p in params}) == 4
    for prefix, group, p in zip(prefixes, groups, params, strict=True):
        assert len(group) == 3
        for each in group:
            assert each.origin is prefix and each.steps[: prefix.length] == prefix.steps
            assert each.cost == min(8, p.max_tokens)  # of the suffix alone


def test_rollout__max_tokens_by_remaining_thoughts() -> None:
    limits = ThoughtLimits(max_completion_length=30, max_thoughts=3, max_thought_tokens=4)
    sim, engine, _ = simulator(ids_of("a", D, "b", D, "a", EOS), limits)
    ((episode,),) = sim.rollout([start()], 1, rng())
    again = sim.rollout([episode.prefix(k) for k in range(3)], 1, rng())
    assert [p.max_tokens for p in engine.calls[1][1]] == [12, 8, 4]
    # Each rollout is a, b, a: too many thoughts after a prefix of one or two.
    assert [each.length for (each,) in again] == [3, 3, 3]
    assert [is_cut(each) for (each,) in again] == [False, True, True]


@repeatable
@given(token_sequences())
def test_rollout__every_prefix_has_room_within_limits(
    case: tuple[list[int], ThoughtLimits],
) -> None:
    script, limits = case
    sim, engine, _ = simulator(script, limits)
    ((episode,),) = sim.rollout([start()], 1, rng())
    again = sim.rollout([episode.prefix(k) for k in range(episode.length)], 1, rng())
    assert all(p.max_tokens >= 1 for p in engine.calls[1][1])
    for (each,) in again:
        assert each.length <= limits.max_thoughts
        assert len(token_ids(each.steps)) <= limits.max_completion_length


def test_rollout__engine_seeds_by_generator() -> None:
    sim, engine, _ = simulator(ids_of("a", EOS))
    for seed in (0, 0, 1):
        sim.rollout([start()] * 3, 1, rng(seed))
    first, again, other = ([p.seed for p in params] for _, params in engine.calls)
    assert first == again and not set(first) & set(other)


def test_rollout__no_prefixes() -> None:
    sim, engine, _ = simulator(ids_of("a", EOS))
    assert sim.rollout([], 4, rng()) == [] and engine.calls == []


# --- prompts and stop tokens ---

CHAT = (
    "{% for m in messages %}{{ m['role'][0] }}{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}a{% endif %}"
)


def chat_tokenizer() -> Any:
    """A tokenizer that adds <bos> to texts, and whose chat template adds it, too."""
    tokenizer = word_tokenizer(["<bos>", "u", "s", "a", "b", "ab"])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 0)]
    )
    tokenizer.chat_template = "<bos>" + CHAT
    return tokenizer


def test_encode() -> None:
    tokenizer = chat_tokenizer()
    words = tokenizer.convert_ids_to_tokens
    assert words(list(encode(tokenizer, "abb"))) == ["<bos>", "ab", "b"]
    messages = [{"role": "system", "content": "b"}, {"role": "user", "content": "ab"}]
    assert words(list(encode(tokenizer, messages))) == ["<bos>", "s", "b", "u", "ab", "a"]


def test_encode__one_bos_and_no_eos() -> None:
    tokenizer = chat_tokenizer()
    tokenizer.bos_token = "<bos>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"<bos> $A {EOS}", special_tokens=[("<bos>", 0), (EOS, tokenizer.eos_token_id)]
    )
    words = tokenizer.convert_ids_to_tokens
    assert words(list(encode(tokenizer, "abb"))) == ["<bos>", "ab", "b"]
    # A text that a chat template has made already; one whose author wants an EOS.
    assert words(list(encode(tokenizer, "<bos>ua"))) == ["<bos>", "u", "a"]
    assert words(list(encode(tokenizer, f"a{EOS}"))) == ["<bos>", "a", EOS]
    messages = [{"role": "user", "content": "ab"}]
    assert words(list(encode(tokenizer, messages))) == ["<bos>", "u", "ab", "a"]


def test_rollout__ids_without_a_text() -> None:
    # The head of many models is wider than the tokenizer, so that such ids may be sampled.
    beyond = 10**5
    sim, _, _ = simulator([*ids_of("a"), beyond, *ids_of(EOS)])
    ((episode,),) = sim.rollout([start()], 1, rng())
    assert token_ids(episode.steps) == [*ids_of("a"), beyond, *ids_of(EOS)]
    assert "".join(thought.text for thought in episode.steps) == "a"


def test_encode_chain_with_a_template() -> None:
    task = ChainReasoning(length=2, train=1, test=1)
    tokenizer = chain_tokenizer(task.chain)
    text = "3 +3 *3\n"
    assert encode(tokenizer, text) == tuple(tokenizer(text).input_ids)
    with pytest.raises(ValueError, match=r"^prompt: chat messages, .* has no chat template; use"):
        encode(tokenizer, [{"role": "user", "content": text}])
    tokenizer.chat_template = CHAT.replace("{{ m['role'][0] }}", "").replace("}a{", "}?{")
    prompt_ids = encode(tokenizer, [{"role": "user", "content": text}])
    assert prompt_ids == tuple(tokenizer(text + "?").input_ids)
    engine = ScriptedEngine(lambda *_: [])
    example = Example("x", [{"role": "user", "content": text}])
    prompt = ThoughtSimulator(engine, tokenizer, task, WIDE).prompt(example)
    assert prompt == (prompt_ids, example, "")


def test_stop_token_ids() -> None:
    assert stop_token_ids(TOKENIZER, Essay()) == (ID[EOS],)
    assert stop_token_ids(TOKENIZER, Essay(stop=("}",)), [999, ID[EOS]]) == tuple(
        sorted((ID["}"], ID[EOS], 999))
    )
    without = word_tokenizer(WORDS, eos=None)
    assert stop_token_ids(without, Essay(stop=("}",))) == (ID["}"],)
    assert stop_token_ids(without, Essay(), [7]) == (7,)
    with pytest.raises(ValueError, match="no EOS token, so no episode would ever end"):
        stop_token_ids(without, Essay())
    with pytest.raises(ValueError, match="stop: 'ab}' is 2 tokens of this tokenizer, not one"):
        stop_token_ids(TOKENIZER, Essay(stop=("}", "ab}")))


def test_stop_token_ids__ignores_bos_of_stop_text() -> None:
    tokenizer = chat_tokenizer()
    assert stop_token_ids(tokenizer, Essay(stop=("ab",))) == tuple(
        sorted((tokenizer.eos_token_id, tokenizer.get_vocab()["ab"]))
    )


@pytest.mark.parametrize("name", ["max_completion_length", "max_thoughts", "max_thought_tokens"])
def test_thought_limits__at_least_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: 0 is not a whole number ≥ 1"):
        ThoughtLimits(**{name: 0})


# --- SRPO that resets at step 1, with one group, is GRPO ---


class Mixed(ChainReasoning):
    """Rewards completions with an even number of characters, which an untrained model can write."""

    def reward(self, example: Example, completion: str) -> float:
        return float(len(completion) % 2 == 0)


def test_srpo__resets_to_prompt_equal_grpo() -> None:
    task = Mixed(length=3, modulus=5, operations=["+1", "*2"], train=6, test=1)
    tokenizer = chain_tokenizer(task.chain)
    model = chain_model(tokenizer, hidden_size=32, layers=1)
    limits = ThoughtLimits(max_completion_length=24, max_thoughts=4, max_thought_tokens=16)

    def groups(plan: GroupPlan, localizer: Any) -> cpi.Collection:
        sim = ThoughtSimulator(TransformersEngine(model), tokenizer, task, limits)
        starts = [sim.prompt(example) for example in task.examples("train")]
        return collect(sim, starts, plan, SelfReset(localizer), rng(3))

    localizer = ScriptedLocalizer(at_step(0))
    grpo, srpo = groups(GroupPlan(8), localizer), groups(GroupPlan(0, 1, 8), localizer)
    assert 0 < srpo.ledger.resets_accepted < 6 == len(grpo) == len(srpo)  # resets and fallbacks
    for fresh, reset in zip(grpo, srpo, strict=True):
        assert fresh.seed is None and reset.prefix.length == 0
        assert len({episode.steps[0].ids for episode in fresh.episodes}) > 1
        for one, other in zip(fresh.episodes, reset.episodes, strict=True):
            assert token_ids(one.steps) == token_ids(other.steps)
            assert [t.end for t in one.steps] == [t.end for t in other.steps]
            assert (one.ret, one.cost) == (other.ret, other.cost)
    advantages = [cpi.group_advantages([g.returns for g in each]) for each in (grpo, srpo)]
    rows = [make_rows(g, a) for g, a in zip((grpo, srpo), advantages, strict=True)]
    for one, other in zip(*rows, strict=True):
        for mine, its in zip(one, other, strict=True):
            np.testing.assert_array_equal(mine, its)
    assert grpo.ledger.trained_steps == srpo.ledger.trained_steps


# --- the tabular world and the language world agree ---

CHAIN = ChainTask(5, ("+1", "*2"))
TOKENS = chain_tokenizer(CHAIN)


class ChainWriter:
    """Reads the state from the text, and draws the next values from a policy table."""

    def __init__(self, policy: np.ndarray) -> None:
        self.policy = policy

    def __call__(self, prompt: Sequence[int], params: SamplingParams, j: int) -> list[int]:
        draws = rng([params.seed, j])  # type: ignore[arg-type]
        first, _, rest = TOKENS.decode(prompt).partition("\n")
        value, *operations = first.split()
        problem = Problem(int(value), tuple(operations))
        values: list[Any] = CHAIN.parse_steps(problem, rest)
        while len(values) < problem.length:
            clean = CHAIN.first_error(problem, values) == len(values) + 1
            last = values[-1] if values else problem.start
            row = self.policy[CHAIN.state_index(len(values), last, clean)]
            values.append(int(draws.choice(len(row), p=row)))
        text = CHAIN.render_steps(problem, values)[len(rest) :]
        return list(TOKENS(text).input_ids)


def both(
    problem: Problem, policy: np.ndarray, plan: GroupPlan, rule: str, starts: int, seed: int
) -> tuple[cpi.Collection, cpi.Collection]:
    """The same collection in the tabular world and in the language world."""
    mdp = CHAIN.mdp(problem)
    oracle = TabularOracle(cpi.evaluate(mdp, policy))
    task = ChainReasoning(length=problem.length, modulus=5, operations=CHAIN.operations, train=1,
                          test=1)  # fmt: skip
    checker = checker_rule(task)
    assert checker is not None
    late = SelfReset(lambda episodes: [1.0 + np.arange(e.length) for e in episodes])
    rules: dict[str, Any] = {"random": (RandomReset(), RandomReset()), "late": (late, late)}
    rules["first error"] = OracleReset(oracle, "first_error"), checker
    tabular = collect(
        TabularSimulator(mdp, policy),
        [CHAIN.state_index(0, problem.start)] * starts,
        plan,
        rules[rule][0],
        rng(seed),
    )
    sim = ThoughtSimulator(ScriptedEngine(ChainWriter(policy)), TOKENS, task, WIDE)
    example = Example("chain", CHAIN.render(problem), problem)
    language = collect(sim, [sim.prompt(example)] * starts, plan, rules[rule][1], rng(seed))
    return tabular, language


def values_of(episode: Episode) -> list[int]:
    return [int(t.text.removeprefix("\\boxed{").rstrip("}\n")) for t in episode.steps]


@st.composite
def deterministic(draw: st.DrawFn) -> tuple[Problem, np.ndarray]:
    """A problem, and a policy that is right in most states and wrong in others."""
    length = draw(st.integers(1, 4))
    operations = draw(st.lists(st.sampled_from(CHAIN.operations), min_size=length, max_size=length))
    problem = Problem(draw(st.integers(0, 4)), tuple(operations))
    policy = CHAIN.noisy_policy(problem, 0.0)
    for state in draw(st.lists(st.integers(0, len(policy) - 2), max_size=25)):
        policy[state] = np.eye(5)[draw(st.integers(0, 4))]
    return problem, policy


PLANS = [
    GroupPlan(8),
    GroupPlan(4, 1, 4),
    GroupPlan(3, 2, 2, seeds="any", choice="deepest"),
    GroupPlan(0, 2, 4),
    GroupPlan(0, 1, 8, seeds="any"),
]


@repeatable
@given(
    deterministic(),
    st.sampled_from(PLANS),
    st.sampled_from(["random", "late", "first error"]),
    st.integers(0, 9),
)
def test_worlds_agree_on_a_deterministic_policy(
    case: tuple[Problem, np.ndarray], plan: GroupPlan, rule: str, seed: int
) -> None:
    tabular, language = both(*case, plan, rule, starts=2, seed=seed)
    assert len(tabular) == len(language)
    for one, other in zip(tabular, language, strict=True):
        assert (one.start, one.prefix.length) == (other.start, other.prefix.length)
        assert (one.seed is None) == (other.seed is None)
        np.testing.assert_array_equal(one.returns, other.returns)
        for mine, its in zip(one.episodes, other.episodes, strict=True):
            assert mine.failed == its.failed
            assert [int(action) for _, action in mine.steps] == values_of(its)
    mine, its = tabular.ledger.to_json(), language.ledger.to_json()
    # A step is two tokens, a value and a line break; the last step has one more for its box.
    assert its.pop("steps") == 2 * mine.pop("steps") + mine["episodes"]
    assert its.pop("trained_steps") == 2 * mine.pop("trained_steps") + mine["trained_episodes"]
    assert mine == its


def test_worlds_agree_on_a_random_policy() -> None:
    problem, right = Problem(3, ("+1", "*2", "*2", "+1")), 0.7
    n, starts = problem.length, 300
    policy = CHAIN.noisy_policy(problem, 1 - right, seed=1)
    worlds = both(problem, policy, GroupPlan(4, 1, 4), "first error", starts, seed=0)
    before = right ** np.arange(n) * (1 - right)  # the first error is the next step
    for groups in worlds:
        fresh = [group for group in groups if group.seed is None and len(group.episodes) == 4]
        resets = [group for group in groups if group.seed is not None]
        assert len(groups) == 2 * starts and len(resets) > 0.9 * starts
        firsts = {group.start: group for group in reversed(fresh)}
        assert_mean(np.concatenate([g.returns for g in firsts.values()]), right**n)
        # Continuations of a clean prefix of k steps succeed with probability qⁿ⁻ᵏ.
        expected = [right ** (n - g.prefix.length) for g in resets]
        assert_mean([g.returns.mean() - e for g, e in zip(resets, expected, strict=True)], 0.0)
        kept = np.bincount([g.prefix.length for g in resets], minlength=n)
        assert_drawn_from(kept, before / before.sum())


@pytest.mark.parametrize("opened", [True, False])
def test_rollout__thoughts_inside_thinking_and_a_verifier_that_sees_where_it_began(
    opened: bool,
) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}" + "<think>\n" * opened
    )
    text = "a\n\nb\n\n</think>good"
    script = [*tokenizer(text).input_ids, tokenizer.eos_token_id]
    task = Essay("\n\n")
    simulator = ThoughtSimulator(
        ScriptedEngine(lambda prompt, p, j: script), tokenizer, task, ThoughtLimits()
    )
    prompt = simulator.prompt(Example("x", [{"role": "user", "content": "q"}]))
    ((episode,),) = simulator.rollout([Prefix(prompt)], 1, np.random.default_rng(0))
    assert [thought.text for thought in episode.steps] == ["a\n\n", "b\n\n", "</think>good"]
    assert task.read == ["<think>" * opened + text]
