"""Theorem 1's experiment on any finite-horizon MDP and policy.

On the needle (`cpi.bounds.theorem1`) the coverage p varies; here it is that of the policy. The
experiment measures two quantities under random (RR) and oracle (CARO) resets:

- *resets needed*: the number of accepted resets at which 90 % of repeats certify an improvement,
  that is, a sampled chooser's lower confidence bound of 𝔸_w is above 0. Each repeat draws its own
  resets. Refused draws are counted beside them.
- *certified gain*: p_w 𝔸_w²/(2Hr) of the greedy candidate, exact, beside the gain of that step.

Random resets never go to a state after the end. So theory compares the oracle's share of accepted
steps with theirs, p = p_w(oracle)/p_w(random), which is p_π(τ) if no episode ends early. Where only
improvable states have an advantage, the 𝔸 of random resets is p times the oracle's. A confidence
radius √(2V ln(2/δ)/n) + O(range/n) needs V/𝔸² resets, or range/𝔸, whichever is larger. So random
resets need 1/p² times as many as the oracle's if noise V is everywhere; they need 1/p times as many
if noise is at improvable states alone, or if the range decides. With refused draws counted it is
1/p, or 1. Certified gains are in the ratio p, or above it if other states have an advantage too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpi.bounds.theorem1 import TARGET, resampled_needs, resets_needed
from cpi.conservative.choosers import Chooser, exact_greedy
from cpi.conservative.reset_weights import oracle_resets, random_resets
from cpi.conservative.step_sizes import masked_step, step_size
from cpi.exact.update import Update
from cpi.exact.values import Evaluation, rounding_of
from envs.tabular import FloatArray

#: Repeats that look for the largest size, replicates of the bootstrap.
PILOTS, BOOTSTRAP = 10, 400

#: Smallest number of resets that is tried.
SMALLEST = 8

#: From a number of accepted resets to a chooser.
SampledChooser = Callable[[int], Chooser]


@dataclass(frozen=True)
class Need:
    """Measurements of one reset rule.

    Attributes
    ----------
    rule : str
    p_w : float
        Share of all steps that is accepted as a reset state.
    sizes, rates : list
        Numbers of accepted resets, and the share of repeats that certified an improvement.
    needed : float, optional
        The size at a rate of 90 %; None if the largest size is too small.
    replicates : array
        Bootstrap replicates of `needed` over repeats; empty if it is None.
    certificate, gain : float
        Certified and true gain of the greedy candidate's step.
    """

    rule: str
    p_w: float
    sizes: list[int]
    rates: list[float]
    needed: float | None
    replicates: FloatArray
    certificate: float
    gain: float

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "rule": self.rule,
            "p_w": self.p_w,
            "sizes": self.sizes,
            "certified_share": self.rates,
            "resets": self.needed,
            "resets_interval": interval(self.replicates),
            "drawn": None if self.needed is None else self.needed / self.p_w,
            "certified_gain": self.certificate,
            "true_gain": self.gain,
        }


@dataclass(frozen=True)
class OwnExperiment:
    """What each rule needs, the oracle first; prints as a table.

    Attributes
    ----------
    tau, p : float
        Threshold, and p_π(τ).
    policy_class : str
    most : int
        Largest number of resets that was tried.
    needs : list of Need
    """

    tau: float
    p: float
    policy_class: str
    most: int
    needs: list[Need]

    @property
    def theory(self) -> dict[str, list[float]]:
        """Ranges of the ratios RR/CARO that theory predicts; empty if one rule is missing."""
        if len(self.needs) < 2:
            return {}
        oracle, random = self.needs
        p = oracle.p_w / random.p_w
        return {"certified_gain": [p, p], "resets": [1 / p, p**-2], "drawn": [1.0, 1 / p]}

    @property
    def ratios(self) -> dict[str, tuple[float, list[float]]]:
        """Measured ratios RR/CARO with 95 % intervals, those that could be measured."""
        if len(self.needs) < 2:
            return {}
        oracle, random = self.needs
        gain = random.certificate / oracle.certificate
        ratios = {"certified_gain": (gain, [gain, gain])}
        if random.needed is not None and oracle.needed is not None:
            replicates = random.replicates / oracle.replicates
            for name, factor in (("resets", 1.0), ("drawn", oracle.p_w / random.p_w)):
                value = factor * random.needed / oracle.needed
                ratios[name] = (value, interval(factor * replicates) or [])
        return ratios

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "tau": self.tau,
            "p": self.p,
            "policy_class": self.policy_class,
            "largest_size": self.most,
            "rules": [need.to_json() for need in self.needs],
            "ratios": {
                name: {"value": value, "interval": ends, "theory": self.theory[name]}
                for name, (value, ends) in self.ratios.items()
            },
        }

    def __rich__(self) -> Any:
        from rich.console import Group

        from cpi.reporting.tables import table

        title = f"resets to certify an improvement in {TARGET:.0%} of repeats, {self.policy_class}"
        needs = table(
            title, ["rule", "p_w", "accepted", "95 %", "drawn", "certified gain", "true gain"]
        )
        for need in self.needs:
            row = need.to_json()
            ends = row["resets_interval"]
            needs.add_row(
                need.rule,
                f"{need.p_w:.4g}",
                f"> {self.most:,}" if need.needed is None else f"{need.needed:,.0f}",
                "–" if ends is None else f"{ends[0]:,.0f} … {ends[1]:,.0f}",
                "–" if row["drawn"] is None else f"{row['drawn']:,.0f}",
                f"{need.certificate:.3g}",
                f"{need.gain:.3g}",
            )
        ratios = table("random / oracle", ["quantity", "measured", "95 %", "theory"])
        ratios.caption = "theory: up to constants, and if improvable states alone have an advantage"
        ratios.caption_justify = "left"
        for name, (value, ends) in self.ratios.items():
            cells = ["exact", ""] if name == "certified_gain" else [f"{e:.3g}" for e in ends]
            measured = [f"{value:.3g}", " … ".join(filter(None, cells))]
            ratios.add_row(name.replace("_", " "), *measured, self._predicted(name))
        if len(self.needs) == 2 and self.needs[0].needed and self.needs[1].needed is None:
            at_least = f"> {self.most / self.needs[0].needed:.3g}"
            ratios.add_row("resets", at_least, "–", self._predicted("resets"))
        return Group(needs, ratios)

    def _predicted(self, name: str) -> str:
        """A range of `theory` as text."""
        return " … ".join(dict.fromkeys(f"{end:.3g}" for end in self.theory[name]))


def own_theorem1(
    base: Evaluation,
    tau: float,
    chooser: SampledChooser,
    *,
    most: int = 100_000,
    repeats: int = 30,
    seed: int = 0,
    on_rule: Callable[[Need], None] = lambda need: None,
    progress: Callable[[str], None] = lambda message: None,
) -> list[Need]:
    """Measure oracle and random resets, in this order.

    Parameters
    ----------
    base : Evaluation
        Evaluated policy of a finite-horizon MDP that visits a state with an advantage above τ.
    tau : float
    chooser : function
        From a number of accepted resets to a chooser.
    most : int
        Largest number of accepted resets to try.
    repeats : int
        Independent choices behind each rate.
    seed : int
    on_rule : function
        Called with the measurements of each rule, once they are done.
    progress : function of a str
        Called with a status message.
    """
    rules = {"oracle": oracle_resets(tau), "random": random_resets}
    needs = []
    for stream, (rule, weights_of) in enumerate(rules.items()):
        weights = weights_of(base) * ~base.mdp.terminal
        rng = np.random.default_rng([seed, stream])

        def say(message: str, rule: str = rule) -> None:
            progress(f"Theorem 1, {rule} resets: {message}")

        sizes, table = _rates(base, weights, chooser, most, repeats, rng, say)
        needs.append(_need(rule, base, weights, tau, sizes, table, rng))
        on_rule(needs[-1])
    return needs


def interval(replicates: FloatArray) -> list[float] | None:
    """95 % interval: percentiles of bootstrap replicates."""
    return (
        [float(end) for end in np.percentile(replicates, [2.5, 97.5])] if len(replicates) else None
    )


def _rates(
    base: Evaluation,
    weights: FloatArray,
    chooser: SampledChooser,
    most: int,
    repeats: int,
    rng: np.random.Generator,
    progress: Callable[[str], None],
) -> tuple[list[int], NDArray[np.bool_]]:
    """Sizes, and whether each repeat certifies an improvement, shape (repeats, sizes).

    A few pilot repeats double the size until 90 % certify. The sizes then cover a factor 4 below,
    and grow further if that was luck. If few pilots certify at the largest size, they are all.
    """

    def certifies(size: int, times: int) -> list[bool]:
        results = []
        for number in range(times):
            progress(f"{size:,} of at most {most:,}, repeat {number + 1} of {times}")
            results.append(chooser(size)(base, weights, rng).lower > rounding_of(base))
        return results

    pilots = {SMALLEST: certifies(SMALLEST, min(PILOTS, repeats))}
    while np.mean(pilots[largest := max(pilots)]) < TARGET and largest < most:
        size = min(2 * largest, most)
        pilots[size] = certifies(size, min(PILOTS, repeats))
    if np.mean(pilots[largest]) < 0.5:  # 90 % are out of reach
        return list(pilots), np.array(list(pilots.values())).T
    sizes = np.unique(np.geomspace(max(largest / 4, SMALLEST), largest, 12).astype(int)).tolist()
    columns = [certifies(size, repeats) for size in sizes]
    while np.mean(columns[-1]) < TARGET and sizes[-1] < most:
        sizes.append(min(sizes[-1] * 9 // 8 + 1, most))
        columns.append(certifies(sizes[-1], repeats))
    return sizes, np.array(columns).T


def _need(
    rule: str,
    base: Evaluation,
    weights: FloatArray,
    tau: float,
    sizes: list[int],
    table: NDArray[np.bool_],
    rng: np.random.Generator,
) -> Need:
    """The size at which 90 % of repeats certify, its replicates, and the greedy step's gains."""
    rates = table.mean(axis=0)
    needed, replicates = None, np.empty(0)
    if rates[-1] >= TARGET:
        grid = np.array(sizes)
        needed = resets_needed(grid, table)
        again = rng.integers(len(table), size=(BOOTSTRAP, len(table)))
        replicates = resampled_needs(grid, table, again)
    choice = exact_greedy(base, weights, rng)
    update = Update(base, choice.candidate, weights=weights, tau=tau)
    alpha = step_size(masked_step, update, choice.advantage)
    squared = update.p_w * choice.advantage**2
    return Need(
        rule,
        update.p_w,
        sizes,
        rates.tolist(),
        needed,
        replicates,
        squared / (2 * update.H * update.r_max),
        update.gain_at(alpha, weights),
    )
