"""`python -m llm.show RUN`: show a run's rollouts as trees, in the terminal or on a web page."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from cpi.reporting.options import underscored
from cpi.reporting.tables import console
from llm.common.commands import leave, prepare, run_command
from llm.runs.rollout_records import (
    KINDS,
    Record,
    read_rollouts,
    rollout_files,
)
from llm.show.labels import (
    Section,
    Summary,
    answer_label,
    end_label,
    format_advantage,
    format_mean,
    format_reward,
    prefix_label,
    prompt_label,
    prompt_parts,
    reset_label,
    reset_probabilities,
    summarise,
    thought_text,
    token_label,
)
from llm.show.page import write_page

#: Default limits: groups per step in the terminal; groups in total and steps of a page.
GROUPS, PAGE_GROUPS, PAGE_STEPS = 8, 400, 20

EPILOG = """\
examples:
  python -m llm.show runs/chain-srpo-s0                     first 8 groups of the last step
  python -m llm.show runs/chain-srpo-s0 --step 10 --group 3 7
  python -m llm.show runs/chain-srpo-s0 --kind reset --limit 0 | less
  python -m llm.show runs/chain-srpo-s0 --html rollouts.html    a page, every step (at most 20)
  python -m llm.show runs/chain-srpo-s0/rollouts/step-000010.jsonl

A group is a set of episodes that share a prompt and a prefix. Its tree shows from the top: the
prompt; the reference answer; the shared thoughts, which are not trained on; the cut; the rest of
the seed (the failed episode that was reset); and each continuation with its advantage and reward.

  ▲ ▼ =    advantage above, below, at the group's mean
  ✗        the first wrong thought, where the task can check it
  25%      the rule's probability to reset just before this thought
  fallback a fresh group, because no episode or step could be reset

The exit code is 0, or 2 if there is nothing to show.
"""

_STYLES = {"▲": "bold green", "▼": "bold red", "=": "bold"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = make_parser()
    prepare(parser.prog)
    args = parser.parse_args(underscored(argv))

    def show() -> int:
        files = find_files(args.run)
        if args.html is None:
            show_trees(args, choose_steps(args, files, [max(files)]))
        else:
            show_page(args, files)
        return 0

    return run_command(parser.prog, show)


def make_parser() -> argparse.ArgumentParser:
    """The command's argument parser."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m llm.show",
        description="Show the rollouts of a training run as trees: samples, resets with\n"
        "their reasons, advantages and rewards.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a run's folder, or one of its rollouts files")
    add(
        "--step",
        type=non_negative_int,
        nargs="+",
        metavar="N",
        help=f"training steps (default: the last; for a page all, or {PAGE_STEPS} evenly spread)",
    )
    add(
        "--group", type=non_negative_int, nargs="+", metavar="K", help="numbers of groups in a step"
    )
    add("--kind", choices=[*KINDS, "all"], default="all", help="groups of this kind (default: all)")
    add(
        "--limit",
        type=non_negative_int,
        metavar="N",
        help=f"maximum groups of a step, 0 for no limit (default: {GROUPS}; "
        f"for a page {PAGE_GROUPS} in total)",
    )
    add("--html", type=Path, metavar="FILE", help="write a self-contained web page")
    return parser


def non_negative_int(text: str) -> int:
    """Parse a non-negative integer, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number ≥ 0")
    return int(text)


def find_files(run: Path) -> dict[int, Path]:
    """Rollouts files by step, of a run's folder or a single named file."""
    if not run.is_file():
        return rollout_files(run)
    records = read_rollouts(run)
    if not records:
        raise ValueError(f"{run}: the file has no groups")
    return {records[0]["step"]: run}


def choose_steps(
    args: argparse.Namespace, files: Mapping[int, Path], default: Sequence[int]
) -> dict[int, Path]:
    """Files of the selected steps, or of the default steps."""
    missing = [step for step in args.step or () if step not in files]
    if missing:
        raise ValueError(
            f"--step: {args.run} has no step {missing[0]}; it has {_list_numbers(files)}"
        )
    return {step: files[step] for step in args.step or default}


def sections(args: argparse.Namespace, files: Mapping[int, Path], limit: int) -> Iterator[Section]:
    """Yield the selected groups of each step, at most `limit` per step (0: all).

    Raises
    ------
    ValueError
        After the last step, if no group matched.
    """
    matches = 0
    for step, path in files.items():
        records = read_rollouts(path)
        matching = [
            record
            for record in records
            if args.kind in ("all", record["kind"])
            and (args.group is None or record["group"] in args.group)
        ]
        matches += len(matching)
        summary = summarise(records)
        yield Section(step, summary, matching[: limit or None], len(matching))
    if not matches:
        numbers = _list_numbers([record["group"] for record in records])
        raise ValueError(
            f"{args.run}: no such group in step {_list_numbers(files)}; "
            f"step {step} has groups {numbers} ({summary.kinds()})"
        )


def show_trees(args: argparse.Namespace, files: Mapping[int, Path]) -> None:
    """Print the trees to the terminal."""
    out = console()
    for section in sections(args, files, GROUPS if args.limit is None else args.limit):
        if not section.matching:
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
    """Write the web page."""
    chosen = choose_steps(args, files, spread(list(files), PAGE_STEPS))
    limit = max(GROUPS, PAGE_GROUPS // len(chosen)) if args.limit is None else args.limit
    write_page(args.html, args.run, sections(args, chosen, limit), list(chosen), len(files))
    console().print(Text(f"Written to {args.html}"))


def spread(steps: Sequence[int], limit: int) -> list[int]:
    """At most `limit` steps, evenly spread, with the first and the last."""
    if len(steps) <= limit:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (limit - 1))] for i in range(limit)]


# ------------------------------------------------------------------ one group


def tree(record: Record) -> Tree:
    """Tree of a group: prompt, shared prefix, then the seed's rest and the continuations."""
    title = Text.assemble(
        (f"group {record['group']} · {record['kind']}", "bold"),
        f" · prompt {prompt_label(record)}",
    )
    root = Tree(Lines(title, *_prompt(record)), guide_style="dim")
    kept, seed = len(record["prefix"]), record["seed"]
    trunk = root
    if kept:
        label = Text(f"shared prefix · {prefix_label(record)}", "dim italic")
        trunk = root.add(Lines(label, _thoughts(record, record["prefix"], 0, "dim")))
    if reset_label(record):
        trunk.add(Text(reset_label(record), style="yellow"))
    if seed is not None:
        label = Text(f"rest of the seed · reward {format_reward(seed['reward'])}", "dim italic")
        rest = _thoughts(record, seed["thoughts"][kept:], kept, "dim")
        trunk.add(Lines(label, rest))
    for continuation in record["continuations"]:
        advantage = format_advantage(continuation["advantage"])
        outcome = Text.assemble(
            (advantage, _STYLES[advantage[0]]),
            f" · reward {format_reward(continuation['reward'])} · {end_label(continuation)}"
            f" · {token_label(continuation)}",
        )
        trunk.add(Lines(outcome, _thoughts(None, continuation["thoughts"], kept, "")))
    return root


def _prompt(record: Record) -> Iterator[Text]:
    for role, text in prompt_parts(record["prompt"]):
        yield Text(f"[{role}] {text}" if role else text)
    if answer_label(record):
        yield Text(answer_label(record), style="green")


def _thoughts(record: Record | None, thoughts: Sequence[str], before: int, style: str) -> Table:
    """Numbered thoughts; with `record`, also reset probabilities and the seed's first error."""
    probabilities = reset_probabilities(record) if record else []
    wrong = record["seed"]["first_error"] if record and record["seed"] else None
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right", min_width=2, style="dim")
    for k, thought in enumerate(thoughts, before + 1):
        probability = []
        if k <= len(probabilities) and probabilities[k - 1] is not None:
            probability.append(Text(f"{probabilities[k - 1]:.0%}", "cyan", justify="right"))
        error = Text("✗ first wrong  " if k == wrong else "", "bold red")
        table.add_row(str(k), *probability, Text.assemble(error, (thought_text(thought), style)))
    return table


def heading(summary: Summary) -> Iterator[str]:
    """Summary of a step in two lines."""
    rewards = ", ".join(f"{format_mean(reward)} {kind}" for kind, reward in summary.rewards.items())
    yield f"groups: {summary.kinds()} · mean reward: {rewards}"
    signal = f"{summary.signal} of {summary.groups} with a signal (advantages not all 0)"
    yield f"{signal} · {summary.tokens:,} tokens trained"


def _list_numbers(values: Iterable[int]) -> str:
    """Numbers for a message: all of them, or the first 10 and last 3 of many."""
    numbers = [str(value) for value in values]
    if len(numbers) > 20:
        numbers = [*numbers[:10], "…", *numbers[-3:]]
    return ", ".join(numbers) or "none"


if __name__ == "__main__":
    leave(main())
