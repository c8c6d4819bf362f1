"""`python -m llm.compare`: GRPO, RRPO, SRPO and oracles on chain reasoning, at equal tokens.

One run is an arm in a regime with a seed; each leaves one JSON file, and a file that is there is
not made again. Progress is the exact success probability on held-out problems
(`llm.chain.readout`), against steps and against all generated tokens: fresh rollouts, seeds, resets
and localizations. Every run of a regime ends when it has spent the regime's tokens.

Three regimes were chosen by `cpi.signal` before any run, the fourth for what early trials had
found; the learning rate, one for all, by `--tune` on seeds that no comparison uses.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from llm.common.commands import prepare, run_command
from llm.compare.report import summary, tuning_table
from llm.compare.runs import CompareConfig, done, make, runs

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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    prepare(PROG)
    return run_command(
        PROG,
        lambda: _compare(argv),
        lambda: "stopped; the same command goes on with what is missing",
    )


def _compare(argv: Sequence[str] | None) -> int:
    """Make the runs that are missing and print the tables; returns the exit code."""
    from llm.config.command_line import parse

    config = parse(CompareConfig, argv, PROG, DESCRIPTION, EPILOG)
    from joblib import Parallel, delayed
    from rich.progress import track

    from cpi.reporting.tables import console
    from llm.models.policy import load_tokenizer
    from llm.models.shipped import locate
    from llm.runs.folder import command

    load_tokenizer(locate(config.model))  # a wrong name is told once, not by each run
    open_runs = {path: s for path, s in runs(config).items() if not done(path, s)}
    pool = Parallel(n_jobs=config.jobs, return_as="generator_unordered")
    asked = command()
    work = pool(delayed(make)(path, settings, asked) for path, settings in open_runs.items())
    for _ in track(work, "runs", total=len(open_runs), console=console(sys.stderr)):
        pass
    folder = Path(config.output)
    if config.tune:
        console().print(tuning_table(folder, config.regimes))
    else:
        for regime in config.regimes:
            console().print(summary(folder, regime))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
