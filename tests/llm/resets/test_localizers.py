"""Localizers: requests, parsing of replies, weights, and the quality of weights."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpi.core.collect import Collection, Group, Ledger
from cpi.core.episodes import Episode, Prefix
from cpi.core.resets import OracleReset, RandomReset, first_step, halving
from llm.chain.model import chain_tokenizer
from llm.common.progress import Reporter
from llm.engines import SamplingParams
from llm.resets.localizers import (
    LOCALIZERS,
    check_localizer,
    make_localizer,
    random,
    surprisal,
    surprisal_drop,
    surprisal_mean,
)
from llm.resets.options import LocalizationOptions
from llm.resets.oracles import CheckerOracle, checker_rule, first_error
from llm.resets.prompted import PromptedLocalizer, parse, request
from llm.resets.quality import RecordingRule, SeedWeights, localization_metrics
from llm.tasks import ChainReasoning, Example, Task
from llm.thoughts.options import ThoughtLimits
from llm.thoughts.simulator import Prompt, Thought, ThoughtSimulator
from tests.cpi.worlds import repeatable
from tests.llm.small import Essay, ScriptedEngine, byte_tokenizer

TASK = ChainReasoning(length=3, modulus=5, operations=["+1", "*2"], train=8, test=2)
BYTES = byte_tokenizer()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def episode(example: Example, texts: Sequence[str], ret: float = 0.0, **scores: Any) -> Episode:
    """An episode with these thoughts; `sums` are the summed log-probs of each."""
    sums = scores.get("sums", [-1.0] * len(texts))
    thoughts = tuple(
        Thought((1, 2), np.array([total - 0.5, 0.5]), text, "delimiter")
        for text, total in zip(texts, sums, strict=True)
    )
    return Episode(Prefix(Prompt((1,), example)), thoughts, ret, ret < 1, 2 * len(texts))


# --- parsing ---

REPLIES: list[tuple[str, int | None]] = [
    (r"\boxed{3}", 3),
    (r"The error is in \boxed{1}.", 1),
    (r"\boxed{5}", 5),
    (r"\boxed{6}", None),
    (r"\boxed{0}", None),
    (r"\boxed{-3}", None),
    (r"\boxed{+3}", None),
    (r"\boxed{2.0}", None),
    (r"\boxed{2.5}", None),
    (r"\boxed{1/2}", None),
    (r"\boxed{2, 3}", None),
    (r"\boxed{2-3}", None),
    (r"\boxed{three}", None),
    (r"\boxed{}", None),
    (r"\boxed{ }", None),
    (r"\boxed{ 4 }", 4),
    ("\\boxed{\n4\n}", 4),
    (r"\boxed {4}", 4),
    (r"\boxed{04}", 4),
    (r"\boxed{step 2}", 2),
    (r"\boxed{Step 2}", 2),
    (r"\boxed{STEP2}", 2),
    (r"\boxed{the step 2}", 2),
    (r"\boxed{N}", None),
    (r"\boxed{1} or rather \boxed{2}", 2),
    (r"\boxed{2} or rather \boxed{9}", None),  # only the last box counts
    (r"Step 1 is right. \boxed{9}", None),  # a box takes precedence over words
    (r"Step 1 is wrong. \boxed{}", 1),
    (r"\boxed{2} not step 4", 2),
    (r"\boxed{1} then \boxed{2", 1),  # unclosed: the last balanced one
    (r"\boxed{2", None),
    (r"Step 4 is wrong: \boxed{2", 4),
    (r"\boxed{\boxed{2}}", 2),
    (r"\boxed{{2}}", 2),
    (r"\boxed{2}}", 2),
    (r"\boxed{1} \boxed{\text{2}}", 2),
    (r"Steps 1 to 5: \boxed{\text{Step 3}}", 3),
    (r"\boxed{\textbf{Step 3.}}", 3),
    (r"\boxed{\text{Step }3}", 3),
    (r"\boxed{$3$}", 3),
    (r"\boxed{**3**}", 3),
    (r"\boxed{\mathrm{step\ 3}}", 3),
    (r"\boxed{Step~\#3}", 3),
    (r"\boxed{Step: 3}", 3),
    ("**Step:** (3)", 3),
    (r"\boxed{Step 3: the sum} in step 4", 3),
    (r"\boxed{Step number 3}", 3),
    (r"The error is in step 2, not in \boxed{the last one}", 2),
    (r"The error is in Step **2**. \boxed{error}", 2),
    (r"step $4$", 4),
    (r"step #4", 4),
    (r"Step 2 is wrong. \boxed{\text{Step 9}}", None),
    (r"\boxed{1}\boxed{{2}", 1),
    (r"\fbox{2}", None),
    ("", None),
    ("2", None),
    ("step", None),
    ("Step 3", 3),
    ("step3", 3),
    ("Step\n3", 3),
    ("STEP 3.", 3),
    ("Steps 1 and 2 are right, step 2 is not, step 1 is", 1),
    ("Step 1. Step 7", None),
    ("footstep 3", None),
    ("step -3", None),
    ("step three", None),
    ("Step 3.5", 3),
    (r"\boxed{" + "1" * 5000 + "}", None),  # more digits than `int` takes
    ("step " + "9" * 5000, None),
]


@pytest.mark.parametrize(("reply", "expected"), REPLIES, ids=[r[:40] for r, _ in REPLIES])
def test_parse(reply: str, expected: int | None) -> None:
    assert parse(reply, 5) == expected


PIECES = st.sampled_from(["\\boxed{", "{", "}", "step ", "Step ", "1", "2", "7", " ", "-", "a"])


@repeatable
@given(st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join), st.integers(1, 12))
def test_parse__any_reply(reply: str, n: int) -> None:
    actual = parse(reply, n)
    assert actual is None or 1 <= actual <= n
    # Text before the last box changes nothing.
    assert parse(reply + f"\\boxed{{{n}}}", n) == n
    assert parse(reply + f"\\boxed{{{n + 1}}}", n) is None
    if "box" not in reply and "step" not in reply.lower():
        assert actual is None
        assert parse(f"{reply} step {n}", n) == n


# --- the request ---


def test_request() -> None:
    example = Example("x", "What is {1 + 1}? \n", data="the secret answer 4711")
    (message,) = request(example, ["one\n", " two {N}", "3</thought>"])
    assert message["role"] == "user"
    text = message["content"]
    assert "What is {1 + 1}?" in text
    assert "Step 1: one\nStep 2: two {N}\nStep 3: 3</thought>\n" in text
    assert "The final answer of the attempt is wrong." in text
    assert r"from 1 to 3, as \boxed{N}." in text
    assert "4711" not in text


def test_request_of_a_chat() -> None:
    messages = [
        {"role": "system", "content": "Think in steps."},
        {"role": "user", "content": " How many? "},
    ]
    text = request(Example("x", messages), ["1"])[0]["content"]
    assert "Problem:\nThink in steps.\n\nHow many?\n" in text


@repeatable
@given(st.lists(st.text("ab\n{}"), min_size=1, max_size=4), st.sampled_from([0.0, 0.25]))
def test_request__reveals_only_the_failure(texts: list[str], ret: float) -> None:
    # The request does not depend on the answer, the reward or the log-probs.
    asked = []
    for data, value, score in ((1, 0.0, -1.0), (4711, ret, -9.0)):
        engine = ScriptedEngine(lambda *_: [BYTES.eos_token_id])
        localizer = PromptedLocalizer(simulator(engine), rng())
        example = Example("essay", "a", data)
        localizer([episode(example, texts, value, sums=[score] * len(texts))])
        asked.append(engine.calls[0][0])
    assert asked[0] == asked[1]
    assert "4711" not in BYTES.decode(asked[0][0])


# --- the prompted localizer ---


def simulator(
    engine: ScriptedEngine, tokenizer: Any = BYTES, task: Task | None = None, **options: Any
) -> ThoughtSimulator:
    return ThoughtSimulator(engine, tokenizer, task or Essay(), ThoughtLimits(), **options)


def prompted(
    replies: Callable[[str], str], task: Task | None = None, **options: Any
) -> tuple[PromptedLocalizer, ScriptedEngine]:
    """A localizer whose model replies to the text of a request."""

    def answer(prompt: Sequence[int], params: SamplingParams, j: int) -> list[int]:
        return [*BYTES(replies(BYTES.decode(prompt))).input_ids, BYTES.eos_token_id]

    engine = ScriptedEngine(answer, options.pop("max_model_len", 10_000))
    world = simulator(engine, task=task, eos_token_ids=options.pop("eos_token_ids", ()))
    return PromptedLocalizer(world, rng(), LocalizationOptions(**options)), engine


ESSAY = Example("essay", "Write.", "4711")


def test_prompted__one_call_weights_cost_and_failures() -> None:
    replies = {"UNO": r"\boxed{1}", "DUE": "Step 2", "ODD": r"\boxed{9}", "MUTE": ""}
    localizer, engine = prompted(lambda text: next(r for k, r in replies.items() if k in text))
    episodes = [episode(ESSAY, [name, "x", "y"]) for name in replies]
    weights = localizer(episodes)
    assert len(engine.calls) == 1
    np.testing.assert_array_equal(weights, [[1, 0, 0], [0, 1, 0], [1, 1, 1], [1, 1, 1]])
    assert (localizer.asked, localizer.failed) == (4, 2)
    assert localizer.cost == sum(len(reply) + 1 for reply in replies.values())
    _, params = engine.calls[0]
    assert {(p.n, p.temperature, p.top_p, p.max_tokens) for p in params} == {(1, 0.3, 1.0, 1024)}
    assert {p.stop_token_ids for p in params} == {(BYTES.eos_token_id,)}
    assert len({p.seed for p in params}) == 4
    localizer(episodes[:1])
    assert (localizer.asked, localizer.failed, len(engine.calls)) == (5, 2, 2)


def test_prompted__options() -> None:
    localizer, engine = prompted(
        lambda text: "x" * 50, temperature=1.0, max_tokens=7, eos_token_ids=(3,)
    )
    localizer([episode(ESSAY, ["a"])])
    (params,) = engine.calls[0][1]
    assert (params.temperature, params.max_tokens) == (1.0, 7)
    assert params.stop_token_ids == (3, BYTES.eos_token_id)
    assert (localizer.cost, localizer.failed) == (7, 1)


def test_prompted__most_votes_win() -> None:
    replies = iter([3, 1, 3, 1, 2, 2, 9, 9, 1, 8, 9, 7])
    localizer, engine = prompted(lambda text: rf"\boxed{{{next(replies)}}}", votes=4)
    weights = localizer([episode(ESSAY, ["a", "b", "c"])] * 3)
    # Votes 3, 1, 3, 1; then 2, 2 and two without a step; then a single vote.
    np.testing.assert_array_equal(weights, [[1, 0, 1], [0, 1, 0], [1, 0, 0]])
    assert {p.n for p in engine.calls[0][1]} == {4}
    assert (localizer.cost, localizer.asked, localizer.failed) == (12 * 10, 3, 0)


def test_prompted__may_find_no_error() -> None:
    world = prompted(lambda text: r"\boxed{0}")[0]
    assert world.ask([episode(ESSAY, ["a"])], [0])[0].winners == []  # the request asks for 1 … n
    engine = ScriptedEngine(lambda *_: [*BYTES(r"\boxed{0}").input_ids, BYTES.eos_token_id])
    localizer = PromptedLocalizer(simulator(engine), rng(), may_be_right=True)
    (reply,) = localizer.ask([episode(ESSAY, ["a", "b"])], [0])
    assert (reply.winners, localizer.failed) == ([0], 0)
    text = BYTES.decode(engine.calls[0][0][0])
    assert "is wrong" in text and "The final answer of the attempt is wrong" not in text
    assert text.endswith("as \\boxed{N}, or with \\boxed{0} if no step is wrong.\n\n")


def test_check_localizer__needs_no_model() -> None:
    for name in LOCALIZERS:
        check_localizer(name, TASK)
    for name in ("prompted", "step_logprob"):
        with pytest.raises(ValueError, match="needs an engine"):
            make_localizer(name, TASK, None)


def test_prompted__too_long_request_counts_as_failure() -> None:
    length = len(request(ESSAY, ["short"])[0]["content"] + "\n\n")
    for room, asked in ((0, 0), (1, 1), (20, 1)):
        localizer, engine = prompted(lambda text: r"\boxed{1}", max_model_len=length + room)
        weights = localizer([episode(ESSAY, ["s" * 500, "b"]), episode(ESSAY, ["short"])])
        prompts, params = engine.calls[0]
        assert len(prompts) == len(params) == asked
        assert [p.max_tokens for p in params] == [room] * asked
        np.testing.assert_array_equal(weights[0], [1, 1])
        assert (localizer.asked, localizer.failed) == (2, 1 if room == 20 else 2)
        assert localizer.cost == (min(room, 10) if asked else 0)


def test_prompted__replies_match_episodes_around_a_too_long_one() -> None:
    localizer, _ = prompted(lambda text: rf"\boxed{{{1 + text.count('Z')}}}", max_model_len=1100)
    texts = [["a", "b", "c"], ["a" * 999, "b", "c"], ["Z", "b", "c"], ["Z", "Z", "c"]]
    weights = localizer([episode(ESSAY, each) for each in texts])
    np.testing.assert_array_equal(weights, [[1, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1]])
    assert (localizer.asked, localizer.failed) == (4, 1)


def test_prompted__uses_the_chat_template() -> None:
    plain, engine = prompted(lambda text: r"\boxed{1}")
    plain([episode(ESSAY, ["a"])])
    content = request(ESSAY, ["a"])[0]["content"]
    assert BYTES.decode(engine.calls[0][0][0]) == content + "\n\n"
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[reply]"
    )
    chat = PromptedLocalizer(simulator(engine, tokenizer), rng())
    chat([episode(ESSAY, ["a"])])
    assert BYTES.decode(engine.calls[1][0][0]) == f"[user]{content}[reply]"


def test_prompted__task_may_phrase_the_request() -> None:
    tokenizer = chain_tokenizer(TASK.chain)
    example = TASK.examples("train")[0]
    engine = ScriptedEngine(lambda *_: tokenizer(r"\boxed{2}").input_ids)
    localizer = PromptedLocalizer(simulator(engine, tokenizer, TASK), rng())
    (weights,) = localizer([episode(example, ["1\n", "2\n", r"\boxed{3}"])])
    expected = str(example.prompt) + "1\n2\n\\boxed{3}\n?\n"
    assert engine.calls[0][0] == [tokenizer(expected).input_ids]
    np.testing.assert_array_equal(weights, [0, 1, 0])
    assert localizer.cost == 3  # the box ends at "}", which is a stop token of the task


# --- localizers without a model ---


def test_surprisal_takes_the_least_likely_thought() -> None:
    cases = [[-1.0, -5.0, -2.0], [-3.0], [-0.1, -0.2, -4.0], [-2.0, -2.0]]
    weights = surprisal([episode(ESSAY, ["x"] * len(sums), sums=sums) for sums in cases])
    for actual, at in zip(weights, [1, 0, 2, 0], strict=True):
        np.testing.assert_array_equal(actual, np.eye(len(actual))[at])


def test_surprisal_sums_over_tokens() -> None:
    # The second thought has the least likely token; the first thought is less likely.
    first = Thought((1, 2, 3), np.array([-2.0, -2.0, -2.0]), "a", "delimiter")
    second = Thought((1,), np.array([-5.0]), "b", "stop")
    both = Episode(Prefix(Prompt((1,), ESSAY)), (first, second), 0.0, True, 4)
    np.testing.assert_array_equal(surprisal([both]), [[1, 0]])


def test_surprisal_variants() -> None:
    def thought(*scores: float) -> Thought:
        return Thought(tuple(range(len(scores))), np.array(scores), "", "delimiter")

    thoughts = (thought(-3, -1), thought(-1, -1, -1, -1, -1), thought(-2.5), thought(-2.6))
    whole = Episode(Prefix(Prompt((1,), ESSAY)), thoughts, 0.0, True, 9)
    one = Episode(Prefix(Prompt((1,), ESSAY)), thoughts[:1], 0.0, True, 2)
    # Sums −4, −5, −2.5, −2.6; means −2, −1, −2.5, −2.6; changes of the mean +1, −1.5, −0.1.
    for localizer, at in (
        (surprisal, 1),
        (surprisal_mean, 3),
        (surprisal_drop, 2),
        (first_step, 0),
    ):
        weights = localizer([whole, one])
        np.testing.assert_array_equal(weights[0], np.eye(4)[at])
        np.testing.assert_array_equal(weights[1], [1])


def test_random__equal_weights() -> None:
    np.testing.assert_array_equal(random([episode(ESSAY, ["a", "b", "c"])]), [[1, 1, 1]])


def chain_episodes(seed: int, number: int) -> list[tuple[Episode, int | None]]:
    """Solutions with random values, and the first wrong step that `ChainTask` finds."""
    cases = []
    draws = rng(seed)
    for i in range(number):
        example = TASK.examples("train")[i % 8]
        right = np.array(TASK.chain.solution(example.data))
        values = np.where(draws.random(3) < 0.4, draws.integers(5, size=3), right).tolist()
        texts = TASK.chain.render_steps(example.data, values).splitlines(keepends=True)
        first = TASK.chain.first_error(example.data, values)
        cases.append((episode(example, texts), first))
    return cases


def test_checker_finds_the_first_error() -> None:
    rule = checker_rule(TASK)
    assert rule is not None
    cases = chain_episodes(0, 60)
    assert {first for _, first in cases} == {None, 1, 2, 3}
    weights = rule.weights([each for each, _ in cases])
    localizer = make_localizer("checker", TASK, prompted(lambda text: "")[0])
    others = localizer([each for each, _ in cases])
    for (each, first), actual, same in zip(cases, weights, others, strict=True):
        expected = np.zeros(3)
        if first is not None:
            expected[first - 1] = 1
        np.testing.assert_array_equal(actual, expected)
        np.testing.assert_array_equal(same, expected)
        assert first_error(TASK, each) == (None if first is None else first - 1)


def test_checker__has_no_values() -> None:
    assert checker_rule(Essay()) is None
    rule = OracleReset(CheckerOracle(TASK), "improvable")
    with pytest.raises(ValueError, match=r"mask: a step checker marks .* use first_error"):
        rule.weights([chain_episodes(0, 1)[0][0]])


# --- by name ---


def test_make_localizer__by_name() -> None:
    localizer, _ = prompted(lambda text: "")
    localizers = {name: make_localizer(name, TASK, localizer) for name in LOCALIZERS}
    assert localizers["prompted"] is localizer
    assert (localizers["surprisal"], localizers["random"]) == (surprisal, random)
    assert (localizers["halving"], localizers["first"]) == (halving, first_step)


def test_make_localizer__user_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "my_localizers.py").write_text(
        "import numpy as np\n"
        "def last(episodes):\n"
        "    return [np.eye(e.length)[-1] for e in episodes]\n"
    )
    localizer = make_localizer("my_localizers:last", TASK, prompted(lambda text: "")[0])
    np.testing.assert_array_equal(localizer([episode(ESSAY, ["a", "b"])]), [[0, 1]])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("oracle", f"localizer: 'oracle' is none of {', '.join(LOCALIZERS)}, nor module:function"),
        ("", "localizer: '' is none of prompted"),
        ("no_such_module:f", "localizer: cannot import no_such_module: No module named"),
        ("llm.resets.localizers:nobody", "localizer: module llm.resets.localizers has no nobody"),
        (":f", "localizer: ':f' is not of the form module:name"),
        ("llm:", "localizer: 'llm:' is not of the form module:name"),
        ("./mine:f", "localizer: './mine:f' is not of the form module:name"),
        ("checker", "localizer: checker needs a step checker, and Essay has none; use prompted"),
    ],
)
def test_make_localizer__errors(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(ValueError) as raised:
        make_localizer(name, Essay(), prompted(lambda text: "")[0])
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


# --- quality ---


def test_localization_metrics__by_hand() -> None:
    seeds = [episode(ESSAY, ["x"] * 4) for _ in range(5)]
    seed_weights = [
        SeedWeights(seeds[0], np.array([0.0, 0.0, 1.0, 0.0]), 2),
        SeedWeights(seeds[1], np.array([1.0, 1.0, 1.0, 1.0]), 0),
        SeedWeights(seeds[2], np.array([0.0, 0.0, 0.0, 3.0]), 1),
        SeedWeights(seeds[3], np.array([0.0, 0.0, 0.0, 1.0]), None),  # the checker finds nothing
        SeedWeights(seeds[4], np.array([0.0, 0.5, 0.0, 0.0]), 3),
    ]

    def reset(number: int, kept: int) -> Group:
        return Group(0, seeds[number].prefix(kept), [], seeds[number])

    fresh = Group(0, Prefix(seeds[0].origin.start), [])
    groups = [fresh, reset(0, 2), reset(1, 1), reset(2, 3), reset(3, 3), reset(4, 1)]
    metrics = localization_metrics(seed_weights, Collection(groups, Ledger()))
    assert metrics == pytest.approx(
        {
            # Weight on first errors: 1 of 1, 1 of 4, 0 of 3, 0 of 0.5.
            "localize/recall": 2 / 4,
            "localize/precision": 2 / 8.5,
            # Kept steps minus correct steps before the error: 0, 1, 2, −2.
            "localize/exact": 1 / 4,
            "localize/within_1": 2 / 4,
            "localize/clean_prefix_rate": 2 / 4,
        }
    )


def test_localization_metrics__without_errors_weights_or_resets() -> None:
    seed = episode(ESSAY, ["x"] * 2)
    none = Collection([], Ledger())
    assert localization_metrics([], none) == {}
    assert localization_metrics([SeedWeights(seed, np.ones(2), None)], none) == {}
    # Without weights and resets, only the recall is defined.
    actual = localization_metrics([SeedWeights(seed, np.zeros(2), 1)], none)
    assert actual == {"localize/recall": 0.0}


def test_localization_metrics__random_resets() -> None:
    # Equal weights: recall 1, precision 1/n.
    cases = [(each, first) for each, first in chain_episodes(1, 80) if first is not None]
    rule = RecordingRule(RandomReset(), TASK, Reporter(1))
    rule.weights([each for each, _ in cases])
    groups = [Group(0, each.prefix(i % 3), [], each) for i, (each, _) in enumerate(cases)]
    actual = localization_metrics(rule.seed_weights, Collection(groups, Ledger()))
    distance = np.array([i % 3 - (first - 1) for i, (_, first) in enumerate(cases)])
    assert actual == pytest.approx(
        {
            "localize/recall": 1.0,
            "localize/precision": 1 / 3,
            "localize/exact": np.mean(distance == 0),
            "localize/within_1": np.mean(abs(distance) < 2),
            "localize/clean_prefix_rate": np.mean(distance <= 0),
        }
    )


def test_recording_rule__passes_on_and_records_weights() -> None:
    localizer, _ = prompted(lambda text: r"\boxed{2}", TASK)
    cases = chain_episodes(2, 5)

    class Costly:
        cost = 0

        def weights(self, episodes: Sequence[Episode]) -> list[Any]:
            weights = localizer(episodes)
            self.cost = localizer.cost
            return weights

    recording = RecordingRule(Costly(), TASK, Reporter(1))
    weights = recording.weights([each for each, _ in cases])
    assert recording.cost == localizer.cost > 0
    for seed, w, (each, first) in zip(recording.seed_weights, weights, cases, strict=True):
        assert seed.episode is each and seed.weights is w
        assert seed.first_error == (None if first is None else first - 1)
    assert RecordingRule(RandomReset(), Essay(), Reporter(1)).seed_weights == []
    assert first_error(Essay(), cases[0][0]) is None
