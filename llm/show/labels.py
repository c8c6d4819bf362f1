"""Labels and summaries of rollouts, shared by the terminal and the web page."""

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

#: Characters without a glyph: terminal controls, line separators, invisible and direction marks
#: (they reorder the text on display), and lone surrogates.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff"
    "\ud800-\udfff]"
)

#: Longest reference answer that is shown.
ANSWER = 200


def visible(text: str) -> str:
    """Model output with visible control characters: ESC as ␛, a direction mark as ⟨U+202E⟩."""
    return _INVISIBLE.sub(lambda match: _name(ord(match[0])), text)


def _name(code: int) -> str:
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"


def thought_text(text: str) -> str:
    """A thought without surrounding line breaks; ⟨blank⟩ if nothing remains."""
    return visible(text).strip("\n") or "⟨blank⟩"


def prompt_parts(prompt: PromptText) -> list[tuple[str, str]]:
    """Role and text of each message; a plain prompt is one message without a role."""
    if isinstance(prompt, str):
        return [("", visible(prompt).strip("\n"))]
    return [(visible(m["role"]), visible(m["content"]).strip("\n")) for m in prompt]


def prompt_label(record: Record) -> str:
    """Name and length of the prompt; no name if it equals the text."""
    name, text = visible(record["id"]), prompt_parts(record["prompt"])[-1][1]
    return ("" if name == text.strip() else f"{name} · ") + f"{record['prompt_tokens']} tokens"


def answer_label(record: Record) -> str:
    """The reference answer, on one line and cut at `ANSWER` characters; empty if unknown."""
    text = " ".join(visible(record.get("answer", "")).split())
    return f"answer: {text[:ANSWER]}{'…' if len(text) > ANSWER else ''}" if text else ""


def prefix_label(record: Record) -> str:
    """Length of the shared prefix."""
    kept = len(record["prefix"])
    thoughts = "1 thought" if kept == 1 else f"{kept} thoughts"
    return f"{thoughts}, {record['prefix_tokens']:,} tokens, nothing trained"


def format_reward(value: float) -> str:
    """A reward: 1, 0.25, −3."""
    return f"{value:.3g}".replace("-", "−")


def format_mean(reward: float) -> str:
    """A mean reward with three decimals."""
    return f"{reward:.3f}".replace("-", "−")


def mark(advantage: float) -> str:
    """▲ above the group's mean, ▼ below, = at the mean; readable without colour."""
    return "▲" if advantage > 0 else "▼" if advantage < 0 else "="


def format_advantage(advantage: float) -> str:
    """An advantage with its mark and sign."""
    value = f"{advantage:+.2f}" if advantage else "0.00"
    return f"{mark(advantage)} {value}".replace("-", "−")


def end_label(continuation: Continuation) -> str:
    """How a continuation ended."""
    return {"cut": "cut by a limit", "open": "goes on", "stop": "stopped"}[continuation["end"]]


def token_label(continuation: Continuation) -> str:
    """Number of trained tokens, and of generated ones if they differ."""
    tokens, generated = continuation["tokens"], continuation["generated"]
    return f"{tokens:,} tokens trained" + (f" of {generated:,}" if generated != tokens else "")


def reset_label(record: Record) -> str:
    """Place and reason of a group's reset or fallback; empty for a fresh group."""
    if record["kind"] == "fallback":
        return "fallback: nothing could be reset, so this group starts afresh"
    seed = record["seed"]
    if seed is None:
        return ""
    return "✂ reset here · " + " · ".join(filter(None, [visible(seed["why"]), cut_label(record)]))


def cut_label(record: Record) -> str:
    """Position of the cut relative to the seed's first wrong thought; empty if unknown."""
    seed = record["seed"]
    if seed is None or seed["first_error"] is None:
        return ""
    late = len(record["prefix"]) + 1 - seed["first_error"]
    if late == 0:
        return "exactly at the first wrong thought"
    if late < 0:
        return f"{-late} before the first wrong thought"
    return f"{late} after the first wrong thought, which is kept"


def reset_probabilities(record: Record) -> list[float | None]:
    """Probability of each thought of the seed to be the reset step; None if unknown."""
    seed = record["seed"]
    if seed is None:
        return []
    weights = seed["weights"]
    if weights is None or not sum(weights) > 0:
        return [None] * len(seed["thoughts"])
    largest = max(weights)  # scaled first, because the sum of large weights overflows
    total = sum(weight / largest for weight in weights)
    return [weight / largest / total for weight in weights]


def has_signal(record: Record) -> bool:
    """Whether any advantage is nonzero; otherwise the group has no gradient."""
    return any(continuation["advantage"] for continuation in record["continuations"])


class Summary(NamedTuple):
    """Summary of a step: groups and mean reward by kind, groups with a signal, trained tokens."""

    counts: dict[Kind, int]
    rewards: dict[Kind, float]
    signal: int
    tokens: int

    @property
    def groups(self) -> int:
        """Number of groups."""
        return sum(self.counts.values())

    def kinds(self) -> str:
        """Counts by kind, such as "32 fresh, 30 reset, 2 fallback"."""
        return ", ".join(f"{count} {kind}" for kind, count in self.counts.items())


class Section(NamedTuple):
    """A step to show; `records` are the first of its `matching` selected groups."""

    step: int
    summary: Summary
    records: Sequence[Record]
    matching: int

    def left_out(self) -> str:
        """Note about groups that are not shown; empty if there are none."""
        if len(self.records) == self.matching:
            return ""
        return (
            f"{len(self.records)} of {self.matching} groups shown; --limit 0 shows all, "
            "--group K chooses"
        )


def summarise(records: Sequence[Record]) -> Summary:
    """Summarise the groups of one step."""
    counts = Counter(record["kind"] for record in records)
    rewards: dict[Kind, list[float]] = {kind: [] for kind in KINDS}
    for record in records:
        rewards[record["kind"]] += [c["reward"] for c in record["continuations"]]
    return Summary(
        {kind: counts[kind] for kind in KINDS if counts[kind]},
        {kind: sum(values) / len(values) for kind, values in rewards.items() if values},
        sum(map(has_signal, records)),
        sum(c["tokens"] for record in records for c in record["continuations"]),
    )
