"""Presets: settings with a name that `--config` accepts.

Each file in `llm/presets/` is a preset. The presets of the paper's runs are composed. The preset
MODEL-PROBLEMS-METHOD merges `llm/presets/parts/paper.yaml` with one file from each folder of
`llm/presets/parts/`. The runs therefore differ in nothing else.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

PRESETS = Path(__file__).parents[1] / "presets"


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
    return dict(sorted(files.items()))
