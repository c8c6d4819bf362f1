"""The reference pages, from dataclasses, tables and parsers of the code."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import inspect
import io
import math
import os
import re
from collections.abc import Collection, Iterator
from types import ModuleType
from typing import Any
from unittest import mock

import cpi
import envs
import llm
from cpi.bounds import REGISTRY, Bound, BoundReport
from cpi.bounds.__main__ import place
from cpi.bounds.check import Row
from cpi.bounds.instances import tight_instances
from cpi.bounds.symbols import SYMBOLS
from cpi.exact.update import Update
from docs.generate.latex import STATEMENTS

#: Commands whose options are those of their parser.
COMMANDS = (
    *("cpi.bounds", "cpi.signal", "cpi.run", "llm.evaluate", "llm.exact", "llm.compare"),
    *("llm.export", "llm.show", "llm.pretrain", "paper_figures"),
)

#: Public tables, and where their entries are described.
TABLES = {
    "cpi.ALGORITHMS": "The [algorithms](../guides/algorithms.md) of plan and reset rule, by name.",
    "cpi.REGISTRY": "All [bounds](bounds.md).",
}

#: File of bounds → heading.
SUBJECTS = {
    "cpi/bounds/discounted.py": "Discounted MDPs",
    "cpi/bounds/discounted_masked.py": "Discounted MDPs, with reset weights",
    "cpi/bounds/finite.py": "Finite horizon, with reset weights",
    "cpi/bounds/finite_improvable.py": "Finite horizon, improvement in the improvable states",
}


def pages() -> Iterator[tuple[str, str]]:
    """Path and text of each page."""
    yield "reference/options.md", options()
    yield "reference/commands.md", commands()
    yield "reference/metrics.md", metrics()
    yield "reference/bounds.md", bounds()
    yield "reference/cpi.md", api(cpi, "Theory: exact values, guarantees, and the shared core.")
    yield "reference/envs.md", api(envs, "Tabular MDPs.")
    yield "reference/llm.md", api(llm, "Training and evaluation of language models.")


def api(package: ModuleType, about: str) -> str:
    """The public names of a package: a table, and each class and function for mkdocstrings."""
    lines = [f"# API of `{package.__name__}`", "", about, "", "| name | |", "|:--|:--|"]
    sections = []
    for name in package.__all__:
        path = f"{package.__name__}.{name}"
        thing = getattr(package, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            lines.append(f"| [`{name}`][{path}] | {scripts(cell(summary(thing)))} |")
            sections += [f"::: {path}", ""]
        else:
            lines.append(f"| `{name}` | {TABLES[path]} |")
    return "\n".join([*lines, "", *sections])


def options() -> str:
    """Every option of a training run, of its dry run, and every key of a declaration."""
    from llm.config.train import TrainConfig
    from llm.planning.options import DryRunOptions
    from llm.tasks.declaration import Declaration

    lines = ["# Options of a run", ""]
    lines += ["`python -m llm.train --NAME VALUE`, a line `NAME: VALUE` of a `--config` file, or"]
    lines += ["an argument of `llm.train_model`. A section is a block of a file, a dictionary in"]
    lines += ["Python, and the part before the dot on a command line.", ""]
    sections = []
    for field in dataclasses.fields(TrainConfig):
        if dataclasses.is_dataclass(field.default_factory):
            sections.append((field.name, field.default_factory))
    own = {name for name, _ in sections}
    lines += ["## The run", "", *option_table(TrainConfig, "", own)]
    for name, kind in sections:
        lines += [f"## {name}", "", summary(kind), "", *option_table(kind, f"{name}.")]
    lines += ["## dry_run", "", summary(DryRunOptions), ""]
    lines += option_table(DryRunOptions, "dry_run.")
    lines += ["## Keys of a declared task", ""]
    lines += ["Keys of a YAML file that `--task` names; `--task_args.KEY` overrides one.", ""]
    lines += option_table(Declaration, "")
    return "\n".join(lines)


def option_table(kind: Any, prefix: str, without: Collection[str] = ()) -> list[str]:
    """A table of the fields of a dataclass."""
    meaning = meanings(kind)
    lines = ["| option | default | meaning |", "|:--|:--|:--|"]
    for field in dataclasses.fields(kind):
        if field.name in without:
            continue
        text = meaning.get(field.name, "")
        if not text:
            raise ValueError(f"{kind.__name__}.{field.name} has no description in its docstring")
        lines.append(f"| `{prefix}{field.name}` | {default(field)} | {cell(text)} |")
    return [*lines, ""]


def meanings(kind: Any) -> dict[str, str]:
    """Descriptions of the fields, from the docstring; `a, b : type` describes both."""
    from docstring_parser import DocstringStyle, parse

    parameters = parse(inspect.getdoc(kind) or "", DocstringStyle.NUMPYDOC).params
    return {
        name.strip(): " ".join((p.description or p.type_name or "").split())
        for p in parameters
        for name in p.arg_name.split(",")
    }


def summary(kind: Any) -> str:
    """The first line of the docstring."""
    return (inspect.getdoc(kind) or "").splitlines()[0]


def default(field: dataclasses.Field[Any]) -> str:
    """The default of a field, as a cell."""
    value: Any = field.default
    if value is dataclasses.MISSING:
        if field.default_factory is dataclasses.MISSING:
            return "required"
        value = field.default_factory()
    if value in (None, "", [], {}, ()):
        return "–"
    return f"`{cell(str(value)) if len(str(value)) < 40 else '…'}`"


def cell(text: str) -> str:
    """Text without characters that end a cell or start HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def commands() -> str:
    """The help of every other command."""
    lines = ["# Commands", "", "`python -m llm.train` has [a page of its own](options.md).", ""]
    for name in COMMANDS:
        main = importlib.import_module(command_module(name)).main
        out = io.StringIO()
        with (
            mock.patch.dict(os.environ, COLUMNS="86", NO_COLOR="1"),
            contextlib.redirect_stdout(out),
            contextlib.suppress(SystemExit),
        ):
            main(["--help_all" if name == "llm.evaluate" else "--help"])
        lines += [f"## python -m {name}", "", "```text", out.getvalue().strip(), "```", ""]
    return "\n".join(lines)


def command_module(name: str) -> str:
    """The module with `main` of a command."""
    package = importlib.util.find_spec(name)
    return f"{name}.__main__" if package and package.submodule_search_locations else name


def metrics() -> str:
    """Every metric of a run."""
    from llm.runs.metric_names import METRICS

    lines = ["# Metrics of a run", ""]
    lines += ["A line of `metrics.jsonl` per step has these names, as far as algorithm, task and"]
    lines += ["options give them. `K` is a number of completions, `STAGE` one of generate,"]
    lines += ["localize, reset, retry and train. A *share* is between 0 and 1.", ""]
    for subject, entries in METRICS.items():
        lines += [f"## {subject}", "", "| metric | meaning | unit |", "|:--|:--|:--|"]
        lines += [f"| `{m.name}` | {cell(m.meaning)} | {m.unit or '–'} |" for m in entries]
        lines.append("")
    return "\n".join(lines)


def bounds() -> str:
    """Every bound, with the symbols, and how near the tight instances come to it."""
    intro = (
        f"{len(REGISTRY)} guarantees about one update from π to π_new, the mixture of π and a "
        "candidate π'. `python -m cpi.bounds` checks them, also on your MDP. The paper states "
        "orders; the constants are derived in this project.\n\n"
        "*Constant* compares a bound with the truth on the nearest of the instances of "
        "`envs/tight.py`: penalty over true loss where the bound subtracts a penalty, else bound "
        "over truth. At 1.000 no smaller constant is possible.\n\n"
        "Formulas are MathML and load nothing from another server. Without a font for mathematics "
        "(on Debian: `apt install fonts-stix`) a browser may not lower subscripts."
    )
    lines = ["# Bounds", "", scripts(intro), "", "## Symbols", ""]
    lines += ["| symbol | meaning |", "|:--|:--|"]
    lines += [f"| {scripts(cell(k))} | {scripts(cell(v))} |" for k, v in SYMBOLS.items()]
    subject = ""
    for row, nearest in on_tight_instances():
        if subject != (subject := SUBJECTS[place(row.bound).partition(":")[0]]):
            lines += ["", f"## {subject}"]
        lines += ["", *bound_section(row, nearest)]
    return "\n".join(lines) + "\n"


def on_tight_instances() -> Iterator[tuple[Row, str]]:
    """The row of each bound, and the tight instance that comes nearest to it."""
    report, nearest = BoundReport([Row(bound) for bound in REGISTRY]), dict[str, str]()
    for label, update in tight_instances():
        before = [tightest(row) for row in report.rows]
        report.add(label, update)
        for row, old in zip(report.rows, before, strict=True):
            if tightest(row) != old:
                nearest[row.bound.name] = instance(row.bound, update)
    return ((row, nearest.get(row.bound.name, "")) for row in report.rows)


def bound_section(row: Row, nearest: str) -> list[str]:
    """Lines on one bound; the formula becomes MathML, which browsers show without a script."""
    from latex2mathml.converter import convert

    bound = row.bound
    formula = convert(STATEMENTS[bound.name], display="block")
    lines = [f"### {bound.name} {{ #{bound.id} }}", "", f"<div>{formula}</div>", ""]
    lines += [f"- Requires: {scripts(cell(bound.requires or 'nothing'))}"]
    lines += [f"- Source: {scripts(bound.source)}", f"- Unit of both sides: {bound.unit}"]
    where = f", on {nearest}" if nearest else ""
    lines += [f"- Constant on a tight instance: {tightest(row)}{where}"]
    if bound.improved_by:
        (better,) = (b for b in REGISTRY if b.name == bound.improved_by)
        lines += [f"- Improved by: [{better.name}](#{better.id})"]
    return [*lines, f"- In plain text: `{bound.statement}`", f"- Defined in `{place(bound)}`"]


def instance(bound: Bound, update: Update) -> str:
    """Name and parameters of a tight instance, and the step where the bound has none of its own."""
    mdp = update.mdp
    time = f"H = {mdp.horizon}" if mdp.horizon else f"γ = {mdp.discount:g}"
    step = "" if "α =" in bound.statement else f", α = {update.alpha:g}"
    return f"`{mdp.name}` with {time}{step}"


def scripts(text: str) -> str:
    """Plain formulas with HTML for "p_w", "E_{π'}" and "γ^T"; code in backticks stays."""
    parts = re.split(r"(`[^`]*`)", text)
    for i in range(0, len(parts), 2):
        for mark, tag in (("_", "sub"), (r"\^", "sup")):
            script = rf"(?<=\S){mark}(?:\{{([^{{}}]*)\}}|([\w∞]+\*?))"
            parts[i] = re.sub(script, rf"<{tag}>\1\2</{tag}>", parts[i])
    return "".join(parts)


def tightest(row: Row) -> str:
    """The ratio nearest to 1, or a dash."""
    ratio = row.penalty_ratio if math.isfinite(row.penalty_ratio) else row.tightness
    return f"{ratio:.3f}" if math.isfinite(ratio) else "–"
