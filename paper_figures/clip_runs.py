"""`python -m paper_figures.clip_runs`: the effect of clipping with four passes per batch.

The comparison of `llm.compare` takes one on-policy step per batch. There the ratio is 1 and nothing
is clipped. Here GRPO and SRPO take four passes over each batch, three of them off-policy, with
several clips. Regime, token budget, learning rate and seeds are those of the comparison, so its
runs are the baseline.

Each run writes a JSON file, and existing runs are not repeated. Remove the folder to repeat all of
them, in about 20 minutes on one core. `python -m paper_figures pack results/clip` then packs the
records for the figures.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cpi.reporting.json_files import write_json
from llm.compare.arms import (
    ARMS,
    LEARNING_RATE,
    REGIMES,
    run_config,
)
from llm.config.train import TrainConfig

PROG = "python -m paper_figures.clip_runs"

FOLDER = Path("results/clip")
REGIME, SEEDS, PASSES = "middle", range(8), 4
CLIPPED_ARMS = ("grpo", "srpo-prompted")

#: Name → ε below and above 1. Ratios are positive, so a lower ε of 1 never clips.
CLIPS: dict[str, tuple[float, float]] = {
    "none": (1.0, 1e6),
    "0.1": (0.1, 0.1),
    "0.2": (0.2, 0.2),
    "0.2-0.28": (0.2, 0.28),
}


def clip_config(arm: str, clip: str, seed: int, model: str = "chain-base") -> TrainConfig:
    """Settings of a run: those of the comparison, with other passes and clip."""
    config = run_config(ARMS[arm], REGIMES[REGIME], model, LEARNING_RATE, seed)
    low, high = CLIPS[clip]
    return dataclasses.replace(
        config,
        update=dataclasses.replace(config.update, num_iterations=PASSES),
        loss=dataclasses.replace(config.loss, epsilon=low, epsilon_high=high),
    )


#: A run's arm, clip and seed.
Run = tuple[str, str, int]


def runs(folder: Path = FOLDER) -> dict[Run, tuple[Path, TrainConfig]]:
    """Result file and settings of each run, ordered by seed first."""
    return {
        (arm, clip, seed): (folder / f"{arm}-{clip}-s{seed}.json", clip_config(arm, clip, seed))
        for seed in SEEDS
        for clip in CLIPS
        for arm in CLIPPED_ARMS
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    import argparse

    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog=PROG,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=FOLDER, metavar="DIR")
    args = parser.parse_args(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded
    from rich.progress import track

    from cpi.reporting.tables import console
    from llm.compare.runs import done, run
    from llm.runs.folder import commit

    # The commit of the loaded code; the command without this machine's paths.
    made_by = {"commit": commit(), "command": [PROG]}
    try:
        missing = [(p, c) for p, c in runs(args.output).values() if not done(p, c)]
        args.output.mkdir(parents=True, exist_ok=True)
        progress = track(missing, "runs", console=console(sys.stderr))
        for path, config in progress:
            record = run(config)
            record["environment"] |= made_by
            write_json(path, record)
    except (ValueError, OSError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROG}: stopped; the same command makes the missing runs", file=sys.stderr)
        return 130
    print(f"{len(missing)} runs made; all runs are in {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
