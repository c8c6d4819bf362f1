"""Rollouts as a self-contained web page, without scripts, safe for any model output.

The template `page.html` holds the style. This module fills it with nested `<details>`: steps, their
groups, and per group the prompt, the shared prefix, and the branches side by side. Links into the
page work, such as `FILE.html#step-10-group-3`: browsers open the `<details>` around the target.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from llm.runs.rollout_records import KINDS, Continuation, Record
from llm.show.labels import (
    Section,
    answer_label,
    cut_label,
    end_label,
    format_advantage,
    format_mean,
    format_reward,
    has_signal,
    mark,
    prefix_label,
    prompt_label,
    prompt_parts,
    reset_label,
    reset_probabilities,
    thought_text,
    token_label,
    visible,
)

#: Placeholder of the steps in the template.
_BODY = "<!-- steps -->"

#: Maximum number of groups of a step that are opened initially.
_OPEN_GROUPS = 4

#: Maximum characters of a shared prefix that is opened initially, so that branches stay in view.
_OPEN_PREFIX = 2000

_SIDES = {"▲": "above", "▼": "below", "=": "level"}


def write_page(
    path: Path, run: Path, sections: Iterable[Section], steps: Sequence[int], available: int
) -> None:
    """Write the page atomically, one step at a time to bound memory.

    Parameters
    ----------
    path : Path
    run : Path
        The run's folder, whose config.yaml is included if present, or a rollouts file.
    sections : iterable of Section
        One per step.
    steps : sequence of int
        Numbers of these steps.
    available : int
        Number of recorded steps of the run.

    Raises
    ------
    IsADirectoryError
        If the path is a folder.
    """
    if path.is_dir():
        raise IsADirectoryError(f"--html: {path} is a folder; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    template = files("llm.show").joinpath("page.html").read_text(encoding="utf-8")
    head, _, foot = template.partition(_BODY)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(Template(head).substitute(_header(run, steps, available)))
            for section in sections:
                file.writelines(_step(section, opened=section.step == steps[-1]))
            file.write(foot)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _header(run: Path, steps: Sequence[int], available: int) -> dict[str, str]:
    shown = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
    left_out = ""
    if len(steps) < available:
        left_out = (
            f'<p class="quiet">{len(steps)} of {available} recorded steps; '
            "--step N … chooses others</p>"
        )
    name, config = run.resolve().name, run / "config.yaml"
    settings = ""
    if config.is_file():
        text = _text(config.read_text(encoding="utf-8", errors="replace"))
        settings = f"<details><summary>settings of the run</summary><pre>{text}</pre></details>"
    return {
        "name": _text(name),
        "path": _text(str(run)),
        "shown": shown,
        "left_out": left_out,
        "settings": settings,
        "kinds": "".join(
            f'<label><input type="checkbox" id="show-{kind}" autocomplete="off" checked> '
            f"{kind}</label>\n"
            for kind in KINDS
        ),
    }


def _text(text: str) -> str:
    return escape(visible(text))


# ------------------------------------------------------------------ steps


def _step(section: Section, *, opened: bool) -> Iterator[str]:
    summary = section.summary
    yield f'<details class="step"{" open" * opened}>\n'
    yield f"<summary>\n<h2>step {section.step}</h2>\n"
    for kind in KINDS:
        yield _bar(kind, summary.rewards.get(kind))
    signal = f"{summary.signal} of {summary.groups} groups with a signal"
    yield f'<span class="quiet">{signal} · {summary.tokens:,} tokens trained</span>\n</summary>\n'
    yield f'<div class="groups" id="step-{section.step}">\n'
    for record in section.records:
        yield from _group(record, opened=len(section.records) <= _OPEN_GROUPS)
    if not section.records:
        yield '<p class="quiet note">no group of this step matches</p>\n'
    if section.left_out():
        yield f'<p class="quiet note">{section.left_out()}</p>\n'
    yield "</div>\n</details>\n"


def _bar(kind: str, reward: float | None) -> str:
    if reward is None:
        return '<span class="bar"></span>\n'  # an empty cell keeps the columns of all steps aligned
    filled = round(100 * min(max(reward, 0.0), 1.0))
    return (
        f'<span class="bar {kind}"><span class="quiet">{kind}</span> {format_mean(reward)}'
        f'<i style="--filled:{filled}%"></i></span>\n'
    )


# ------------------------------------------------------------------ groups


def _group(record: Record, *, opened: bool) -> Iterator[str]:
    kind, flat = record["kind"], "" if has_signal(record) else " flat"
    marks = "".join(
        f'<b class="{_SIDES[mark(c["advantage"])]}">{mark(c["advantage"])}</b>'
        for c in record["continuations"]
    )
    yield f'<details class="group {kind}{flat}"{" open" * opened}>\n<summary>'
    yield f'<span class="number">{record["group"]}</span> <span class="kind">{kind}</span> '
    yield f'<span class="marks">{marks}</span> <span class="line">{_one_line(record)}</span>'
    yield f' <span class="aim quiet">{escape(_place(record))}</span></summary>\n'
    yield f'<div class="tree" id="step-{record["step"]}-group-{record["group"]}">\n'
    yield from _prompt(record)
    yield from _prefix(record)
    if reset_label(record):
        yield f'<p class="reset-here">{escape(reset_label(record))}</p>\n'
    yield '<div class="branches">\n'
    yield from _seed(record)
    for continuation in record["continuations"]:
        yield from _continuation(continuation, len(record["prefix"]))
    yield "</div>\n</div>\n</details>\n"


def _one_line(record: Record) -> str:
    text = " ".join(prompt_parts(record["prompt"])[-1][1].split())
    return escape(text if len(text) <= 160 else text[:160] + "…")


def _place(record: Record) -> str:
    seed = record["seed"]
    if seed is None:
        return ""
    place = f"✂ {len(record['prefix']) + 1}/{len(seed['thoughts'])}"
    return f"{place} · {cut_label(record)}" if cut_label(record) else place


def _prompt(record: Record) -> Iterator[str]:
    yield '<section class="prompt">'
    yield f'<h3>prompt <span class="quiet">{escape(prompt_label(record))}</span></h3>\n'
    for role, text in prompt_parts(record["prompt"]):
        heading = f'<span class="role">{escape(role)}</span>\n' if role else ""
        yield f'{heading}<div class="text">{escape(text)}</div>\n'
    if answer_label(record):
        yield f"<p>{escape(answer_label(record))}</p>\n"
    yield "</section>\n"


def _prefix(record: Record) -> Iterator[str]:
    if record["prefix"]:
        opened = sum(map(len, record["prefix"])) <= _OPEN_PREFIX
        yield f'<details class="prefix"{" open" * opened}><summary><h3>shared prefix '
        yield f'<span class="quiet">{prefix_label(record)}</span></h3></summary>\n'
        yield from _thoughts(record["prefix"], 0, record)
        yield "</details>\n"


def _seed(record: Record) -> Iterator[str]:
    seed, kept = record["seed"], len(record["prefix"])
    if seed is not None:
        yield '<section class="branch seed"><h3>rest of the seed '
        yield f'<span class="quiet">reward {format_reward(seed["reward"])}</span></h3>\n'
        yield from _thoughts(seed["thoughts"][kept:], kept, record)
        yield "</section>\n"


def _continuation(continuation: Continuation, kept: int) -> Iterator[str]:
    advantage = continuation["advantage"]
    yield f'<section class="branch {_SIDES[mark(advantage)]}"><h3>'
    yield f"<b>{format_advantage(advantage)}</b> "
    yield f"reward {format_reward(continuation['reward'])} "
    yield f'<span class="quiet"><i class="{continuation["end"]}">{end_label(continuation)}</i> · '
    yield f"{token_label(continuation)}</span></h3>\n"
    yield from _thoughts(continuation["thoughts"], kept)
    yield "</section>\n"


def _thoughts(thoughts: Sequence[str], before: int, record: Record | None = None) -> Iterator[str]:
    """Numbered thoughts; with `record`, also reset probabilities and the seed's first error."""
    probabilities = reset_probabilities(record) if record else []
    wrong = record["seed"]["first_error"] if record and record["seed"] else None
    yield f'<ol start="{before + 1}">\n'
    for k, thought in enumerate(thoughts, before + 1):
        yield '<li class="at-fault">' if k == wrong else "<li>"
        if k <= len(probabilities) and probabilities[k - 1] is not None:
            yield f'<span class="chance">{probabilities[k - 1]:.0%}</span> '
        if k == wrong:
            yield '<span class="wrong">✗ first wrong</span> '
        yield f'<span class="text">{escape(thought_text(thought))}</span></li>\n'
    yield "</ol>\n"
