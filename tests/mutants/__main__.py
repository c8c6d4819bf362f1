"""`make mutants`: plant each fault of this folder in a copy of the tree and run the tests on it.

A fault is caught when the tests *fail* (pytest's exit code 1): a copy that cannot even be collected
counts as a broken mutant, and so does a fault whose text is no longer in the code exactly once. The
unchanged copy is run first and must pass. Exit code 0 only if every fault was caught.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants.bounds import CONSTANTS
from tests.mutants.bridge import BRIDGE
from tests.mutants.distributed import DISTRIBUTED
from tests.mutants.llm import LLM, VLLM
from tests.mutants.mutant import Mutant
from tests.mutants.resets import RESETS
from tests.mutants.scale import SCALE
from tests.mutants.values import VALUES, WORLDS

MUTANTS = CONSTANTS + VALUES + WORLDS + RESETS + LLM + BRIDGE + DISTRIBUTED + SCALE
if importlib.util.find_spec("vllm") is not None:  # else its tests are skipped
    MUTANTS += VLLM

ROOT = Path(__file__).resolve().parents[2]

#: Where a fault of a room must show, if the nearest tests miss it.
TABULAR = ("tests/cpi", "tests/envs")
EVERYTHING = {"envs": TABULAR, "cpi": TABULAR, "llm": ("tests/llm",)}
ROOMS = ("cpi", "envs", "llm", "paper_figures", "tests")


def copy_tree(target: Path) -> None:
    """What the tests need, without environments, caches and results."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, target / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", target)


def plant(mutant: Mutant, tree: Path) -> None:
    """Replace the one occurrence of the mutant's text."""
    path = tree / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        raise LookupError(f"{mutant.old!r} stands {text.count(mutant.old)} times in {mutant.file}")
    path.write_text(text.replace(mutant.old, mutant.new))


def nearest_tests(mutant: Mutant, tree: Path) -> list[str]:
    """The mutant's own tests, the file that mirrors its file, or the fast ones of its folder."""
    if mutant.tests:
        return list(mutant.tests)
    path = Path("tests") / mutant.file
    mirror = path.with_name(f"test_{path.name}")
    if (tree / mirror).exists():
        return [str(mirror)]
    return [str(path.with_name(f"test_{name}.py")) for name in ("hand_computed", "tight")]


def all_tests(rooms: Iterable[str]) -> list[str]:
    """Those of some rooms."""
    return sorted({tests for room in rooms for tests in EVERYTHING[room]})


def run_tests(tree: Path, tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """The fast ones of `tests`, up to the first failure; `tree` shadows the installed packages."""
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # faults run side by side
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=tree,
        env=os.environ | threads | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        timeout=900,
    )


def verdict(mutant: Mutant | None, rooms: Iterable[str] = ()) -> tuple[str, str]:
    """("caught" | "survived" | "broken", the line that says more); without a mutant, of rooms."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        copy_tree(tree)
        try:
            if mutant is not None:
                plant(mutant, tree)
        except LookupError as error:
            return "broken", str(error)
        # Most faults fail next door; only those that do not need all the tests.
        if mutant is None:
            result = run_tests(tree, all_tests(rooms))
        else:
            result = run_tests(tree, nearest_tests(mutant, tree))
            if result.returncode == 0:
                result = run_tests(tree, all_tests([mutant.room]))
    lines = [line for line in result.stdout.splitlines() if line.strip()] or [result.stderr]
    failed = [line for line in lines if line.startswith("FAILED")]
    if result.returncode == 0:
        return "survived", lines[-1]
    if result.returncode == 1 and failed:
        return "caught", failed[0].removeprefix("FAILED ").split(" - ")[0]
    return "broken", lines[-1]


def main() -> int:
    """Run all faults, or those whose description holds the given words."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("words", nargs="*", help="only the faults whose description holds these")
    words = parser.parse_args().words
    chosen = [m for m in MUTANTS if all(word in f"{m.file}: {m.fault}" for word in words)]
    if not chosen:
        parser.error(f"no description holds {' and '.join(words)}")
    outcome, detail = verdict(None, {mutant.room for mutant in chosen})
    if outcome != "survived":
        print(f"The tests do not pass on the unchanged copy: {detail}", file=sys.stderr)
        return 1
    print(f"unchanged copy: {detail}", flush=True)
    counts = {"caught": 0, "survived": 0, "broken": 0}
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for mutant, (outcome, detail) in zip(chosen, pool.map(verdict, chosen), strict=True):
            counts[outcome] += 1
            print(f"{outcome:8}  {mutant.file}: {mutant.fault}\n          {detail}", flush=True)
    print(f"caught {counts['caught']} / planted {len(chosen)}")
    return 0 if counts["caught"] == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
