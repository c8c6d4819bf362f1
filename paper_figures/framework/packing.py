"""`python -m paper_figures pack`: pack the records of runs for the figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from llm.compare.records import PACKED, pack, read_records_of
from paper_figures import HOME

PROG = "python -m paper_figures pack"


def run(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, prog=PROG, description=__doc__.partition(": ")[2]
    )
    add = parser.add_argument
    add(
        "folders",
        nargs="*",
        type=Path,
        default=[Path("results/compare")],
        metavar="DIR",
        help="folder of runs, or of folders of runs; one file per folder of runs (default: "
        "results/compare)",
    )
    add(
        "--out",
        type=Path,
        default=HOME / "results",
        metavar="DIR",
        help="folder of the packed files; existing records of other runs are kept (default: "
        "paper_figures/results)",
    )
    args = parser.parse_args(argv)
    try:
        for folder in run_folders(args.folders):
            new = read_records_of(folder)
            kept = read_records_of(args.out / folder.name)
            file = args.out / f"{folder.name}{PACKED}"
            pack(kept | new, file)
            print(f"{file}: {len(new)} from {folder}, {len(kept.keys() - new.keys())} kept")
    except (ValueError, OSError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 2
    return 0


def run_folders(folders: Sequence[Path]) -> list[Path]:
    """Folders of runs, one per packed file.

    Raises
    ------
    ValueError
        Names a folder without runs.
    """
    with_runs = []
    for folder in folders:
        if any(folder.glob("*.json")):
            with_runs.append(folder)
            continue
        children = sorted(path for path in folder.glob("*/") if any(path.rglob("*.json")))
        if not children:
            raise ValueError(f"{folder}: no runs in it; python -m llm.compare makes them")
        with_runs += children
    return with_runs
