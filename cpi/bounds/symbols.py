"""Symbols of the bounds' statements, one line each."""

from __future__ import annotations

from typing import Any

#: Symbols → what they stand for.
SYMBOLS = {
    "π, π', π_new": "the policy, the candidate, and the update: the mixture (1 − α w) π + α w π'",
    "J, J*, gain": "expected return, and the largest; J(π_new) − J(π), or at the step named",
    "α": "step size",
    "w": "reset weights: the probability that a visited state is accepted",
    "RR, CARO": "random resets, w ≡ 1; oracle resets, w = 1[I_τ], 1 on I_τ and 0 elsewhere",
    "H, γ": "horizon; discount factor",
    "s; h, t, k": "a state; steps of an episode",
    "r, R": "width of the range of rewards, finite and discounted; R, where the statement says so, "
    "that of the range of V and Q",
    "B": "width of the range of V and Q, discounted",
    "V, Q, A": "values, action values and advantages of π: A = Q − V",
    "a, a_new": "advantage of π' in a state, a(s) = E_{π'} A(s, ·); that of π_new",
    "𝔸, 𝔸_w": "mean of a over the states that π visits; over those that are accepted",
    "p_w": "share of the visited states that is accepted",
    "τ, I_τ": "threshold; the improvable states, where an advantage is above τ",
    "p, p_π(τ)": "coverage: share of the visited states that is improvable",
    "q, t (of a localizer)": "precision Pr(I_τ | accepted) and recall Pr(accepted | I_τ)",
    "ε, Δ": "max |a|; span(a), where span is the maximum minus the minimum",
    "D, D'": "max_s ‖π_new − π‖₁, or as the statement says; max_s ‖π' − π‖₁",
    "TV, KL": "total variation ½‖π_new − π‖₁ and divergence KL(π‖π_new) in a state",
    "d, d^π, d_h, d*": "occupancy: share of π's visits to a state; at step h; of an optimal policy",
    "μ, d^{π,μ}": "restart distribution; occupancy of π when episodes start from it",
    "E_d, E_π, Pr_π": "mean over d; mean and probability over trajectories of π",
    "OPT": "mean of max_a A over d^{π,μ}",
    "x, T": "α/(1−γ); step of the first switch to π'",
    "C": "penalty of the pair form, divided by α² B",
    "CPI, CPO, TRPO, USPI, PSDP": "conservative policy iteration, constrained policy optimization, "
    "trust-region policy optimization, unique-parameter safe policy improvement, policy search by "
    "dynamic programming",
    "K&L": "Kakade & Langford",
}


def legend() -> Any:
    """The symbols as a table."""
    from rich.table import Table
    from rich.text import Text

    table = Table("symbol", "meaning", box=None, pad_edge=False)
    for symbols, meaning in SYMBOLS.items():
        table.add_row(Text(symbols), Text(meaning))
    return table
