"""Runs of a comparison: their settings, which are done, and how to make one."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cpi.reporting.json_files import write_json
from llm.compare.arms import (
    ARMS,
    KNOWN,
    KNOWN_REGIMES,
    LEARNING_RATE,
    REGIMES,
    TUNING_ARMS,
    TUNING_RATES,
    TUNING_SEEDS,
    run_config,
)
from llm.compare.records import Record, read_record
from llm.config.resume import recorded
from llm.config.train import TrainConfig

#: Number of read-outs of success, spread over the token budget.
READINGS = 60


#: Arms of a quick comparison.
QUICK = ("grpo", "oracle-first_error")


def run(config: TrainConfig) -> dict[str, Any]:
    """Make one run; returns its learning curve, token ledger, settings and environment."""
    import torch
    import transformers
    from rich.console import Console

    from llm.common.progress import Reporter
    from llm.runs.folder import environment
    from llm.train.trainer import Trainer

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    assert config.token_budget is not None
    curve: dict[str, list[float | None]] = {
        name: [] for name in ("step", "tokens", "success", "localize/exact")
    }
    folder = tempfile.mkdtemp(prefix="compare-")
    try:
        with Path(os.devnull).open("w") as devnull:
            reporter = Reporter(config.steps, Console(file=devnull))
            trainer = Trainer(dataclasses.replace(config, output=folder), reporter)
            exact: list[float] = []
            while True:
                tokens = trainer.ledger.steps + trainer.ledger.localizer_cost
                due = tokens >= len(curve["step"]) * config.token_budget / READINGS
                if due or trainer.finished:
                    success = trainer.read_out(trainer.sampler.test).success
                    curve["step"].append(trainer.step)
                    curve["tokens"].append(tokens)
                    curve["success"].append(round(float(success.mean()), 5))
                    mean = round(float(np.mean(exact)), 3) if exact else None
                    curve["localize/exact"].append(mean)
                    exact.clear()
                if trainer.finished:
                    break
                metrics = trainer.train_step()
                exact += [metrics[name] for name in ("localize/exact",) if name in metrics]
            ledger = trainer.ledger.to_json()
            trainer.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    made = {"config": asdict(config), "environment": environment()}
    return {"curve": curve, "ledger": ledger, **made}


@dataclass(frozen=True)
class CompareConfig:
    """Options of a comparison.

    Parameters
    ----------
    model : str
        Base model.
    regimes : list of str
        Any of short, middle, long, few, and six, which must be named.
    arms : list of str
        Names are algorithm-localizer (or -mask of the oracle), or plan-localizer; by default the
        arms of the regime. The plans random and deepest have two reset groups of 4, from any
        failed answers or those with the latest errors; the plan one has 8 continuations of one
        reset. Others must be named: adaptive-checker, -halving, -first, -surprisal, -prompted,
        -any-surprisal, -any-prompted (resets where all rollouts of a prompt fail; any: of a random
        failure); equal-checker, -prompted, -any-prompted, -surprisal, -first (the same with fewer
        prompts a step, at the cost of fresh groups alone); and other methods: dapo, spo-tree,
        score, critique-grpo, vineppo, vineppo-small.
    seeds : int
        Runs of each arm in each regime.
    first_seed : int
        Seeds are first_seed, first_seed + 1, …
    jobs : int
        Parallel runs, one core each.
    output : str
        Folder of the results, one JSON file per run.
    quick : bool
        Smoke test: two seeds, a tenth of the tokens, and two arms unless some are named.
    tune : bool
        Instead, try learning rates with three arms on four other seeds, and mark the one to use.
    """

    model: str = "chain-base"
    regimes: tuple[str, ...] = tuple(REGIMES)
    arms: tuple[str, ...] = tuple(ARMS)
    seeds: int = 8
    first_seed: int = 0
    jobs: int = 2
    output: str = "results/compare"
    quick: bool = False
    tune: bool = False

    def __post_init__(self) -> None:
        options = (("regimes", self.regimes, KNOWN_REGIMES), ("arms", self.arms, KNOWN))
        for option, names, known in options:
            for name in names:
                if name not in known:
                    raise ValueError(f"{option}: {name!r} is none of {', '.join(known)}")
            if not names:
                raise ValueError(f"{option}: none named; leave it out for all")
        defaults = CompareConfig.arms, CompareConfig.seeds, CompareConfig.first_seed
        if self.tune and (self.quick or (self.arms, self.seeds, self.first_seed) != defaults):
            raise ValueError(
                f"tune: it has its own arms ({', '.join(TUNING_ARMS)}), seeds and budget; leave "
                "--arms, --seeds, --first_seed and --quick out"
            )
        if Path(self.output).is_file():
            raise ValueError(f"output: {self.output} is a file; name a folder")
        if self.seeds < 1 or self.jobs < 1 or self.first_seed < 0:
            raise ValueError(
                f"seeds={self.seeds}, jobs={self.jobs}, first_seed={self.first_seed}: seeds and "
                "jobs must be at least 1, first_seed at least 0"
            )
        if self.quick and self.output == CompareConfig.output:
            object.__setattr__(self, "output", "results/compare-quick")


def runs(config: CompareConfig) -> dict[Path, TrainConfig]:
    """Result file and settings of each run, ordered by regime, seed and arm."""
    folder = Path(config.output)
    planned = {}
    for name in config.regimes:
        regime = KNOWN_REGIMES[name]
        if config.tune:
            for rate in TUNING_RATES:
                for seed in TUNING_SEEDS:
                    for arm in TUNING_ARMS:
                        path = folder / "tuning" / f"{name}-{rate:g}" / f"{arm}-s{seed}.json"
                        planned[path] = run_config(ARMS[arm], regime, config.model, rate, seed)
            continue
        default = QUICK if config.quick else regime.arms
        arms = default if config.arms == CompareConfig.arms else config.arms
        seeds = 2 if config.quick else config.seeds
        if config.quick:
            regime = dataclasses.replace(regime, token_budget=regime.token_budget // 10)
        for seed in range(config.first_seed, config.first_seed + seeds):
            for arm in arms:
                path = folder / name / f"{arm}-s{seed}.json"
                planned[path] = run_config(KNOWN[arm], regime, config.model, LEARNING_RATE, seed)
    return planned


def done(path: Path, settings: TrainConfig) -> bool:
    """Whether the result of a run exists.

    Raises
    ------
    ValueError
        If it has other settings; see `check_settings`.
    """
    if not path.exists():
        return False
    check_settings(read_record(path), settings, str(path))
    return True


def check_settings(record: Record, settings: TrainConfig, name: str) -> None:
    """Refuse a record that was made with other settings.

    Settings that are newer than the record count at their defaults.

    Raises
    ------
    ValueError
        If settings differ; names the record and these settings.
    """
    actual, expected = recorded(record["config"]), settings.plain()
    if actual != expected:
        different = sorted(k for k in actual | expected if actual.get(k) != expected.get(k))
        raise ValueError(
            f"output: {name} was made with other settings ({', '.join(different)}); remove it, or "
            "name another --output"
        )


def make(path: Path, settings: TrainConfig, command: list[str]) -> None:
    """Make a run and write its result, with the command line of the comparison."""
    record = run(settings)
    record["environment"]["command"] = command  # that of the worker process differs
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
