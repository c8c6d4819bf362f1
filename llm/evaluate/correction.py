"""Self-correction: find the step where a failed attempt went wrong, go back there, try again.

Each completion of a problem begins a chain of attempts. In a round, every failed attempt gets a
step from the localizer; the thoughts before it are kept, and one continuation is drawn. Right
attempts stay: that an attempt failed is the one bit of the verifier that is used, so accuracy can
only rise. (It is also all that training uses, and it is not there when a model is deployed.)

Any gain must be held against what the same tokens buy otherwise: fresh attempts under the same
stopping rule, which the first completions themselves tell exactly (`fresh_curve`), and resets to a
random step, which are rolled out as another arm. Tokens are generated ones, localizations included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import comb
from typing import Any, NamedTuple, TypedDict

import numpy as np

from cpi.core.episodes import Episode, Prefix
from cpi.core.resets import Localizer, SelfReset, pick
from envs.tabular import FloatArray
from llm.common.statistics import pass_at_k
from llm.engines.engine import MAX_SEED
from llm.resets.oracles import first_error
from llm.resets.prompted import PromptedLocalizer
from llm.thoughts.simulator import ThoughtSimulator

#: What keys a random stream besides seed, arm, round and problem.
CONTINUE, LOCALIZE, PICK = range(1, 4)


class Round(TypedDict):
    """What became of a problem's failed attempts in a round; a list has an entry for each.

    `chain` numbers the completion that an attempt goes back to. `kept` of its `thoughts` thoughts
    were kept; `named` is false if the localizer named no step, when a prompted one leaves every
    step equally likely and another the whole attempt to do again. `first_error` is that of the
    failed attempt, from 0, where the task has a checker that finds one.
    """

    chain: list[int]
    kept: list[int]
    thoughts: list[int]
    named: list[bool]
    first_error: list[int | None]
    localizer_tokens: list[int]
    tokens: list[int]
    rewards: list[float]
    right: list[bool]


class Verdict(NamedTuple):
    """A localizer's weights for an episode, whether it named a step, and the tokens it took."""

    weights: FloatArray
    named: bool
    tokens: int


#: Verdicts on the failed episodes of some problems, given by problem, and a seed for each of them.
Judge = Callable[[Sequence[Sequence[Episode]], Sequence[Sequence[int]]], list[list[Verdict]]]


def stream(*key: int) -> int:
    """A seed for an engine: a function of these numbers and nothing else."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] % MAX_SEED)


def asking(localizer: PromptedLocalizer) -> Judge:
    """The judge that asks the model, about all episodes in one batch."""

    def judge(
        groups: Sequence[Sequence[Episode]], seeds: Sequence[Sequence[int]]
    ) -> list[list[Verdict]]:
        episodes = [episode for group in groups for episode in group]
        replies = iter(localizer.ask(episodes, [seed for group in seeds for seed in group]))
        return [
            [
                Verdict(reply.weights(episode.length), reply.step is not None, reply.tokens)
                for episode, reply in zip(group, replies, strict=False)
            ]
            for group in groups
        ]

    return judge


def weighing(localizer: Localizer) -> Judge:
    """The judge that is any other localizer: it is asked for each problem alone.

    So it says the same whatever the batch, if its random numbers are of its own making; and its
    cost is that of the problem (spread over its episodes).
    """
    rule = SelfReset(localizer)

    def judge(
        groups: Sequence[Sequence[Episode]], seeds: Sequence[Sequence[int]]
    ) -> list[list[Verdict]]:
        verdicts = []
        for group in groups:
            before = rule.cost
            weights = rule.weights(group) if group else []
            costs = _spread(rule.cost - before, len(group))
            verdicts.append(
                [Verdict(w, bool(w.any()), cost) for w, cost in zip(weights, costs, strict=True)]
            )
        return verdicts

    return judge


def _spread(total: int, n: int) -> list[int]:
    return [total // n + (i < total % n) for i in range(n)]


def correct(
    simulator: ThoughtSimulator,
    judge: Judge,
    groups: Sequence[Sequence[Episode]],
    rounds: int,
    key: tuple[int, ...],
    problems: Sequence[int],
) -> list[list[Round]]:
    """Up to `rounds` rounds of correction of some problems' completions.

    Parameters
    ----------
    simulator : ThoughtSimulator
    judge : Judge
    groups : sequence of sequences of Episode
        The first completions of each problem.
    rounds : int
    key : tuple of int
        Begins the key of every random number.
    problems : sequence of int
        Goes on with it: one number for each group. What comes of a problem depends on no other.

    Returns
    -------
    list of lists of Round
        For each problem; fewer than `rounds` if all its attempts are right before.
    """
    attempts = [list(group) for group in groups]
    told: list[list[Round]] = [[] for _ in groups]
    for number in range(1, rounds + 1):
        chains = [[j for j, e in enumerate(group) if e.failed] for group in attempts]
        if not any(chains):
            break
        failed = [[attempts[p][j] for j in here] for p, here in enumerate(chains)]

        def seeds(
            what: int, number: int = number, chains: list[list[int]] = chains
        ) -> list[list[int]]:
            return [
                [stream(*key, number, what, problem, j) for j in here]
                for problem, here in zip(problems, chains, strict=True)
            ]

        verdicts = judge(failed, seeds(LOCALIZE))
        cuts: list[list[int]] = []
        for problem, said in zip(problems, verdicts, strict=True):
            rng = np.random.default_rng([*key, number, PICK, problem])
            # Where there is no step to go to, all is done again.
            cuts.append([k or 0 for k in pick([verdict.weights for verdict in said], rng)])
        prefixes: list[Prefix] = [
            episode.prefix(k)
            for group, cut in zip(failed, cuts, strict=True)
            for episode, k in zip(group, cut, strict=True)
        ]
        flat = [seed for here in seeds(CONTINUE) for seed in here]
        rolled = iter(simulator.seeded(prefixes, 1, flat))
        for p, here in enumerate(chains):
            if not here:
                continue
            new = [next(rolled)[0] for _ in here]
            told[p].append(_round(simulator, here, failed[p], verdicts[p], cuts[p], new))
            for j, episode in zip(here, new, strict=True):
                attempts[p][j] = episode
    return told


def _round(
    simulator: ThoughtSimulator,
    chains: list[int],
    failed: Sequence[Episode],
    verdicts: Sequence[Verdict],
    cuts: list[int],
    new: Sequence[Episode],
) -> Round:
    return Round(
        chain=chains,
        kept=cuts,
        thoughts=[episode.length for episode in failed],
        named=[verdict.named for verdict in verdicts],
        first_error=[first_error(simulator.task, episode) for episode in failed],
        localizer_tokens=[verdict.tokens for verdict in verdicts],
        tokens=[episode.cost for episode in new],
        rewards=[episode.ret for episode in new],
        right=[not episode.failed for episode in new],
    )


# ------------------------------------------------------------------ accuracy against tokens


class Curve(NamedTuple):
    """Share of right attempts, and tokens generated for an attempt, both up to each round.

    Shape (R + 1,), the first completion included; or (P, R + 1), of P problems.
    """

    right: FloatArray
    tokens: FloatArray

    def at(self, tokens: float) -> tuple[float, bool]:
        """Share right at this many tokens, and whether the curve goes so far.

        Between two rounds it is that of drawing lots which of them to stop after, which costs and
        gains in proportion. Beyond its end, where nothing failed is left, nothing more is spent.
        """
        right, spent = self.right, self.tokens
        reached = bool(tokens <= spent[-1] or right[-1] == 1)
        return float(np.interp(tokens, spent, right)), reached


def stack(curves: Sequence[Curve]) -> Curve:
    """Those of P problems as one, a row each."""
    return Curve(
        np.array([curve.right for curve in curves]), np.array([curve.tokens for curve in curves])
    )


def mean(curves: Curve, chosen: Any) -> Curve:
    """Over some rows."""
    return Curve(curves.right[chosen].mean(axis=0), curves.tokens[chosen].mean(axis=0))


def reset_curve(record: dict[str, Any], told: Sequence[Round], rounds: int) -> Curve:
    """A problem's curve under resets, of its record (`failed`, `tokens`) and its rounds."""
    right = ~np.array(record["failed"], dtype=bool)
    spent = np.array(record["tokens"], dtype=float)
    points = [(right.mean(), spent.mean())]
    for number in range(rounds):
        if number < len(told):
            here = told[number]
            right[here["chain"]] = here["right"]
            spent[here["chain"]] += np.array(here["tokens"]) + np.array(here["localizer_tokens"])
        points.append((right.mean(), spent.mean()))
    return Curve(*np.array(points).T)


def fresh_curve(record: dict[str, Any]) -> Curve:
    """A problem's curve under fresh attempts until one is right: 1 … n of them.

    Both coordinates are unbiased. Right: pass@k. Tokens: attempt i is made as the (j+1)-th if the j
    before it, drawn from the n − 1 others, fail; with c_i right ones among these,

        T_k = Σ_{j<k} 1/n Σ_i tokens_i · C(n − 1 − c_i, j) / C(n − 1, j).
    """
    right = ~np.array(record["failed"], dtype=bool)
    tokens = np.array(record["tokens"], dtype=float)
    n, c = len(right), int(right.sum())
    spent = [
        np.mean([
            t * comb(n - 1 - (c - int(x)), j) / comb(n - 1, j)
            for t, x in zip(tokens, right, strict=True)
        ])
        for j in range(n)
    ]  # fmt: skip
    passed = [pass_at_k(n, c, k) for k in range(1, n + 1)]
    return Curve(np.array(passed), np.cumsum(spent))
