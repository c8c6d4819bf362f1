"""Base models shipped with this package."""

from __future__ import annotations

import difflib
from pathlib import Path

#: Beginnings of names that are paths: no hub name has them.
PATHS = ("/", "./", "../", "~", "models/", "runs/")

#: Folder of each shipped base model, by name. `llm.pretrain` trained the one for chain reasoning.
SHIPPED = {"chain-base": Path(__file__).parents[1] / "chain" / "base"}


def locate(model: str) -> str:
    """Folder or hub name of a model; names in `SHIPPED` are resolved unless such a path exists."""
    return model if model not in SHIPPED or Path(model).exists() else str(SHIPPED[model])


def check_folder(model: str) -> None:
    """Check that a model given as a path exists.

    Raises
    ------
    FileNotFoundError
        If there is nothing at a path, or a name is a slip of a shipped model's. Other names may be
        hub names.
    """
    if Path(model).expanduser().exists() or model in SHIPPED:
        return
    if model.startswith(PATHS):
        cure = "; make real-model fetches it" if model.endswith("SmolLM2-135M-Instruct") else ""
        raise FileNotFoundError(
            f"model: no tokenizer could be loaded from {model!r}: there is no such folder{cure}"
        )
    if similar := difflib.get_close_matches(model, SHIPPED, 1, 0.8):
        raise FileNotFoundError(f"model: {model!r} is no folder; did you mean {similar[0]}?")
