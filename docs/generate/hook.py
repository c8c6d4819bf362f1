"""MkDocs hook: adds the pages that are made from code, so that no text of theirs can go stale."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]


def on_files(files: Files, config: Any) -> Files:
    """Add the reference, and the tutorials: notebooks, executed."""
    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    import notebooks
    import reference

    pages: dict[str, str | bytes] = dict(reference.pages())
    for notebook in sorted((ROOT / "docs" / "tutorials").glob("*.ipynb")):
        pages |= notebooks.executed(notebook)
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Link each picture to itself in full size: a telephone shows it too small to read."""
    return re.sub(r'<img [^>]*src="([^"]*)"[^>]*>', r'<a href="\1">\g<0></a>', html)
