"""Presets: settings that `--config` knows by name.

A file in `llm/presets/` is a preset. The paper's runs have no files of their own:
MODEL-PROBLEMS-METHOD is the setting that all of them share and one file of each folder in
`llm/presets/parts/`, so that they differ in nothing else.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

PRESETS = Path(__file__).parents[1] / "presets"


def presets() -> dict[str, list[Path]]:
    """Name → its files, of which later ones win."""
    found = {path.stem: [path] for path in PRESETS.glob("*.yaml")}
    parts = PRESETS / "parts"
    kinds = (sorted((parts / kind).glob("*.yaml")) for kind in ("models", "problems", "methods"))
    for model, problems, method in product(*kinds):
        name = f"{model.stem}-{problems.stem}-{method.stem}"
        # Problems win over the method: how many steps they take decides how long its stages are.
        found[name] = [parts / "paper.yaml", model, method, problems]
    return dict(sorted(found.items()))
