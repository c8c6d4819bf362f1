"""What self-correction gained, round by round, and what its tokens would have bought otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cpi.reporting.tables import table
from llm.common.statistics import Estimate, bootstrap, mean_over_problems, shown
from llm.evaluate.correction import (
    Curve,
    Round,
    fresh_curve,
    mean,
    reset_curve,
    stack,
)

#: Names of the arm that resets to a random step, and of fresh attempts.
RANDOM, FRESH = "random", "fresh"


@dataclass(frozen=True)
class RoundResult:
    """All problems' attempts after a round of correction; round 0 is the first completions.

    Attributes
    ----------
    round : int
    right : Estimate
        Share of the attempts.
    wrong_to_right : float or None
        Share of the attempts that were wrong before; wrong → wrong is the rest, and right → right
        is all, since right ones are left alone. None if none was wrong.
    tokens, localizer_tokens : float
        Generated up to here for an attempt, all and by the localizer.
    kept, empty, unnamed : float or None
        Of this round's resets: mean share of the thoughts kept, share that keep none, share for
        which the localizer named no step (a reply that cannot be parsed).
    exact, within_1, clean : float or None
        Share of the resets at the first wrong step, at most one from it, and with nothing wrong in
        what is kept, where a checker knows.
    landed : dict
        How many resets kept 0, 1, 2 … thoughts.
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
    """What the tokens of all rounds buy otherwise.

    `right` is the control's share at that many tokens, `gain` the correction's less that; `reached`
    is false if the control was not rolled out so far, and what is told is its end, at `tokens`.
    """

    name: str
    right: float
    gain: Estimate
    tokens: float
    reached: bool
    curve: dict[str, list[float]]


@dataclass(frozen=True)
class Correction:
    """Rounds of correction by a localizer, and the controls."""

    localizer: str
    rounds: list[RoundResult]
    controls: list[Control]


def summarize_correction(
    records: Sequence[dict[str, Any]], localizer: str, rounds: int
) -> Correction:
    """Rounds and controls, from the records' `correction`."""
    told = [record["correction"][localizer] for record in records]
    curves = [reset_curve(record, here, rounds) for record, here in zip(records, told, strict=True)]
    results = []
    spoken, wrong = 0.0, sum(record["n"] - record["c"] for record in records)
    attempts = sum(record["n"] for record in records)
    for number in range(rounds + 1):
        here = [rounds_[number - 1] for rounds_ in told if 0 < number <= len(rounds_)]
        spoken += sum(sum(r["localizer_tokens"]) for r in here) / attempts
        mended = sum(sum(r["right"]) for r in here)
        share = mended / wrong if number and wrong else None
        wrong -= mended
        right = mean_over_problems(np.array([curve.right[number] for curve in curves]))
        tokens = float(np.mean([curve.tokens[number] for curve in curves]))
        results.append(RoundResult(number, right, share, tokens, float(spoken), **_landing(here)))
    others = {FRESH: [fresh_curve(record) for record in records]}
    if localizer != RANDOM:
        others[RANDOM] = [
            reset_curve(record, record["correction"][RANDOM], control_rounds(rounds))
            for record in records
        ]
    controls = [compare(name, curves, other) for name, other in others.items()]
    return Correction(localizer, results, controls)


def control_rounds(rounds: int) -> int:
    """Rounds of random resets that correction is held against: they cost no localization."""
    return 4 * rounds


def compare(name: str, own: Sequence[Curve], other: Sequence[Curve]) -> Control:
    """A control's accuracy at the tokens that all rounds of correction take."""
    ours, others = stack(own), stack(other)

    def gain(chosen: Any) -> float:
        mine = mean(ours, chosen)
        return float(mine.right[-1]) - mean(others, chosen).at(mine.tokens[-1])[0]

    everything = np.arange(len(own))
    spent, whole = float(mean(ours, everything).tokens[-1]), mean(others, everything)
    right, reached = whole.at(spent)
    curve = {"right": whole.right.tolist(), "tokens": whole.tokens.tolist()}
    tokens = min(spent, float(whole.tokens[-1]))
    return Control(name, right, bootstrap(gain, len(own)), tokens, reached, curve)


def _landing(rounds: Sequence[Round]) -> dict[str, Any]:
    """Where the resets of a round landed."""

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
    """Rounds, and controls."""
    rounds = table(
        f"{task}: self-correction by {correction.localizer}; told only that an attempt "
        "failed, so right → right is 100 %",
        ["round", "right", "wrong → right", "wrong → wrong", "tokens", "localizing", "kept",
         "none kept", "no step", "at 1st error", "±1", "clean prefix"],
    )  # fmt: skip
    for r in correction.rounds:
        still = None if r.wrong_to_right is None else 1 - r.wrong_to_right
        rounds.add_row(
            str(r.round), shown(r.right), _share(r.wrong_to_right), _share(still),
            f"{r.tokens:.1f}", f"{r.localizer_tokens:.1f}", _share(r.kept), _share(r.empty),
            _share(r.unnamed), _share(r.exact), _share(r.within_1), _share(r.clean),
        )  # fmt: skip
    last = correction.rounds[-1]
    controls = table(
        f"{task}: {last.tokens:.1f} tokens an attempt, spent otherwise",
        ["until right", "right", "correction's gain", "tokens"],
    )
    controls.add_row(f"correction, {last.round} rounds", f"{last.right.value:.3f}", "", "")
    names = {FRESH: "fresh attempts (pass@k)", RANDOM: "resets to a random step"}
    for control in correction.controls:
        reached = "" if control.reached else " (not more: give more --samples)"
        if not control.reached and control.name == RANDOM:
            reached = " (all its rounds)"
        controls.add_row(
            names[control.name], f"{control.right:.3f}", shown(control.gain, "+"),
            f"{control.tokens:.1f}{reached}",
        )  # fmt: skip
    return [rounds, "", controls]


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"
