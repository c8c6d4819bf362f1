"""What both views of rollouts say, on the terminal and on the page: marks, verdicts, summaries."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from llm.runs.rollout_records import (
    KINDS,
    Continuation,
    Kind,
    Record,
)
from llm.tasks.task import PromptText

#: Characters that act instead of showing: controls (a terminal obeys them), line separators,
#: invisible and direction marks (they reorder what is read), halves of surrogate pairs.
_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff"
    "\ud800-\udfff]"
)


def visible(text: str) -> str:
    """Text of a model with every character seen: ESC as ␛, a direction mark as ⟨U+202E⟩."""
    return _ACTING.sub(lambda match: _name(ord(match[0])), text)


def _name(code: int) -> str:
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"


def thought_text(text: str) -> str:
    """A thought without the line breaks around it; one that is nothing else says so."""
    return visible(text).strip("\n") or "⟨blank⟩"


def prompt_parts(prompt: PromptText) -> list[tuple[str, str]]:
    """Role and text of each message; a plain prompt has one, without a role."""
    if isinstance(prompt, str):
        return [("", visible(prompt).strip("\n"))]
    return [(visible(m["role"]), visible(m["content"]).strip("\n")) for m in prompt]


def prompt_words(record: Record) -> str:
    """Its name, unless that is the prompt itself, and its length."""
    name, text = visible(record["id"]), prompt_parts(record["prompt"])[-1][1]
    return ("" if name == text.strip() else f"{name} · ") + f"{record['prompt_tokens']} tokens"


def prefix_words(record: Record) -> str:
    """How much is shared."""
    kept = len(record["prefix"])
    thoughts = "1 thought" if kept == 1 else f"{kept} thoughts"
    return f"{thoughts}, {record['prefix_tokens']:,} tokens, nothing trained"


def number(value: float) -> str:
    """A reward: 1, 0.25, −3."""
    return f"{value:.3g}".replace("-", "−")


def mean(reward: float) -> str:
    """A mean of rewards, in a width that aligns."""
    return f"{reward:.3f}".replace("-", "−")


def mark(advantage: float) -> str:
    """▲ above the group's mean, ▼ below, = at it: what the colours say, too."""
    return "▲" if advantage > 0 else "▼" if advantage < 0 else "="


def signed(advantage: float) -> str:
    """The advantage with its mark and its sign."""
    value = f"{advantage:+.2f}" if advantage else "0.00"
    return f"{mark(advantage)} {value}".replace("-", "−")


def end_words(continuation: Continuation) -> str:
    """What ended it."""
    return {"cut": "cut by a limit", "open": "goes on", "stop": "stopped"}[continuation["end"]]


def token_words(continuation: Continuation) -> str:
    """How many of its tokens count."""
    tokens, generated = continuation["tokens"], continuation["generated"]
    return f"{tokens:,} tokens trained" + (f" of {generated:,}" if generated != tokens else "")


def reset_words(record: Record) -> str:
    """Where the group was reset and why, or why not; empty for a fresh group."""
    if record["kind"] == "fallback":
        return "fallback: nothing could be reset, so this group starts afresh"
    seed = record["seed"]
    if seed is None:
        return ""
    return "✂ reset here · " + " · ".join(filter(None, [visible(seed["why"]), aim(record)]))


def aim(record: Record) -> str:
    """The cut against the first wrong thought of the seed, where that is known."""
    seed = record["seed"]
    if seed is None or seed["first_error"] is None:
        return ""
    late = len(record["prefix"]) + 1 - seed["first_error"]
    if late == 0:
        return "exactly at the first wrong thought"
    if late < 0:
        return f"{-late} before the first wrong thought"
    return f"{late} after the first wrong thought, which is kept"


def chances(record: Record) -> list[float | None]:
    """The probability that the rule gave each thought of the seed to be the reset step."""
    seed = record["seed"]
    if seed is None:
        return []
    weights = seed["weights"]
    if weights is None or not sum(weights) > 0:
        return [None] * len(seed["thoughts"])
    largest = max(weights)  # weights may be of any size
    total = sum(weight / largest for weight in weights)
    return [weight / largest / total for weight in weights]


def has_signal(record: Record) -> bool:
    """Whether some advantage is not 0: else the group teaches nothing."""
    return any(continuation["advantage"] for continuation in record["continuations"])


class Summary(NamedTuple):
    """A step in numbers: groups and mean reward by kind, groups with a signal, tokens trained."""

    counts: dict[Kind, int]
    rewards: dict[Kind, float]
    signal: int
    tokens: int

    @property
    def groups(self) -> int:
        """How many there are."""
        return sum(self.counts.values())

    def kinds(self) -> str:
        """Such as "32 fresh, 30 reset, 2 fallback"."""
        return ", ".join(f"{count} {kind}" for kind, count in self.counts.items())


class Section(NamedTuple):
    """A step as shown: `records` are the first of the `fitting` groups that were asked for."""

    step: int
    summary: Summary
    records: Sequence[Record]
    fitting: int

    def left_out(self) -> str:
        """What is not shown; empty if nothing."""
        if len(self.records) == self.fitting:
            return ""
        return (
            f"{len(self.records)} of {self.fitting} groups shown; --limit 0 shows all, "
            "--group K chooses"
        )


def summarise(records: Sequence[Record]) -> Summary:
    """The groups of one step in numbers."""
    counts = Counter(record["kind"] for record in records)
    rewards: dict[Kind, list[float]] = {kind: [] for kind in KINDS}
    for record in records:
        rewards[record["kind"]] += [c["reward"] for c in record["continuations"]]
    return Summary(
        {kind: counts[kind] for kind in KINDS if counts[kind]},
        {kind: sum(found) / len(found) for kind, found in rewards.items() if found},
        sum(map(has_signal, records)),
        sum(c["tokens"] for record in records for c in record["continuations"]),
    )
