"""Numbers for records and for people."""

from __future__ import annotations

from typing import Any


def rounded(value: Any, digits: int = 5) -> Any:
    """Data with every float at so many significant digits: records stay small."""
    if isinstance(value, dict):
        return {key: rounded(each, digits) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each, digits) for each in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value
