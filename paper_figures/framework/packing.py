"""`python -m paper_figures pack`: put the records of runs where figures read them."""

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
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__.partition(": ")[2])
    add = parser.add_argument
    add(
        "folders",
        nargs="*",
        type=Path,
        default=[Path("results/compare")],
        metavar="DIR",
        help="a folder of runs, or of folders of runs, each of which becomes a file (default: "
        "results/compare)",
    )
    add(
        "--out",
        type=Path,
        default=HOME / "results",
        metavar="DIR",
        help="where the packed files are; their records of other runs stay (default: "
        "paper_figures/results)",
    )
    args = parser.parse_args(argv)
    try:
        for place in places(args.folders):
            new = read_records_of(place)
            kept = read_records_of(args.out / place.name)
            file = args.out / f"{place.name}{PACKED}"
            pack(kept | new, file)
            print(f"{file}: {len(new)} from {place}, {len(kept.keys() - new.keys())} kept")
    except (ValueError, OSError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 2
    return 0


def places(folders: Sequence[Path]) -> list[Path]:
    """The folders that become a file each.

    Raises
    ------
    ValueError
        If one has no runs; names it.
    """
    found = []
    for folder in folders:
        if any(folder.glob("*.json")):
            found.append(folder)
            continue
        within = sorted(path for path in folder.glob("*/") if any(path.rglob("*.json")))
        if not within:
            raise ValueError(f"{folder}: no runs in it; python -m llm.compare makes them")
        found += within
    return found
