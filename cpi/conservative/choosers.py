"""Policy choosers: a candidate policy and an estimate of its advantage.

The exact chooser uses exact values. The sampled ones use resets only: on-policy states accepted
with probability w. From each, one uniformly random action is taken and π is followed to the end.
The first half of the resets chooses the candidate. The second half measures its advantage, so that
the estimate is unbiased:

    𝔸̂_w = mean of |A| (π'(a|s) − π(a|s)) (G − b)

G is the return from the reset on, b the mean return in that state and step in the first half.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cpi.conservative.confidence import empirical_bernstein, hoeffding
from cpi.core.resets import accept
from cpi.exact.improvement import coverage, expectation
from cpi.exact.policies import deterministic_policy, greedy_policy, uniform_policy
from cpi.exact.values import Evaluation
from cpi.tabular.simulator import TabularSimulator
from envs.checks import check_whole
from envs.tabular import FloatArray

#: Expected draws above which they are announced, and their progress shown, if most are refused.
MANY_DRAWS = 1_000_000
#: Largest number of episodes that are simulated at once, and of their steps (32 bytes each).
BATCH, BATCH_STEPS = 200_000, 10_000_000


@dataclass(frozen=True, eq=False)
class Resets:
    """Accepted resets as arrays (n,): step, state, uniform action, return G from there on.

    `drawn` counts all draws, accepted or refused; `steps` counts all environment steps.
    """

    step: NDArray[np.intp]
    state: NDArray[np.intp]
    action: NDArray[np.intp]
    ret: FloatArray
    drawn: int
    steps: int

    def __len__(self) -> int:
        return len(self.ret)

    def part(self, rows: slice) -> Resets:
        """The resets in `rows`, with costs of 0."""
        arrays = (self.step[rows], self.state[rows], self.action[rows], self.ret[rows])
        return Resets(*arrays, 0, 0)


def draw_resets(
    evaluation: Evaluation,
    weights: FloatArray,
    rng: np.random.Generator,
    *,
    accepted: int,
    most: int = 100_000_000,
) -> Resets:
    """Simulate until `accepted` resets are accepted; every draw costs a full episode.

    The exact p_w tells how many draws this takes on average. If these are over a million, of which
    less than a tenth will be accepted, stderr tells so and shows the progress.

    Parameters
    ----------
    evaluation : Evaluation
        Evaluated policy of a finite-horizon MDP; its values are not used, its occupancy only to
        foresee the number of draws.
    weights : array (H, S)
        w in [0, 1]; terminal states are never accepted.
    accepted : int
        Number of resets to return.
    most : int
        Largest number of draws.

    Raises
    ------
    ValueError
        If more than `most` draws are to be expected, or turn out to be needed.
    """
    mdp, policy = evaluation.mdp, evaluation.policy
    onpolicy = TabularSimulator(mdp, policy)
    probe = TabularSimulator(mdp, policy, first=uniform_policy(mdp))
    table = np.broadcast_to(weights, (onpolicy.horizon, mdp.num_states))
    p_w = expectation(evaluation, table * ~mdp.terminal)
    expected_draws = accepted / p_w if p_w > 0 else math.inf
    if expected_draws > most:
        raise ValueError(
            f"resets: with p_w = {p_w:.3g}, {accepted:,} accepted resets take about "
            f"{expected_draws:.3g} draws, more than {most:,}: lower tau, or ask for fewer"
        )
    with _progress(accepted, p_w, expected_draws) as show:
        return _draw(onpolicy, probe, table, rng, accepted, most, show)


@contextmanager
def _progress(
    accepted: int, p_w: float, expected_draws: float
) -> Iterator[Callable[[int], object]]:
    """A function that shows how many resets are accepted; silent where few draws are needed."""
    if expected_draws <= max(MANY_DRAWS, 10 * accepted):
        yield lambda kept: None
        return
    from rich.progress import Progress  # only where it is needed: `import cpi` loads no rich

    from cpi.reporting.tables import console

    err = console(sys.stderr)
    err.print(
        f"resets: with p_w = {p_w:.3g}, {accepted:,} accepted resets take about "
        f"{expected_draws:,.0f} draws"
    )
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("accepted resets", total=accepted)
        yield lambda kept: bar.update(task, completed=kept)


def _draw(
    onpolicy: TabularSimulator,
    probe: TabularSimulator,
    table: FloatArray,
    rng: np.random.Generator,
    accepted: int,
    most: int,
    show: Callable[[int], object],
) -> Resets:
    """The loop of `draw_resets`; `show` is called with the number accepted so far."""
    mdp = onpolicy.mdp
    largest = min(BATCH, max(BATCH_STEPS // onpolicy.horizon, 1))
    parts: list[Resets] = []
    kept = drawn = steps = 0
    while kept < accepted:
        if drawn >= most:
            raise ValueError(
                f"resets: {kept} of {accepted} accepted in {drawn} draws; "
                "p_w is too small: lower tau, or ask for fewer"
            )
        expected = (accepted - kept) / max((kept + 1) / (drawn + 1), 1e-3)
        batch = int(np.clip(1.1 * expected, 64, largest))
        starts = rng.choice(mdp.num_states, size=batch, p=mdp.start)
        walk = onpolicy.walk(starts, np.zeros(batch, dtype=np.intp), rng)
        w = np.where(walk.states >= 0, table[np.arange(onpolicy.horizon), walk.states], 0.0)
        rows, cuts = accept(w, rng)
        # Draws after the last one needed are dropped and not counted.
        rows, cuts = rows[: accepted - kept], cuts[: accepted - kept]
        draws = batch if kept + len(rows) < accepted else int(rows[-1]) + 1
        states = walk.states[rows, cuts].astype(np.intp)
        tail = probe.walk(states, cuts, rng)
        actions = tail.actions[np.arange(len(rows)), cuts].astype(np.intp)
        parts.append(Resets(cuts, states, actions, tail.rewards.sum(axis=1), 0, 0))
        kept, drawn = kept + len(rows), drawn + draws
        steps += int(walk.ends[:draws].sum()) + int((tail.ends - cuts).sum())
        show(kept)
    step, state, action, ret = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("step", "state", "action", "ret")
    )
    return Resets(step, state, action, ret, drawn, steps)


@dataclass(frozen=True, eq=False)
class Choice:
    """A candidate, its measured advantage 𝔸_w, a lower confidence bound of it, and the costs."""

    candidate: FloatArray
    advantage: float
    lower: float
    accepted: int = 0
    drawn: int = 0
    steps: int = 0


Chooser = Callable[[Evaluation, FloatArray, np.random.Generator], Choice]


def exact_greedy(evaluation: Evaluation, weights: FloatArray, rng: np.random.Generator) -> Choice:
    """The greedy policy and its exact advantage: the best possible choice."""
    candidate = np.broadcast_to(greedy_policy(evaluation.Q), evaluation.A.shape)
    gains = expectation(evaluation, weights * evaluation.A.max(axis=-1))
    advantage = gains / max(coverage(evaluation, weights), 1e-300)
    return Choice(candidate, advantage, advantage)


def sampled(
    resets: int,
    policy_class: Literal["shared", "per_state"],
    *,
    delta: float = 0.05,
    bound: Literal["bernstein", "hoeffding", "none"] = "bernstein",
) -> Chooser:
    """A chooser that uses `resets` accepted resets.

    Parameters
    ----------
    resets : int
        At least 4.
    policy_class : {"shared", "per_state"}
        "shared" plays one action everywhere. "per_state" plays an action for each (h, s) with a
        reset, and π elsewhere.
    delta : float
        The lower bound of the advantage holds with probability 1 − δ.
    bound : {"bernstein", "hoeffding", "none"}
        Confidence bound behind `Choice.lower`; "none" trusts the estimate.

    Raises
    ------
    ValueError
        If `resets` is below 4, or an option is unknown.
    """
    if resets < 4:
        raise ValueError(f"resets: {resets} is below 4, two to choose with and two to measure")
    check_whole("resets", resets)
    if policy_class not in ("shared", "per_state"):
        raise ValueError(f"policy_class: {policy_class!r} is neither 'shared' nor 'per_state'")
    if bound not in ("bernstein", "hoeffding", "none"):
        raise ValueError(f"bound: {bound!r} is not 'bernstein', 'hoeffding' or 'none'")

    def choose(evaluation: Evaluation, weights: FloatArray, rng: np.random.Generator) -> Choice:
        data = draw_resets(evaluation, weights, rng, accepted=resets)
        first_half = data.part(slice(0, resets // 2))
        second_half = data.part(slice(resets // 2, None))
        candidate_from = shared_candidate if policy_class == "shared" else per_state_candidate
        candidate = candidate_from(evaluation, first_half)
        baseline = mean_returns(evaluation, first_half)
        samples = advantage_samples(evaluation, candidate, second_half, baseline)
        mean = float(samples.mean())
        # A sample is |A| (π' − π) (G − b), with π' − π within ±1 and G − b within ±H r.
        mdp = evaluation.mdp
        assert mdp.horizon is not None
        width = 2 * mdp.num_actions * mdp.horizon * mdp.reward_width
        radius = {
            "bernstein": lambda: empirical_bernstein(samples, width, delta),
            "hoeffding": lambda: hoeffding(len(samples), width, delta),
            "none": lambda: 0.0,
        }[bound]()
        return Choice(candidate, mean, mean - radius, len(data), data.drawn, data.steps)

    return choose


def advantage_samples(
    evaluation: Evaluation, candidate: FloatArray, resets: Resets, baseline: FloatArray
) -> FloatArray:
    """|A| (π'(a|s) − π(a|s)) (G − b) of each reset, shape (n,): their mean estimates 𝔸_w.

    The baseline b, shape (H, S), changes no expectation, because π' − π sums to 0 over the actions.
    Mean returns of other resets (`mean_returns`) remove the variance between states.
    """
    shape = evaluation.A.shape
    where = (resets.step, resets.state, resets.action)
    difference = np.broadcast_to(candidate, shape)[where]
    difference = difference - np.broadcast_to(evaluation.policy, shape)[where]
    centred = resets.ret - baseline[resets.step, resets.state]
    return np.asarray(evaluation.mdp.num_actions * difference * centred)


def mean_returns(evaluation: Evaluation, resets: Resets) -> FloatArray:
    """Mean return of the resets at each (h, s), shape (H, S).

    Without a reset at (h, s) it is the middle of the range that the remaining steps can return. Any
    baseline in that range keeps G − b within ±H r.
    """
    mdp = evaluation.mdp
    assert mdp.horizon is not None
    left = mdp.horizon - np.arange(mdp.horizon)
    middle = np.repeat(left * sum(mdp.reward_range) / 2, mdp.num_states)
    shape = evaluation.A.shape[:2]
    cells = np.ravel_multi_index((resets.step, resets.state), shape)
    counts = np.bincount(cells, minlength=shape[0] * shape[1])
    sums = np.bincount(cells, weights=resets.ret, minlength=shape[0] * shape[1])
    means = np.where(counts > 0, sums / np.maximum(counts, 1), middle)
    return np.asarray(means.reshape(shape))


def shared_candidate(evaluation: Evaluation, resets: Resets) -> FloatArray:
    """The policy that plays the action with the largest mean return everywhere."""
    return _constant(evaluation, int(np.argmax(_means(evaluation, resets, None))))


def per_state_candidate(evaluation: Evaluation, resets: Resets) -> FloatArray:
    """The action with the largest mean return at each (h, s); π where there is no reset."""
    mdp = evaluation.mdp
    shape = evaluation.A.shape
    cells = np.ravel_multi_index((resets.step, resets.state), shape[:2])
    means = _means(evaluation, resets, cells).reshape(shape)
    tried = np.isfinite(means).any(axis=-1, keepdims=True)
    best = deterministic_policy(means.argmax(axis=-1), mdp.num_actions)
    return np.where(tried, best, evaluation.policy)


def _constant(evaluation: Evaluation, action: int) -> FloatArray:
    actions = np.full(evaluation.A.shape[:-1], action)
    return deterministic_policy(actions, evaluation.mdp.num_actions)


def _means(evaluation: Evaluation, resets: Resets, cells: NDArray[np.intp] | None) -> FloatArray:
    """Mean return per action (A,), or per cell and action (H·S, A); −∞ without resets."""
    num_actions = evaluation.mdp.num_actions
    num_cells = 1 if cells is None else int(np.prod(evaluation.A.shape[:2]))
    index = resets.action if cells is None else cells * num_actions + resets.action
    size = num_cells * num_actions
    counts = np.bincount(index, minlength=size)
    sums = np.bincount(index, weights=resets.ret, minlength=size)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(counts > 0, sums / counts, -np.inf)
    return means if cells is None else means.reshape(num_cells, num_actions)
