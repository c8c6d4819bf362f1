"""Presets: settings with a name that `--config` accepts.

Each file in `llm/presets/` is a preset. Others are composed, so that runs differ in nothing else. A
preset MODEL-PROBLEMS-METHOD of the paper's runs merges `llm/presets/parts/paper.yaml` with one file
from each of the folders `models`, `problems` and `methods` beside it. A preset
smollm2-135m-PROBLEMS-METHOD merges `smollm2.yaml` with a file of `smollm2/` and one of `methods`.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

PRESETS = Path(__file__).parents[1] / "presets"

#: Methods that are compared on SmolLM2.
COMPARED = ("grpo", "rrpo", "srpo")


def presets() -> dict[str, list[Path]]:
    """Name → files of the preset; later files win."""
    files = {path.stem: [path] for path in PRESETS.glob("*.yaml")}
    parts = PRESETS / "parts"
    kinds = (sorted((parts / kind).glob("*.yaml")) for kind in ("models", "problems", "methods"))
    for model, problems, method in product(*kinds):
        name = f"{model.stem}-{problems.stem}-{method.stem}"
        files[name] = [parts / "paper.yaml", model, problems, method]
        # Settings of a method that depend on the problems.
        files[name] += (parts / "pairs").glob(f"{problems.stem}-{method.stem}.yaml")
    for problems in (parts / "smollm2").glob("*.yaml"):
        for compared in COMPARED:
            name = f"smollm2-135m-{problems.stem}-{compared}"
            files[name] = [parts / "smollm2.yaml", problems, parts / f"methods/{compared}.yaml"]
    return dict(sorted(files.items()))
