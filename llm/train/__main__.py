"""`python -m llm.train`: train a language model with GRPO, RRPO, SRPO or an oracle.

`llm/train/session.py` runs the training, `llm/train/trainer.py` holds the loop,
`llm/config/train.py` the settings; `llm.train_model` is the same in Python.
"""

from __future__ import annotations

import io
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

from llm.common.commands import EXPECTED, handle_signals, leave, prepare
from llm.common.errors import message_of

if TYPE_CHECKING:
    from llm.config.train import TrainConfig

PROG = "python -m llm.train"

DESCRIPTION = """\
Train a language model by reinforcement learning with verifiable rewards. grpo compares whole
answers. rrpo, srpo and oracle also reset a failed answer to one of its steps, draw several
continuations from there and compare those. The step is a random one (rrpo), the one that a
localizer names (srpo), or the first wrong one according to the task's checker (oracle). adaptive
resets, as srpo does, only where every answer of a problem failed."""

EPILOG = """\
examples:
  python -m llm.train --model MODEL --task chain                  SRPO, on this machine
  python -m llm.train --model MODEL --algorithm grpo --engine vllm
  python -m llm.train --config chain --model MODEL --steps 50     a preset; flags win over it
  python -m llm.train --config RUN/config.yaml --resume auto      resume a run
  python -m llm.train --config chain --dry_run                    plan only, no training
  python -m llm.train --list      algorithms, localizers, tasks and presets
  python -m llm.train --model MODEL --task my_tasks:Proofs --localizer my_tasks:first_doubt
  torchrun --nproc_per_node 8 -m llm.train --config chain --model MODEL      on eight GPUs

--dry_run prints memory, tokens and time of a step. It refuses settings that do not fit and suggests
others that do. It needs no weights. It plans for this machine, or for --dry_run.gpus N of
--dry_run.gpu_memory GiB each (and --dry_run.tflops of peak, for the time).

files of a run: config.yaml, metrics.jsonl, rollouts/, checkpoints/, environment.json. Show the
rollouts with `python -m llm.show RUN`. Ctrl-C finishes the step, saves, and prints the command that
resumes the run; a second one stops at once. Exit codes: 0 done, 1 failed, 2 bad input, 130
interrupted.

torchrun shards the policy and divides rows and samples among processes; nothing else changes. A run
may be resumed with any number of processes. On Ctrl-C, torchrun waits 30 s for the step to end and
then kills the processes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    prepare(PROG)
    _make_output_safe()
    try:
        with handle_signals(_stop_at_once, signal.SIGTERM):
            from llm.config.train import parse_config
            from llm.planning.options import split

            try:
                if "--list" in (sys.argv[1:] if argv is None else argv):
                    from llm.config.names import listing

                    print("\n".join(listing()))
                    return 0
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
        return _failed("stopped before the run began", 130)


def _check_names(config: TrainConfig) -> None:
    """Refuse a model's folder or a task's file that does not exist, before torch is loaded."""
    from llm.models.shipped import check_folder
    from llm.tasks import check_task_name

    check_folder(config.model)
    check_task_name(config.task, config.task_args)


def _train(config: TrainConfig) -> int:
    """Run the training; returns the exit code."""
    # Imported after the command line is parsed, so that its errors and --help come quickly.
    import torch
    from rich.console import Console

    from llm.common.progress import Reporter
    from llm.distributed.processes import job, losing_others, rank
    from llm.train.session import run_training

    began = False

    def note_begin() -> None:
        nonlocal began
        began = True

    def run() -> int:
        with Reporter(config.steps, None if rank() == 0 else Console(quiet=True)) as reporter:
            trainer = run_training(config, reporter, note_begin)
        if not trainer.finished:
            reporter.message(f"stopped after step {trainer.step}, which is saved; go on with")
            reporter.message(f"  {_resume_command(config)}")
            return 130
        reporter.summary(config.folder)
        return 0

    try:
        with losing_others(), job():
            return run()
    except EXPECTED as error:
        return _failed(error, 1 if began else 2, config if began else None)
    except torch.OutOfMemoryError as error:
        reason = ". ".join(str(error).split(". ")[:2])  # the rest is about the allocator
        cure = (
            "lower update.per_device_train_batch_size, vllm.gpu_memory_utilization or "
            "sampling.max_completion_length, or set gradient_checkpointing"
        )
        return _failed(f"{reason}; {cure}", 1, config)
    except SystemExit:  # raised by rich if the pipe is closed
        return _failed("the output pipe was closed, so the run stopped", 1, config)
    except KeyboardInterrupt:
        return _failed("stopped at once", 130, config)
    except Exception:  # a bug, here or in a user's class: one rank prints the traceback
        if _reports_failure():
            raise
        return 1


def _make_output_safe() -> None:
    """Replace closed output streams, and escape characters that the encoding lacks."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _failed(reason: Exception | str, code: int, config: TrainConfig | None = None) -> int:
    """Print the reason in one line, with the command that resumes a run; returns the exit code.

    Only the first process to fail prints: its failure is the cause of the others.
    """
    if not _reports_failure():
        return code
    message = message_of(reason)
    if config is not None:
        from llm.runs.checkpoint_folders import latest

        saved = latest(config.folder / "checkpoints")
        message += f"; {saved.name} is saved, go on with {_resume_command(config)}" if saved else ""
    print(f"{PROG}: {message}", file=sys.stderr)
    return code


def _reports_failure() -> bool:
    """Whether this rank reports the failure of the job."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return True
    from llm.distributed.processes import first_to_fail

    return first_to_fail()


def _resume_command(config: TrainConfig) -> str:
    """The command that resumes a run."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    nodes = int(os.environ.get("WORLD_SIZE", "1")) // processes
    prog = PROG
    if nodes * processes > 1:
        several = f"--nnodes {nodes} … " if nodes > 1 else ""
        prog = f"torchrun {several}--nproc_per_node {processes} -m llm.train"
    return f"{prog} --config {shlex.quote(str(config.folder / 'config.yaml'))} --resume auto"


def _stop_at_once(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    leave(main())
