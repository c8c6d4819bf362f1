"""`python -m llm.compare`: GRPO, RRPO, SRPO and oracles on chain reasoning, at equal tokens.

A run has an arm, a regime and a seed, and writes one JSON file. Existing files are not made again.
Progress is the exact success probability on held-out problems (`llm.chain.readout`). It is recorded
against steps and against all generated tokens: fresh rollouts, seed episodes, resets and
localizations. A run ends when it has generated the token budget of its regime.

Three regimes were chosen by `cpi.signal` before any run, the fourth after early trials. One
learning rate for all runs was chosen by `--tune`, on seeds that no comparison uses.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from llm.common.commands import leave, prepare, run_command
from llm.compare.arms import KNOWN, KNOWN_REGIMES
from llm.compare.report import summary, tuning_table
from llm.compare.runs import CompareConfig, done, make, runs

PROG = "python -m llm.compare"

DESCRIPTION = """\
Compare GRPO, RRPO, SRPO and oracles on chain reasoning: same base model, problems, learning rate
and number of generated tokens; progress is the exact success probability on held-out problems."""

EPILOG = """\
examples:
  python -m llm.compare --quick                      smoke test of one minute
  python -m llm.compare                              all runs: about 1.5 hours on two cores
  python -m llm.compare --regimes [long] --arms [grpo,deepest-checker] --seeds 16
  python -m llm.compare --arms [grpo,adaptive-checker,adaptive-surprisal]   adaptive resets
  python -m llm.compare --arms [dapo,spo-tree,score,critique-grpo,vineppo]   other methods
  python -m llm.compare --tune                       learning rates, on separate seeds
  python -m llm.compare --list                       arms and regimes

Existing runs are not made again, so an interrupted comparison resumes where it stopped."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    prepare(PROG)
    if "--list" in (sys.argv[1:] if argv is None else argv):
        print("\n".join(listing()))
        return 0
    checked: list[CompareConfig] = []
    if code := run_command(PROG, lambda: _check(argv, checked)):
        return code
    (config,) = checked
    try:
        make_missing(config)
    except KeyboardInterrupt:
        print(
            f"{PROG}: interrupted; the same command resumes with the missing runs", file=sys.stderr
        )
        return 130
    return run_command(PROG, lambda: _print_tables(config))


def _check(argv: Sequence[str] | None, checked: list[CompareConfig]) -> int:
    """Parse the options and check model and records; adds the options to `checked`."""
    from llm.config.command_line import parse

    config = parse(CompareConfig, argv, PROG, DESCRIPTION, EPILOG)
    from llm.models.policy import load_tokenizer
    from llm.models.shipped import locate

    load_tokenizer(locate(config.model))  # one error, rather than one from each run
    for path, settings in runs(config).items():
        done(path, settings)
    checked.append(config)
    return 0


def listing() -> Iterator[str]:
    """Lines of `--list`: arms and regimes."""
    yield "--arms"
    for name, arm in KNOWN.items():
        localizer = f" {arm.localizer}" if arm.algorithm in ("srpo", "adaptive") else ""
        sizes = (arm.plan.fresh, arm.plan.resets, arm.plan.per_reset)
        plan = "" if None in sizes else ", {}+{}×{}".format(*sizes)
        yield f"  {name:24}{arm.algorithm}{localizer}{plan}"
    yield "--regimes"
    for name, regime in KNOWN_REGIMES.items():
        yield f"  {name:24}{regime.length} steps, {regime.token_budget:,} tokens"


def make_missing(config: CompareConfig) -> None:
    """Make the runs of a comparison that have no record yet."""
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor
    from rich.progress import track

    from cpi.reporting.tables import console
    from llm.runs.folder import command

    missing = {path: s for path, s in runs(config).items() if not done(path, s)}
    pool = Parallel(n_jobs=config.jobs, return_as="generator_unordered")
    asked = command()
    work = pool(delayed(make)(path, settings, asked) for path, settings in missing.items())
    for _ in track(work, "runs", total=len(missing), console=console(sys.stderr)):
        pass
    if config.jobs > 1:  # idle workers would hold up the end of this process for five minutes
        get_reusable_executor().shutdown()


def _print_tables(config: CompareConfig) -> int:
    """Print the results; returns the exit code."""
    from cpi.reporting.tables import console

    folder = Path(config.output)
    if config.tune:
        console().print(tuning_table(folder, config.regimes))
    else:
        for regime in config.regimes:
            console().print(summary(folder, regime))
    return 0


if __name__ == "__main__":
    leave(main())
