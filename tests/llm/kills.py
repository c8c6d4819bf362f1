"""`python -m tests.llm.kills [N]`: kill a run at N random moments; it must come out the same.

A whole run is made first. Then N times the same run is started in a process of its own, killed by
SIGKILL at a moment drawn from its life, sometimes once more while it goes on, and resumed by
`--resume auto` until it is done. What it leaves must be what the whole run left, bit for bit.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from llm.runs.checkpoints import latest, load
from llm.runs.rollout_records import read_rollouts
from tests.llm.conftest import CHAIN, pretrained
from tests.llm.training_runs import arguments, assert_same_run, kill

#: SRPO, so that there are localizations and resets; steps so long that half of its life is steps.
STEPS = "6"
FLAGS = [
    *("--algorithm=srpo", f"--steps={STEPS}", "--prompts_per_step=192"),
    *("--save_steps=2", "--save_total_limit=2"),
]

#: Of a run that is killed, the share that is killed again while it goes on.
AGAIN = 1 / 3


class Moment(NamedTuple):
    """When a run was killed, and what it had done by then."""

    seconds: float
    phase: str
    left: list[str]

    def __str__(self) -> str:
        left = f", leaves {' '.join(self.left)}" if self.left else ""
        return f"{self.seconds:5.2f} s ({self.phase}{left})"


class Run:
    """The run, in a process whose output goes to a file."""

    def __init__(self, base: Path, output: Path, *more: str) -> None:
        self.output = output
        self.printed = output.with_suffix(".out")
        with self.printed.open("w") as printed:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "llm.train", *arguments(base, output, CHAIN, *FLAGS, *more)],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=printed,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.began = time.monotonic()

    def finish(self) -> float:
        """Wait for its end, which must be a good one; returns its seconds."""
        if self.process.wait(timeout=600):
            raise AssertionError(f"exit code {self.process.returncode}: {self.said()[-1]}")
        return time.monotonic() - self.began

    def kill(self, seconds: float) -> Moment | None:
        """Kill it so long after its start; None if it was done before."""
        try:
            self.process.wait(max(0.0, self.began + seconds - time.monotonic()))
        except subprocess.TimeoutExpired:
            kill(self.process)
            return Moment(time.monotonic() - self.began, self.phase(), self.leftovers())
        self.finish()
        return None

    def said(self) -> list[str]:
        """The lines it has printed."""
        return self.printed.read_text().splitlines()

    def phase(self) -> str:
        """What it was doing, by what it had printed."""
        said = self.said()
        steps = [line.split()[1].partition("/")[0] for line in said if line.startswith("step ")]
        if steps:
            return "ending" if steps[-1] == STEPS else f"after step {steps[-1]}"
        if any(line.startswith("parity ") for line in said):
            return "beginning"
        return "loading" if said else "imports"

    def leftovers(self) -> list[str]:
        """Names that a finished run does not have."""
        return [
            str(path.relative_to(self.output))
            for path in sorted(self.output.rglob("*"))
            if path.suffix in (".part", ".replaced", ".deleted")
        ]

    def check_whole(self) -> None:
        """Nothing under a good name may be half written."""
        if (path := latest(self.output / "checkpoints")) is not None:
            load(path)
        for file in (self.output / "rollouts").glob("step-*.jsonl"):
            read_rollouts(file)


def attempt(base: Path, whole: Path, output: Path, life: float, rng: random.Random) -> str:
    """One run, killed once or twice; says when, and what came of it.

    A run that is done before its moment is made again: a busy machine was busier for the whole one.

    Raises
    ------
    AssertionError
        If it differs from the whole run; the message begins with when it was killed.
    """
    moments: list[str] = []
    run = Run(base, output)
    for _ in range(1 + (rng.random() < AGAIN)):
        moment = run.kill(rng.uniform(0, life))
        while moment is None and not moments:
            shutil.rmtree(output)
            run = Run(base, output)
            moment = run.kill(rng.uniform(0, life))
        if moment is None:
            moments.append("done before")
            break
        moments.append(str(moment))
        try:
            run.check_whole()
        except Exception as error:
            raise AssertionError(f"{', then '.join(moments)}: {error}") from error
        run = Run(base, output, "--resume=auto")
    when = ", then ".join(moments)
    try:
        run.finish()
        assert_same_run(whole, output)
        assert not run.leftovers(), f"left behind: {run.leftovers()}"
    except Exception as error:
        raise AssertionError(f"{when}: {error}") from error
    resumed = [line for line in run.said() if line.startswith("going on from")]
    return f"{when}: {f'same, {resumed[0]}' if resumed else 'same, from the start'}"


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.llm.kills", description=__doc__)
    parser.add_argument("kills", nargs="?", type=int, default=20, metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    different = 0
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        base, whole = pretrained(folder / "base"), folder / "whole"
        life = Run(base, whole).finish()
        print(f"the whole run takes {life:.1f} s", flush=True)
        for number in range(1, options.kills + 1):
            output = folder / f"killed-{number}"
            try:
                said = attempt(base, whole, output, life, rng)
            except AssertionError as error:
                different += 1
                said = f"DIFFERENT {error}"
            print(f"{number:3}  {said.replace(f'{output}/checkpoints/', '')}", flush=True)
    print(f"{options.kills} runs killed, {different} of them came out different")
    return int(different > 0)


if __name__ == "__main__":
    raise SystemExit(main())
