"""The names that options take, for `--list`."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

from cpi.core.plans import ALGORITHMS
from llm.config.algorithms import CLASSES
from llm.config.presets import presets
from llm.resets import localizers
from llm.tasks import declared

#: What `--list` shows, by option.
SUBJECTS = ("algorithm", "localizer", "task", "config")

#: Other values of these options.
FORMS = {
    "algorithm": "or module:Class",
    "localizer": "or module:function",
    "task": "or reasoning_gym:NAME, a YAML file, module:Class",
    "config": "or a YAML file",
}


def names(subject: str) -> dict[str, str]:
    """Names that `--SUBJECT` takes, with one line each where there is one."""
    if subject == "algorithm":
        about = {name: entry.about for name, entry in ALGORITHMS.items()}
        return about | {name: f"see {path.partition(':')[0]}" for name, path in CLASSES.items()}
    if subject == "localizer":
        return dict(re.findall(r"- `(\w+)`: (.*?)[.;]", localizers.__doc__ or ""))
    if subject == "task":
        return {
            "chain": "chains of arithmetic, with a step checker",
            "sums": "sums of whole numbers, for small pretrained models",
            **dict.fromkeys(declared(), ""),
        }
    return dict.fromkeys(presets(), "")


def listing(subjects: Sequence[str] = SUBJECTS) -> Iterator[str]:
    """Lines of `--list`."""
    for subject in subjects:
        entries = names(subject)
        width = max(map(len, entries))
        yield f"--{subject}  ({FORMS[subject]})"
        indent = " " * (width + 4)
        for name, line in entries.items():
            text = f"  {name:{width}}  {line}".rstrip()
            yield textwrap.fill(text, 96, subsequent_indent=indent, break_on_hyphens=False)
