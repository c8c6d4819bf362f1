"""The recorded runs of `llm.compare`, and what made them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llm.compare.report import Records, area, read_records
from paper_figures import HOME
from paper_figures.framework.verdicts import paired

#: Runs of an arm: seed → record.
Runs = Mapping[int, dict[str, Any]]

#: Where packed records are.
COMPARED = HOME / "results"


def compared(regime: str) -> Records:
    """The runs of a regime: arm → seed → record.

    Raises
    ------
    ValueError
        If there are none of GRPO's; says what makes them.
    """
    records = read_records(COMPARED, regime)
    if "grpo" not in records:
        raise ValueError(
            f"{COMPARED / regime}: no runs of grpo; python -m llm.compare --regimes [{regime}] "
            "makes them"
        )
    return records


def gain(own: Runs, base: Runs) -> dict[str, Any]:
    """Mean success over the budget less that of other runs with the same seeds, as `paired` has it.

    Parameters
    ----------
    own, base : mapping of seed to record
    """
    return paired([area(record) - area(base[seed]) for seed, record in own.items()])


def provenance(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """How many runs, when and by which commits they were made, in words."""
    made = [record["environment"] for record in records]

    def words(values: Iterable[str]) -> str:
        return " and ".join(sorted(set(values)))

    return {
        "runs": len(made),
        "dates": words(each["time"][:10] for each in made),
        "commits": words(each["commit"][:9] for each in made),
        "torch": words(each["versions"]["torch"] for each in made),
    }
