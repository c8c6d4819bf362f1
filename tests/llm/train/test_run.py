"""`llm.train_model` and `llm.Run`: training, evaluation and export from names and from objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import llm
from cpi.core.episodes import Episode
from llm.runs.metric_names import described
from llm.tasks import ChainReasoning
from llm.train.__main__ import main
from llm.train.given import read

SETTINGS: dict[str, Any] = {
    "config": "chain",
    "steps": 1,
    "prompts_per_step": 4,
    "save_steps": 1,
    "evaluation": {"steps": 0},
}


def last_thought(episodes: Sequence[Episode]) -> list[np.ndarray]:
    return [np.eye(1, e.length, e.length - 1)[0] for e in episodes]


@pytest.fixture(scope="module")
def loaded(chain_base: Path) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(chain_base)
    return model, AutoTokenizer.from_pretrained(chain_base)


@pytest.fixture(scope="module")
def run(
    loaded: tuple[Any, Any], chain_args: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> llm.Run:
    """One step from objects: a model, a task, a localizer and a reward without import paths."""
    model, tokenizer = loaded
    task = ChainReasoning(**chain_args)
    output = tmp_path_factory.mktemp("api") / "run"
    return llm.train_model(
        model, task, tokenizer=tokenizer, localizer=lambda episodes: last_thought(episodes),
        reward=lambda example, text: task.reward(example, text), output=output, **SETTINGS,
    )  # fmt: skip


def test_train_model__objects_leave_a_complete_run(run: llm.Run) -> None:
    files = {"config.yaml", "environment.json", "metrics.jsonl", "rollouts", "checkpoints", "model"}
    assert files <= {path.name for path in run.folder.iterdir()}
    (row,) = run.metrics
    assert not [name for name in row if described(name) is None]
    assert row["step"] == 1 and row["reset/position"] > 0
    config = run.saved().config
    assert config is not None
    assert (config.task, config.localizer) == ("object:ChainReasoning", "object:lambda")
    assert repr(run).startswith(f"Run({str(run.folder)!r}, step 1, reward ")


def test_train_model__a_loaded_model_is_where_training_starts(
    run: llm.Run, loaded: tuple[Any, Any]
) -> None:
    before = loaded[0].state_dict()
    start = run.saved(0).policy(torch.device("cpu")).state_dict()
    end = run.saved(1).policy(torch.device("cpu")).state_dict()
    assert all(torch.equal(start[name], before[name]) for name in before)
    assert not all(torch.equal(end[name], before[name]) for name in before)


def test_train_model__its_run_goes_on(run: llm.Run, loaded: tuple[Any, Any]) -> None:
    _, tokenizer = loaded
    task, localizer = run.objects["ChainReasoning"](), run.objects["lambda"]
    again = llm.train_model(
        loaded[0], task.task, tokenizer=tokenizer, localizer=localizer, reward=task.function,
        output=run.folder, resume="auto", **{**SETTINGS, "steps": 2},
    )  # fmt: skip
    assert [row["step"] for row in again.metrics] == [1, 2]


def test_evaluate__a_run_of_objects(run: llm.Run) -> None:
    report = run.evaluate(samples=2, problems=4, correct=1)
    (result,) = report.results
    assert (result.problems, result.samples) == (4, 2)
    assert "object:lambda" in str(report)  # the run's localizer corrects
    assert (run.folder / "evaluations").is_dir()


def test_compare__a_run_of_objects_with_its_base_model(run: llm.Run) -> None:
    comparison = run.compare(samples=2, problems=4)
    assert [d.k for d in comparison.differences] == [1, 2]
    folder = run.folder / "evaluations" / f"step-{run.saved().step:06d}"
    assert (folder / "comparison.json").is_file() and (folder / "baseline").is_dir()


def test_export__a_run_of_objects(run: llm.Run, tmp_path: Path) -> None:
    exported = run.export(tmp_path / "exported", step=1)
    model = AutoModelForCausalLM.from_pretrained(exported.folder)
    trained = run.saved(1).policy(torch.device("cpu")).state_dict()
    assert all(torch.equal(tensor, trained[n]) for n, tensor in model.state_dict().items())


def test_plot_and_show__a_run(run: llm.Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.plot().axes[0].get_title() == "success of rollouts"
    run.show(1, kind="reset", limit=1)
    assert "rest of the seed" in capsys.readouterr().out


def test_run__without_its_objects_says_what_is_missing(run: llm.Run, tmp_path: Path) -> None:
    opened = llm.Run(run.folder)
    assert opened.metrics == run.metrics
    for work in (lambda: opened.evaluate(problems=1), lambda: opened.export(tmp_path / "other")):
        with pytest.raises(ValueError, match="ChainReasoning was given to"):
            work()


def test_command__refuses_to_resume_a_run_of_objects(
    run: llm.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(run.folder / "config.yaml"), "--resume=auto", "--steps=9"]) == 2
    assert "put it into a module and name it module:name" in capsys.readouterr().err


def test_read__what_has_an_import_path_is_named_by_it() -> None:
    given = read("chain-base", ChainReasoning, "srpo", last_thought, None, {})
    assert given.config.task == "llm.tasks.chain:ChainReasoning"
    assert given.config.localizer == "tests.llm.train.test_run:last_thought"
    assert not given.objects


def test_read__settings_are_those_of_the_command(tmp_path: Path) -> None:
    sampling = {"max_completion_length": 9, "temperature": 0.5}
    settings = {"sampling": sampling, "lora.r": 4, "bf16": None, "task_args": {"length": 2}}
    given = read("chain-base", "chain", None, None, None, {**settings, "output": tmp_path})
    assert given.config.sampling.max_completion_length == 9
    assert given.config.lora.r == 4 and given.config.bf16 is None
    assert given.config.task_args == {"length": 2} and given.config.folder == tmp_path


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("chain-base", {"stepz": 3}, "stepz: no setting of this name"),
        ("chain-base", {"steps": "many"}, "steps"),
        ("chain-base", {"localizer": 3}, "localizer: 3 is neither a name nor a function"),
        (torch.nn.Linear(1, 1), {}, "tokenizer: none given"),
    ],
)
def test_train_model__bad_input(
    model: Any, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        llm.train_model(model, "chain", output=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()
