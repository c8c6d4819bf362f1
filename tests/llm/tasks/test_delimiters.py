"""Delimiters inside code fences are code, for all tokenizations, batches and prefixes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cpi.core.episodes import Prefix
from llm.tasks import Example
from llm.tasks.delimiters import delimiters, end_of_thought, without_delimiters
from llm.thoughts.options import ThoughtLimits
from llm.thoughts.simulator import Prompt, ThoughtSimulator, token_ids
from tests.cpi.worlds import repeatable
from tests.llm.small import EOS, Essay, ScriptedEngine, byte_tokenizer, word_tokenizer

D = "</thought>"

#: By text: whether each delimiter is inside a fence.
FENCED: dict[str, list[bool]] = {
    f"a{D}b{D}": [False, False],
    f"```\n{D}\n```\n{D}": [True, False],
    f"```python\n{D}": [True],
    f"```python{D}": [True],
    f"  ~~~\n{D}\n~~~{D}": [True, False],
    f"```\nx\n```{D}": [False],
    f"```\nx\n``` {D}": [False],
    f"```\nx\n```y{D}": [True],
    f"```\nx\n``{D}\n```\n{D}": [True, False],
    f"````\n```\n{D}\n````\n{D}": [True, False],
    f"```\n````\n{D}": [False],
    f"```\n~~~\n{D}\n```{D}": [True, False],
    f"a ``` b{D}": [False],
    f"```a``` b\n{D}": [False],
    f"x{D}```python\n{D}\n```{D}": [False, True, False],
    f"```\n{D}```\n{D}": [True, False],
    f"```\nx{D}```\n{D}": [True, True],
    f"``\n`{D}": [False],
}


@pytest.mark.parametrize("text", FENCED)
def test_delimiters__inside_and_outside_fences(text: str) -> None:
    found = list(delimiters(text, D))
    assert [fenced for _, fenced in found] == FENCED[text]
    assert all(text[start:].startswith(D) for start, _ in found)
    first = next((start for start, fenced in found if not fenced), None)
    assert end_of_thought(text, D) == (None if first is None else first + len(D))
    assert D not in without_delimiters(text, D)


def test_without_delimiters__replaces_them_by_line_ends() -> None:
    text = f"Add.{D}```python\nx = 1{D}\nif x:{D}\n    print(x)\n```{D}Done."
    expected = "Add.\n```python\nx = 1\nif x:\n    print(x)\n```\nDone."
    assert without_delimiters(text, D) == expected
    assert without_delimiters("a\n\nb; c", "\n\n") == "a\n\nb; c"
    assert without_delimiters("a\n\nb; c", ";") == "a\n\nb; c"
    assert without_delimiters("a\n[S]\n```\nb\n[S]\nc\n```", "\n[S]\n") == "a\n```\nb\nc\n```"


PIECES = [D, D, "```", "```\n", "\n```", "\n", "~~~\n", "`", "a", "</", "thought", ">", " ", "py"]


@repeatable
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_delimiters__do_not_depend_on_later_text(text: str) -> None:
    found = list(delimiters(text, D))
    for start, fenced in found:
        head = text[: start + len(D)]
        assert list(delimiters(head, D))[-1] == (start, fenced)


@repeatable
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_without_delimiters__keeps_fences_open_or_closed(text: str) -> None:
    # The verifier and the thought boundaries must agree on whether a fence is open.
    ((*_, (_, before)), (*_, (_, after))) = (
        list(delimiters(f"{read}\n{mark}", mark))
        for read, mark in ((text, D), (without_delimiters(text, D), "@"))
    )
    assert before == after


# --- in sequences of tokens ---

WORDS = [*PIECES[1:], f"{D}```", f"x{D}y", f"{D}``", f"{D}{D}", "</thou", "ght>", "</thought>\n"]
WORDS = list(dict.fromkeys(WORDS))
TOKENIZER = word_tokenizer(WORDS)
ID = TOKENIZER.get_vocab()
WIDE = ThoughtLimits(max_completion_length=60, max_thoughts=60, max_thought_tokens=60)


def simulator(scripts: Any, tokenizer: Any = TOKENIZER, delimiter: str = D) -> ThoughtSimulator:
    engine = ScriptedEngine(scripts if callable(scripts) else lambda *_: scripts)
    return ThoughtSimulator(engine, tokenizer, Essay(delimiter), WIDE)


def empty_prefix() -> Prefix:
    return Prefix(Prompt((ID["a"],), Example("essay", "a")))


def split(sim: ThoughtSimulator, prefix: Prefix) -> list[tuple[tuple[int, ...], str]]:
    ((episode,),) = sim.rollout([prefix], 1, np.random.default_rng(0))
    return [(thought.ids, thought.end) for thought in episode.steps]


def script_of(words: list[str]) -> list[int]:
    return [*(ID[word] for word in words), ID[EOS]]


word_lists = st.lists(st.sampled_from(WORDS), max_size=20)


@repeatable
@given(word_lists)
@example([f"{D}```", "\n", D, "\n", "```", D])
@example([f"{D}``", "`", "\n", D, "\n```", "\n", D])
def test_rollout__thoughts_join_to_the_completion_and_none_ends_in_a_fence(
    words: list[str],
) -> None:
    script = script_of(words)
    thoughts = split(simulator(script), empty_prefix())
    assert [token for ids, _ in thoughts for token in ids] == script
    text, rest = "".join(words), len("".join(words))
    outside = {s + len(D) for s, fenced in delimiters(text, D) if not fenced}
    at = 0
    for ids, end in thoughts:
        before = at
        at += len(TOKENIZER.decode(list(ids), skip_special_tokens=True))
        # The first delimiter outside fences is in the last token of the thought.
        last = TOKENIZER.decode([ids[-1]], skip_special_tokens=True)
        inside = [e for e in outside if before < e - len(D) + 1 and e <= at]
        if end == "delimiter":
            assert inside and all(e > at - len(last) for e in inside)
        else:
            assert not inside and at == rest


@repeatable
@given(word_lists, st.data())
def test_rollout__a_prefix_has_the_same_continuation(words: list[str], data: st.DataObject) -> None:
    script = script_of(words)
    whole = split(simulator(script), empty_prefix())
    ((episode,),) = simulator(script).rollout([empty_prefix()], 1, np.random.default_rng(0))
    prefix = episode.prefix(data.draw(st.integers(0, episode.length - 1)))
    suffix = script[len(token_ids(prefix.steps)) :]
    assert split(simulator(suffix), prefix) == whole


def test_rollout__a_reset_right_after_an_opening_fence() -> None:
    # The token that ends the first thought also opens the fence of the second.
    script = script_of([f"{D}```", "\n", D, "\n", "```", "\n", D, "a"])
    whole = split(simulator(script), empty_prefix())
    assert [len(ids) for ids, _ in whole] == [1, 6, 2]
    ((episode,),) = simulator(script).rollout([empty_prefix()], 1, np.random.default_rng(0))
    assert split(simulator(script[1:]), episode.prefix(1)) == whole


@repeatable
@given(st.lists(word_lists, min_size=2, max_size=4))
def test_rollout__boundaries_do_not_depend_on_the_batch(batch: list[list[str]]) -> None:
    scripts = [script_of(words) for words in batch]
    prefixes = [Prefix(Prompt((ID["a"],) * (i + 1), Example("essay", "a")))
                for i in range(len(scripts))]  # fmt: skip
    sim = simulator(lambda prompt, params, j: scripts[len(prompt) - 1])
    together = sim.rollout(prefixes, 1, np.random.default_rng(0))
    for script, prefix, (episode,) in zip(scripts, prefixes, together, strict=True):
        thoughts = [(thought.ids, thought.end) for thought in episode.steps]
        assert thoughts == split(simulator(script), prefix)
    assert (sim.verified, sim.unverified) == (len(scripts), [])


@settings(deadline=None)
@given(
    st.lists(st.text("ab。é`~\n</thoug>", max_size=6), max_size=5),
    st.sampled_from([D, "。", "é\n", "\n\n", "\n", ". "]),
)
def test_rollout__any_delimiter_with_byte_tokens(texts: list[str], delimiter: str) -> None:
    # Each token is a byte, so even characters of the delimiter are split.
    tokenizer = byte_tokenizer()
    text = delimiter.join(texts)
    script = [*tokenizer(text).input_ids, tokenizer.eos_token_id]
    engine = ScriptedEngine(lambda *_: script)
    limits = ThoughtLimits(2000, 2000, 2000)
    sim = ThoughtSimulator(engine, tokenizer, Essay(delimiter), limits)
    ((episode,),) = sim.rollout([empty_prefix()], 1, np.random.default_rng(0))
    assert token_ids(episode.steps) == script
    parts, rest = [], text
    while (end := end_of_thought(rest, delimiter)) is not None:
        parts.append(rest[:end])
        rest = rest[end:]
    assert [t.text for t in episode.steps] == [*parts, rest]
