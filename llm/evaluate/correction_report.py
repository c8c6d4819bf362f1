"""Summary of self-correction: the gain of each round, and controls at equal tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cpi.reporting.tables import table
from llm.common.statistics import Estimate, bootstrap, format_estimate, mean_over_problems
from llm.evaluate.correction import (
    Curve,
    Round,
    fresh_curve,
    mean,
    reset_curve,
    stack,
)

#: Names of the controls: resets to a random step, and fresh attempts.
RANDOM, FRESH = "random", "fresh"


@dataclass(frozen=True)
class RoundResult:
    """State of all attempts after a round of correction; round 0 is the first completions.

    Attributes
    ----------
    round : int
    right : Estimate
        Share of right attempts.
    wrong_to_right : float or None
        Share right after the round, of the attempts that were wrong before it. None in round 0, or
        if none was wrong. Right attempts are left alone, so they stay right.
    tokens, localizer_tokens : float
        Tokens generated per attempt up to this round: all, and those of the localizer.
    kept, empty, unnamed : float or None
        Over the resets of this round: mean share of thoughts kept, share that keep none, and share
        without a named step (a reply that cannot be parsed).
    exact, within_1, clean : float or None
        Share of the resets at the first wrong step, at most one step from it, and at or before it.
        None without a checker.
    landed : dict
        Number of resets that kept 0, 1, 2 … thoughts.
    """

    round: int
    right: Estimate
    wrong_to_right: float | None
    tokens: float
    localizer_tokens: float
    kept: float | None
    empty: float | None
    unnamed: float | None
    exact: float | None
    within_1: float | None
    clean: float | None
    landed: dict[str, int]


@dataclass(frozen=True)
class Control:
    """A control at the number of tokens that all rounds of correction take.

    Attributes
    ----------
    name : str
    right : float
        The control's share of right attempts at that number of tokens.
    gain : Estimate
        The correction's share minus `right`.
    tokens : float
        Tokens per attempt at which `right` is read.
    reached : bool
        Whether the control was rolled out that far. If not, `right` and `tokens` are its last ones.
    curve : dict
        The control's "right" and "tokens" after each round or attempt.
    """

    name: str
    right: float
    gain: Estimate
    tokens: float
    reached: bool
    curve: dict[str, list[float]]


@dataclass(frozen=True)
class Correction:
    """Results of correction with a localizer, and of the controls."""

    localizer: str
    rounds: list[RoundResult]
    controls: list[Control]


def summarize_correction(
    records: Sequence[dict[str, Any]], localizer: str, rounds: int
) -> Correction:
    """Summarize rounds and controls from the `correction` entries of records."""
    histories = [record["correction"][localizer] for record in records]
    curves = [
        reset_curve(record, history, rounds)
        for record, history in zip(records, histories, strict=True)
    ]
    results = []
    localizing, wrong = 0.0, sum(record["n"] - record["c"] for record in records)
    attempts = sum(record["n"] for record in records)
    for number in range(rounds + 1):
        resets = [history[number - 1] for history in histories if 0 < number <= len(history)]
        localizing += sum(sum(r["localizer_tokens"]) for r in resets) / attempts
        corrected = sum(sum(r["right"]) for r in resets)
        share = corrected / wrong if number and wrong else None
        wrong -= corrected
        right = mean_over_problems(np.array([curve.right[number] for curve in curves]))
        tokens = float(np.mean([curve.tokens[number] for curve in curves]))
        results.append(
            RoundResult(number, right, share, tokens, float(localizing), **_landing(resets))
        )
    control_curves = {FRESH: [fresh_curve(record) for record in records]}
    if localizer != RANDOM:
        control_curves[RANDOM] = [
            reset_curve(record, record["correction"][RANDOM], control_rounds(rounds))
            for record in records
        ]
    controls = [compare(name, curves, control) for name, control in control_curves.items()]
    return Correction(localizer, results, controls)


def control_rounds(rounds: int) -> int:
    """Rounds of the control by random resets; more, since they spend no tokens on localization."""
    return 4 * rounds


def compare(name: str, correction: Sequence[Curve], control: Sequence[Curve]) -> Control:
    """Compare correction with a control, at the tokens that all rounds of correction take."""
    corrections, controls = stack(correction), stack(control)

    def gain(chosen: Any) -> float:
        corrected = mean(corrections, chosen)
        return float(corrected.right[-1]) - mean(controls, chosen).at(corrected.tokens[-1])[0]

    problems = np.arange(len(correction))
    spent, mean_control = float(mean(corrections, problems).tokens[-1]), mean(controls, problems)
    right, reached = mean_control.at(spent)
    curve = {"right": mean_control.right.tolist(), "tokens": mean_control.tokens.tolist()}
    tokens = min(spent, float(mean_control.tokens[-1]))
    estimate = bootstrap(gain, len(correction), bounds=(-1.0, 1.0))
    return Control(name, right, estimate, tokens, reached, curve)


def _landing(rounds: Sequence[Round]) -> dict[str, Any]:
    """Fields of `RoundResult` about the resets of a round."""

    def joined(name: str) -> list[Any]:
        return [value for r in rounds for value in r[name]]  # type: ignore[literal-required]

    kept, thoughts = np.array(joined("kept")), np.array(joined("thoughts"))
    errors = joined("first_error")
    off = np.array([k - e for k, e in zip(kept, errors, strict=True) if e is not None])
    return {
        "kept": float((kept / thoughts).mean()) if len(kept) else None,
        "empty": float((kept == 0).mean()) if len(kept) else None,
        "unnamed": float(np.mean(~np.array(joined("named")))) if len(kept) else None,
        "exact": float((off == 0).mean()) if len(off) else None,
        "within_1": float((abs(off) <= 1).mean()) if len(off) else None,
        "clean": float((off <= 0).mean()) if len(off) else None,
        "landed": {str(k): n for k, n in sorted(Counter(kept.tolist()).items())},
    }


def correction_tables(task: str, correction: Correction) -> list[Any]:
    """Tables of the rounds and of the controls."""
    rounds = table(
        f"{task}: self-correction by {correction.localizer}; only failed attempts are reset, so "
        "right → right is 100 %",
        ["round", "right", "wrong → right", "wrong → wrong", "tokens", "localizing", "kept",
         "none kept", "no step", "at 1st error", "±1", "clean prefix"],
    )  # fmt: skip
    for r in correction.rounds:
        still = None if r.wrong_to_right is None else 1 - r.wrong_to_right
        rounds.add_row(
            str(r.round), format_estimate(r.right), _share(r.wrong_to_right), _share(still),
            f"{r.tokens:.1f}", f"{r.localizer_tokens:.1f}", _share(r.kept), _share(r.empty),
            _share(r.unnamed), _share(r.exact), _share(r.within_1), _share(r.clean),
        )  # fmt: skip
    last = correction.rounds[-1]
    controls = table(
        f"{task}: correction and controls at {last.tokens:.1f} tokens per attempt",
        ["method", "right", "correction's gain", "tokens"],
    )
    number = "1 round" if last.round == 1 else f"{last.round} rounds"
    controls.add_row(f"correction, {number}", f"{last.right.value:.3f}", "", "")
    names = {FRESH: "fresh attempts (pass@k)", RANDOM: "resets to a random step"}
    for control in correction.controls:
        reached = "" if control.reached else " (its end; raise --samples)"
        if not control.reached and control.name == RANDOM:
            reached = " (its last round)"
        controls.add_row(
            names[control.name], f"{control.right:.3f}", format_estimate(control.gain, "+"),
            f"{control.tokens:.1f}{reached}",
        )  # fmt: skip
    return [rounds, "", controls]


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"
