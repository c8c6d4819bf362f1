"""`python -m tests.llm.kills [N]`: kill a run at N random moments; the result must be the same.

One run finishes without a kill: the reference. Then the same run is started N times in its own
process. SIGKILL ends it at a random moment, sometimes once more after its resumption. `--resume
auto` resumes it until it finishes. Its files must equal those of the reference bit for bit.
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

#: SRPO has localizations and resets. Large steps: half the duration of the run is spent in steps.
STEPS = "6"
FLAGS = [
    *("--algorithm=srpo", f"--steps={STEPS}", "--prompts_per_step=192"),
    *("--save_steps=2", "--save_total_limit=2"),
]

#: Share of the killed runs that are killed again after they are resumed.
KILLED_TWICE = 1 / 3


class Moment(NamedTuple):
    """When a run was killed, its phase, and the unfinished files left behind."""

    seconds: float
    phase: str
    leftovers: list[str]

    def __str__(self) -> str:
        leftovers = f", leaves {' '.join(self.leftovers)}" if self.leftovers else ""
        return f"{self.seconds:5.2f} s ({self.phase}{leftovers})"


class Run:
    """A training run in its own process; the output goes to a file."""

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
        """Wait until the run succeeds; returns its duration in seconds."""
        if self.process.wait(timeout=600):
            raise AssertionError(f"exit code {self.process.returncode}: {self.printed_lines()[-1]}")
        return time.monotonic() - self.began

    def kill(self, seconds: float) -> Moment | None:
        """Kill the run `seconds` after its start; None if it finished before."""
        try:
            self.process.wait(max(0.0, self.began + seconds - time.monotonic()))
        except subprocess.TimeoutExpired:
            kill(self.process)
            return Moment(time.monotonic() - self.began, self.phase(), self.leftovers())
        self.finish()
        return None

    def printed_lines(self) -> list[str]:
        """The lines printed so far."""
        return self.printed.read_text().splitlines()

    def phase(self) -> str:
        """The phase of the run, according to its output."""
        lines = self.printed_lines()
        steps = [line.split()[1].partition("/")[0] for line in lines if line.startswith("step ")]
        if steps:
            return "ending" if steps[-1] == STEPS else f"after step {steps[-1]}"
        if any(line.startswith("parity ") for line in lines):
            return "beginning"
        return "loading" if lines else "imports"

    def leftovers(self) -> list[str]:
        """Files and folders with the suffix of unfinished ones."""
        return [
            str(path.relative_to(self.output))
            for path in sorted(self.output.rglob("*"))
            if path.suffix in (".part", ".replaced", ".deleted")
        ]

    def check_complete(self) -> None:
        """Read every file with a final name; raises if one is half written."""
        if (path := latest(self.output / "checkpoints")) is not None:
            load(path)
        for file in (self.output / "rollouts").glob("step-*.jsonl"):
            read_rollouts(file)


def attempt(base: Path, reference: Path, output: Path, duration: float, rng: random.Random) -> str:
    """Kill one run once or twice, and resume it; returns the moments and the result.

    A run that finishes before its first moment is repeated.

    Raises
    ------
    AssertionError
        If it differs from the reference; the message begins with the moments of the kills.
    """
    moments: list[str] = []
    run = Run(base, output)
    for _ in range(1 + (rng.random() < KILLED_TWICE)):
        moment = run.kill(rng.uniform(0, duration))
        while moment is None and not moments:
            shutil.rmtree(output)
            run = Run(base, output)
            moment = run.kill(rng.uniform(0, duration))
        if moment is None:
            moments.append("finished before")
            break
        moments.append(str(moment))
        try:
            run.check_complete()
        except Exception as error:
            raise AssertionError(f"{', then '.join(moments)}: {error}") from error
        run = Run(base, output, "--resume=auto")
    when = ", then ".join(moments)
    try:
        run.finish()
        assert_same_run(reference, output)
        assert not run.leftovers(), f"left behind: {run.leftovers()}"
    except Exception as error:
        raise AssertionError(f"{when}: {error}") from error
    resumed = [line for line in run.printed_lines() if line.startswith("going on from")]
    return f"{when}: {f'same, {resumed[0]}' if resumed else 'same, from the start'}"


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog="python -m tests.llm.kills", description=__doc__
    )
    parser.add_argument("kills", nargs="?", type=int, default=20, metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    different = 0
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        base, reference = pretrained(folder / "base"), folder / "reference"
        duration = Run(base, reference).finish()
        print(f"the run without a kill takes {duration:.1f} s", flush=True)
        for number in range(1, options.kills + 1):
            output = folder / f"killed-{number}"
            try:
                result = attempt(base, reference, output, duration, rng)
            except AssertionError as error:
                different += 1
                result = f"DIFFERENT {error}"
            print(f"{number:3}  {result.replace(f'{output}/checkpoints/', '')}", flush=True)
    print(f"{options.kills} runs killed, {different} of them differ from the reference")
    return int(different > 0)


if __name__ == "__main__":
    raise SystemExit(main())
