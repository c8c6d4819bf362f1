"""CPI and policy-gradient methods on one problem, recorded alike.

CPI is one method for each reset rule: `cpi-random`, `cpi-oracle`, `cpi-self`. The policy-gradient
methods are those of `cpi.ALGORITHMS`. A record grows with each iteration, so that an interrupted
run keeps what it has.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cpi.conservative.choosers import Chooser, exact_greedy, sampled
from cpi.conservative.loop import Iteration, run_cpi
from cpi.conservative.reset_weights import ResetWeights, oracle_resets, random_resets, self_resets
from cpi.conservative.step_sizes import DISCOUNTED, step_rule
from cpi.core.collect import Ledger
from cpi.core.plans import ALGORITHMS
from cpi.exact.improvement import coverage, improvable_mask
from cpi.exact.values import Evaluation, rounding_of
from cpi.tabular.learn import Progress, learn
from envs.tabular import FloatArray

#: Reset rules of CPI, from the threshold, the precision and the recall.
RULES: dict[str, Callable[[float, float, float], ResetWeights]] = {
    "random": lambda tau, precision, recall: random_resets,
    "oracle": lambda tau, precision, recall: oracle_resets(tau),
    "self": self_resets,
}

#: Methods by name; the part before the hyphen is "cpi" or an algorithm.
CPI = "cpi"
METHODS = (CPI, *ALGORITHMS)


@dataclass
class Record:
    """A method's run; entry k of the lists `J`, `p` and `steps` is after k iterations.

    Attributes
    ----------
    name : str
    tau : float
        Threshold of the coverage.
    J, p : list of float
        Return, and coverage p_π(τ), exact.
    steps : list of int
        Environment steps so far.
    rows : list of dict
        What the method records of each iteration, as plain data.
    stopped : str
        Why the run ended.
    policy : array (S, A) or (H, S, A)
    """

    name: str
    tau: float
    J: list[float] = field(default_factory=list)
    p: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = "interrupted"
    policy: FloatArray | None = None

    def reached(self, evaluation: Evaluation, steps: int) -> None:
        """Add a policy, with the environment steps so far."""
        self.J.append(evaluation.J)
        self.p.append(coverage(evaluation, improvable_mask(evaluation, self.tau)))
        self.steps.append(steps)
        self.policy = evaluation.policy

    def total(self, key: str) -> float | None:
        """Sum of a column of CPI's rows; None of other methods."""
        return sum(row[key] for row in self.rows) if self.name.startswith(CPI) else None

    @property
    def resets(self) -> tuple[int, int]:
        """Numbers of accepted and of drawn resets."""
        if self.name.startswith(CPI):
            accepted, drawn = (sum(row[key] for row in self.rows) for key in ("accepted", "drawn"))
            return accepted, drawn
        last = self.rows[-1] if self.rows else Ledger().to_json()
        return last["resets_accepted"], last["resets_drawn"]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        curve = {"J": self.J, "p": self.p, "steps": self.steps}
        return {
            "method": self.name,
            "stopped": self.stopped,
            "final_J": self.J[-1],
            "sum_left": self.total("left"),
            "sum_right": self.total("right"),
            "curve": curve,
            "iterations": self.rows,
        }


def method_names(methods: list[str], resets: list[str]) -> list[str]:
    """Names of the records of `--method` and `--resets`, each once."""
    names = []
    for method in methods:
        names += [f"{CPI}-{rule}" for rule in resets] if method == CPI else [method]
    return list(dict.fromkeys(names))


def run_method(
    record: Record,
    base: Evaluation,
    args: argparse.Namespace,
    success: float,
    progress: Callable[[str], None] = lambda message: None,
) -> None:
    """Run the method that `record` names from the policy of `base`, and fill the record in.

    With `args.iterations` 0 all options are checked, and nothing is done.

    Parameters
    ----------
    record : Record
    base : Evaluation
    args : Namespace
        Options of the command.
    success : float
        Smallest return that is not a failure, for policy-gradient methods.
    progress : function of a str
        Called with a status message after each iteration.

    Raises
    ------
    ValueError
        If an option is out of range or does not fit the MDP.
    """
    record.reached(base, 0)

    def add(row: Iteration | Progress, after: Evaluation) -> None:
        if isinstance(row, Iteration):
            plain = row._asdict()
            plain["left"], plain["right"] = plain.pop("gain"), plain.pop("certificate")
            steps = record.steps[-1] + row.steps
        else:
            steps = row.ledger.steps
            plain = {"iteration": row.iteration, "J": row.J, "grad_norm": row.grad_norm}
            plain |= row.ledger.to_json()
        record.rows.append(plain)
        record.reached(after, steps)
        done = f"{len(record.rows)} of {args.iterations} iterations"
        progress(f"{record.name}: {done}, J = {after.J:.4g}")

    method, _, rule = record.name.partition("-")
    if method != CPI:
        if base.mdp.horizon is None:
            raise ValueError(f"{method}: {base.mdp!r} has endless episodes; add --horizon H")
        with warnings.catch_warnings():  # the note is printed with the table
            warnings.simplefilter("ignore", RuntimeWarning)
            learned = learn(
                base.mdp,
                method,
                theta=logits(base),
                iterations=args.iterations,
                starts=args.starts,
                lr=args.lr,
                success=success,
                seed=args.seed,
                on_iteration=add,
            )
        record.stopped = learned.note or f"all {args.iterations} updates done"
        return
    if args.step not in (None, "sampled"):
        step_rule(args.step, base.mdp)
        if args.step in DISCOUNTED and rule != "random":
            raise ValueError(
                f"{record.name}: step {args.step!r} is for random resets only; add --resets random "
                "or --step certified"
            )
    chooser: Chooser = exact_greedy
    if args.samples is not None:
        chooser = sampled(args.samples, args.policy_class, delta=args.delta, bound=args.bound)
    record.stopped = run_cpi(
        base.mdp,
        base.policy,
        resets=RULES[rule](record.tau, args.precision, args.recall),
        chooser=chooser,
        step=args.step,
        iterations=args.iterations,
        tau=record.tau,
        epsilon=args.epsilon,
        delta=args.delta,
        seed=args.seed,
        on_iteration=add,
    ).stopped


def logits(base: Evaluation) -> FloatArray:
    """Logits (S, A) of the policy.

    Raises
    ------
    ValueError
        If the policy depends on time, or an action has probability 0.
    """
    if base.policy.ndim == 3:
        raise ValueError(
            "--policy: depends on time; policy-gradient methods start from a policy of shape (S, A)"
        )
    if (base.policy == 0).any():
        state, action = np.argwhere(base.policy == 0)[0]
        raise ValueError(
            f"--policy: state {state}, action {action} has probability 0, which no softmax policy "
            "has; mix the policy with a little of the uniform one"
        )
    log = np.log(base.policy)
    return np.asarray(log - log.max(axis=1, keepdims=True))  # zeros for the uniform policy


def below_certificate(records: list[Record], base: Evaluation) -> tuple[int, int]:
    """Number of iterations with a gain below their certificate, and of all with a certificate."""
    rows = [row for record in records for row in record.rows if "right" in row]
    rounding = rounding_of(base)
    return sum(row["left"] < row["right"] - rounding for row in rows), len(rows)
