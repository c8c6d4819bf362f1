"""Algorithms by name: the tables, and a user's own class."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cpi
import envs
from cpi.core.collect import collect
from cpi.core.plans import PlanAndRule
from llm.algorithms import Algorithm, Batch, Setup, about, algorithm_class, make_algorithm
from llm.algorithms.batch import records_of_rows
from llm.algorithms.metrics import collection_metrics
from llm.algorithms.plan_and_rule import PlanAndRuleAlgorithm
from llm.config.algorithms import CLASSES
from llm.config.train import TrainConfig
from llm.learner.rows import make_rows
from llm.tasks import Task
from tests.llm.algorithms.worlds import settings, setup, world
from tests.llm.training_runs import metrics, train


class Mine(Algorithm):
    """Trains on some fresh rollouts of each problem."""

    about = "Mine: fresh rollouts"

    def __init__(self, setup: Setup, size: int = 4) -> None:
        super().__init__(setup)
        self.size = int(size)

    @classmethod
    def check_task(cls, config: TrainConfig, task: Task) -> None:
        if config.steps == 7:
            raise ValueError("steps: 7 is no number of steps of Mine; take 8")

    def batch(self, step: int, indices: Sequence[int], rng: np.random.Generator) -> Batch:
        prompts = [self.prompts[i] for i in indices]
        groups = collect(self.simulator, prompts, cpi.GroupPlan(fresh=self.size), None, rng)
        advantages = cpi.group_advantages([group.returns for group in groups])
        rows = make_rows(groups, advantages)
        records = partial(records_of_rows, step, list(groups), advantages, rows)
        return Batch(rows, collection_metrics(groups, advantages, rows), groups.ledger, records)


MINE = f"{__name__}:Mine"


def test_algorithm_class__every_name_of_the_tables_has_one() -> None:
    for name in cpi.ALGORITHMS:
        assert algorithm_class(settings(name)) is PlanAndRuleAlgorithm
        assert about(settings(name)).endswith(cpi.ALGORITHMS[name].about)
    for name in CLASSES:
        assert about(settings(name)) == algorithm_class(settings(name)).about != ""
    assert about(settings(MINE)) == "Mine: fresh rollouts"


def test_make_algorithm__a_users_class_gets_its_arguments() -> None:
    config = settings(MINE, algorithm_args={"size": "3"})
    simulator = world()
    batch = make_algorithm(config, setup(simulator, config)).batch(
        1, range(2), np.random.default_rng(0)
    )
    assert len(batch.rows) == 6
    with pytest.raises(ValueError, match=r"algorithm: .*:Mine: TypeError: .*'colour'"):
        odd = settings(MINE, algorithm_args={"colour": "red"})
        make_algorithm(odd, setup(simulator, odd))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("builtins:dict", r"algorithm: builtins:dict is .*, not a subclass of llm.algorithms.Algo"),
        ("nowhere:Mine", "algorithm: cannot import nowhere"),
        (f"{__name__}:Yours", f"algorithm: module {__name__} has no Yours"),
    ],
)
def test_algorithm_class__what_is_no_algorithm_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        algorithm_class(settings(name))


def test_train__a_users_class_trains_and_refuses(
    chain_base: Path,
    chain_args: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = [f"--algorithm={MINE}", "--algorithm_args.size=2", "--evaluation.steps=0"]
    assert train(chain_base, tmp_path / "run", chain_args, *more, "--steps=1") == 0
    (line,) = metrics(tmp_path / "run")
    assert line["ledger/trained_episodes"] == 2 * 8
    capsys.readouterr()
    assert train(chain_base, tmp_path / "other", chain_args, *more, "--steps=7") == 2
    assert "steps: 7 is no number of steps of Mine; take 8" in capsys.readouterr().err


def test_a_line_of_the_table_works_in_both_worlds(
    chain_base: Path, chain_args: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = PlanAndRule(cpi.GroupPlan(fresh=2, resets=2, per_reset=2))
    monkeypatch.setitem(cpi.ALGORITHMS, "rrpo8", line)
    more = ["--algorithm=rrpo8", "--steps=1", "--evaluation.steps=0"]
    assert train(chain_base, tmp_path / "run", chain_args, *more) == 0
    (recorded,) = metrics(tmp_path / "run")
    assert recorded["ledger/trained_episodes"] == 6 * 8 and "reset/position" in recorded
    assert (
        cpi.learn(envs.first_error_chain(4, recovery=0.5), "rrpo8", iterations=2, starts=3)
        .progress[-1]
        .iteration
        == 2
    )
