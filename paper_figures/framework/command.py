"""The command: draw the paper's figures from recorded data, and write the report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cpi.reporting.tables import console
from paper_figures import HOME
from paper_figures.framework.catalogue import FIGURES, choose, inputs_first
from paper_figures.framework.figure import (
    Figure,
    Record,
    drawn_from,
    read,
    record,
)
from paper_figures.framework.inputs import made_by
from paper_figures.framework.report import write_report
from paper_figures.framework.style import look, save

FORMATS = ("pdf", "png", "svg")

EPILOG = """\
examples:
  python -m paper_figures                       all figures and the report, from recorded data
  python -m paper_figures --list                what there is, and how old
  python -m paper_figures t1 t4 --format svg    two of them, as SVG
  python -m paper_figures --recompute           also compute anew what takes seconds
  python -m paper_figures t1 --recompute        and what takes longer, if it is named
  python -m paper_figures pack results/compare  put runs of llm.compare where figures read them

DIR receives figures/NAME.png, …, with --recompute the new records results/NAME.json, and report.md
and report.html where it has PNGs of all figures. Records are read from paper_figures/results; a
figure computed anew that needs others' records takes those made anew with it. A figure whose record
was made with other settings than it has now, or from other records and runs than there are now, is
drawn and called stale, here and in the report.

exit codes: 0 done, 1 a record is missing or broken and the rest is drawn, 2 bad input, 130
interrupted
"""


def run(argv: Sequence[str] | None, interrupted: Callable[[], bool]) -> int:
    """Run the command; returns the exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        By default this process's.
    interrupted : function
        Whether it shall stop, asked before each figure.
    """
    parser = argparse.ArgumentParser(
        prog="python -m paper_figures",
        description=__doc__.partition(": ")[2].capitalize(),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="NAMES", help="figures, t1 or t1_resets_needed; default: all")
    add("--list", action="store_true", help="print the figures and their records, and stop")
    add(
        "--recompute",
        action="store_true",
        help="compute the data anew: of the named figures, or of those that take seconds",
    )
    add("--out", type=Path, default=HOME, metavar="DIR", help="default: paper_figures")
    add(
        "--format",
        type=formats,
        default=("pdf", "png"),
        metavar="LIST",
        help="of pdf, png and svg, with commas between (default: pdf,png)",
    )
    args = parser.parse_args(argv)
    try:
        figures = choose(args.names)
        if args.list:
            console().print(listing(HOME / "results"))
            return 0
        records: dict[str, Record] = {}
        anew: dict[str, Path] = {}
        problems = []
        for figure in inputs_first(figures):
            if interrupted():
                raise KeyboardInterrupt
            again = args.recompute and (figure.cheap or bool(args.names))
            try:
                records[figure.name] = obtain(figure, args.out / "results" if again else None, anew)
                draw(figure, records[figure.name], args.out / "figures", args.format)
            except ValueError as error:
                problems.append(str(error))
        whole = len(figures) == len(FIGURES) or args.out.resolve() == HOME.resolve()
        if "png" in args.format and whole:
            problems += report(records, args.out, problems)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    for problem in problems:
        print(f"{parser.prog}: {problem}", file=sys.stderr)
    return 1 if problems else 0


def report(records: Mapping[str, Record], folder: Path, problems: Sequence[str]) -> list[str]:
    """Write the report if there is all that it needs; returns what more is missing."""
    found, missing = dict(records), []
    for figure in FIGURES:
        if figure.name not in found and not any(p.startswith(f"{figure.name}:") for p in problems):
            try:
                found[figure.name] = read(HOME / "results", figure)
            except ValueError as error:
                missing.append(str(error))
    try:
        if problems or missing:
            raise ValueError(f"report: not written to {folder}; it takes all figures")
        for path in write_report(FIGURES, found, folder):
            print(f"Written to {path}")
    except ValueError as error:
        missing.append(str(error))
    return missing


def formats(text: str) -> tuple[str, ...]:
    """File types with commas between, for argparse."""
    chosen = tuple(text.split(","))
    for name in chosen:
        if name not in FORMATS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(FORMATS)}")
    return chosen


def obtain(figure: Figure, folder: Path | None, anew: dict[str, Path]) -> Record:
    """The record of a figure, read, or computed and written to a folder.

    `anew` is where records are that were made before in this call; this one is added.
    """
    if folder is None:
        return read(HOME / "results", figure)
    inputs = {name: anew.get(name, HOME / "results" / name) for name in figure.inputs}
    with console(sys.stderr).status(figure.name) as status:
        made = record(folder, figure, lambda what: status.update(f"{figure.name}: {what}"), inputs)
    anew[made.path.name] = made.path
    return made


def draw(figure: Figure, made: Record, folder: Path, types: Sequence[str]) -> None:
    """Write a figure in each of some file types, and say where."""
    with look(), drawn_from(figure, made):
        for kind in types:  # drawn for each: saving settles a layout, at the resolution of one
            save(figure.draw(made.data), folder / f"{figure.name}.{kind}")
    print(f"{figure.name}: {folder / figure.name}.{', .'.join(types)}")
    if stale := made.stale(figure):
        print(f"{figure.name}: STALE: {stale}; {figure.command} makes it anew", file=sys.stderr)


def listing(folder: Path) -> object:
    """A table of the figures: what they show, and what their records are."""
    from rich.table import Table

    table = Table("figure", "shows", "recorded", "--recompute", "rereads what is made by")
    for figure in FIGURES:
        try:
            made = read(folder, figure)
            state = "stale: " + made.stale(figure) if made.stale(figure) else made.made
        except ValueError:
            state = "broken" if (folder / f"{figure.name}.json").is_file() else "never"
        rereads = "\n".join(made_by(name) for name in figure.inputs)
        how = "seconds" if figure.cheap else "by name"
        table.add_row(figure.name, figure.title, state, how, rereads)
    return table
