"""The report: figures, claims, evidence and verdicts, all from the records."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from llm.common.atomic_files import write_whole
from paper_figures import HOME
from paper_figures.framework.figure import (
    Claim,
    Figure,
    Record,
    Verdict,
    drawn_from,
)

HEAD = """\
# What the paper claims, and what was found

**Summary.** {summary}

*Credit Assignment with Resets in Language Model Reasoning* (Samanta et al., arXiv 2605.25507),
checked claim by claim. `python -m paper_figures` writes this page and its figures from the records
in `paper_figures/results/`: what was found, and every verdict, is computed from them. Typed are the
questions, and what a sentence says of the set-up (the size of the model, 8 seeds) or quotes. The
constants of the bounds are this project's; the paper gives orders.

*Holds*, *does not hold here* and *not seen here* are about what was run: exact tabular problems
(T), and a language model of 0.36 million parameters on chain reasoning (L). *Mixed*: the data say
yes in one place and no in another. *Not seen here*: fewer than half of the comparisons are decided
for it, and none against it.

Two things to keep in mind. Accepted resets, all resets drawn and environment steps (or generated
tokens) are three costs, and what is cheap in one can be dear in another. And a certificate is for
the masked mixture of two policies, with reset states accepted on policy; RRPO and SRPO pick one
step of each failed rollout and follow a policy gradient, which no certificate here covers.
"""

#: Verdict → mark in the tables: yes, no, and open.
MARKS: dict[Verdict, str] = {
    "holds": "✓",
    "holds with a caveat": "✓",
    "does not hold here": "✗",
    "mixed": "?",
    "not seen here": "?",
    "not tested here": "?",
}

CSS = """\
body { max-width: 52rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; background: #fff;
       font: 16px/1.5 system-ui, sans-serif; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.9em; }
th, td { border-bottom: 1px solid #ccc; padding: 0.35rem 0.6rem; text-align: left;
         vertical-align: top; }
img { display: block; max-width: 100%; margin: 1rem auto; }
code { background: #f3f3f3; padding: 0 0.2em; }
h2 { margin-top: 2.5rem; }
"""


def write_report(
    figures: Sequence[Figure], records: Mapping[str, Record], folder: Path
) -> tuple[Path, Path]:
    """Write report.md and report.html; the HTML page embeds the figures of `folder`/figures."""
    text = markdown(figures, records)
    pages = folder / "report.md", folder / "report.html"
    for path, content in zip(pages, (text, html(text, folder)), strict=True):
        write_whole(path, content)
    return pages


def markdown(figures: Sequence[Figure], records: Mapping[str, Record]) -> str:
    """The report as Markdown."""
    claims = {}
    for figure in figures:
        with drawn_from(figure, records[figure.name]):
            claims[figure.name] = figure.claims(records[figure.name].data)
    lines = [HEAD.format(summary=_summary(claims))]
    for origin, title in (("paper", "The paper's claims"), ("ours", "What we add, and caveats")):
        rows = list(_rows(figures, claims, origin))
        heads = ["| claim | verdict | numbers | figure |", "|:--|:--|:--|:--|"]
        lines += [f"## {title}\n", *heads, *rows, ""]
    for figure in figures:
        with drawn_from(figure, records[figure.name]):
            lines += _section(figure, records[figure.name], claims[figure.name])
    return "\n".join(lines).rstrip() + "\n"


def _summary(claims: Mapping[str, Sequence[Claim]]) -> str:
    """Numbers of claims by verdict."""
    parts = []
    for origin, whose in (("paper", "The paper's claims"), ("ours", "Our own")):
        all_of_them = [c for found in claims.values() for c in found if c.of == origin]
        counts = Counter(claim.verdict for claim in all_of_them)
        listed = ", ".join(f"{MARKS[v]} {v} {counts[v]}" for v in MARKS if counts[v])
        parts.append(f"{whose}: {listed}.")
    return " ".join(parts)


def _rows(
    figures: Sequence[Figure], claims: Mapping[str, Sequence[Claim]], origin: str
) -> Iterator[str]:
    for figure in figures:
        for claim in claims[figure.name]:
            if claim.of == origin:
                link = f"[{_label(figure)}](#{_anchor(_heading(figure))})"
                cells = (
                    cell.replace("|", "\\|")
                    for cell in (
                        claim.claim,
                        f"{MARKS[claim.verdict]} {claim.verdict_in_words}",
                        claim.found.partition(". ")[0].rstrip(".") + ".",
                        link,
                    )
                )
                yield f"| {' | '.join(cells)} |"


def _section(figure: Figure, record: Record, claims: Sequence[Claim]) -> Iterator[str]:
    yield f"## {_heading(figure)}\n"
    yield f"![{figure.title}](figures/{figure.name}.png)\n"
    yield figure.caption.format_map(record.data) + "\n"
    for claim in claims:
        yield f"**{claim.claim}** {claim.checked} {claim.found}"
        yield f"*Verdict: {claim.verdict_in_words}.*\n"
    settings = ", ".join(f"{name} {_words(value)}" for name, value in record.settings.items())
    yield f"Data: `{figure.command}` ({settings}); {record.made}.\n"
    if stale := record.stale(figure):
        yield f"**Stale**: {stale}.\n"


def _label(figure: Figure) -> str:
    return figure.name.split("_")[0].upper()


def _heading(figure: Figure) -> str:
    return f"{_label(figure)}: {figure.title}"


def _anchor(heading: str) -> str:
    """The anchor of a heading in Markdown viewers."""
    return "".join(c for c in heading.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {_words(v)}" for name, v in value.items())
    return ", ".join(map(_words, value)) if isinstance(value, list | tuple) else str(value)


def html(text: str, folder: Path) -> str:
    """Convert a Markdown report to one HTML page with embedded pictures.

    Raises
    ------
    ValueError
        If a picture is missing; gives the command that draws it.
    """
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark").enable("table")
    tokens = parser.parse(text)
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", _anchor(tokens[number + 1].content))
        for child in token.children or ():
            if child.type == "image":
                child.attrSet("src", _data_uri(folder / str(child.attrGet("src"))))
    body = parser.renderer.render(tokens, parser.options, {})
    title = text.partition("\n")[0].lstrip("# ")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def _data_uri(picture: Path) -> str:
    """A PNG as a data URI."""
    if not picture.is_file():
        command = f"python -m paper_figures {picture.stem} --format png"
        if picture.parent.parent != HOME:
            command += f" --out {picture.parent.parent}"
        raise ValueError(f"report: no picture {picture}; {command} draws it")
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
