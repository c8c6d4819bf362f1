"""Reads YAML; a key that is given twice is an error, of which YAML would keep the last value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Refuses mappings with two equal keys."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """See PyYAML; merged keys (`<<`) may be overridden."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                    raise yaml.MarkedYAMLError(
                        problem=f"{key.value!r} is given twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return node


def read_yaml(path: Path) -> Any:
    """Content of a YAML file.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no YAML in UTF-8; the message is one line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        check_yaml(text)
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def check_yaml(text: str) -> None:
    """Check a text before it is loaded; the fast loader of PyYAML crashes on deep nesting.

    Raises
    ------
    yaml.YAMLError
        If a key is given twice, or the text is nested too deeply or is not YAML.
    """
    try:
        yaml.compose(text, _Loader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
