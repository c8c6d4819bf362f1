"""Executes a notebook and renders it as Markdown; an exception in a cell fails the build."""

from __future__ import annotations

import base64
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]

#: Longest time of a cell, in seconds.
TIMEOUT = 600

#: Codes of colours and weights in a terminal's text.
STYLES = re.compile(r"\x1b\[[0-9;]*m")


def executed(path: Path) -> dict[str, str | bytes]:
    """The page of a notebook and its pictures, by path in the site."""
    notebook = nbformat.read(path, as_version=4)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=TIMEOUT, resources=resources).execute()
    return rendered(notebook, path.stem)


def rendered(notebook: Any, stem: str) -> dict[str, str | bytes]:
    """Markdown of an executed notebook, and its pictures."""
    files: dict[str, str | bytes] = {}
    parts: list[str] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        if cell.source.startswith("%matplotlib"):
            continue
        parts.append(f"```python\n{cell.source}\n```")
        text = ""
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{stem}_{len(files) + 1}.png"
                files[f"tutorials/{name}"] = base64.b64decode(data["image/png"])
                parts.append(f"![Output of the cell above]({name})")
            elif output.get("name") != "stderr":
                printed = output.get("text", "") or data.get("text/plain", "")
                text += STYLES.sub("", printed).rstrip() + "\n"
        if text.strip():
            lines = text.strip("\n")  # the first line of a table may start with spaces
            parts.append(f"```text\n{lines}\n```")
    parts.append(f"[Download this notebook]({stem}.ipynb)")
    return {f"tutorials/{stem}.md": "\n\n".join(parts) + "\n", **files}
