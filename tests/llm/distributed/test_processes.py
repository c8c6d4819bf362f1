"""Two processes do what one does: updates, samples, errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from llm.distributed.processes import (
    first_to_fail,
    gather,
    losing_others,
    on_main_process,
    rank,
    scatter_gather,
    still_together,
    world_size,
)
from tests.llm.job import CASES, run_job, samples, updated


@pytest.fixture(scope="module")
def folders(tiny_model: Callable[[bool], Path]) -> dict[bool, Path]:
    return {tied: tiny_model(tied) for tied in (True, False)}


@pytest.fixture(scope="module")
def two(
    folders: dict[bool, Path], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """The answers of two processes."""
    return run_job(tmp_path_factory.mktemp("job"), folders[True], folders[False])


def test_everybody_knows_everything(two: list[dict[str, Any]]) -> None:
    for answers in two:
        assert "printed" not in answers, answers[
            "printed"
        ]  # what a process that failed has printed
    assert [answers["ranks"] for answers in two] == [[0, 1], [0, 1]]
    assert [answers["first"] for answers in two] == ["first", "first"]
    assert [sorted(answers["speaks"]) for answers in two] == [[False, True]] * 2


def test_prefixes_are_shared_by_all_or_none(two: list[dict[str, Any]]) -> None:
    assert [answers["refused by one"] for answers in two] == ["made up", "made up"]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_learns(
    case: str, two: list[dict[str, Any]], folders: dict[bool, Path]
) -> None:
    alone = updated(folders, CASES[case])
    mine, other = (answers["updates"][case] for answers in two)
    assert mine["metrics"] == other["metrics"]
    for found, expected in zip(mine["metrics"], alone["metrics"], strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert mine["record"] == alone["record"]
    assert mine["tokens"] == other["tokens"] == alone["tokens"]
    for found, expected in zip(mine["logprobs"], alone["logprobs"], strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    for part in ("model", "optimizer"):
        assert mine[part].keys() == alone[part].keys() and not other[part]
        for name, tensor in alone[part].items():
            assert_close(mine[part][name], tensor, rtol=1e-4, atol=2e-6, msg=f"{part} {name}")
    for answers in (mine, other):
        assert answers["engine"].keys() == alone["engine"].keys()
        for name, tensor in alone["engine"].items():
            assert_close(answers["engine"][name], tensor, rtol=1e-4, atol=2e-6, msg=name)


def test_two_engines_sample_what_one_samples(
    two: list[dict[str, Any]], folders: dict[bool, Path]
) -> None:
    alone = samples(folders)
    for answers in (answers["samples"] for answers in two):
        assert answers["generated"] == alone["generated"]
        assert answers["prompt"] == alone["prompt"]
        assert [len(batch) for batch in answers["answers"]] == [0, 1, 5]
        for batch, expected in zip(answers["answers"], alone["answers"], strict=True):
            for group, as_one in zip(batch, expected, strict=True):
                for found, completion in zip(group, as_one, strict=True):
                    assert found.ids.tolist() == completion.ids.tolist()
                    assert found.finish_reason == completion.finish_reason
                    np.testing.assert_allclose(found.logprobs, completion.logprobs, atol=1e-5)


def test_an_error_of_one_is_raised_by_all(two: list[dict[str, Any]]) -> None:
    mine, other = (answers["errors"] for answers in two)
    assert mine == other
    assert mine["engine"] == "ValueError: 13 is not spoken here"
    assert mine["ranks"].startswith("RuntimeError: the processes of this job disagree")
    assert mine["first"] == "RuntimeError: UnpicklableError: 1 and 2"
    assert mine["share"] == "ZeroDivisionError: division by zero"
    assert mine["together"] == "OSError: the second cannot"
    assert "'loss': 'nan'" in mine["update"] and "'rows': [3]" in mine["update"]
    assert mine["after"] == "nothing"


def test_verdicts_are_everybodys(two: list[dict[str, Any]]) -> None:
    mine, other = (answers["verdicts"] for answers in two)
    assert mine == other
    assert len(set(mine["one by one"])) == 3 and len(set(mine["all"])) == 5
    assert mine["kind"] == "Moody" and mine["error"] == "KeyError: 'bad'"


def test_one_process_is_a_job_of_one() -> None:
    calls = []

    def work(items: Sequence[int]) -> list[int]:
        calls.append(list(items))
        return [2 * i for i in items]

    assert scatter_gather([1, 2, 3], work, []) == [2, 4, 6] and calls == [[1, 2, 3]]
    assert (world_size(), rank(), gather("x"), on_main_process(lambda: "y")) == (1, 0, ["x"], "y")
    assert still_together(ValueError()) and first_to_fail()
    with pytest.raises(RuntimeError, match="reset by peer"), losing_others():
        raise RuntimeError("a server of the user's: Connection reset by peer")


def test_the_tensors_of_a_test_are_not_trivial(folders: dict[bool, Path]) -> None:
    metrics = updated(folders, CASES["several steps"])["metrics"]
    assert metrics[0]["clip_ratio/region_mean"] > 0.1
    first, second = updated(folders, CASES["reference"])["metrics"]
    assert second["kl"] > 1e-5 > first["kl"]
    assert torch.is_tensor(updated(folders, CASES["adapters"])["engine"]["lm_head.weight"])
