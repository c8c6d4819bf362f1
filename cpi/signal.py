"""`python -m cpi.signal`: where resets pay, exactly.

On the first-error chain each of n steps is right with probability q; all must be right to succeed.
There the gradient estimates g of GRPO, RRPO, SRPO and the oracle have exact means and variances
(`cpi.tabular.gradient`). The signal is the first-order gain along E g, the noise the standard
deviation of g. The *worth* of a collection is (snr / snr of GRPO)²: at 1.3 it is as informative as
1.3 GRPO collections.

Adaptive plans, which reset only where a whole group failed, have a table of their own.

The worth is given at equal rollouts (per trained rollout) and at equal steps (per environment step
generated). Resets generate fewer steps; seed episodes that are not trained on generate more.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import envs
from cpi.core.plans import ALGORITHMS, GroupPlan
from cpi.core.resets import (
    NoisyLocalizer,
    OracleReset,
    RandomReset,
    ResetRule,
    SelfReset,
    first_step,
    halving,
)
from cpi.exact.values import evaluate
from cpi.problem import Parser
from cpi.reporting.json_files import check_writable, write_json
from cpi.reporting.options import underscored
from cpi.tabular.gradient import Moments, exact_moments, policy_gradient
from cpi.tabular.simulator import TabularOracle
from envs.tabular import FloatArray

LENGTHS = (2, 4, 6, 8, 10)
SUCCESS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

#: Arms of the main map: name → (algorithm of its plan, (recall, false-positive rate) or None).
ARMS: dict[str, tuple[str, tuple[float, float] | None]] = {
    "rrpo": ("rrpo", None),
    "srpo 0.6/0.2": ("srpo", (0.6, 0.2)),
    "srpo 0.8/0.1": ("srpo", (0.8, 0.1)),
    "oracle": ("oracle", (1.0, 0.0)),
}

#: Adaptive plans: eight fresh rollouts, then up to four reset groups of four where all fail.
RANDOM = GroupPlan(8, 1, 4, retries=4)
DEEPEST_OF_2 = GroupPlan(8, 1, 4, choice="deepest", candidates=2, retries=4)
DEEPEST = GroupPlan(8, 1, 4, choice="deepest", retries=4)

#: Columns of the map of adaptive plans: the rule's arm, and the failure that is reset.
ADAPTIVE: dict[str, tuple[GroupPlan, str]] = {
    "first": (RANDOM, "first"),
    "halving": (RANDOM, "halving"),
    "0.6/0.2, random": (RANDOM, "srpo 0.6/0.2"),
    "0.6/0.2, deepest of 2": (DEEPEST_OF_2, "srpo 0.6/0.2"),
    "0.8/0.1, random": (RANDOM, "srpo 0.8/0.1"),
    "0.8/0.1, deepest of 2": (DEEPEST_OF_2, "srpo 0.8/0.1"),
    "0.8/0.1, deepest": (DEEPEST, "srpo 0.8/0.1"),
    "oracle, random": (RANDOM, "oracle"),
    "oracle, deepest": (DEEPEST, "oracle"),
}

#: Localizers without a quality: the control, and the outcome search.
SEARCHES = {"first": first_step, "halving": halving}

#: Chains of that map: the lengths of `llm.compare`'s regimes, early and late in training.
ADAPTIVE_LENGTHS, ADAPTIVE_SUCCESS = (3, 4, 8), (0.5, 0.7, 0.9)


def compare(
    length: int, q: float, plans: Mapping[str, tuple[GroupPlan, str | float]]
) -> dict[str, Any]:
    """Exact worth of each plan, against GRPO with as many rollouts.

    Parameters
    ----------
    length : int
        Steps n of the chain.
    q : float
        Success probability of a step.
    plans : dict
        Name → (plan, its rule); see `chain_moments`.

    Returns
    -------
    dict
        length, q, success (= qⁿ), and for each name the pair (per rollout, per step).
    """
    row: dict[str, Any] = {"length": length, "q": q, "success": q**length}

    @functools.cache
    def grpo(rollouts: int) -> Moments:
        return chain_moments(length, q, GroupPlan(rollouts), "grpo")[0]

    for name, (plan, arm) in plans.items():
        moments, gradient = chain_moments(length, q, plan, arm)
        fresh = grpo(plan.rollouts)
        rollouts = plan.rollouts / moments.episodes
        worth = rollouts * (moments.snr(gradient) / fresh.snr(gradient)) ** 2
        row[name] = (worth, worth / rollouts * fresh.steps / moments.steps)
    return row


def speed(
    length: int, q: float, plan: GroupPlan, arm: str | float, starts: int, equal_cost: bool = False
) -> float:
    """Alignment of a plan's update per generated step, over that of GRPO with 8 rollouts.

    Parameters
    ----------
    length, q : int, float
        The chain.
    plan, arm : GroupPlan, str or float
        See `chain_moments`.
    starts : int
        Collections that an update averages.
    equal_cost : bool
        Of the starts, use only as many as cost what GRPO generates for all of them.
    """
    moments, gradient = chain_moments(length, q, plan, arm)
    grpo, _ = chain_moments(length, q, ALGORITHMS["grpo"].plan, "grpo")
    cheaper = grpo.steps / moments.steps
    used = starts * cheaper if equal_cost else starts
    ratio = moments.alignment(gradient, used) / grpo.alignment(gradient, starts)
    return ratio if equal_cost else ratio * cheaper


def chain_moments(
    length: int, q: float, plan: GroupPlan, arm: str | float
) -> tuple[Moments, FloatArray]:
    """Exact moments of a plan on a chain, and the policy gradient there.

    Parameters
    ----------
    length, q : int, float
        Steps of the chain, and the success probability of a step.
    plan : GroupPlan
    arm : str or float
        An arm of `ARMS` whose rule is used, "grpo", one of `SEARCHES`, or a localizer's accuracy:
        the probability that it names the first error. It names the other steps equally often.
    """
    mdp = envs.first_error_chain(length)
    policy = np.tile([q, 1 - q], (mdp.num_states, 1))
    quality: tuple[float, float] | None = None
    rule: ResetRule = RandomReset()
    if isinstance(arm, float):
        quality = (arm, (1 - arm) / max(length - 1, 1))
    elif arm in SEARCHES:
        rule = SelfReset(SEARCHES[arm])
    elif arm in ARMS:
        quality = ARMS[arm][1]
    if quality is not None:
        first = OracleReset(TabularOracle(evaluate(mdp, policy)), "first_error")
        rule = SelfReset(NoisyLocalizer(first, *quality))
    return exact_moments(mdp, policy, plan, rule), policy_gradient(mdp, policy)


def signal_map(
    lengths: Sequence[int] = LENGTHS,
    success: Sequence[float] = SUCCESS,
    progress: Callable[[str], None] = lambda chain: None,
) -> list[dict[str, Any]]:
    """Worth of every arm over chain length and step success, sorted by falling success qⁿ.

    `progress` is called with the name of each chain, before it is computed.
    """
    plans = {name: (ALGORITHMS[algorithm].plan, name) for name, (algorithm, _) in ARMS.items()}
    rows: list[dict[str, Any]] = []
    for n, q in itertools.product(lengths, success):
        progress(f"chain {len(rows) + 1} of {len(lengths) * len(success)}: n = {n}, q = {q:g}")
        rows.append(compare(n, q, plans))
    return sorted(rows, key=lambda row: -row["success"])


def adaptive_map(
    lengths: Sequence[int] = ADAPTIVE_LENGTHS, success: Sequence[float] = ADAPTIVE_SUCCESS
) -> list[dict[str, Any]]:
    """Worth of adaptive plans over chain length and step success, sorted by falling success qⁿ."""
    rows = [compare(n, q, ADAPTIVE) for n in lengths for q in success]
    return sorted(rows, key=lambda row: -row["success"])


def split_map(length: int = 8, q: float = 0.5) -> list[dict[str, Any]]:
    """Worth of RRPO and the oracle for other splits and group sizes, on one chain."""
    plans = [
        GroupPlan(6, 1, 2),
        GroupPlan(4, 1, 4),
        GroupPlan(4, 2, 2),
        GroupPlan(0, 2, 4),
        GroupPlan(0, 1, 8),
        GroupPlan(8, 1, 8),
        GroupPlan(2, 1, 2),
    ]
    return [
        {
            "plan": f"{plan.fresh}+{plan.resets}×{plan.per_reset}",
            **compare(length, q, {arm: (plan, arm) for arm in ("rrpo", "oracle")}),
        }
        for plan in plans
    ]


def conclusions(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Where each arm beats GRPO, one sentence per arm."""
    lines = []
    for name in ARMS:
        wins = [row for row in rows if row[name][0] > 1]
        wins_at_equal_steps = [row for row in rows if row[name][1] > 1]
        best = max(rows, key=lambda row: row[name][0])
        if not wins:
            lines.append(
                f"{name}: behind GRPO everywhere at equal rollouts"
                + _equal_steps(wins_at_equal_steps)
            )
            continue
        highest = max(row["success"] for row in wins)
        lost = [row["success"] for row in rows if row[name][0] <= 1]
        behind = f"; behind on chains down to {min(lost):.3g}" if lost else ""
        lines.append(
            f"{name}: ahead of GRPO at equal rollouts on {len(wins)} of {len(rows)} chains, none "
            f"with a success above {highest:.3g}{behind}; at best ×{best[name][0]:.2f} "
            f"(n = {best['length']}, q = {best['q']:g})" + _equal_steps(wins_at_equal_steps)
        )
    return lines


def _equal_steps(wins: list[dict[str, Any]]) -> str:
    """Clause about the rows in which an arm is ahead at equal steps."""
    if not wins:
        return "; at equal steps nowhere ahead"
    return (
        f"; at equal steps ahead on {len(wins)}, up to success "
        f"{max(row['success'] for row in wins):.3g}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = Parser(
        prog="python -m cpi.signal",
        description="Where resets pay: exact signal-to-noise of RRPO, SRPO and the oracle against\n"
        "GRPO with as many rollouts, on chains of n steps, each right with probability q.",
        epilog="each cell: worth in GRPO collections at equal rollouts / at equal generated\n"
        "steps; above 1 the method is ahead. srpo t/f gives the first error weight t and every\n"
        "other step weight f.",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to FILE")
    parser.add_argument("--list", action="store_true", help="print the arms, and stop")
    args = parser.parse_args(underscored(argv))
    if args.list:
        for name, (algorithm, quality) in ARMS.items():
            weights = f", weight {quality[0]:g} on the first error" if quality else ""
            others = f" and {quality[1]:g} on others" if quality else ""
            print(f"{name:14}{ALGORITHMS[algorithm].about}{weights}{others}")
        return 0
    try:
        if args.json is not None:
            check_writable(args.json)
        report(args.json)
    except OSError as error:  # the file, or a full disk
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return 130
    return 0


def report(path: Path | None) -> None:
    """Print the maps and the conclusions; write the numbers to `path` if it is given."""
    from rich.table import Table

    from cpi.reporting.tables import console

    with console(sys.stderr).status("starting") as status:
        rows = signal_map(progress=status.update)
        status.update("other splits and adaptive plans")
        splits, adaptive = split_map(), adaptive_map()
    out = console()
    for title, arms, worths in (
        ("worth of one collection, in GRPO collections", list(ARMS), rows),
        ("worth of adaptive plans (8 fresh, then up to 4×4 where all fail)", ADAPTIVE, adaptive),
    ):
        table = Table(title=f"{title}: equal rollouts / equal steps")
        for heading in ("n", "q", "success qⁿ", *arms):
            table.add_column(heading, justify="right")
        for row in worths:
            cells = (f"{row[name][0]:.2f} / {row[name][1]:.2f}" for name in arms)
            table.add_row(str(row["length"]), f"{row['q']:g}", f"{row['success']:.2g}", *cells)
        out.print(table)
    table = Table(title=f"other splits, n = {splits[0]['length']}, q = {splits[0]['q']:g}")
    for heading in ("fresh+resets×size", "rrpo", "oracle"):
        table.add_column(heading, justify="right")
    for row in splits:
        cells = (f"{row[arm][0]:.2f} / {row[arm][1]:.2f}" for arm in ("rrpo", "oracle"))
        table.add_row(row["plan"], *cells)
    out.print(table)
    for line in conclusions(rows):
        out.print(line)
    if path is not None:
        write_json(path, {"map": rows, "splits": splits, "adaptive": adaptive})
        out.print(f"Written to {path}")


if __name__ == "__main__":
    sys.exit(main())
