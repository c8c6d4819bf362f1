"""Recorded runs of `llm.compare`, and their provenance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llm.compare.report import Records, area, read_records
from paper_figures import HOME
from paper_figures.framework.verdicts import paired

#: Runs of one arm: seed → record.
Runs = Mapping[int, dict[str, Any]]

#: Folder of the packed records.
COMPARED = HOME / "results"


def read_runs(regime: str) -> Records:
    """Read the runs of a regime: arm → seed → record.

    Raises
    ------
    ValueError
        If there are no runs of GRPO; gives the command that makes them.
    """
    records = read_records(COMPARED, regime)
    if "grpo" not in records:
        raise ValueError(
            f"{COMPARED / regime}: no runs of grpo; python -m llm.compare --regimes [{regime}] "
            "makes them, python -m paper_figures pack puts them there"
        )
    return records


def gain(runs: Runs, base: Runs) -> dict[str, Any]:
    """Mean success over the budget minus that of the base, paired by seed; see `paired`.

    Parameters
    ----------
    runs, base : mapping of seed to record
        Runs of an arm and of the arm that it is compared with.
    """
    return paired([area(record) - area(base[seed]) for seed, record in runs.items()])


def provenance(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Number of runs, and their dates, commits and torch versions as text."""
    environments = [record["environment"] for record in records]

    def joined(values: Iterable[str]) -> str:
        return " and ".join(sorted(set(values)))

    return {
        "runs": len(environments),
        "dates": joined(environment["time"][:10] for environment in environments),
        "commits": joined(environment["commit"][:9] for environment in environments),
        "torch": joined(environment["versions"]["torch"] for environment in environments),
    }
