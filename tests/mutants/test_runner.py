"""The mutation-test runner: caught, surviving and broken mutants, and the command line."""

from __future__ import annotations

import pytest

from tests.mutants.__main__ import MUTANTS, ROOT, Runner, main, nearest_tests
from tests.mutants.mutant import Mutant

FILE = "cpi/core/advantages.py"
TESTS = ("tests/cpi/core/test_advantages.py::test_group_advantages__groups_of_two",)
CAUGHT = Mutant(
    FILE, "the sum in place of the mean", "group - group.mean() if", "group - group.sum() if", TESTS
)


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner(elsewhere=False)


def test_outcome_of__a_wrong_formula_is_caught(runner: Runner) -> None:
    outcome, detail = runner.outcome_of(CAUGHT)
    assert outcome == "caught"
    assert detail.startswith("tests.cpi.core.test_advantages::test_")
    assert runner.unchanged(TESTS).outcome == "passed"


def test_outcome_of__a_change_without_effect_survives(runner: Runner) -> None:
    mutant = CAUGHT._replace(new="group - group.mean() + 0.0 if")
    assert runner.outcome_of(mutant).outcome == "survived"


def test_outcome_of__a_copy_that_cannot_be_collected_is_broken(runner: Runner) -> None:
    assert runner.outcome_of(CAUGHT._replace(new="group - group.mean( if")).outcome == "broken"


def test_outcome_of__a_text_that_is_gone_is_broken(runner: Runner) -> None:
    outcome, detail = runner.outcome_of(CAUGHT._replace(old="no such text"))
    assert outcome == "broken"
    assert detail == f"'no such text' stands 0 times in {FILE}"


def test_outcome_of__a_test_that_fails_without_the_fault_catches_nothing() -> None:
    runner = Runner(elsewhere=False)
    outcome, _ = runner.outcome_of(CAUGHT._replace(tests=("tests/mutants/fails.py",)))
    assert outcome == "broken"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.file}: {m.fault}")
def test_every_mutant_changes_one_place(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1
    assert mutant.old != mutant.new
    assert all((ROOT / t.partition("::")[0]).exists() for t in nearest_tests(mutant, ROOT))


def test_main__a_sample_is_a_function_of_its_seed(capsys: pytest.CaptureFixture[str]) -> None:
    def listed(*flags: str) -> list[str]:
        assert main(["--list", *flags]) == 0
        return capsys.readouterr().out.splitlines()

    assert len(listed()) == len(MUTANTS)
    sample = listed("--sample", "5", "--seed", "a")
    assert len(set(sample)) == 5
    assert sample == listed("--sample", "5", "--seed", "a")
    assert sample != listed("--sample", "5", "--seed", "b")
    assert all("llm/" in line for line in listed("--only", "llm/"))


def test_main__words_that_no_fault_has_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "no such fault"])
    assert "no such fault" in capsys.readouterr().err
