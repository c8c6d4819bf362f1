"""Base models that come with this package, by name."""

from __future__ import annotations

from pathlib import Path

#: Base models that come with this package: for chain reasoning, made by `llm.pretrain`.
SHIPPED = {"chain-base": Path(__file__).parents[1] / "chain" / "base"}


def locate(model: str) -> str:
    """Folder or hub name of a model: a name in `SHIPPED` means ours, unless there is a folder."""
    return model if model not in SHIPPED or Path(model).exists() else str(SHIPPED[model])


def check_folder(model: str) -> None:
    """Refuse a model that can only be a folder, and is none.

    Raises
    ------
    FileNotFoundError
        If the name begins as a path does and leads nowhere: any other may be a name of the hub.
    """
    if model.startswith(("/", "./", "../", "~")) and not Path(model).expanduser().exists():
        raise FileNotFoundError(f"model: {model} is no folder; name a model's folder or hub name")
