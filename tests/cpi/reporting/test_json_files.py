"""JSON files of commands: what is replaced, what is followed, what is refused in time."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from cpi.reporting.json_files import check_writable, write_json

RECORD = {"J(π)": 0.5, "name": "half of a pair: \udcff"}


def test_write_json__replaces_the_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("an earlier and longer text" * 10, encoding="utf-8")
    write_json(path, RECORD)
    assert json.loads(path.read_text(encoding="utf-8")) == RECORD
    assert os.listdir(tmp_path) == ["out.json"]


def test_write_json__utf_8_in_any_locale(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A text file opened without an encoding has that of the locale."""
    monkeypatch.setattr("io.text_encoding", lambda encoding, *_: encoding or "ascii")
    write_json(tmp_path / "out.json", RECORD)
    assert "J(π)" in (tmp_path / "out.json").read_text(encoding="utf-8")


def test_write_json__follows_a_link(tmp_path: Path) -> None:
    link, file = tmp_path / "link.json", tmp_path / "elsewhere" / "out.json"
    link.symlink_to(file)
    check_writable(link)
    write_json(link, RECORD)
    assert link.is_symlink() and json.loads(file.read_text(encoding="utf-8")) == RECORD


def test_write_json__a_link_to_itself_is_replaced(tmp_path: Path) -> None:
    """Path.resolve would raise RuntimeError, which no command expects."""
    link = tmp_path / "link.json"
    link.symlink_to(link)
    check_writable(link)
    write_json(link, RECORD)
    assert json.loads(link.read_text(encoding="utf-8")) == RECORD


def test_write_json__a_pipe_stays_one(tmp_path: Path) -> None:
    """As /dev/null and /dev/stdout do."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reading = threading.Thread(
        target=lambda: read.append(pipe.read_text(encoding="utf-8")), daemon=True
    )
    reading.start()
    check_writable(pipe)
    write_json(pipe, RECORD)
    reading.join(timeout=10)
    assert json.loads(read[0]) == RECORD and pipe.is_fifo()


@pytest.mark.parametrize("place", ["out.json", "."])
def test_check_writable__file_and_folder(
    place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file is replaced, which its folder must allow."""
    (tmp_path / "out.json").touch()
    locked = (tmp_path / place).resolve()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked)
    with pytest.raises(PermissionError, match=r"out\.json cannot be written"):
        check_writable(tmp_path / "out.json")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_write_json__full_disk_names_the_file() -> None:
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        write_json(Path("/dev/full"), RECORD)
