"""A base model that solves part of the problems, made once a session."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

#: Three steps over ten facts, of which the base model gets each right seven times in ten.
CHAIN: dict[str, Any] = {
    "length": 3,
    "modulus": 5,
    "operations": ["+1", "*2"],
    "train": 24,
    "test": 8,
}


@pytest.fixture(scope="session")
def chain_args() -> dict[str, Any]:
    return CHAIN


@pytest.fixture(scope="session")
def chain_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small model, pre-trained in seconds; a third of its answers are right.

    All pytest processes of one session share it.
    """
    session = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        session = session.parent
    folder = session / "chain-base"
    with FileLock(session / "chain-base.lock"):
        if not folder.exists():
            pretrained(tmp_path_factory.mktemp("chain-base")).rename(folder)
    return folder


def pretrained(folder: Path) -> Path:
    """Write that model into a folder."""
    import torch

    from llm.chain.model import chain_model, chain_tokenizer
    from llm.pretrain import PretrainConfig, pretrain
    from llm.tasks import make_task

    task = make_task("chain", **CHAIN)
    tokenizer = chain_tokenizer(task.chain)
    model = chain_model(tokenizer, hidden_size=96, layers=2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads gain nothing at this size
    recipe = PretrainConfig(
        modulus=CHAIN["modulus"],
        operations=CHAIN["operations"],
        lengths=(CHAIN["length"], CHAIN["length"]),
        error_rate=0.3,
        localization=0.1,
        steps=240,
        batch=32,
        learning_rate=5e-3,
    )
    pretrain(model, tokenizer, recipe)
    torch.set_num_threads(threads)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
