"""The command: draw the paper's figures from recorded data, and write the report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cpi.reporting.options import underscored
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
  python -m paper_figures --list                the figures and the dates of their records
  python -m paper_figures t1 t4 --format svg    two of them, as SVG
  python -m paper_figures --recompute           recompute the data of the fast figures first
  python -m paper_figures t1 --recompute        recompute a slow figure, by name
  python -m paper_figures pack results/compare  pack runs of llm.compare for the figures

DIR receives figures/NAME.png and so on; with --recompute also the new records, results/NAME.json.
If DIR has PNGs of all figures, report.md and report.html are written to it as well.

Records are read from paper_figures/results. A recomputed figure prefers input records that the
same call has recomputed. A record is stale if the figure's settings or inputs have changed since.
A stale figure is still drawn; the command and the report both mark it.

exit codes: 0 done, 1 a record is missing or broken and the rest is drawn, 2 bad input, 130
interrupted
"""


def run(argv: Sequence[str] | None, interrupted: Callable[[], bool]) -> int:
    """Run the command; returns the exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        Default: the arguments of this process.
    interrupted : function
        Checked before each figure; true stops the command.
    """
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
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
        help="recompute the data of the named figures; without names, of the fast ones",
    )
    add("--out", type=Path, default=HOME, metavar="DIR", help="default: paper_figures")
    add(
        "--format",
        type=formats,
        default=("pdf", "png"),
        metavar="LIST",
        help="comma-separated, of pdf, png and svg (default: pdf,png)",
    )
    args = parser.parse_args(underscored(argv))
    try:
        figures = choose(args.names)
        if args.list:
            console().print(listing(HOME / "results"))
            return 0
        records: dict[str, Record] = {}
        new_paths: dict[str, Path] = {}
        problems = []
        for figure in inputs_first(figures):
            if interrupted():
                raise KeyboardInterrupt
            again = args.recompute and (figure.cheap or bool(args.names))
            try:
                records[figure.name] = obtain(
                    figure, args.out / "results" if again else None, new_paths
                )
                draw(figure, records[figure.name], args.out / "figures", args.format)
            except ValueError as error:
                problems.append(str(error))
        all_figures = len(figures) == len(FIGURES) or args.out.resolve() == HOME.resolve()
        if "png" in args.format and all_figures:
            problems += report(records, args.out, problems)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    for problem in problems:
        print(f"{parser.prog}: {problem}", file=sys.stderr)
    return 1 if problems else 0


def report(records: Mapping[str, Record], folder: Path, problems: Sequence[str]) -> list[str]:
    """Write the report if all records are available; returns the new problems."""
    complete, missing = dict(records), []
    for figure in FIGURES:
        if figure.name not in complete and not any(
            p.startswith(f"{figure.name}:") for p in problems
        ):
            try:
                complete[figure.name] = read(HOME / "results", figure)
            except ValueError as error:
                missing.append(str(error))
    try:
        if problems or missing:
            raise ValueError(f"report: not written to {folder}; it takes all figures")
        for path in write_report(FIGURES, complete, folder):
            print(f"Written to {path}")
    except ValueError as error:
        missing.append(str(error))
    return missing


def formats(text: str) -> tuple[str, ...]:
    """Parse comma-separated file types, for argparse."""
    chosen = tuple(text.split(","))
    for name in chosen:
        if name not in FORMATS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(FORMATS)}")
    return chosen


def obtain(figure: Figure, folder: Path | None, new_paths: dict[str, Path]) -> Record:
    """Read the record of a figure, or compute it and write it to `folder`.

    `new_paths` maps the records computed in this call to their paths; a computed record is added.
    """
    if folder is None:
        return read(HOME / "results", figure)
    inputs = {name: new_paths.get(name, HOME / "results" / name) for name in figure.inputs}
    with console(sys.stderr).status(figure.name) as status:
        new_record = record(
            folder, figure, lambda stage: status.update(f"{figure.name}: {stage}"), inputs
        )
    new_paths[new_record.path.name] = new_record.path
    return new_record


def draw(figure: Figure, figure_record: Record, folder: Path, types: Sequence[str]) -> None:
    """Write a figure in each file type and print the paths."""
    with look(), drawn_from(figure, figure_record):
        for kind in types:  # redrawn: saving fixes the layout for one resolution
            save(figure.draw(figure_record.data), folder / f"{figure.name}.{kind}")
    print(f"{figure.name}: {folder / figure.name}.{', .'.join(types)}")
    if stale := figure_record.stale(figure):
        print(f"{figure.name}: STALE: {stale}; {figure.command} recomputes it", file=sys.stderr)


def listing(folder: Path) -> object:
    """A table of the figures: title, state of the record, and inputs."""
    from rich.table import Table

    table = Table("figure", "shows", "recorded", "--recompute", "reads the output of")
    for figure in FIGURES:
        try:
            figure_record = read(folder, figure)
            state = (
                "stale: " + figure_record.stale(figure)
                if figure_record.stale(figure)
                else figure_record.made
            )
        except ValueError:
            state = "broken" if (folder / f"{figure.name}.json").is_file() else "never"
        rereads = "\n".join(made_by(name) for name in figure.inputs)
        recompute = "seconds" if figure.cheap else "by name"
        table.add_row(figure.name, figure.title, state, recompute, rereads)
    return table
