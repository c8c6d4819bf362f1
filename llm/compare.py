"""`python -m llm.compare`: GRPO, RRPO, SRPO and oracles on chain reasoning, at equal tokens.

One run is an arm in a regime with a seed; each leaves one JSON file, and a file that is there is
not made again. Progress is the exact success probability on held-out problems (`llm.readout`),
against steps and against all generated tokens: fresh rollouts, seeds, resets and localizations.
Every run of a regime ends when it has spent the regime's tokens.

The regimes were chosen by `cpi.signal` before any run; the learning rate, one for all arms of a
regime, by `--tune` on seeds that no comparison uses.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cpi.plans import GroupPlan
from cpi.results import write_json
from cpi.signal import compare as exact_worth
from llm.config import (
    EvaluationOptions,
    LocalizationOptions,
    OptimizerOptions,
    OracleOptions,
    PlanOptions,
    SamplingOptions,
    TrainConfig,
)
from llm.models import LoraOptions
from llm.ours import check_package
from llm.rehearsal import RehearsalOptions

if TYPE_CHECKING:
    from rich.table import Table

PROG = "python -m llm.compare"

DESCRIPTION = """\
Compare GRPO, RRPO, SRPO and oracles on chain reasoning: same base model, problems, learning rate
and number of generated tokens; progress is the exact success probability on held-out problems."""

EPILOG = """\
examples:
  python -m llm.compare --quick                      does it work? a minute
  python -m llm.compare                              all: about an hour and a half on two cores
  python -m llm.compare --regimes [long] --arms [grpo,deepest-checker] --seeds 16
  python -m llm.compare --tune                       the learning rates, on seeds of their own

Runs that are there are not made again, so an interrupted comparison goes on where it was."""


@dataclass(frozen=True)
class Arm:
    """What is compared: an algorithm, where it resets, and how it spends its rollouts."""

    algorithm: str
    localizer: str = "checker"
    mask: str = "first_error"
    tau: float = 0.0
    plan: PlanOptions = dataclasses.field(default_factory=PlanOptions)
    rate: float = 1.0  # times the learning rate of all
    lora_r: int = 0
    rehearses: bool = False


#: Two reset groups beside the fresh one, from the failures with the latest errors, or any.
DEEPEST = PlanOptions(fresh=4, resets=2, per_reset=4, choice="deepest")
RANDOM = PlanOptions(fresh=4, resets=2, per_reset=4, choice="random")
#: All rollouts from one reset; its seed is not trained on.
ONE = PlanOptions(fresh=0, resets=1, per_reset=8)

ARMS: dict[str, Arm] = {
    "grpo": Arm("grpo"),
    "rrpo": Arm("rrpo"),
    "srpo-prompted": Arm("srpo", "prompted"),
    "srpo-surprisal": Arm("srpo", "surprisal"),
    "oracle-first_error": Arm("oracle"),
    "oracle-improvable": Arm("oracle", mask="improvable", tau=0.1),
    "oracle-largest": Arm("oracle", mask="largest"),
    "random-rrpo": Arm("rrpo", plan=RANDOM),
    "random-checker": Arm("oracle", plan=RANDOM),
    "deepest-rrpo": Arm("rrpo", plan=DEEPEST),
    "deepest-surprisal": Arm("srpo", "surprisal", plan=DEEPEST),
    "deepest-prompted": Arm("srpo", "prompted", plan=DEEPEST),
    "deepest-checker": Arm("oracle", plan=DEEPEST),
    "one-prompted": Arm("srpo", "prompted", plan=ONE),
    "one-checker": Arm("oracle", plan=ONE),
    # What might keep the prompted localizer's skill, which training to solve does not.
    "srpo-prompted-slow": Arm("srpo", "prompted", rate=0.25),
    "srpo-prompted-lora": Arm("srpo", "prompted", lora_r=16),
    "srpo-prompted-rehearsal": Arm("srpo", "prompted", rehearses=True),
}

#: What the learning rate is chosen with.
TUNING_ARMS = ("grpo", "rrpo", "oracle-first_error")
TUNING_RATES = (2.5e-4, 5e-4, 1e-3, 2e-3)
TUNING_SEEDS = (1000, 1001, 1002, 1003)


@dataclass(frozen=True)
class Regime:
    """Problems of one length, and what theory said of resets there before any run.

    Parameters
    ----------
    length : int
        Steps n of a problem; the base model gets each right about half the time.
    token_budget : int
        Tokens that every run generates.
    learning_rate : float
        Chosen by `--tune`, but with AdamW's usual epsilon: to be tuned again with `ADAM_EPSILON`.
    prediction : str
        Worth of one collection of the first-error oracle (4 + 1×4) in collections of GRPO at equal
        generated steps, by `cpi.signal` at q = ½.
    prompts_per_step : int
    """

    length: int
    token_budget: int
    learning_rate: float
    prediction: str
    prompts_per_step: int = 8


REGIMES: dict[str, Regime] = {
    "short": Regime(3, 15_000, 1e-3, "GRPO ahead (0.78)"),
    "middle": Regime(4, 25_000, 5e-4, "no difference (0.96)"),
    "long": Regime(8, 120_000, 5e-4, "first-error resets ahead (1.43)"),
    "few": Regime(8, 120_000, 5e-4, "first-error resets ahead (1.43)", prompts_per_step=4),
}

#: With AdamW's usual 1e-8, a lone group with a signal after steps without any makes a step of full
#: length in every weight, and a quarter of first runs on long problems lost all success to one.
ADAM_EPSILON = 1e-4
#: Steps no run reaches: the token budget ends it.
MANY = 100_000
#: Times that success is read out on the way through the budget.
READINGS = 60


def run_config(
    arm: Arm, regime: Regime, model: str, learning_rate: float, seed: int
) -> TrainConfig:
    """The settings of one run; only the arm's own differ between arms."""
    n = regime.length
    return TrainConfig(
        model=model,
        algorithm=arm.algorithm,  # type: ignore[arg-type]
        localizer=arm.localizer,
        task="chain",
        task_args={"length": n, "train": 192, "test": 64},
        steps=MANY,
        token_budget=regime.token_budget,
        prompts_per_step=regime.prompts_per_step,
        seed=seed,
        save_steps=MANY,
        rollout_steps=0,
        plan=arm.plan,
        sampling=SamplingOptions(
            max_completion_length=3 * n + 6, max_thoughts=n + 2, max_thought_tokens=8
        ),
        localization=LocalizationOptions(max_tokens=2 * n + 4),
        oracle=OracleOptions(arm.mask, arm.tau),  # type: ignore[arg-type]
        optimizer=OptimizerOptions(
            learning_rate=arm.rate * learning_rate, adam_epsilon=ADAM_EPSILON
        ),
        rehearsal=RehearsalOptions(model if arm.rehearses else ""),
        lora=LoraOptions(r=arm.lora_r),
        evaluation=EvaluationOptions(steps=0),
    )


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


# ------------------------------------------------------------------ what a run is judged by


def area(record: dict[str, Any]) -> float:
    """Mean exact success over the token budget: the area under the curve."""
    tokens, success = (np.array(record["curve"][name]) for name in ("tokens", "success"))
    grid = np.linspace(0, record["config"]["token_budget"], 401)
    return float(np.interp(grid, tokens, success).mean())


def tokens_to(record: dict[str, Any], target: float) -> float:
    """Tokens generated until success first reaches `target`; infinite if it never does."""
    tokens, success = (np.array(record["curve"][name]) for name in ("tokens", "success"))
    there = np.flatnonzero(success >= target)
    return float(tokens[there[0]]) if len(there) else float("inf")


def interval(values: Sequence[float] | np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean, by percentiles."""
    from scipy.stats import bootstrap

    if len(values) < 2:
        return float("nan"), float("nan")
    found = bootstrap(
        (np.asarray(values),), np.mean, method="percentile", n_resamples=10_000,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


Records = dict[str, dict[int, dict[str, Any]]]


def read_records(folder: Path, regime: str) -> Records:
    """What has been recorded of a regime: arm → seed → record, arms in the order of `ARMS`."""
    found: Records = {}
    for arm in ARMS:
        for path in sorted((folder / regime).glob(f"{arm}-s*.json")):
            seed = path.stem.removeprefix(f"{arm}-s")
            if seed.isdecimal():
                found.setdefault(arm, {})[int(seed)] = json.loads(path.read_text())
    return found


def predicted(arm: str, length: int, q: float = 0.5) -> float | None:
    """Worth of an arm's collection in GRPO's, equal steps, where `cpi.signal` has its rule."""
    known = {
        "rrpo": (GroupPlan(4, 1, 4), "rrpo"),
        "oracle-first_error": (GroupPlan(4, 1, 4), "oracle"),
        "random-rrpo": (GroupPlan(4, 2, 4), "rrpo"),
        "random-checker": (GroupPlan(4, 2, 4), "oracle"),
        "one-checker": (GroupPlan(0, 1, 8), "oracle"),
    }
    if arm not in known:
        return None
    return float(exact_worth(length, q, {arm: known[arm]})[arm][1])


def summary(folder: Path, regime: str) -> Table:
    """A regime's arms, beside GRPO with the same seeds."""
    from rich.table import Table

    length, prediction = REGIMES[regime].length, REGIMES[regime].prediction
    records = read_records(folder, regime)
    table = Table(
        title=f"{regime}: {length} steps; theory, before the runs: {prediction}",
        title_justify="left",
    )
    for heading in ("arm", "theory", "seeds", "mean success", "minus GRPO, same seeds",
                    "at the end", "tokens to ½", "steps",
                    "localized"):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "arm" else "right")
    for arm, own in records.items():
        areas = [area(record) for record in own.values()]
        low, high = interval(areas)
        gain = [
            area(own[s]) - area(records["grpo"][s]) for s in own if s in records.get("grpo", {})
        ]
        paired = ""
        if arm != "grpo" and gain:
            a, b = interval(gain)
            paired = f"{np.mean(gain):+.3f} [{a:+.3f}, {b:+.3f}]"
        worth = predicted(arm, length)
        half = float(np.median([tokens_to(record, 0.5) for record in own.values()]))
        table.add_row(
            arm,
            "" if worth is None else f"{worth:.2f}",
            str(len(own)),
            f"{np.mean(areas):.3f} [{low:.3f}, {high:.3f}]",
            paired,
            f"{np.mean([r['curve']['success'][-1] for r in own.values()]):.3f}",
            "never" if np.isinf(half) else f"{half:,.0f}",
            f"{np.mean([r['curve']['step'][-1] for r in own.values()]):.0f}",
            _localized(own.values()),
        )
    return table


def _localized(records: Iterable[dict[str, Any]]) -> str:
    """Share of resets at the first error, in the first and the last quarter of the readings."""
    ends = []
    for record in records:
        found = [x for x in record["curve"]["localize/exact"] if x is not None]
        quarter = len(found) // 4 + 1
        if found:
            ends.append((np.mean(found[:quarter]), np.mean(found[-quarter:])))
    return "{:.0%} → {:.0%}".format(*np.mean(ends, axis=0)) if ends else ""


# ------------------------------------------------------------------ the command


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
        Lines of `llm.compare.ARMS`; by default all.
    seeds : int
        Runs of each arm in each regime.
    first_seed : int
        They are first_seed, first_seed + 1, …
    jobs : int
        Runs at a time, a core each.
    output : str
        Folder of the results, one JSON file a run.
    quick : bool
        Two arms and two seeds of a tenth of the tokens, to see that it works.
    tune : bool
        Instead, try learning rates with three arms on two other seeds, and say which is best.
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
        for what, names, known in (("regimes", self.regimes, REGIMES), ("arms", self.arms, ARMS)):
            for name in names:
                if name not in known:
                    raise ValueError(f"{what}: {name!r} is none of {', '.join(known)}")
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
        arms, seeds = config.arms, config.seeds
        if config.quick:
            arms, seeds = ("grpo", "oracle-first_error"), 2
            regime = dataclasses.replace(regime, token_budget=regime.token_budget // 10)
        for seed in range(config.first_seed, config.first_seed + seeds):
            for arm in arms:
                path = folder / name / f"{arm}-s{seed}.json"
                rate = regime.learning_rate
                found[path] = run_config(ARMS[arm], regime, config.model, rate, seed)
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
    defaults = json.loads(json.dumps(asdict(TrainConfig(model=settings.model))))
    recorded = defaults | json.loads(path.read_text())["config"]
    wanted = json.loads(json.dumps(asdict(settings)))
    if recorded != wanted:
        odd = sorted(k for k in wanted if recorded.get(k) != wanted[k])
        raise ValueError(
            f"output: {path} was made with other settings ({', '.join(odd)}); remove it, or name "
            "another --output"
        )
    return True


def make(path: Path, settings: TrainConfig) -> None:
    """Make a run and write its result."""
    record = run(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)


def tuning_table(folder: Path, regimes: Sequence[str]) -> Table:
    """Mean success of each learning rate, over arms and seeds; the best of a regime is marked."""
    from rich.table import Table

    table = Table("regime", *(f"{rate:g}" for rate in TUNING_RATES))
    for regime in regimes:
        means = []
        for rate in TUNING_RATES:
            paths = (folder / "tuning" / f"{regime}-{rate:g}").glob("*.json")
            means.append(np.mean([area(json.loads(path.read_text())) for path in paths]))
        best = int(np.argmax(means))
        table.add_row(regime, *(f"{m:.3f}" + " ←" * (i == best) for i, m in enumerate(means)))
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    check_package(PROG)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from joblib import Parallel, delayed
    from rich.progress import track

    from cpi.tables import console
    from llm.command_line import parse

    try:
        config = parse(CompareConfig, argv, PROG, DESCRIPTION, EPILOG)
        open_runs = {path: s for path, s in runs(config).items() if not done(path, s)}
    except (ValueError, OSError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 2
    pool = Parallel(n_jobs=config.jobs, return_as="generator_unordered")
    work = pool(delayed(make)(path, settings) for path, settings in open_runs.items())
    try:
        for _ in track(work, "runs", total=len(open_runs), console=console(sys.stderr)):
            pass
    except KeyboardInterrupt:
        print(f"{PROG}: stopped; the same command goes on with what is missing", file=sys.stderr)
        return 130
    folder = Path(config.output)
    if config.tune:
        console().print(tuning_table(folder, config.regimes))
    else:
        for regime in config.regimes:
            console().print(summary(folder, regime))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
