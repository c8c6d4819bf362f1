"""T6: occupancy, improvable states and reset positions on chains, all exact.

Each problem is a chain of steps with one right action per step. State h is the clean prefix of h
steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import envs
from cpi.conservative.reset_weights import oracle_resets, random_resets
from cpi.exact.improvement import coverage, default_tau, improvable_mask, visit_probability
from cpi.exact.values import Evaluation, evaluate
from paper_figures.framework.figure import Claim, Data, Figure
from paper_figures.framework.style import DOUBLE, blank, marks

if TYPE_CHECKING:
    import matplotlib.figure

SETTINGS: Mapping[str, Any] = {
    "lock": {"length": 20, "num_actions": 4, "success": 0.98, "weak": 5, "weak_success": 0.25},
    "chain": {"length": 8, "success": [0.5, 0.9]},
}


def compute(settings: Mapping[str, Any], progress: Callable[[str], None]) -> Data:
    """Exact quantities per step of each chain."""
    lock, chain = settings["lock"], settings["chain"]
    success = np.full(lock["length"], lock["success"])
    success[lock["weak"]] = lock["weak_success"]
    mdp = envs.lock_chain(lock["length"], lock["num_actions"])
    policy = envs.lock_policy(success, lock["num_actions"])
    title = f"lock of {lock['length']} steps: {lock['success']} right,\n"
    title += f"step {lock['weak']} only {lock['weak_success']}"
    panels = [describe(title, evaluate(mdp, policy))]
    for q in chain["success"]:
        mdp = envs.first_error_chain(chain["length"])
        policy = np.tile([q, 1 - q], (mdp.num_states, 1))
        title = f"chain of {chain['length']} steps:\n{q} right"
        panels.append(describe(title, evaluate(mdp, policy)))
        panels[-1]["rates"] = envs.reset_success_rates(chain["length"], q)._asdict()
    return {"panels": panels}


def describe(title: str, base: Evaluation) -> dict[str, Any]:
    """Data of a panel: per step, probability of a clean prefix, advantage, and reset shares."""
    tau = default_tau(base)
    assert tau is not None  # None only for policies that cannot improve
    horizon = base.occupancy.shape[0]
    steps = np.arange(horizon)
    clean = base.occupancy[steps, steps] * horizon
    right = base.policy[steps, 0] if base.policy.ndim == 2 else base.policy[steps, steps, 0]
    error = clean * (1 - right)
    first_error = error / error.sum()
    mask = improvable_mask(base, tau)
    rules = {
        "rrpo": random_resets(base) * ~base.mdp.terminal,
        "oracle": oracle_resets(tau)(base),
    }
    lands = {
        name: ((base.occupancy * w).sum(axis=1) / coverage(base, w)).tolist()
        for name, w in rules.items()
    }
    improvable = mask[steps, steps]
    return {
        "title": title,
        "tau": tau,
        "J": base.J,
        "clean": clean.tolist(),
        "improvable": improvable.tolist(),
        "advantage": base.A.max(axis=-1)[steps, steps].tolist(),
        "lands": lands | {"srpo": first_error.tolist()},
        "coverage": coverage(base, mask),
        "visits": visit_probability(base, mask),
        "improvable_first_errors": float(first_error[improvable].sum()),
    }


def draw(data: Data) -> matplotlib.figure.Figure:
    """One column per chain: occupancy, advantage, and reset positions."""
    panels = data["panels"]
    fig = blank(DOUBLE, 4.5)
    axes = fig.subplots(3, len(panels), sharex="col")
    for column, panel in zip(axes.T, panels, strict=True):
        steps, improvable = np.arange(len(panel["clean"])), np.array(panel["improvable"])
        clean, advantage = np.array(panel["clean"]), np.array(panel["advantage"])
        column[0].bar(steps, 1, color="0.92", width=0.85, label="after an error")
        green = marks("oracle")["color"]
        for chosen, style, label in (
            (~improvable, {"color": "0.7"}, "no error yet"),
            (
                improvable,
                {"color": green, "hatch": "////", "ec": "black", "lw": 0.4},
                "no error yet, improvable by more than τ",
            ),
        ):
            column[0].bar(steps[chosen], clean[chosen], width=0.85, label=label, **style)
        column[0].set_title(panel["title"])
        column[1].axhline(panel["tau"], lw=0.7, color="black", ls=(0, (4, 2)), label="τ")
        for chosen, fill in ((improvable, green), (~improvable, "white")):
            column[1].plot(
                steps[chosen], advantage[chosen], "o", ms=3.5, mfc=fill, mec="black", mew=0.6
            )
        lands = panel["lands"]
        for name, label in (
            ("rrpo", "any step (random)"),
            ("oracle", "an improvable state (oracle)"),
            ("srpo", "the first error of a failed rollout (what a model is asked for)"),
        ):
            column[2].plot(steps, lands[name], label=label, ms=3.5, **marks(name))
        column[1].set_ylim(-0.06 * advantage.max(), 1.15 * advantage.max())
        column[2].set_ylim(-0.04, 1.04)
        column[2].set_xlabel("step")
        column[2].locator_params(axis="x", integer=True)
    axes[0, 0].set_ylabel("share of episodes")
    axes[1, 0].set_ylabel("largest advantage\n(return)")
    axes[2, 0].set_ylabel("share of resets")
    axes[1, 0].legend(loc="upper right")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    lines, names = axes[2, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=3)
    fig.legend(lines, names, loc="outside lower center", ncols=3, title="resets are made at")
    return fig


def claims(data: Data) -> Sequence[Claim]:
    """First errors against improvable states, coverage against visits, and success after resets."""
    lock, hard, easy = data["panels"]
    share = hard["improvable_first_errors"]
    mostly_elsewhere = share < 0.5
    rates = [panel["rates"] for panel in (hard, easy)]
    numbers = "; ".join(
        f"{r['root']:.2g} fresh, {r['random_reset']:.2g} from a random step, "
        f"{r['first_error_reset']:.2g} from the first error"
        for r in rates
    )
    between = all(r["root"] / 2 <= r["random_reset"] <= r["root"] for r in rates)
    above = all(r["first_error_reset"] > r["root"] for r in rates)
    return [
        Claim(
            "The first error is not the same as an improvable state.",
            "On the first-error chain, the share of first errors at which an advantage exceeds τ, "
            "half the largest, was computed exactly.",
            f"At success {hard['J']:.2g}, {share:.1%} of first errors are at improvable states, at "
            f"{easy['J']:.2g} {easy['improvable_first_errors']:.0%}: where later steps fail as "
            "well, an early right step has a tiny advantage.",
            "holds" if mostly_elsewhere else "does not hold here",
            of="ours",
        ),
        Claim(
            "Coverage p_π and the probability of visiting I_τ are two numbers.",
            "Both were computed exactly on the lock.",
            f"p_π = {lock['coverage']:.4f}, while {lock['visits']:.1%} of episodes visit I_τ "
            f"(at most H p_π = {len(lock['clean']) * lock['coverage']:.1%}).",
            "holds" if lock["coverage"] < lock["visits"] else "does not hold here",
            of="ours",
        ),
        Claim(
            "From a random step of a failed rollout success is half to once as likely as afresh, "
            "from its first error more likely.",
            "Closed forms on the two first-error chains; a failed rollout may have erred before "
            "the random step.",
            f"Success: {numbers}.",
            "holds" if between and above else "does not hold here",
            of="ours",
        ),
    ]


FIGURE = Figure(
    name="t6_chain",
    title="Where a policy can be improved, and where resets land",
    caption=(
        "Top: how many episodes are without an error before each step; in green, those where an "
        "action improves the return by more than τ (half the largest advantage). Middle: the "
        "largest advantage there. Bottom: at which step resets are made, accepted on policy by "
        "the random and the oracle rule, or picked at the first error of a failed rollout. On the "
        "lock the one weak step has coverage p_π = {panels[0][coverage]:.4f}, and all rules but "
        "the random one find it; on the first-error chain (success {panels[1][J]:.2g} and "
        "{panels[2][J]:.2g}) first errors come early where the policy is bad, and advantages late. "
        "All exact."
    ),
    settings=SETTINGS,
    compute=compute,
    draw=draw,
    claims=claims,
    cheap=True,
)
