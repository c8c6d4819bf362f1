"""Code fences: delimiters within them are code, whatever the tokens, the batch or the prefix."""

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
from tests.llm.small import EOS, Dictated, Essay, byte_tokenizer, word_tokenizer

D = "</thought>"

#: By text: whether each delimiter is in a fence.
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
def test_fenced(text: str) -> None:
    found = list(delimiters(text, D))
    assert [fenced for _, fenced in found] == FENCED[text]
    assert all(text[start:].startswith(D) for start, _ in found)
    first = next((start for start, fenced in found if not fenced), None)
    assert end_of_thought(text, D) == (None if first is None else first + len(D))
    assert D not in without_delimiters(text, D)


def test_what_a_verifier_reads() -> None:
    text = f"Add.{D}```python\nx = 1{D}\nif x:{D}\n    print(x)\n```{D}Done."
    expected = "Add.\n```python\nx = 1\nif x:\n    print(x)\n```\nDone."
    assert without_delimiters(text, D) == expected
    assert without_delimiters("a\n\nb; c", "\n\n") == "a\n\nb; c"
    assert without_delimiters("a\n\nb; c", ";") == "a\n\nb; c"
    assert without_delimiters("a\n[S]\n```\nb\n[S]\nc\n```", "\n[S]\n") == "a\n```\nb\nc\n```"


PIECES = [D, D, "```", "```\n", "\n```", "\n", "~~~\n", "`", "a", "</", "thought", ">", " ", "py"]


@repeatable
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_later_text_moves_nothing(text: str) -> None:
    found = list(delimiters(text, D))
    for start, fenced in found:
        head = text[: start + len(D)]
        assert list(delimiters(head, D))[-1] == (start, fenced)


@repeatable
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_fences_are_those_of_the_text_that_is_read(text: str) -> None:
    # The verifier finds a fence open where the boundaries were drawn as if it was.
    ((*_, (_, before)), (*_, (_, after))) = (
        list(delimiters(f"{read}\n{mark}", mark))
        for read, mark in ((text, D), (without_delimiters(text, D), "@"))
    )
    assert before == after


# --- in a stream of tokens ---

WORDS = [*PIECES[1:], f"{D}```", f"x{D}y", f"{D}``", f"{D}{D}", "</thou", "ght>", "</thought>\n"]
WORDS = list(dict.fromkeys(WORDS))
TOKENIZER = word_tokenizer(WORDS)
ID = TOKENIZER.get_vocab()
WIDE = ThoughtLimits(max_completion_length=60, max_thoughts=60, max_thought_tokens=60)


def simulator(scripts: Any, tokenizer: Any = TOKENIZER, delimiter: str = D) -> ThoughtSimulator:
    engine = Dictated(scripts if callable(scripts) else lambda *_: scripts)
    return ThoughtSimulator(engine, tokenizer, Essay(delimiter), WIDE)


def start() -> Prefix:
    return Prefix(Prompt((ID["a"],), Example("essay", "a")))


def split(sim: ThoughtSimulator, prefix: Prefix) -> list[tuple[tuple[int, ...], str]]:
    ((episode,),) = sim.rollout([prefix], 1, np.random.default_rng(0))
    return [(thought.ids, thought.end) for thought in episode.steps]


def say(words: list[str]) -> list[int]:
    return [*(ID[word] for word in words), ID[EOS]]


streams = st.lists(st.sampled_from(WORDS), max_size=20)


@repeatable
@given(streams)
@example([f"{D}```", "\n", D, "\n", "```", D])
@example([f"{D}``", "`", "\n", D, "\n```", "\n", D])
def test_thoughts_join_to_the_completion_and_none_ends_in_a_fence(words: list[str]) -> None:
    script = say(words)
    thoughts = split(simulator(script), start())
    assert [token for ids, _ in thoughts for token in ids] == script
    text, rest = "".join(words), len("".join(words))
    outside = {s + len(D) for s, fenced in delimiters(text, D) if not fenced}
    at = 0
    for ids, end in thoughts:
        before = at
        at += len(TOKENIZER.decode(list(ids), skip_special_tokens=True))
        # The first delimiter of the thought that is in no fence is in its last token.
        last = TOKENIZER.decode([ids[-1]], skip_special_tokens=True)
        inside = [e for e in outside if before < e - len(D) + 1 and e <= at]
        if end == "delimiter":
            assert inside and all(e > at - len(last) for e in inside)
        else:
            assert not inside and at == rest


@repeatable
@given(streams, st.data())
def test_a_prefix_goes_on_as_the_whole_did(words: list[str], data: st.DataObject) -> None:
    script = say(words)
    whole = split(simulator(script), start())
    ((episode,),) = simulator(script).rollout([start()], 1, np.random.default_rng(0))
    prefix = episode.prefix(data.draw(st.integers(0, episode.length - 1)))
    left = script[len(token_ids(prefix.steps)) :]
    assert split(simulator(left), prefix) == whole


def test_a_reset_right_after_a_fence_was_opened() -> None:
    # The token that ends the first thought also opens the fence of the second.
    script = say([f"{D}```", "\n", D, "\n", "```", "\n", D, "a"])
    whole = split(simulator(script), start())
    assert [len(ids) for ids, _ in whole] == [1, 6, 2]
    ((episode,),) = simulator(script).rollout([start()], 1, np.random.default_rng(0))
    assert split(simulator(script[1:]), episode.prefix(1)) == whole


@repeatable
@given(st.lists(streams, min_size=2, max_size=4))
def test_boundaries_do_not_depend_on_the_batch(batch: list[list[str]]) -> None:
    scripts = [say(words) for words in batch]
    prefixes = [Prefix(Prompt((ID["a"],) * (i + 1), Example("essay", "a")))
                for i in range(len(scripts))]  # fmt: skip
    sim = simulator(lambda prompt, params, j: scripts[len(prompt) - 1])
    together = sim.rollout(prefixes, 1, np.random.default_rng(0))
    for script, prefix, (episode,) in zip(scripts, prefixes, together, strict=True):
        found = [(thought.ids, thought.end) for thought in episode.steps]
        assert found == split(simulator(script), prefix)
    assert (sim.judged, sim.unjudged) == (len(scripts), [])


@settings(deadline=None)
@given(
    st.lists(st.text("ab。é`~\n</thoug>", max_size=6), max_size=5),
    st.sampled_from([D, "。", "é\n", "\n\n", "\n", ". "]),
)
def test_any_delimiter_in_bytes(texts: list[str], delimiter: str) -> None:
    # A token is a byte: even the characters of the delimiter come in pieces.
    tokenizer = byte_tokenizer()
    said = delimiter.join(texts)
    script = [*tokenizer(said).input_ids, tokenizer.eos_token_id]
    engine = Dictated(lambda *_: script)
    limits = ThoughtLimits(2000, 2000, 2000)
    sim = ThoughtSimulator(engine, tokenizer, Essay(delimiter), limits)
    ((episode,),) = sim.rollout([start()], 1, np.random.default_rng(0))
    assert token_ids(episode.steps) == script
    parts, rest = [], said
    while (end := end_of_thought(rest, delimiter)) is not None:
        parts.append(rest[:end])
        rest = rest[end:]
    assert [t.text for t in episode.steps] == [*parts, rest]
