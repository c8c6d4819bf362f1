"""Self resets of given precision and recall; sampled runs."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import envs
from cpi.conservative.choosers import sampled
from cpi.conservative.loop import Iteration, Run, run_cpi
from cpi.conservative.reset_weights import ResetWeights, oracle_resets, random_resets, self_resets
from cpi.exact.improvement import coverage
from cpi.exact.policies import uniform_policy
from cpi.exact.values import evaluate
from envs import TabularMDP
from tests.cpi.conservative.test_loop import (
    PROBLEMS,
    TAU,
    Recorder,
    each_problem,
)
from tests.cpi.worlds import interior_policy, world


@pytest.mark.parametrize("precision", [0.6, 0.8, 1.0])
@pytest.mark.parametrize("recall", [0.3, 1.0])
@each_problem
def test_self_resets__have_the_given_precision_and_recall(
    mdp: TabularMDP, policy: Any, recall: float, precision: float
) -> None:
    base = evaluate(mdp, policy)
    tau = 0.5 * float(base.A.max())
    weights = self_resets(tau, precision, recall)(base)
    assert ((weights >= 0) & (weights <= 1)).all()
    alive = base.occupancy * ~mdp.terminal
    improvable = base.A.max(axis=-1) > tau
    hits = float((alive * weights * improvable).sum())
    assert hits / float((alive * weights).sum()) == pytest.approx(precision, abs=1e-12)
    assert hits / float((alive * improvable).sum()) == pytest.approx(recall, abs=1e-12)
    if mdp.terminal.any():
        visited = coverage(base, mdp.terminal)
        assert visited > 0.3  # terminal states count in neither, although π spends time there
    if precision == 1.0:
        np.testing.assert_array_equal(weights, recall * improvable)


def test_self_resets__lowest_precision_accepts_every_other_state() -> None:
    mdp, policy = PROBLEMS["needle"]
    base = evaluate(mdp, policy)
    # p = 0.3: accepting all others too gives 0.3; with recall ½, 0.15 / 0.85.
    np.testing.assert_allclose(self_resets(0.5, 0.3 + 1e-12, 1.0)(base), 1.0)
    least = 0.15 / 0.85
    np.testing.assert_allclose(self_resets(0.5, least + 1e-12, 0.5)(base)[:, 1:], 1.0)
    message = (
        r"precision: 0\.17 is below 0\.1765, the precision of accepting every other state at p ="
    )
    with pytest.raises(ValueError, match=message):
        self_resets(0.5, 0.17, 0.5)(base)


def test_self_resets__only_recall_matters_if_no_other_state_is_visited() -> None:
    mdp = envs.needle(1.0, horizon=2, num_actions=2)
    base = evaluate(mdp, uniform_policy(mdp))
    np.testing.assert_array_equal(self_resets(0.2, 0.5, 0.7)(base), [[0.7, 0, 0], [0.7, 0, 0]])


def test_self_resets__perfect_localizer_equals_the_oracle() -> None:
    base = evaluate(*PROBLEMS["ending"])
    np.testing.assert_array_equal(self_resets(TAU, 1.0, 1.0)(base), oracle_resets(TAU)(base))


@pytest.mark.parametrize("value", [0.0, -0.1, 1.1, math.nan])
def test_self_resets__values_outside_0_1_are_refused(value: float) -> None:
    base = evaluate(*PROBLEMS["needle"])
    with pytest.raises(ValueError, match=rf"precision: {value} is not in \(0, 1\]"):
        self_resets(TAU, value, 0.5)(base)
    with pytest.raises(ValueError, match=rf"recall: {value} is not in \(0, 1\]"):
        self_resets(TAU, 0.5, value)(base)


def test_run_cpi__never_accepts_terminal_states() -> None:
    mdp, policy = PROBLEMS["ending"]
    chooser = Recorder()
    run_cpi(mdp, policy, chooser=chooser, iterations=2)
    for evaluation, weights in chooser.calls:
        expected = np.broadcast_to(~mdp.terminal, evaluation.occupancy.shape)
        np.testing.assert_array_equal(weights, expected)


# Sampled runs.


def sampled_run(seed: int, resets: ResetWeights = random_resets, iterations: int = 3) -> Run:
    mdp, policy = PROBLEMS["needle"]
    return run_cpi(
        mdp,
        policy,
        resets=resets,
        chooser=sampled(4000, "shared", delta=0.05),
        step="masked",
        iterations=iterations,
        tau=0.5,
        seed=seed,
    )


@pytest.mark.parametrize("name", ["random", "oracle", "self"])
def test_run_cpi__sampled_gains_and_costs(name: str) -> None:
    resets = {
        "random": random_resets,
        "oracle": oracle_resets(0.3),
        "self": self_resets(0.3, precision=0.7, recall=0.8),
    }[name]
    run = sampled_run(3, resets)
    moved = [row for row in run.iterations if row.alpha > 0]
    assert moved
    for row in run.iterations:
        assert row.lower < row.advantage
        assert row.accepted == 4000
        # Costs per accepted reset: 1/p_w draws, each a walk of 3 steps, and the rest of a walk.
        assert row.drawn == pytest.approx(4000 / row.p_w, rel=0.08)
        assert 3 * row.drawn + 4000 <= row.steps <= 3 * row.drawn + 3 * 4000
    for row in moved:
        assert row.gain >= row.certificate > 0
        assert row.alpha == pytest.approx(row.lower / 9)
    if name == "random":
        assert all(row.drawn == 4000 for row in run.iterations)


def test_run_cpi__sampled_run_repeats_with_its_seed() -> None:
    one, two, other = sampled_run(1), sampled_run(1), sampled_run(2)
    assert one.iterations == two.iterations
    np.testing.assert_array_equal(one.policy, two.policy)
    assert one.iterations[0].advantage != other.iterations[0].advantage


# A run as a table.


def test_run__prints_as_a_table() -> None:
    run = sampled_run(1, iterations=2)
    printed = str(run)
    for heading in Iteration._fields:
        assert heading in printed
    for row in run.iterations:
        assert f"{row.J:.4g}" in printed and f"{row.accepted:,}" in printed
        assert f"{row.drawn:,}" in printed and f"{row.steps:,}" in printed
    assert f"final J = {run.J:.6g}; all 2 iterations done" in printed


def test_run_save__round_trip(tmp_path: Path) -> None:
    run = sampled_run(1, iterations=2)
    path = tmp_path / "run.csv"
    run.save(path)
    with path.open(newline="") as file:
        heading, *rows = list(csv.reader(file))
    assert tuple(heading) == Iteration._fields
    assert [tuple(map(float, row)) for row in rows] == run.iterations


def test_run_save__discounted(tmp_path: Path) -> None:
    mdp = world(1, discount=0.9)
    run = run_cpi(mdp, interior_policy(mdp, 1), iterations=1)
    run.save(str(tmp_path / "run.csv"))
    with (tmp_path / "run.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["certificate"]) == run.iterations[0].certificate > 0
    assert float(row["J"]) == run.iterations[0].J
