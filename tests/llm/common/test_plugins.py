"""Errors of plug-in tasks and localizers: one line names the place, and no step is lost."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.llm.train.test_bad_input import one_line
from tests.llm.training_runs import metrics, train

HEAD = """\
from llm.tasks import ChainReasoning, Example


class Mine(ChainReasoning):
"""

#: By name: body of the class above, and part of the error message.
TASKS = {
    "raises": (
        "def reward(self, example, completion):\n    return {}['answer']",
        "task: Mine.reward of '{id}': KeyError: 'answer' ({file}, line 6)",
    ),
    "leaves": (
        "def reward(self, example, completion):\n    raise SystemExit('no verifier')",
        "task: Mine.reward of '{id}': SystemExit: no verifier ({file}, line 6)",
    ),
    "not a number": (
        "def reward(self, example, completion):\n    return float('nan')",
        "task: Mine.reward of '{id}' is nan, which is not a finite number",
    ),
    "nothing": (
        "def reward(self, example, completion):\n    pass",
        "task: Mine.reward of '{id}': TypeError: float() argument must be",
    ),
    "a place for flags": (
        "def errors(self, example, thoughts):\n    return 1",
        "errors of '{id}' is 1, not True or False for each of",
    ),
    "a reference that fails": (
        "def reference(self, example):\n    return {}['answer']",
        "task: Mine.reference of '{id}': KeyError: 'answer' ({file}, line 6)",
    ),
    "a request that fails": (
        "def localization_prompt(self, example, thoughts):\n    raise OSError('no template')",
        "task: Mine.localization_prompt of '{id}': OSError: no template ({file}, line 6)",
    ),
    "no data": (
        "def __init__(self, **options):\n    raise RuntimeError('no data set')",
        "task: mine:Mine cannot be made with {{'length': 3",
    ),
    "no file": (
        "def examples(self, split):\n    open('/no/such/file')",
        "task: Mine.examples('train'): FileNotFoundError: [Errno 2]",
    ),
    "no list": (
        "def examples(self, split):\n    pass",
        "task: Mine.examples('train'): TypeError: 'NoneType' object is not iterable",
    ),
    "no problems": (
        "def examples(self, split):\n    return []",
        "task: Mine has no training problems",
    ),
    "no examples": (
        "def examples(self, split):\n    return ['2 +1']",
        "task: Mine.examples('train'): number 0 is a str, not an llm.tasks.Example",
    ),
    "no prompt": (
        "def examples(self, split):\n    return [Example('a', None)]",
        "task: Mine.examples('train'): the prompt of 'a' is None; give it text",
    ),
    "empty prompt": (
        "def examples(self, split):\n    return [Example('a', '')]",
        "task: the prompt of 'a' has no token",
    ),
    "no delimiter": ("delimiter = None", "task: delimiter of mine:Mine: None is not text"),
    "letters": ("stop = '}'", "task: stop of mine:Mine: '}}' is not a tuple of texts"),
    "no Python": ("def", "task: cannot import mine: SyntaxError: invalid syntax (mine.py, line 5)"),
}

#: Module of a localizer, and part of the error message.
LOCALIZERS = {
    "def mine(episodes):\n    return episodes[0].error": "AttributeError: 'Episode' object has no",
    "def mine(episodes):\n    pass": "TypeError: 'NoneType' object is not iterable",
    "def mine(episodes):\n    return [-e.length for e in episodes]": "one finite number ≥ 0 per",
    "mine = 3": "localizer: mine:mine is a int, no function",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose modules are unloaded after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "mine", None)
    del sys.modules["mine"]
    return tmp_path


@pytest.mark.parametrize("case", TASKS)
def test_task_plugin__error_names_method_and_place(
    case: str,
    chain_base: Path,
    chain_args: dict[str, Any],
    folder: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    body, message = TASKS[case]
    file = folder / "mine.py"
    file.write_text(HEAD + "".join(f"    {line}\n" for line in body.splitlines()))
    more = ["--task=mine:Mine", "--evaluation.steps=0", "--steps=1"]
    assert train(chain_base, folder / "run", chain_args, *more) in (1, 2)
    expected = message.format(id="ID", file=file)
    err = one_line(capfd)
    before, _, after = expected.partition("ID")
    assert before in err and after in err


@pytest.mark.parametrize("code", LOCALIZERS)
def test_localizer_plugin__error_names_cause(
    code: str,
    chain_base: Path,
    chain_args: dict[str, Any],
    folder: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (folder / "mine.py").write_text(code + "\n")
    more = ["--localizer=mine:mine", "--evaluation.steps=0"]
    assert train(chain_base, folder / "run", chain_args, *more) in (1, 2)
    err = one_line(capfd)
    assert "localizer" in err
    assert LOCALIZERS[code] in err


def test_reward_plugin__late_error_loses_no_step(
    chain_base: Path, chain_args: dict[str, Any], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "mine.py").write_text(
        HEAD
        + "    asked = 0\n\n"
        + "    def reward(self, example, completion):\n"
        + "        self.asked += 1\n"
        + "        return 1 / (self.asked < 150)\n"
    )
    more = ["--task=mine:Mine", "--evaluation.steps=0", "--save_steps=99", "--algorithm=grpo"]
    assert train(chain_base, folder / "run", chain_args, *more) == 1
    err = one_line(capfd)
    assert "ZeroDivisionError: division by zero" in err
    assert "step-000002 is saved, go on with" in err
    assert [line["step"] for line in metrics(folder / "run")] == [1, 2]


def test_task_plugin__example_ids_may_be_numpy_integers(
    chain_base: Path, chain_args: dict[str, Any], folder: Path
) -> None:
    (folder / "mine.py").write_text(
        "import numpy as np\n"
        + HEAD
        + "    def examples(self, split):\n"
        + "        numbered = enumerate(super().examples(split))\n"
        + "        return (e._replace(id=np.int64(number)) for number, e in numbered)\n"
    )
    assert train(chain_base, folder / "run", chain_args, "--task=mine:Mine", "--steps=1") == 0
