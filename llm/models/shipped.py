"""Base models shipped with this package."""

from __future__ import annotations

from pathlib import Path

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
        If the name starts like a path but does not exist. Other names may be hub names.
    """
    if model.startswith(("/", "./", "../", "~")) and not Path(model).expanduser().exists():
        raise FileNotFoundError(
            f"model: no tokenizer could be loaded from {model!r}: there is no such folder"
        )
