"""`python -m llm.show RUN`: the rollouts of a training run as trees, on the terminal or a page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from cpi.reporting.tables import console
from llm.common.commands import prepare, run_command
from llm.runs.rollout_records import (
    KINDS,
    Record,
    read_rollouts,
    rollout_files,
)
from llm.show.labels import (
    Section,
    Summary,
    chances,
    end_words,
    mean,
    number,
    prefix_words,
    prompt_parts,
    prompt_words,
    reset_words,
    signed,
    summarise,
    thought_text,
    token_words,
)
from llm.show.page import write_page

#: Groups of a step on the terminal; groups of a page over all its steps; steps of a page.
GROUPS, PAGE_GROUPS, PAGE_STEPS = 8, 400, 20

EPILOG = """\
examples:
  python -m llm.show runs/chain-srpo-s0                     the last step's first 8 groups
  python -m llm.show runs/chain-srpo-s0 --step 10 --group 3 7
  python -m llm.show runs/chain-srpo-s0 --kind reset --limit 0 | less
  python -m llm.show runs/chain-srpo-s0 --html rollouts.html    a page, every step (at most 20)
  python -m llm.show runs/chain-srpo-s0/rollouts/step-000010.jsonl

A group is some episodes that share a prompt and a prefix. Read its tree from the top: the prompt;
the thoughts they share, on which nothing is trained; at the cut, what the seed (the failed episode
that was reset) went on with; and each continuation with its advantage and reward.

  ▲ ▼ =    advantage above, below, at the group's mean
  ✗        the first wrong thought, where the task can check it
  25%      how likely the rule was to reset just before this thought
  fallback a fresh group in place of a reset that found no episode or step

The exit code is 0, or 2 if there is nothing to show.
"""

_STYLES = {"▲": "bold green", "▼": "bold red", "=": "bold"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser()
    prepare(parser.prog)
    args = parser.parse_args(argv)

    def show() -> int:
        files = find_files(args.run)
        if args.html is None:
            show_trees(args, choose_steps(args, files, [max(files)]))
        else:
            show_page(args, files)
        return 0

    return run_command(parser.prog, show)


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m llm.show",
        description="Show the rollouts of a training run as trees: what was sampled,\n"
        "where it was reset and why, and what came of it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a run's folder, or one of its rollouts files")
    add(
        "--step",
        type=whole,
        nargs="+",
        metavar="N",
        help=f"training steps (default: the last; for a page all, or {PAGE_STEPS} evenly spread)",
    )
    add("--group", type=whole, nargs="+", metavar="K", help="groups of a step, by their number")
    add("--kind", choices=[*KINDS, "all"], default="all", help="groups of this kind (default: all)")
    add(
        "--limit",
        type=whole,
        metavar="N",
        help=f"most groups of a step, 0 for no limit (default: {GROUPS}; "
        f"for a page {PAGE_GROUPS} in all)",
    )
    add("--html", type=Path, metavar="FILE", help="write a web page, complete in one file")
    return parser


def whole(text: str) -> int:
    """A non-negative whole number, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number ≥ 0")
    return int(text)


def find_files(run: Path) -> dict[int, Path]:
    """The rollouts files by step: those of a run's folder, or the one that is named itself."""
    if not run.is_file():
        return rollout_files(run)
    records = read_rollouts(run)
    if not records:
        raise ValueError(f"{run}: it holds no group")
    return {records[0]["step"]: run}


def choose_steps(
    args: argparse.Namespace, files: Mapping[int, Path], default: Sequence[int]
) -> dict[int, Path]:
    """The files of the steps asked for, or else of the default ones."""
    missing = [step for step in args.step or () if step not in files]
    if missing:
        raise ValueError(f"--step: {args.run} has no step {missing[0]}; it has {_some(files)}")
    return {step: files[step] for step in args.step or default}


def sections(args: argparse.Namespace, files: Mapping[int, Path], limit: int) -> Iterator[Section]:
    """Step by step, the groups asked for, at most `limit` of each (0: all).

    Raises
    ------
    ValueError
        At the end, if no step had any.
    """
    found = 0
    for step, path in files.items():
        records = read_rollouts(path)
        fitting = [
            record
            for record in records
            if args.kind in ("all", record["kind"])
            and (args.group is None or record["group"] in args.group)
        ]
        found += len(fitting)
        summary = summarise(records)
        yield Section(step, summary, fitting[: limit or None], len(fitting))
    if not found:
        numbers = _some([record["group"] for record in records])
        raise ValueError(
            f"{args.run}: no such group in step {_some(files)}; "
            f"step {step} has groups {numbers} ({summary.kinds()})"
        )


def show_trees(args: argparse.Namespace, files: Mapping[int, Path]) -> None:
    """Print the trees."""
    out = console()
    for section in sections(args, files, GROUPS if args.limit is None else args.limit):
        if not section.fitting:
            continue
        out.print(Text(f"step {section.step} of {args.run}", style="bold"))
        out.print(Text("\n".join(heading(section.summary)), style="dim"))
        for record in section.records:
            out.print()
            out.print(tree(record))
        if section.left_out():
            out.print(Text(f"\n{section.left_out()}", style="dim"))
        out.print()


def show_page(args: argparse.Namespace, files: Mapping[int, Path]) -> None:
    """Write the page."""
    chosen = choose_steps(args, files, spread(list(files), PAGE_STEPS))
    limit = max(GROUPS, PAGE_GROUPS // len(chosen)) if args.limit is None else args.limit
    write_page(args.html, args.run, sections(args, chosen, limit), list(chosen), len(files))
    console().print(Text(f"Written to {args.html}"))


def spread(steps: Sequence[int], most: int) -> list[int]:
    """At most this many of the steps, evenly spread, first and last among them."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


# ------------------------------------------------------------------ one group


def tree(record: Record) -> Tree:
    """A group: prompt, shared prefix, then the seed's way and each continuation as branches."""
    title = Text.assemble(
        (f"group {record['group']} · {record['kind']}", "bold"),
        f" · prompt {prompt_words(record)}",
    )
    root = Tree(Lines(title, *_prompt(record)), guide_style="dim")
    kept, seed = len(record["prefix"]), record["seed"]
    trunk = root
    if kept:
        label = Text(f"shared prefix · {prefix_words(record)}", "dim italic")
        trunk = root.add(Lines(label, _thoughts(record, record["prefix"], 0, "dim")))
    if reset_words(record):
        trunk.add(Text(reset_words(record), style="yellow"))
    if seed is not None:
        label = Text(f"seed, its way from here · reward {number(seed['reward'])}", "dim italic")
        rest = _thoughts(record, seed["thoughts"][kept:], kept, "dim")
        trunk.add(Lines(label, rest))
    for continuation in record["continuations"]:
        advantage = signed(continuation["advantage"])
        judged = Text.assemble(
            (advantage, _STYLES[advantage[0]]),
            f" · reward {number(continuation['reward'])} · {end_words(continuation)}"
            f" · {token_words(continuation)}",
        )
        trunk.add(Lines(judged, _thoughts(None, continuation["thoughts"], kept, "")))
    return root


def _prompt(record: Record) -> Iterator[Text]:
    for role, text in prompt_parts(record["prompt"]):
        yield Text(f"[{role}] {text}" if role else text)


def _thoughts(record: Record | None, thoughts: Sequence[str], before: int, style: str) -> Table:
    """Numbered thoughts; those of a seed, which `record` has, with what is known of them."""
    odds = chances(record) if record else []
    wrong = record["seed"]["first_error"] if record and record["seed"] else None
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right", min_width=2, style="dim")
    for k, thought in enumerate(thoughts, before + 1):
        known = []
        if k <= len(odds) and odds[k - 1] is not None:
            known.append(Text(f"{odds[k - 1]:.0%}", "cyan", justify="right"))
        line = Text("✗ first wrong  " if k == wrong else "", "bold red")
        table.add_row(str(k), *known, Text.assemble(line, (thought_text(thought), style)))
    return table


def heading(summary: Summary) -> Iterator[str]:
    """A step in two lines."""
    rewards = ", ".join(f"{mean(reward)} {kind}" for kind, reward in summary.rewards.items())
    yield f"groups: {summary.kinds()} · mean reward: {rewards}"
    signal = f"{summary.signal} of {summary.groups} with a signal (advantages not all 0)"
    yield f"{signal} · {summary.tokens:,} tokens trained"


def _some(values: Iterable[int]) -> str:
    """Numbers for a message: all, or the first and last few of many."""
    numbers = [str(value) for value in values]
    if len(numbers) > 20:
        numbers = [*numbers[:10], "…", *numbers[-3:]]
    return ", ".join(numbers) or "none"


if __name__ == "__main__":
    sys.exit(main())
