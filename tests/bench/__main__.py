"""`python -m tests.bench`: time the solvers beside quantecon and pymdptoolbox."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import sys
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import log
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cpi.reporting.json_files import check_writable, write_json
from tests.bench.alone import run_module
from tests.bench.contest import LIMIT, DisagreementError, contest
from tests.bench.problems import BACKWARD, FAMILIES, PROBLEMS
from tests.bench.rollouts import rollout_rows

EPILOG = """\
examples:
  make bench                                    all benchmarks: about ten minutes
  python -m tests.bench --quick                 three minutes; omits calls that take tens of seconds
  python -m tests.bench --only grid chain-4000  the table for some of the problems, nothing else
  python -m tests.bench --json bench.json       also write every number to a file
  OPENBLAS_NUM_THREADS=1 python -m tests.bench  without BLAS threads: steadier on shared cores

Times are medians of calls taken in turn. A library that has several methods competes with its
fastest: MPI is modified policy iteration and VI value iteration, to 1e-9 or the rounding at which
answers are compared; PI, and everything of ours, is exact. A ratio is our time over the best time
of the others. A missed target does not change the exit code. The exit code is 1 if two libraries
disagree or one fails, 2 if one is not installed or FILE cannot be written, 130 after Ctrl-C. FILE
is written after each row, so that it holds all rows that were measured.
"""

#: Records of one table, yielded as they are measured.
Rows = Iterator[dict[str, Any]]

#: Largest accepted ratio of our median time to the best of the others.
TARGET = 1.1
#: Target: vectorised rollouts over Gymnasium steps, ratio of speeds.
FASTER = 50
MEMORY = 4e9
ROUNDING = 16.0  # ulps of residual; RESIDUAL_ULPS of cpi.exact.linear is 8
#: Instances that must fit into MEMORY with a residual at rounding level.
LARGE = (("kl_chain, CSR", 10**6), ("lock chain, CSR", 10**6), ("garnet, CSR", 10**4))
LIBRARIES = ("ours", "quantecon", "pymdptoolbox")
SETTINGS = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENBLAS_THREAD_TIMEOUT")
NUMBER = 12  # characters of milliseconds and a method: "> 30,000 MPI"
MET = {True: "yes", False: "[red]no[/]"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m tests.bench",
        description="Exact values, occupancies, backward induction and optimal policies of this "
        "project, quantecon and pymdptoolbox, timed side by side; rollouts beside Gymnasium's; "
        "then growth with the number of states.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller sizes")
    parser.add_argument(
        "--only", nargs="+", choices=PROBLEMS, metavar="PROBLEM", help=", ".join(PROBLEMS)
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to FILE")
    args = parser.parse_args(argv)
    absent = [name for name in ("quantecon", "mdptoolbox") if not importlib.util.find_spec(name)]
    if absent:
        print(f"{parser.prog}: no {', '.join(absent)}; `make bench` installs them", file=sys.stderr)
        return 2
    try:
        if args.json is not None:
            check_writable(args.json)
        measure(args)
    except OSError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except (DisagreementError, RuntimeError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return 130
    return 0


def measure(args: argparse.Namespace) -> None:
    """Measure and print row by row; after each row, write all rows to the file."""
    out = Console(width=max(Console().width, 120))
    setting = settings()
    out.print(", ".join(" ".join(item) for item in setting["versions"].items()), highlight=False)
    variables = " ".join(f"{name}={value}" for name, value in setting["environment"].items())
    out.print(f"{setting['cpus']} cores, {variables or 'threads as the libraries choose'}\n")
    parts: dict[str, Rows] = {"contest": run_contest(out, args.only or list(PROBLEMS), args.quick)}
    if not args.only:
        parts |= {"rollouts": run_rollouts(out), "growth": run_growth(out, args.quick)}
    record: dict[str, Any] = {"quick": args.quick, **setting}
    for name, rows in parts.items():
        record[name] = []
        for row in rows:
            record[name].append(row)
            if args.json is not None:
                write_json(args.json, record)
    if args.json is not None:
        out.print(f"Written to {args.json}")


def run_contest(out: Console, problems: Sequence[str], quick: bool) -> Rows:
    """Time the problems; print each row, then how often the target is met."""
    ratios = []
    out.print(contest_table([], heading=True))
    with out.status("starting") as status:
        for key in problems:
            status.update(PROBLEMS[key].title)
            for row in contest_rows(key, quick):
                out.print(contest_table([row]))
                if row["ratio"] is not None:
                    ratios.append(row["ratio"])
                yield row
    out.print("no entry: takes much longer, or more memory than there is")
    out.print(
        f"{sum(ratio <= TARGET for ratio in ratios)} of {len(ratios)} at most {TARGET} times "
        f"the best of the others, {sum(ratio < 1 for ratio in ratios)} faster\n",
        style="bold",
    )


def run_rollouts(out: Console) -> Rows:
    """Vectorised rollouts beside stepping Gymnasium, in microseconds per environment step."""
    with out.status("rollouts"):
        rows = rollout_rows()
    table = Table(title="rollouts, µs per environment step", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("world", "ours", "Gymnasium", "ratio", "target", "met"):
        table.add_column(heading, justify="left" if heading == "world" else "right")
    for row in rows:
        ratio = row["gymnasium"] / row["vectorised"]
        times = (f"{row['vectorised']:.2f}", f"{row['gymnasium']:.1f}")
        met = MET[ratio >= FASTER]
        table.add_row(row["world"], *times, f"{ratio:.0f}×", f"{FASTER}×", met)
    out.print(table)
    yield from rows


def run_growth(out: Console, quick: bool) -> Rows:
    """Measure the families of growing MDPs; print their table and the large instances."""
    rows: list[dict[str, Any]] = []
    for family, (_, _, sizes) in FAMILIES.items():
        for n in sizes:
            if quick and n > 10**5:
                continue
            with out.status(f"{family}: S = {n:,}"):
                result = run_module("tests.bench.growth", family, str(n))
            if result is None:
                out.print(f"{family}, S = {n:,}: not finished within a minute", style="bold")
            else:
                rows.append(result)
                yield result
    out.print(growth_table(rows))
    for line in large_lines(rows):
        out.print(line, style="bold")


def settings() -> dict[str, Any]:
    """Versions, cores and environment variables that affect the numbers."""
    packages = ("numpy", "scipy", "numba", "quantecon", "pymdptoolbox")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        "versions": {"python": platform.python_version(), **versions},
        "cpus": os.cpu_count(),
        "environment": {name: os.environ[name] for name in SETTINGS if name in os.environ},
    }


def contest_rows(key: str, quick: bool) -> Rows:
    """One record per question: seconds by contestant, and our ratio to the best of the others."""
    problem = PROBLEMS[key]
    for question, times in contest(key, seconds=0.5 if quick else 3.0):
        seconds: dict[str, dict[str, Any]] = {
            contestant: {"min": min(taken), "median": median(taken), "readings": len(taken)}
            for contestant, taken in times.items()
        }
        for asked, contestant in sorted(problem.once):
            if asked == question and not quick:
                result = run_module("tests.bench.contest", key, question, contestant)
                took = float(LIMIT) if result is None else result["seconds"]
                seconds[contestant] = {"min": took, "median": took, "readings": 1}
                seconds[contestant]["stopped"] = result is None
        row = {"problem": key, "question": question, "seconds": seconds}
        for name, statistic in (("ratio", "median"), ("ratio_of_minima", "min")):
            others = [each[statistic] for who, each in seconds.items() if who != "ours"]
            row[name] = seconds["ours"][statistic] / min(others) if others else None
        yield row


def contest_table(rows: list[dict[str, Any]], *, heading: bool = False) -> Table:
    """Table of median milliseconds: the fastest method of each library.

    All columns have a fixed width, so that rows printed one by one are one table.
    """
    table = new_table("Median ms" if heading else "")
    table.show_header, table.show_edge = heading, False
    widths = max(len(problem.title) for problem in PROBLEMS.values()), len(BACKWARD)
    for name, width in zip(("problem", "question"), widths, strict=True):
        table.add_column(name, no_wrap=True, width=width)
    for name in (*LIBRARIES, "ratio", "of minima", f"≤ {TARGET}"):
        width = NUMBER if name in LIBRARIES else len(name)
        table.add_column(name, justify="right", no_wrap=True, width=width)
    for row in rows:
        cells = [PROBLEMS[row["problem"]].title, row["question"]]
        for library in LIBRARIES:
            methods = {k: v for k, v in row["seconds"].items() if k.startswith(library)}
            best = min(methods, key=lambda name: methods[name]["median"], default=None)
            cells.append("" if best is None else cell(methods[best], best.removeprefix(library)))
        if row["ratio"] is not None:
            cells += [f"{row['ratio']:.2g}", f"{row['ratio_of_minima']:.2g}"]
            cells += [MET[row["ratio"] <= TARGET]]
        table.add_row(*cells)
    return table


def cell(seconds: dict[str, Any], method: str) -> str:
    """Median milliseconds, and the method where a library has several."""
    sign = "> " if seconds.get("stopped") else ""
    return f"{sign}{milliseconds(seconds['median'])}{method}"


def new_table(title: str) -> Table:
    """An empty table in the shared style."""
    style: dict[str, Any] = {"title_justify": "left", "title_style": "bold", "box": SIMPLE_HEAD}
    return Table(title=title, pad_edge=False, padding=(0, 1, 0, 0), **style)


def milliseconds(seconds: float) -> str:
    """Milliseconds with three digits; all integer digits from 100 ms."""
    ms = 1e3 * seconds
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}"


def growth_table(rows: list[dict[str, Any]]) -> Table:
    """Table of seconds and memory by S; slope = d log seconds / d log S from the row above."""
    table = new_table("Growth with S")
    for name in ("family", "method"):
        table.add_column(name)
    for name in ("S", "V, s", "slope", "then d, s", "slope", "peak, GB", "residuals, ulp"):
        table.add_column(name, justify="right")
    for above, row in pairwise([{"family": None}, *rows]):
        slopes = {"V": "", "d": ""}
        if row["family"] == above["family"]:
            steps = log(row["states"] / above["states"])
            for kind in slopes:
                rise = log(row[f"seconds_{kind}"] / above[f"seconds_{kind}"])
                slopes[kind] = f"{rise / steps:.2f}"
        elif above["family"] is not None:
            table.add_section()
        table.add_row(
            row["family"],
            row["method"],
            f"{row['states']:,}",
            f"{row['seconds_V']:.2g}",
            slopes["V"],
            f"{row['seconds_d']:.2g}",
            slopes["d"],
            f"{row['peak_bytes'] / 1e9:.2f}",
            f"{row['residual_V_ulps']:.1f}, {row['residual_d_ulps']:.1f}",
        )
    return table


def large_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Lines on whether the large instances meet MEMORY and ROUNDING."""
    lines = []
    for row in rows:
        if (row["family"], row["states"]) in LARGE:
            residual = max(row["residual_V_ulps"], row["residual_d_ulps"])
            fits = row["peak_bytes"] < MEMORY and residual <= ROUNDING
            lines.append(
                f"{row['family']}, S = {row['states']:,}: {row['peak_bytes'] / 1e9:.2f} GB of 4, "
                f"residual {residual:.1f} ulp of {ROUNDING:.0f}: {'met' if fits else 'MISSED'}"
            )
    return lines


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # deprecations inside the other libraries
    sys.exit(main())
