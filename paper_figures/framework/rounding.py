"""Rounding of recorded numbers."""

from __future__ import annotations

from typing import Any


def rounded(value: Any, digits: int = 5) -> Any:
    """Round every float in the data to `digits` significant digits, to keep records small."""
    if isinstance(value, dict):
        return {key: rounded(each, digits) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each, digits) for each in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value
