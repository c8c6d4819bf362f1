"""The figures and the report that are committed are what the records give."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import re
import shutil
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

import paper_figures.framework.command
import paper_figures.framework.figure
import paper_figures.framework.report
from llm.compare.records import PACKED
from paper_figures import __main__ as command
from paper_figures.framework.catalogue import FIGURES, choose, inputs_first
from paper_figures.framework.command import obtain
from paper_figures.framework.figure import (
    Claim,
    Figure,
    Record,
    plain,
    read,
    record,
)
from paper_figures.framework.inputs import digest
from paper_figures.framework.report import html, markdown
from paper_figures.framework.style import look, save

RESULTS = command.HOME / "results"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def records() -> dict[str, Record]:
    return {figure.name: read(RESULTS, figure) for figure in FIGURES}


def quiet(what: str) -> None:
    """Progress that nobody sees."""


def test_report_says_what_the_records_say(records: dict[str, Record]) -> None:
    text = markdown(FIGURES, records)
    assert (command.HOME / "report.md").read_text() == text


def test_no_record_is_stale(records: dict[str, Record]) -> None:
    assert {name: made.stale(f) for f in FIGURES for name, made in [(f.name, records[f.name])]} == {
        figure.name: "" for figure in FIGURES
    }


def test_page_has_all_within_it_and_its_links_lead_somewhere() -> None:
    page = html((command.HOME / "report.md").read_text(), command.HOME)
    assert page.count('<img src="data:image/png;base64,') == len(FIGURES)
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', page)
    for target in re.findall(r'href="#([^"]*)"', page):
        assert f'id="{unquote(target)}"' in page


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_committed_figure_is_drawn_from_its_record(
    figure: Figure, records: dict[str, Record], tmp_path: Path
) -> None:
    with look():
        save(figure.draw(records[figure.name].data), tmp_path / "drawn.png")
    drawn = pixels(tmp_path / "drawn.png")
    committed = pixels(command.HOME / "figures" / f"{figure.name}.png")
    assert drawn.shape == committed.shape
    # Not to the last byte: another processor may round another way.
    assert (np.abs(drawn - committed).max(axis=-1) > 32).mean() < 5e-4


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), dtype=int)


@pytest.mark.slow
@pytest.mark.parametrize("figure", [f for f in FIGURES if f.cheap], ids=lambda figure: figure.name)
def test_recomputing_gives_the_recorded_data(
    figure: Figure, records: dict[str, Record], tmp_path: Path
) -> None:
    made = record(tmp_path, figure, quiet)
    expected = records[figure.name].data
    assert without_new_bounds(made.data, expected) == approximately(expected)
    assert read(tmp_path, figure).data == made.data


def without_new_bounds(data: dict[str, Any], recorded: dict[str, Any]) -> dict[str, Any]:
    """The data less bounds that were added after the record was made."""
    if "bounds" not in recorded:
        return data
    known = {bound["name"] for bound in recorded["bounds"]}
    old = [bound for bound in data["bounds"] if bound["name"] in known]
    new = sum(bound["instances"] for bound in data["bounds"] if bound["name"] not in known)
    return {**data, "bounds": old, "checks": data["checks"] - new}


def approximately(value: object) -> object:
    """Numbers to the digits that other machines share."""
    if isinstance(value, dict):
        return {name: approximately(v) for name, v in value.items()}
    if isinstance(value, list):
        return [approximately(v) for v in value]
    is_number = isinstance(value, float) and not isinstance(value, bool)
    return pytest.approx(value, rel=1e-6, abs=1e-9) if is_number else value


def test_changed_settings_are_called_stale(records: dict[str, Record], tmp_path: Path) -> None:
    figure = FIGURES[0]
    made = records[figure.name]
    assert made.stale(figure) == ""
    changed = replace(figure, settings={**figure.settings, "extra": 3})
    assert made.stale(changed) == "extra was None, is 3"
    assert "**Stale**: extra was None, is 3." in markdown([changed], records)


def test_names_may_be_short_and_bad_ones_are_named() -> None:
    assert choose(["t6", "t6_chain"]) == [f for f in FIGURES if f.name == "t6_chain"]
    assert choose([]) == list(FIGURES)
    with pytest.raises(ValueError, match=r"NAMES: 't99' is none of the figures: .*t6_chain"):
        choose(["t99"])


def test_command_draws_and_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    assert "t6_chain" in capsys.readouterr().out
    out = tmp_path / "out"
    assert command.main(["t6", "--recompute", "--out", str(out), "--format", "svg,png"]) == 0
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert names == {"figures/t6_chain.svg", "figures/t6_chain.png", "results/t6_chain.json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["t99"], "'t99' is none of the figures"), (["--format", "gif"], "'gif' is none of pdf")],
)
def test_bad_input_is_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = command.main(arguments)
    except SystemExit as stop:  # argparse
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_missing_and_broken_records_say_how_to_make_them(tmp_path: Path) -> None:
    figure = FIGURES[0]
    with pytest.raises(ValueError, match=f"no record .*paper_figures {figure.name} --recompute"):
        read(tmp_path, figure)
    (tmp_path / f"{figure.name}.json").write_text('{"data": ')
    with pytest.raises(ValueError, match=r"is no record; .* makes it anew"):
        read(tmp_path, figure)
    for broken in ('{"settings": 3, "data": {}, "environment": {"time": "2026"}}', "[]", "{}"):
        (tmp_path / f"{figure.name}.json").write_text(broken)
        with pytest.raises(ValueError, match=r"is no record; .* makes it anew"):
            read(tmp_path, figure)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the records, in which they may be broken, and of the figures."""
    home = tmp_path / "home"
    for folder in ("results", "figures"):
        shutil.copytree(command.HOME / folder, home / folder)
    for module in (
        paper_figures.framework.command,
        paper_figures.framework.figure,
        paper_figures.framework.report,
    ):
        monkeypatch.setattr(module, "HOME", home)
    return home


def test_a_broken_record_and_a_missing_one_do_not_stop_the_others(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = {"settings": {}, "data": {}, "environment": {"time": "2026-01-01"}}
    (home / "results" / "t4_tightness.json").write_text(json.dumps(empty))
    (home / "results" / "t1_resets_needed.json").unlink()
    out = tmp_path / "out"
    assert command.main(["t1", "t4", "t6", "--format", "png", "--out", str(out)]) == 1
    assert [path.name for path in (out / "figures").iterdir()] == ["t6_chain.png"]
    missing, broken = capsys.readouterr().err.splitlines()
    assert "t1_resets_needed: no record" in missing
    assert "t4_tightness.json has not what the figure draws (KeyError: 'bounds')" in broken
    for line in (missing, broken):
        assert line.endswith(("--recompute makes it", "--recompute makes it anew"))
    assert command.main(["t6", "--format", "png"]) == 1
    assert not (home / "report.md").exists()
    assert "report: not written" in capsys.readouterr().err


def test_a_missing_picture_says_what_draws_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no picture .*x\.png; .*paper_figures x --format png"):
        html("# Title\n\n![x](figures/x.png)\n", tmp_path)


def test_a_figure_is_stale_when_what_it_read_has_changed(home: Path) -> None:
    results = home / "results"
    read_by = {f.name: f for f in FIGURES if "l5_model.json" in f.inputs}
    assert "t2_localizer" in read_by
    path = results / "l5_model.json"
    again = json.loads(path.read_text())
    again["environment"]["time"] = "2027-01-01"  # made again, with the same outcome
    path.write_text(json.dumps(again))
    for figure in read_by.values():
        assert read(results, figure).stale(figure) == ""
    again["data"]["localizers"][0]["precision"] = 0.5
    path.write_text(json.dumps(again))
    for figure in read_by.values():
        said = read(results, figure).stale(figure)
        assert said == "l5_model.json is not what it was made from"
    path.unlink()
    assert digest(path) == ""


def test_digest_of_packed_runs_is_of_their_contents(tmp_path: Path) -> None:
    file = tmp_path / f"short{PACKED}"

    def of(text: str, level: int = 9) -> str:
        file.write_bytes(gzip.compress(text.encode(), level))
        return digest(file)

    assert digest(file) == ""
    assert len({of("a"), of("b"), of("a" * 1000)}) == 3
    assert of("a" * 1000, 1) == of("a" * 1000, 9)


def test_what_others_read_is_computed_first_and_read_where_it_is_new(tmp_path: Path) -> None:
    seen = []

    def compute(settings: Mapping[str, Any], progress: object) -> dict[str, Any]:
        seen.append(settings["inputs"])
        return {}

    reads, other = (replace(f, compute=compute) for f in (FIGURES[0], FIGURES[2]))
    reads = replace(reads, inputs=(f"{other.name}.json",))
    assert [f.name for f in inputs_first([reads, other])] == [other.name, reads.name]
    new = tmp_path / f"{other.name}.json"
    made = obtain(reads, tmp_path / "out", {new.name: new})
    assert seen == [{new.name: new}]
    assert made.inputs == {new.name: ""}
    obtain(reads, tmp_path / "out", {})
    assert seen[1] == {new.name: RESULTS / new.name}


def test_an_interrupt_is_told_even_where_it_is_swallowed_and_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = paper_figures.framework.command.draw

    def swallowing(*args: Any) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        draw(*args)

    monkeypatch.setattr(paper_figures.framework.command, "draw", swallowing)
    before = signal.getsignal(signal.SIGINT)
    arguments = ["t6", "t4", "--format", "svg", "--out", str(tmp_path)]
    assert command.main(arguments) == 130
    assert "Interrupted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["t6_chain.svg"]


def test_a_picture_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    class Stopped(matplotlib.figure.Figure):
        def savefig(self, to: Any, **options: Any) -> None:
            to.write(PNG)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save(Stopped(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_verdict_with_a_caveat_needs_one() -> None:
    with pytest.raises(ValueError, match="needs a reason"):
        Claim("c", "checked", "found", "holds with a caveat")
    with pytest.raises(ValueError, match="needs a reason"):
        Claim("c", "checked", "found", "mixed")
    fails = Claim("c", "checked", "found", "does not hold here", caveat="because")
    assert fails.verdict_in_words == "does not hold here: because"
    holds = Claim("c", "checked", "found", "holds", caveat="not told")
    assert holds.verdict_in_words == "holds"
    partly = Claim("c", "checked", "found", "holds with a caveat", caveat="where a | b")
    assert partly.verdict_in_words == "holds with a caveat: where a | b"


def test_summary_counts_the_verdicts(records: dict[str, Record]) -> None:
    claims = [
        Claim("a", "checked", "12 of 12. More.", "holds"),
        Claim("b", "checked", "found", "does not hold here"),
        Claim("c", "checked", "found", "mixed", caveat="where"),
        Claim("d", "checked", "found", "not seen here", of="ours"),
    ]
    text = markdown([replace(FIGURES[0], claims=lambda data: claims)], records)
    assert "The paper's claims: ✓ holds 1, ✗ does not hold here 1, ? mixed 1." in text
    assert "Our own: ? not seen here 1." in text
    assert "| a | ✓ holds | 12 of 12. |" in text


def test_plain_is_what_json_gives_back() -> None:
    assert plain({"a": (1, 2.5)}) == {"a": [1, 2.5]}


def test_links_of_html_pictures_are_files_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    page = html("# Title\n\n![x](a.png)\n", tmp_path)
    assert base64.b64encode(PNG).decode() in page
    assert "<title>Title</title>" in page


def test_bars_in_claims_do_not_break_the_table(records: dict[str, Record]) -> None:
    claim = Claim("of |A| actions", "checked", "found", "holds")
    text = markdown([replace(FIGURES[0], claims=lambda data: [claim])], records)
    assert r"| of \|A\| actions | ✓ holds | found. |" in text
