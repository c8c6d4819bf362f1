"""`python -m llm.show`: trees in the terminal, the web page, and refusals."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from llm.runs.rollout_records import (
    Record,
    read_rollouts,
    rollout_files,
    write_rollouts,
)
from llm.show import __main__ as show
from llm.show.labels import (
    ANSWER,
    answer_label,
    cut_label,
    format_advantage,
    format_reward,
    reset_probabilities,
    summarise,
    thought_text,
    visible,
)
from llm.tasks import ChainReasoning
from tests.llm.scripted import collected, sloppy, write_run

HOSTILE = "<script>alert('&amp;')</script><img src=x onerror=alert(1)></div></details> $name [red]"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "chain-srpo-s0", number=6)


def shown(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    assert show.main([str(arg) for arg in args]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def refused(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    assert show.main([str(arg) for arg in args]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("python -m llm.show: ")
    return captured.err


def reset_record() -> Record:
    """A group reset at step 3 of a seed whose first error is step 2."""

    def continuation(thoughts: list[str], reward: float, advantage: float, end: str) -> Any:
        return {
            "thoughts": thoughts,
            "reward": reward,
            "advantage": advantage,
            "end": end,
            "tokens": 1234,
            "generated": 1300 if end == "cut" else 1234,
            "ids": [],
            "mask": [],
        }

    return {
        "step": 3,
        "group": 5,
        "start": 2,
        "id": "numina-7",
        "kind": "reset",
        "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": "2 + 2?"}],
        "prompt_tokens": 9,
        "prefix": ["first thought\n", "second thought\n"],
        "prefix_tokens": 4,
        "seed": {
            "thoughts": ["first thought\n", "second thought\n", "third thought\n", "five"],
            "reward": -0.5,
            "weights": [0.0, 1.0, 3.0, 0.0],
            "first_error": 2,
            "why": "srpo prompted: step 3 of 4",
        },
        "continuations": [
            continuation(["better\n", "four"], 1.0, 0.866, "stop"),
            continuation(["worse"], 0.0, -0.866, "cut"),
            continuation(["as usual"], 0.5, 0.0, "stop"),
        ],
    }


# ------------------------------------------------------------------ terminal


def test_show__tree_has_all_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_rollouts(tmp_path, 3, [reset_record()])
    out = shown(capsys, path)
    lines = [
        "step 3 of ",
        "groups: 1 reset · mean reward: 0.500 reset",
        "1 of 1 with a signal (advantages not all 0) · 3,702 tokens trained",
        "group 5 · reset · prompt numina-7 · 9 tokens",
        "[system] Think.",
        "[user] 2 + 2?",
        "└── shared prefix · 2 thoughts, 4 tokens, nothing trained",
        "     1   0%  first thought",
        "     2  25%  ✗ first wrong  second thought",
        "├── ✂ reset here · srpo prompted: step 3 of 4 · 1 after the first wrong thought, which",
        "├── rest of the seed · reward −0.5",
        "│    3  75%  third thought",
        "│    4   0%  five",
        "├── ▲ +0.87 · reward 1 · stopped · 1,234 tokens trained",
        "│    3  better",
        "│    4  four",
        "├── ▼ −0.87 · reward 0 · cut by a limit · 1,234 tokens trained of 1,300",
        "│    3  worse",
        "└── = 0.00 · reward 0.5 · stopped · 1,234 tokens trained",
        "     3  as usual",
    ]
    position = 0
    for line in lines:  # all of them, in this order
        position = out.find(line, position)
        assert position >= 0, line


def test_show__last_step_by_default(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, run)
    assert "step 10 of" in out and "step 5 of" not in out
    assert out.count("\ngroup ") == 8
    assert "8 of 12 groups shown; --limit 0 shows all" in out


def test_show__selects_steps_groups_kinds_and_limits(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shown(capsys, run, "--step", 0, 5, "--group", 3, 1)
    assert re.findall(r"^step (\d+)", out, re.M) == ["0", "5"]
    assert re.findall(r"^group (\d+)", out, re.M) == ["1", "3", "1", "3"]
    out = shown(capsys, run, "--step", 0, "--kind", "fresh", "--limit", 2)
    assert re.findall(r"^group (\d+) · (\w+)", out, re.M) == [("0", "fresh"), ("2", "fresh")]
    assert "2 of 6 groups shown" in out
    assert shown(capsys, run, "--limit", 0).count("\ngroup ") == 12


def test_show__fallback_group_is_labelled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = ChainReasoning(train=4, test=1)
    _, records = collected(task, sloppy(task, 0.0))
    write_rollouts(tmp_path, 0, records)
    out = shown(capsys, tmp_path, "--kind", "fallback")
    assert "fallback: nothing could be reset, so this group starts afresh" in out
    assert "0 of 4 with a signal" in out


def test_show__control_characters_are_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = reset_record()
    record["continuations"][0]["thoughts"] = ["[bold]x[/bold] :smile: \x1b[2Jgone\x07\ud800\u202e"]
    write_rollouts(tmp_path, 0, [record])
    out = shown(capsys, tmp_path)
    assert "[bold]x[/bold] :smile: ␛[2Jgone␇⟨U+D800⟩⟨U+202E⟩" in out


# ------------------------------------------------------------------ refusals


def test_show__bad_input_exits_with_2(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "nowhere: no such run folder" in refused(capsys, tmp_path / "nowhere")
    assert "no rollouts/step-*.jsonl in it" in refused(capsys, tmp_path)
    assert "has no step 7; it has 0, 5, 10" in refused(capsys, run, "--step", 7)
    message = refused(capsys, run, "--group", 99)
    assert "no such group in step 10; step 10 has groups 0, 1, 2" in message
    out = tmp_path / "page.html"
    assert "no such group" in refused(capsys, run, "--group", 99, "--html", out)
    assert not list(tmp_path.iterdir())  # neither a page nor a partial file
    assert f"--html: {tmp_path} is a folder" in refused(capsys, run, "--html", tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    assert "empty.jsonl: the file has no groups" in refused(capsys, tmp_path / "empty.jsonl")
    (tmp_path / "broken.jsonl").write_text("{\n")
    assert "broken.jsonl:1: not a rollouts record" in refused(capsys, tmp_path / "broken.jsonl")


def test_show__error_abbreviates_many_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in range(0, 1000, 10):
        write_rollouts(tmp_path, step, [reset_record()])
    message = refused(capsys, tmp_path, "--step", 5)
    assert message.endswith("it has 0, 10, 20, 30, 40, 50, 60, 70, 80, 90, …, 970, 980, 990\n")


@pytest.mark.parametrize("args", [[], ["x", "--step", "-1"], ["x", "--kind", "odd"]])
def test_show__bad_usage_exits_with_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        show.main(args)
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_show__does_not_import_torch() -> None:
    code = "import sys, llm.show; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ------------------------------------------------------------------ page


class Page(HTMLParser):
    """Checks that tags nest; collects texts, ids, and whether `<details>` are open."""

    VOID = ("meta", "input")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(self.source)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.stack:
            self.text += data

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        return [a for _, a in self.tags if name in (a.get("class") or "").split()]


def page(capsys: pytest.CaptureFixture[str], out: Path, *args: object) -> Page:
    assert f"Written to {out}" in shown(capsys, *args, "--html", out).replace("\n", "")
    return Page(out)


def test_page__self_contained_without_scripts_or_links(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parsed = page(capsys, tmp_path / "new" / "page.html", run)
    assert parsed.source.startswith("<!doctype html>")
    tags = {tag for tag, _ in parsed.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "a", "form"}
    names = {name for _, attributes in parsed.tags for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in ("src", "href")}
    assert not re.search(r"https?://|url\(|@import", parsed.source)
    assert "default-src 'none'" in parsed.source  # browsers load nothing from elsewhere
    assert "prefers-color-scheme: dark" in parsed.source and "width=device-width" in parsed.source
    assert "Rollouts of chain-srpo-s0" in parsed.text and "algorithm: srpo" in parsed.text
    assert not re.search(r"\$\w", parsed.source)  # all template placeholders are filled


def test_page__has_all_groups_and_branches(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parsed = page(capsys, tmp_path / "page.html", run)
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {"step-0", "step-5", "step-10", "step-0-group-0", "step-10-group-11"} <= set(ids)
    records = [r for path in rollout_files(run).values() for r in read_rollouts(path)]
    assert len(parsed.of_class("group")) == len(records) == 36
    for kind in ("fresh", "reset"):
        expected = sum(record["kind"] == kind for record in records)
        assert len([a for a in parsed.of_class("group") if kind in str(a["class"])]) == expected
    assert len(parsed.of_class("flat")) == 36 - sum(
        any(c["advantage"] for c in record["continuations"]) for record in records
    )
    assert len(parsed.of_class("branch")) - len(parsed.of_class("seed")) == 36 * 4
    assert ["open" in step for step in parsed.of_class("step")] == [False, False, True]


def test_page__group_has_all_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_rollouts(tmp_path, 3, [reset_record()])
    parsed = page(capsys, tmp_path / "page.html", path)
    text = " ".join(parsed.text.split())
    for part in (
        "step 3 reset 0.500 1 of 1 groups with a signal · 3,702 tokens trained",
        "5 reset ▲▼= 2 + 2? ✂ 3/4 · 1 after the first wrong thought, which is kept",
        "prompt numina-7 · 9 tokens system Think. user 2 + 2?",
        "shared prefix 2 thoughts, 4 tokens, nothing trained "
        "0% first thought 25% ✗ first wrong second thought",
        "✂ reset here · srpo prompted: step 3 of 4",
        "rest of the seed reward −0.5 75% third thought 0% five",
        "▲ +0.87 reward 1 stopped · 1,234 tokens trained better four",
        "▼ −0.87 reward 0 cut by a limit · 1,234 tokens trained of 1,300 worse",
        "= 0.00 reward 0.5 stopped",
    ):
        assert part in text, part
    assert [a for tag, a in parsed.tags if tag == "ol"] == [
        {"start": str(start)} for start in (1, 3, 3, 3, 3)
    ]
    assert len(parsed.of_class("at-fault")) == 1


def test_page__hostile_text_is_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record: Any = reset_record()
    seed, first = record["seed"], record["continuations"][0]
    record["id"] = HOSTILE + "id"
    record["prompt"] = [{"role": HOSTILE + "role", "content": HOSTILE + "prompt"}]
    record["prefix"][0] = HOSTILE + "prefix"
    seed["thoughts"][2] = HOSTILE + "seed"
    seed["why"] = HOSTILE + "why"
    first["thoughts"] = [HOSTILE + "thought\u202e\x1b\ud800"]
    run = tmp_path / "<b>run&amp;"
    write_rollouts(run, 0, [record])
    (run / "config.yaml").write_text(HOSTILE + "config")
    parsed = page(capsys, tmp_path / "page.html", run)
    assert not {"script", "img", "b>run"} & {tag for tag, _ in parsed.tags}
    for field in ("id", "role", "prompt", "prefix", "seed", "why", "thought", "config"):
        assert HOSTILE + field in parsed.text, field
    assert "⟨U+202E⟩␛⟨U+D800⟩" in parsed.text
    assert "Rollouts of <b>run&amp;" in parsed.text


def test_page__long_run_is_limited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in range(50):
        write_rollouts(tmp_path, step, [reset_record()] * 30)
    parsed = page(capsys, tmp_path / "page.html", tmp_path)
    assert len(parsed.of_class("step")) == 20 and len(parsed.of_class("group")) == 400
    assert "20 of 50 recorded steps" in parsed.text
    assert "20 of 30 groups shown; --limit 0 shows all" in parsed.text
    parsed = page(capsys, tmp_path / "page.html", tmp_path, "--step", 7, "--limit", 0)
    assert len(parsed.of_class("step")) == 1 and len(parsed.of_class("group")) == 30


def test_spread__evenly_with_both_ends() -> None:
    assert show.spread([0, 5, 9], 3) == [0, 5, 9]
    assert show.spread(range(101), 5) == [0, 25, 50, 75, 100]
    spread = show.spread(range(1000), 20)
    assert len(set(spread)) == 20 and spread[0] == 0 and spread[-1] == 999


# ------------------------------------------------------------------ labels


def test_format_advantage__readable_without_colour() -> None:
    assert [format_advantage(a) for a in (1.5, -0.25, 0.0, -0.0)] == [
        "▲ +1.50",
        "▼ −0.25",
        "= 0.00",
        "= 0.00",
    ]
    assert [format_reward(r) for r in (1.0, -0.5, 1 / 3, 12.0)] == ["1", "−0.5", "0.333", "12"]


def test_visible__escapes_control_characters() -> None:
    assert visible("tab\tand\nline, ü, 你好, 👩‍🔬") == "tab\tand\nline, ü, 你好, 👩‍🔬"
    assert visible("\r\x00\x7f\x85\u2028") == "␍␀␡⟨U+0085⟩⟨U+2028⟩"
    assert thought_text("\n7\n") == "7" and thought_text("\n") == "⟨blank⟩"


@pytest.mark.parametrize(
    ("first_error", "words"),
    [
        (3, "exactly at the first wrong thought"),
        (4, "1 before the first wrong thought"),
        (1, "2 after the first wrong thought, which is kept"),
        (None, ""),
    ],
)
def test_cut_label__relative_to_first_error(first_error: int | None, words: str) -> None:
    record: Any = reset_record()
    record["seed"]["first_error"] = first_error
    assert cut_label(record) == words


def test_reset_probabilities__normalized_weights() -> None:
    record: Any = reset_record()
    assert reset_probabilities(record) == [0.0, 0.25, 0.75, 0.0]
    record["seed"]["weights"] = [1e308, 1e308, 0.0, 0.0]  # their sum overflows
    assert reset_probabilities(record) == [0.5, 0.5, 0.0, 0.0]
    record["seed"]["weights"] = None
    assert reset_probabilities(record) == [None] * 4


def test_summarise__by_hand() -> None:
    record: Any = reset_record()
    flat: Any = {
        **record,
        "kind": "fresh",
        "seed": None,
        "continuations": [record["continuations"][2]],
    }
    summary = summarise([flat, record, record])
    assert summary.counts == {"fresh": 1, "reset": 2}
    assert summary.rewards == {"fresh": 0.5, "reset": 0.5}
    assert (summary.groups, summary.signal, summary.tokens) == (3, 2, 7 * 1234)


def test_answer_label__one_line_of_limited_length(run: Path) -> None:
    (record, *_) = read_rollouts(rollout_files(run)[max(rollout_files(run))])
    assert answer_label({**record, "answer": "4\n2"}) == "answer: 4 2"
    assert answer_label({**record, "answer": "x" * 999}) == f"answer: {'x' * ANSWER}…"
    record.pop("answer", None)  # a record of an earlier version
    assert answer_label(record) == ""
