"""`python -m llm.train`: train a language model with GRPO, RRPO, SRPO or an oracle.

The loop is in `llm/trainer.py`, the settings in `llm/config.py`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from llm.ours import check_package

if TYPE_CHECKING:
    from llm.progress import Reporter
    from llm.trainer import Trainer

PROG = "python -m llm.train"

DESCRIPTION = """\
Train a language model by reinforcement learning with verifiable rewards. grpo compares whole
answers; rrpo, srpo and oracle also go back to a step of a failed answer (a random one, the one that
a localizer names, the first wrong one by the task's checker), draw several continuations from there
and compare those."""

EPILOG = """\
examples:
  python -m llm.train --model MODEL --task chain                  SRPO, on this machine
  python -m llm.train --model MODEL --algorithm grpo --engine vllm
  python -m llm.train --config chain --model MODEL --steps 50     a preset; flags win over it
  python -m llm.train --config RUN/config.yaml --resume auto      go on with a run
  python -m llm.train --model MODEL --task my_tasks:Proofs --localizer my_tasks:first_doubt

files of a run: config.yaml, metrics.jsonl, rollouts/, checkpoints/, environment.json. Look at the
rollouts with `python -m llm.show RUN`. Ctrl-C finishes the step, saves, and says how to go on; a
second one stops at once. Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    check_package(PROG)
    # Idle threads sleep: on shared cores, spinning makes two of them many times slower than one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Torch reads the line above when it is loaded, which the imports below do.
    import transformers

    from llm.checkpoints import CheckpointError
    from llm.config import TrainConfig, parse_config
    from llm.engines import EngineError
    from llm.parity import ParityError
    from llm.progress import Reporter
    from llm.run_folder import open_run
    from llm.trainer import Trainer
    from llm.update import TrainingError

    transformers.utils.logging.disable_progress_bar()

    def run(config: TrainConfig) -> int:
        resume = open_run(config)
        again = f"{PROG} --config {config.folder / 'config.yaml'} --resume auto"
        with Reporter(config.steps) as reporter:
            reporter.message(f"{config.algorithm} on {config.task}, in {config.folder}")
            if resume is not None:
                reporter.message(f"going on from {resume}")
            trainer = Trainer(config, reporter, resume)
            with _stopping(trainer, reporter):
                try:
                    trainer.run()
                except (EngineError, TrainingError) as error:
                    print(f"{PROG}: {error}", file=sys.stderr)
                    print(f"{PROG}: step {trainer.step} is saved; {again}", file=sys.stderr)
                    return 1
                finally:
                    trainer.close()
            if trainer.step < config.steps:
                reporter.message(f"stopped after step {trainer.step}, which is saved; go on with")
                reporter.message(f"  {again}")
                return 130
            reporter.summary(config.folder)
        return 0

    try:
        return run(parse_config(argv, PROG, DESCRIPTION, EPILOG))
    except (ValueError, OSError, CheckpointError, EngineError, ParityError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROG}: stopped at once; --resume auto goes on from the last save", file=sys.stderr)
        return 130


@contextmanager
def _stopping(trainer: Trainer, reporter: Reporter) -> Iterator[None]:
    """The first Ctrl-C (or a cluster's SIGTERM) asks the trainer to stop, the second insists."""

    def ask(number: int, frame: FrameType | None) -> None:
        if trainer.stop_asked:
            raise KeyboardInterrupt
        trainer.stop_asked = True
        reporter.message("finishing this step, then saving; once more stops at once")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    raise SystemExit(main())
