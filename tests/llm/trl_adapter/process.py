"""One process of a distributed run, `python -m tests.llm.trl_adapter.process FOLDER`."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any


def main(folder: Path) -> None:
    """Train two steps, and write a record of them as JSON."""
    import torch

    torch.set_num_threads(1)
    from tests.llm.trl_adapter.watch import Watch, srpo

    watch = Watch(srpo(), folder, prompts=16, max_steps=2, per_device_train_batch_size=16)
    before = checksum(watch)
    watch.train()
    record = {
        "groups": [
            [
                {
                    "prompt": group.prefix.start.example.prompt,
                    "returns": group.returns.tolist(),
                    "cost": sum(episode.cost for episode in group.episodes),
                }
                for group in groups
            ]
            for groups in watch.collections
        ],
        "advantages": [a for inputs in watch.inputs for a in inputs["advantages"].tolist()],
        "corrected": [
            sum(not e.failed for g in groups if g.seed is not None for e in g.episodes)
            / sum(4 for g in groups if g.seed is not None)
            for groups in watch.collections
        ],
        "correction_rate": watch.logged("reset/correction_rate")[0],
        "ledger": watch.resets.ledger.to_json(),
        "before": before,
        "weights": checksum(watch),
    }
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(record))


def checksum(watch: Any) -> list[float]:
    """Sum of absolute values of each weight tensor."""
    return [float(weight.double().abs().sum()) for weight in watch.weights.values()]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.modules["vllm"] = None  # type: ignore[assignment]  # TRL would import it
    main(Path(sys.argv[1]))
