"""`python -m llm.train`: train a language model with GRPO, RRPO, SRPO or an oracle.

The loop is in `llm/train/trainer.py`, the settings in `llm/config/train.py`.
"""

from __future__ import annotations

import io
import os
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from llm.common.commands import EXPECTED, prepare, quiet_transformers

if TYPE_CHECKING:
    from llm.common.progress import Reporter
    from llm.config.train import TrainConfig
    from llm.train.trainer import Trainer

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
  python -m llm.train --config chain --dry-run                    what it needs; starts nothing
  python -m llm.train --model MODEL --task my_tasks:Proofs --localizer my_tasks:first_doubt
  torchrun --nproc_per_node 8 -m llm.train --config chain --model MODEL      on eight GPUs

--dry-run prints memory, tokens and time of a step and refuses what cannot fit, saying what would.
It needs no weights, and plans for this machine or for --dry_run.gpus N of --dry_run.gpu_memory GiB
each (and --dry_run.tflops of peak, for the time).

files of a run: config.yaml, metrics.jsonl, rollouts/, checkpoints/, environment.json. Look at the
rollouts with `python -m llm.show RUN`. Ctrl-C finishes the step, saves, and says how to go on; a
second one stops at once. Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted.

torchrun divides policy, rows and samples among processes, and changes nothing else; a run may be
resumed with any number of them. It waits 30 s for a step to end before it kills."""

#: Seconds in which signals are one: under torchrun, Ctrl-C comes from the terminal and from it.
ECHO = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    prepare(PROG)
    _print_anything()
    try:
        with _handling(_stop_at_once, signal.SIGTERM):
            from llm.config.train import parse_config
            from llm.planning.options import split

            try:
                argv, dry = split(argv, PROG)
                config = parse_config(argv, PROG, DESCRIPTION, EPILOG)
                _check_names(config)
                if dry is not None:
                    from llm.planning.dry_run import dry_run

                    dry_run(config, dry)
                    return 0
            except (ValueError, OSError) as error:
                return _failed(error, 2)
            return _train(config)
    except KeyboardInterrupt:
        return _failed("stopped before it began", 130)


def _check_names(config: TrainConfig) -> None:
    """Refuse a model's folder or a task's file that does not exist, before torch is loaded."""
    from llm.models.shipped import check_folder
    from llm.tasks import check_task_name

    check_folder(config.model)
    check_task_name(config.task, config.task_args)


def _train(config: TrainConfig) -> int:
    """Run it; returns the exit code."""
    # After the command line, so that its errors and --help come quickly.
    import torch

    from llm.distributed.processes import (
        job,
        losing_others,
        on_main_process,
        rank,
    )

    quiet_transformers()
    began = False

    def run() -> int:
        nonlocal began
        from rich.console import Console

        from llm.common.progress import Reporter
        from llm.runs.folder import alone, begin_run, open_run
        from llm.train.trainer import Trainer

        resume = on_main_process(lambda: open_run(config))
        with Reporter(config.steps, None if rank() == 0 else Console(quiet=True)) as reporter:
            reporter.message(f"{config.algorithm} on {config.task}, in {config.folder}")
            if resume is not None:
                reporter.message(f"going on from {resume}")
            trainer = Trainer(config, reporter, resume)
            try:
                with ExitStack() as lock, _stopping(trainer, reporter):
                    on_main_process(lambda: lock.enter_context(alone(config.folder)))
                    began = True
                    on_main_process(lambda: begin_run(config, trainer.step))
                    trainer.run()
            finally:
                trainer.close()
        if not trainer.finished:
            reporter.message(f"stopped after step {trainer.step}, which is saved; go on with")
            reporter.message(f"  {_again(config)}")
            return 130
        reporter.summary(config.folder)
        return 0

    with warnings.catch_warnings():
        # Of `float(loss)`, where it is harmless.
        warnings.filterwarnings("ignore", "Converting a tensor with requires_grad", UserWarning)
        try:
            with losing_others(), job():
                return run()
        except EXPECTED as error:
            return _failed(error, 1 if began else 2, config if began else None)
        except torch.OutOfMemoryError as error:
            what = ". ".join(str(error).split(". ")[:2])  # the rest is about the allocator
            cure = (
                "lower update.per_device_train_batch_size, vllm.gpu_memory_utilization or "
                "sampling.max_completion_length, or set gradient_checkpointing"
            )
            return _failed(f"{what}; {cure}", 1, config)
        except SystemExit:  # rich's answer to a closed pipe
            return _failed("nobody reads its output any more, so it has stopped", 1, config)
        except KeyboardInterrupt:
            return _failed("stopped at once", 130, config)
        except Exception:  # a fault of the program or of the user's: one traceback is enough
            if _speaks():
                raise
            return 1


def _print_anything() -> None:
    """Make what cannot be printed no reason to stop: closed streams, letters without a code."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _failed(reason: Exception | str, code: int, config: TrainConfig | None = None) -> int:
    """Say why, in one line, and how to go on with a run that had begun.

    Of several processes, the first that fails says so: it has the reason, the others follow.
    """
    if not _speaks():
        return code
    message = " ".join(str(reason).split())
    if config is not None:
        from llm.runs.checkpoint_folders import latest

        saved = latest(config.folder / "checkpoints")
        message += f"; {saved.name} is saved, go on with {_again(config)}" if saved else ""
    print(f"{PROG}: {message}", file=sys.stderr)
    return code


def _speaks() -> bool:
    """Whether it is for this process to say why the job fails."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return True
    from llm.distributed.processes import first_to_fail

    return first_to_fail()


def _again(config: TrainConfig) -> str:
    """The command that goes on with a run."""
    several = os.environ.get("LOCAL_WORLD_SIZE", "1")
    prog = PROG if several == "1" else f"torchrun --nproc_per_node {several} -m llm.train"
    return f"{prog} --config {shlex.quote(str(config.folder / 'config.yaml'))} --resume auto"


@contextmanager
def _stopping(trainer: Trainer, reporter: Reporter) -> Iterator[None]:
    """The first Ctrl-C (or a cluster's SIGTERM) asks the trainer to stop, the second insists."""
    from llm.distributed.processes import world_size

    asked = 0.0

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if trainer.stop_asked:
            if world_size() > 1 and time.monotonic() - asked < ECHO:
                return
            raise KeyboardInterrupt
        trainer.stop_asked, asked = True, time.monotonic()
        if world_size() == 1:  # else it may be that another process has died
            reporter.message("finishing this step, then saving; once more stops at once")

    with _handling(ask, signal.SIGINT, signal.SIGTERM):
        yield


def _stop_at_once(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _handling(
    handler: Callable[[int, FrameType | None], None], *signals: signal.Signals
) -> Iterator[None]:
    """Let a function handle these signals."""
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


if __name__ == "__main__":
    code = main()
    if os.environ.get("WORLD_SIZE", "1") != "1":
        from llm.distributed.processes import leave

        leave(code)
    raise SystemExit(code)
