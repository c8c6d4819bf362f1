"""Dashes and underscores in options."""

from __future__ import annotations

import pytest

from cpi.reporting.options import underscored


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("--dry-run", "--dry_run"),
        ("--sampling.max-thoughts=a-b", "--sampling.max_thoughts=a-b"),
        ("--task-args.where.a-b", "--task_args.where.a-b"),
        ("--env_args.map-name=8x8", "--env_args.map-name=8x8"),
        ("value-of-an-option", "value-of-an-option"),
        ("-h", "-h"),
        ("--", "--"),
    ],
)
def test_underscored__names_of_options_alone(given: str, read: str) -> None:
    assert underscored([given]) == [read]


def test_underscored__help_all_is_help_without_groups() -> None:
    assert underscored(["--help-all"]) == ["--help"]
    assert underscored(["--help-all"], groups=True) == ["--help_all"]
