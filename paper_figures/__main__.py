"""`python -m paper_figures`: draw the paper's figures from recorded data, and write the report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cpi.tables import console
from paper_figures.catalogue import FIGURES, choose
from paper_figures.figure import Figure, Record, read, record
from paper_figures.report import write_report
from paper_figures.style import look, save

HOME = Path(__file__).parent
FORMATS = ("pdf", "png", "svg")

EPILOG = """\
examples:
  python -m paper_figures                       all figures and the report, from recorded data
  python -m paper_figures --list                what there is, and how old
  python -m paper_figures t1 t4 --format svg    two of them, as SVG
  python -m paper_figures --recompute           also compute anew what takes seconds
  python -m paper_figures t1 --recompute        and what takes longer, if it is named

DIR receives figures/NAME.png, …, with --recompute the new records results/NAME.json, and report.md
and report.html where it has PNGs of all figures. Records are read from paper_figures/results. A
figure whose record was made with other settings than it has now is drawn and called stale, here and
in the report.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m paper_figures",
        description=__doc__.partition(": ")[2],
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
        for figure in figures:
            anew = args.recompute and (figure.cheap or bool(args.names))
            records[figure.name] = obtain(figure, anew, args.out / "results")
            draw(figure, records[figure.name], args.out / "figures", args.format)
        if "png" in args.format and (len(records) == len(FIGURES) or args.out == HOME):
            others = (figure for figure in FIGURES if figure.name not in records)
            records |= {figure.name: read(HOME / "results", figure) for figure in others}
            for path in write_report(FIGURES, records, args.out):
                print(f"Written to {path}")
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted: what was written until then is whole.", file=sys.stderr)
        return 130
    return 0


def formats(text: str) -> tuple[str, ...]:
    """File types with commas between, for argparse."""
    chosen = tuple(text.split(","))
    for name in chosen:
        if name not in FORMATS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(FORMATS)}")
    return chosen


def obtain(figure: Figure, anew: bool, folder: Path) -> Record:
    """The record of a figure, computed and written to `folder` or read."""
    if not anew:
        return read(HOME / "results", figure)
    with console(sys.stderr).status(figure.name) as status:
        return record(folder, figure, lambda what: status.update(f"{figure.name}: {what}"))


def draw(figure: Figure, made: Record, folder: Path, types: Sequence[str]) -> None:
    """Write a figure in each of some file types, and say where."""
    with look():
        for kind in types:  # drawn for each: saving settles a layout, at the resolution of one
            save(figure.draw(made.data), folder / f"{figure.name}.{kind}")
    print(f"{figure.name}: {folder / figure.name}.{', .'.join(types)}")
    if stale := made.stale(figure):
        print(f"{figure.name}: STALE: {stale}; {figure.command} makes it anew", file=sys.stderr)


def listing(folder: Path) -> object:
    """A table of the figures: what they show, and what their records are."""
    from rich.table import Table

    table = Table("figure", "shows", "recorded", "--recompute")
    for figure in FIGURES:
        try:
            made = read(folder, figure)
            state = "stale: " + made.stale(figure) if made.stale(figure) else made.made
        except ValueError:
            state = "never"
        table.add_row(figure.name, figure.title, state, "seconds" if figure.cheap else "by name")
    return table


if __name__ == "__main__":
    sys.exit(main())
