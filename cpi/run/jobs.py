"""The two jobs of `python -m cpi.run`: methods side by side, and Theorem 1's experiment."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from rich.console import Console

from cpi.conservative.choosers import Choice, Chooser, sampled
from cpi.exact.values import Evaluation
from cpi.reporting.tables import table
from cpi.run.methods import RULES, Record, below_certificate, method_names, run_method
from cpi.run.own_theorem1 import Need, OwnExperiment, own_theorem1
from envs.tabular import FloatArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Columns of CPI's rows: certificates at the exact p_w, and from sampled resets alone.
CERTIFIED = ("right", "certified")

#: Called with a status message.
Say = Callable[[str], None]


class Job(Protocol):
    """Work that can be interrupted: what is done until then can be shown and written.

    Attributes
    ----------
    name : str
        Name of its files.
    """

    name: str

    def run(self, say: Say) -> list[str]:
        """Do the work; returns what could not be done."""

    def show(self, out: Console) -> None:
        """Print the results."""

    def to_json(self) -> dict[str, Any]:
        """The results as plain data."""

    def draw(self) -> Figure:
        """The results as a figure."""

    def save(self, folder: Path) -> None:
        """Write further files."""


class Methods:
    """Methods side by side, one `Record` each."""

    name = "run"

    def __init__(self, args: argparse.Namespace, base: Evaluation, facts: dict[str, Any]) -> None:
        self.args, self.base, self.best = args, base, facts["J*"]
        self.tau = facts.get("τ", 0.0)
        self.records: list[Record] = []
        self.names = method_names(args.method, args.resets or list(RULES))
        check = argparse.Namespace(**{**vars(args), "iterations": 0})
        for name in self.names:
            run_method(Record(name, self.tau), base, check, self.best)

    def run(self, say: Say) -> list[str]:
        """Run the methods one after another; one that is refused on its way keeps its record."""
        refusals = []
        for name in self.names:
            record = Record(name, self.tau)
            self.records.append(record)
            try:
                run_method(record, self.base, self.args, self.best, say)
            except ValueError as error:
                record.stopped = f"refused: {error}"
                refusals.append(f"{name}: {error}")
        return refusals

    def show(self, out: Console) -> None:
        """Print gains and costs of each method, why it ended, and whether certificates held."""
        headings = ("iterations", "final J", "final p", "Σ gain", "Σ certificate", "Σ certified")
        gains = table("", ["method", *headings])
        costs = table("", ["method", "resets accepted", "drawn", "environment steps"])
        for record in self.records:
            totals = [record.total(key) for key in ("left", *CERTIFIED)]
            gains.add_row(
                record.name,
                str(len(record.rows)),
                f"{record.J[-1]:.6g}",
                f"{record.p[-1]:.4g}",
                *("–" if total is None else f"{total:.4g}" for total in totals),
            )
            costs.add_row(
                record.name, *(f"{cost:,}" for cost in (*record.resets, record.steps[-1]))
            )
        out.print(gains)
        if any(record.steps[-1] for record in self.records):
            out.print(costs)
        else:
            out.print("Advantages were exact, for no environment step.")
        for record in self.records:
            out.print(f"{record.name}: {record.stopped}")
        below, certified = below_certificate(self.records, self.base)
        if certified:
            out.print(
                f"{certified - below} of {certified} steps gained at least their certificate."
            )
        if any((record.total(key) or 0) < 0 for record in self.records for key in CERTIFIED):
            out.print(
                "A sum below 0: steps were longer than the bounds allow, as with --step full or "
                "--bound none, so that they may have lost as much."
            )

    def to_json(self) -> dict[str, Any]:
        """The key "runs"."""
        return {"runs": [record.to_json() for record in self.records]}

    def draw(self) -> Figure:
        """J over iterations and environment steps."""
        from cpi.run.plot import draw_records

        return draw_records(self.records, self.best)

    def save(self, folder: Path) -> None:
        """Write the last policies."""
        for record in self.records:
            assert record.policy is not None
            np.save(folder / f"policy-{record.name}.npy", record.policy)


class Theorem1:
    """Resets needed and gain certified by random and by oracle resets."""

    name = "theorem1"

    def __init__(self, args: argparse.Namespace, base: Evaluation, facts: dict[str, Any]) -> None:
        if base.mdp.horizon is None:
            raise ValueError(f"--theorem1: {base.mdp!r} has endless episodes; add --horizon H")
        if "τ" not in facts:
            raise ValueError("--theorem1: no action anywhere improves the policy; give another one")
        self.args, self.base = args, base
        self.tau, self.p = facts["τ"], facts["p_π(τ)"]
        self.needs: list[Need] = []

    def chooser(self, resets: int) -> Chooser:
        """A sampled chooser whose lower bound is that of `cpi.certify`, from the resets alone."""
        choose = sampled(resets, self.args.policy_class, bound="none")

        def certified(base: Evaluation, weights: FloatArray, rng: np.random.Generator) -> Choice:
            choice = choose(base, weights, rng)
            assert choice.evidence is not None
            return replace(choice, lower=choice.evidence.certificate(self.args.delta).lower)

        return certified

    def run(self, say: Say) -> list[str]:
        """Measure both rules."""
        own_theorem1(
            self.base,
            self.tau,
            self.chooser,
            most=self.args.max_resets,
            repeats=self.args.repeats,
            seed=self.args.seed,
            on_rule=self.needs.append,
            progress=say,
        )
        return []

    @property
    def experiment(self) -> OwnExperiment:
        """What was measured so far."""
        return OwnExperiment(
            self.tau, self.p, self.args.policy_class, self.args.max_resets, self.needs
        )

    def show(self, out: Console) -> None:
        """Print the tables."""
        out.print(self.experiment)

    def to_json(self) -> dict[str, Any]:
        """The key "theorem1"."""
        return {"theorem1": self.experiment.to_json()}

    def draw(self) -> Figure:
        """Share of certified repeats over accepted resets."""
        from cpi.run.plot import draw_theorem1

        return draw_theorem1(self.experiment)

    def save(self, folder: Path) -> None:
        """Nothing more."""
