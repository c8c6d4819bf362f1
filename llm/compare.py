"""`python -m llm.compare`: GRPO, RRPO, SRPO and oracles on chain reasoning, at equal tokens.

One run is an arm in a regime with a seed; each leaves one JSON file, and a file that is there is
not made again. Progress is the exact success probability on held-out problems (`llm.readout`),
against steps and against all generated tokens: fresh rollouts, seeds, resets and localizations.
Every run of a regime ends when it has spent the regime's tokens.

Three regimes were chosen by `cpi.signal` before any run, the fourth for what early trials had
found; the learning rate, one for all, by `--tune` on seeds that no comparison uses.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cpi.results import write_json
from llm.arms import (
    ARMS,
    KNOWN,
    LEARNING_RATE,
    REGIMES,
    TUNING_ARMS,
    TUNING_RATES,
    TUNING_SEEDS,
    run_config,
)
from llm.compare_report import read_record, summary, tuning_table
from llm.config import TrainConfig, recorded
from llm.ours import check_package

PROG = "python -m llm.compare"

DESCRIPTION = """\
Compare GRPO, RRPO, SRPO and oracles on chain reasoning: same base model, problems, learning rate
and number of generated tokens; progress is the exact success probability on held-out problems."""

EPILOG = """\
examples:
  python -m llm.compare --quick                      does it work? a minute
  python -m llm.compare                              all: about an hour and a half on two cores
  python -m llm.compare --regimes [long] --arms [grpo,deepest-checker] --seeds 16
  python -m llm.compare --arms [dapo,spo-tree,score,critique-grpo]   other methods beside them
  python -m llm.compare --tune                       the learning rates, on seeds of their own

Runs that are there are not made again, so an interrupted comparison goes on where it was."""

#: Times that success is read out on the way through the budget.
READINGS = 60
#: Arms of a quick comparison.
QUICK = ("grpo", "oracle-first_error")


def run(config: TrainConfig) -> dict[str, Any]:
    """One run: its curve, its ledger, its settings and what made it."""
    import torch
    import transformers
    from rich.console import Console

    from llm.progress import Reporter
    from llm.run_folder import environment
    from llm.trainer import Trainer

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    assert config.token_budget is not None
    curve: dict[str, list[float | None]] = {
        name: [] for name in ("step", "tokens", "success", "localize/exact")
    }
    folder = tempfile.mkdtemp(prefix="compare-")
    try:
        with Path(os.devnull).open("w") as nowhere:
            reporter = Reporter(config.steps, Console(file=nowhere))
            trainer = Trainer(dataclasses.replace(config, output=folder), reporter)
            exact: list[float] = []
            while True:
                tokens = trainer.ledger.steps + trainer.ledger.localizer_cost
                due = tokens >= len(curve["step"]) * config.token_budget / READINGS
                if due or trainer.finished:
                    success = trainer.read_out(trainer.test_prompts).success
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
    """A comparison.

    Parameters
    ----------
    model : str
        The base model.
    regimes : list of str
        short, middle, long, few.
    arms : list of str
        By default the regime's: algorithm-localizer (or -mask of the oracle), or plan-localizer,
        where random and deepest are two reset groups of 4 at any failed answers or at those with
        the latest errors, and one is 8 continuations of one. Other methods, if named: dapo,
        spo-tree, score, critique-grpo.
    seeds : int
        Runs of each arm in each regime.
    first_seed : int
        They are first_seed, first_seed + 1, …
    jobs : int
        Runs at a time, a core each.
    output : str
        Folder of the results, one JSON file a run.
    quick : bool
        Two seeds of a tenth of the tokens, and two arms unless some are named, to see that it
        works.
    tune : bool
        Instead, try learning rates with three arms on four other seeds, and say which to take.
    """

    model: str = "chain-base"
    regimes: tuple[str, ...] = tuple(REGIMES)
    arms: tuple[str, ...] = tuple(ARMS)
    seeds: int = 8
    first_seed: int = 0
    jobs: int = 2
    output: str = "paper_figures/results/compare"
    quick: bool = False
    tune: bool = False

    def __post_init__(self) -> None:
        for what, names, known in (("regimes", self.regimes, REGIMES), ("arms", self.arms, KNOWN)):
            for name in names:
                if name not in known:
                    raise ValueError(f"{what}: {name!r} is none of {', '.join(known)}")
            if not names:
                raise ValueError(f"{what}: none named; leave it out for all")
        others = CompareConfig.arms, CompareConfig.seeds, CompareConfig.first_seed
        if self.tune and (self.quick or (self.arms, self.seeds, self.first_seed) != others):
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
    """Where each run leaves its result, and its settings; a seed of all arms before the next."""
    folder = Path(config.output)
    found = {}
    for name in config.regimes:
        regime = REGIMES[name]
        if config.tune:
            for rate in TUNING_RATES:
                for seed in TUNING_SEEDS:
                    for arm in TUNING_ARMS:
                        path = folder / "tuning" / f"{name}-{rate:g}" / f"{arm}-s{seed}.json"
                        found[path] = run_config(ARMS[arm], regime, config.model, rate, seed)
            continue
        usual = QUICK if config.quick else regime.arms
        arms = usual if config.arms == CompareConfig.arms else config.arms
        seeds = 2 if config.quick else config.seeds
        if config.quick:
            regime = dataclasses.replace(regime, token_budget=regime.token_budget // 10)
        for seed in range(config.first_seed, config.first_seed + seeds):
            for arm in arms:
                path = folder / name / f"{arm}-s{seed}.json"
                found[path] = run_config(KNOWN[arm], regime, config.model, LEARNING_RATE, seed)
    return found


def done(path: Path, settings: TrainConfig) -> bool:
    """Whether a result is there; it must be of these settings.

    A setting that did not exist when it was made counts at its default.

    Raises
    ------
    ValueError
        If it is of others.
    """
    if not path.exists():
        return False
    found, wanted = recorded(read_record(path)["config"]), settings.plain()
    if found != wanted:
        odd = sorted(k for k in found | wanted if found.get(k) != wanted.get(k))
        raise ValueError(
            f"output: {path} was made with other settings ({', '.join(odd)}); remove it, or name "
            "another --output"
        )
    return True


def make(path: Path, settings: TrainConfig, command: list[str]) -> None:
    """Make a run and write its result, with the command that asked for it."""
    record = run(settings)
    record["environment"]["command"] = command  # a worker process has another
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    check_package(PROG)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from joblib import Parallel, delayed
    from rich.progress import track

    from cpi.tables import console
    from llm.command_line import parse
    from llm.models import load_tokenizer, locate
    from llm.run_folder import command

    try:
        config = parse(CompareConfig, argv, PROG, DESCRIPTION, EPILOG)
        load_tokenizer(locate(config.model))  # a wrong name is told once, not by each run
        open_runs = {path: s for path, s in runs(config).items() if not done(path, s)}
    except (ValueError, OSError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 2
    pool = Parallel(n_jobs=config.jobs, return_as="generator_unordered")
    asked = command()
    work = pool(delayed(make)(path, settings, asked) for path, settings in open_runs.items())
    try:
        for _ in track(work, "runs", total=len(open_runs), console=console(sys.stderr)):
            pass
    except KeyboardInterrupt:
        print(f"{PROG}: stopped; the same command goes on with what is missing", file=sys.stderr)
        return 130
    folder = Path(config.output)
    try:
        if config.tune:
            console().print(tuning_table(folder, config.regimes))
        else:
            for regime in config.regimes:
                console().print(summary(folder, regime))
    except ValueError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
