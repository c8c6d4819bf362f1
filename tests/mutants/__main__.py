"""`make mutants`: mutation tests; plants each fault in a copy of the tree and runs the tests on it.

A fault is caught if a test *fails* in pytest's JUnit XML record. A mutant is broken if the copy
cannot be collected, a fixture raises, or the fault's text is not in the code exactly once. The same
tests must pass on an unchanged copy. The exit code is 0 only if every fault is caught.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import NamedTuple
from xml.etree import ElementTree

from tests.mutants.bounds import CONSTANTS
from tests.mutants.bridge import BRIDGE
from tests.mutants.distributed import DISTRIBUTED
from tests.mutants.llm import LLM, VLLM
from tests.mutants.mutant import Mutant
from tests.mutants.resets import RESETS
from tests.mutants.scale import SCALE
from tests.mutants.tries import TRIES
from tests.mutants.values import VALUES, WORLDS

MUTANTS = CONSTANTS + VALUES + WORLDS + RESETS + LLM + BRIDGE + DISTRIBUTED + SCALE + TRIES
if importlib.util.find_spec("vllm") is not None:  # else the vLLM tests are skipped
    MUTANTS += VLLM

ROOT = Path(__file__).resolve().parents[2]

#: Top-level folder → tests to run on a fault that its nearest tests miss.
TABULAR = ("tests/cpi", "tests/envs")
EVERYTHING = {"envs": TABULAR, "cpi": TABULAR, "llm": ("tests/llm",)}
ROOMS = ("cpi", "envs", "llm", "paper_figures", "tests")


def copy_tree(target: Path) -> None:
    """Copy the files that the tests need, compiled ones too, but no environments and results."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, target / room)  # keeps times, so compiled files stay valid
    shutil.copy(ROOT / "pyproject.toml", target)


def plant(mutant: Mutant, tree: Path) -> None:
    """Replace the one occurrence of the mutant's text."""
    path = tree / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        raise LookupError(f"{mutant.old!r} stands {text.count(mutant.old)} times in {mutant.file}")
    path.write_text(text.replace(mutant.old, mutant.new))


def nearest_tests(mutant: Mutant, tree: Path) -> list[str]:
    """The tests that the mutant names, the mirror of its file, or those of the bounds."""
    if mutant.tests:
        return list(mutant.tests)
    path = Path("tests") / mutant.file
    mirror = path.with_name(f"test_{path.name}")
    if (tree / mirror).exists():
        return [str(mirror)]
    if path.parent == Path("tests/cpi/bounds"):
        return [str(path.with_name(f"test_{name}.py")) for name in ("hand_computed", "tight")]
    raise LookupError(f"{mutant.file} has no mirror {mirror}; the mutant must name its tests")


class TestRun(NamedTuple):
    """Outcome of a pytest run.

    Attributes
    ----------
    outcome : {"passed", "failed", "broken"}
        "broken": no test failed, but some could not be run.
    detail : str
        The first failed test, or the last line of output.
    """

    outcome: str
    detail: str


def run_tests(tree: Path, tests: Sequence[str]) -> TestRun:
    """Run the fast tests up to the first failure; `tree` shadows the installed packages."""
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # several runs share the cores
    record = tree / "junit.xml"
    record.unlink(missing_ok=True)
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", f"--junitxml={record}"]
    process = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=tree,
        env=os.environ | threads | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    lines = [line for line in process.stdout.splitlines() if line.strip()] or [process.stderr]
    if process.returncode == 0:
        return TestRun("passed", lines[-1])
    cases = ElementTree.parse(record).iter("testcase") if record.exists() else ()
    failed = [case for case in cases if case.find("failure") is not None]
    if process.returncode == 1 and failed:
        return TestRun("failed", f"{failed[0].get('classname')}::{failed[0].get('name')}")
    return TestRun("broken", lines[-1])


class Outcome(NamedTuple):
    """Result for one fault: "caught", "survived" or "broken", and a line of detail."""

    outcome: str
    detail: str


class Runner:
    """Plants faults and runs tests; caches the results on unchanged copies.

    Parameters
    ----------
    elsewhere : bool
        Run all tests of the top-level folder on a fault that its nearest tests miss.
    """

    def __init__(self, elsewhere: bool = True) -> None:
        self.elsewhere = elsewhere
        self._unchanged: dict[tuple[str, ...], Future[TestRun]] = {}
        self._lock = Lock()

    def outcome_of(self, mutant: Mutant) -> Outcome:
        """Test one fault: with its nearest tests first, then, if these pass, with all tests."""
        with tempfile.TemporaryDirectory() as folder:
            tree = Path(folder)
            copy_tree(tree)
            try:
                plant(mutant, tree)
            except LookupError as error:
                return Outcome("broken", str(error))
            tests = nearest_tests(mutant, tree)
            run = run_tests(tree, tests)
            if run.outcome == "passed" and self.elsewhere:
                tests = list(EVERYTHING[mutant.room])
                run = run_tests(tree, tests)
        if run.outcome == "failed":
            unchanged = self.unchanged(tuple(tests))
            if unchanged.outcome != "passed":
                return Outcome("broken", f"fails on an unchanged copy as well: {unchanged.detail}")
            return Outcome("caught", run.detail)
        return Outcome("survived" if run.outcome == "passed" else "broken", run.detail)

    def unchanged(self, tests: tuple[str, ...]) -> TestRun:
        """Run a set of tests on an unchanged copy, once per set."""
        with self._lock:
            mine = tests not in self._unchanged
            future = self._unchanged.setdefault(tests, Future())
        if mine:
            try:
                with tempfile.TemporaryDirectory() as folder:
                    copy_tree(Path(folder))
                    future.set_result(run_tests(Path(folder), tests))
            except BaseException as error:
                future.set_exception(error)
        return future.result()


def make_parser() -> argparse.ArgumentParser:
    """The argument parser of the command."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m tests.mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--only",
        nargs="+",
        default=[],
        metavar="WORD",
        help="only faults whose file name and description contain all of these words",
    )
    add("--sample", type=int, metavar="N", help="only N faults, drawn at random")
    add("--seed", default="0", help="random seed of the sample, any text (default: 0)")
    add("--jobs", type=int, default=os.cpu_count(), metavar="N", help="faults tested in parallel")
    add("--list", action="store_true", help="print the faults without running tests")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Test the selected faults; returns the exit code."""
    parser = make_parser()
    args = parser.parse_args(argv)
    chosen = [m for m in MUTANTS if all(word in f"{m.file}: {m.fault}" for word in args.only)]
    if not chosen:
        parser.error(f"--only: no description contains {' and '.join(args.only)}")
    if args.sample is not None:
        chosen = random.Random(args.seed).sample(chosen, min(args.sample, len(chosen)))
    if args.list:
        print(*(f"{mutant.file}: {mutant.fault}" for mutant in chosen), sep="\n")
        return 0
    counts = {"caught": 0, "survived": 0, "broken": 0}
    with ThreadPoolExecutor(max_workers=args.jobs) as pool:
        outcomes = pool.map(Runner().outcome_of, chosen)
        for mutant, (outcome, detail) in zip(chosen, outcomes, strict=True):
            counts[outcome] += 1
            print(f"{outcome:8}  {mutant.file}: {mutant.fault}\n          {detail}", flush=True)
    print(f"caught {counts['caught']} / planted {len(chosen)}")
    return 0 if counts["caught"] == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
