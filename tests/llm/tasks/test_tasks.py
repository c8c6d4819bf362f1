"""The chain task against `envs.reasoning`, tasks by name, and tasks of users."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.chain.model import chain_tokenizer
from llm.common.plugins import import_object
from llm.pretrain import sample_text
from llm.tasks import ChainReasoning, Example, Task, make_task
from tests.cpi.worlds import repeatable

SMALL: dict[str, Any] = {"length": 3, "modulus": 5, "operations": ["+1", "*2"]}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- problems ---


@pytest.mark.parametrize(("train", "test"), [(24, 8), (1, 1), (30, 10)])
def test_chain__splits_are_disjoint_and_reproducible(train: int, test: int) -> None:
    tasks = [ChainReasoning(**SMALL, train=train, test=test, seed=3) for _ in range(2)]
    names = [[e.id for e in tasks[0].examples(split)] for split in ("train", "test")]
    assert [len(part) for part in names] == [train, test]
    assert len({*names[0], *names[1]}) == train + test
    for split in ("train", "test"):
        assert tasks[0].examples(split) == tasks[1].examples(split)  # type: ignore[arg-type]
        for example in tasks[0].examples(split):  # type: ignore[arg-type]
            assert example.prompt == tasks[0].chain.render(example.data) == example.id + "\n"
            assert example.data.length == 3


def test_chain__seed_and_length_change_the_problems() -> None:
    def first(**changes: Any) -> list[str]:
        task = ChainReasoning(**{**SMALL, "train": 10, "test": 2, **changes})
        return [e.id for e in task.examples("train")]

    assert first() != first(seed=1)
    assert [name.split()[0] for name in first()] != [n.split()[0] for n in first(length=4)]
    assert first() == first(test=5)  # independent of the number of test problems


@repeatable
@given(st.data())
def test_chain__reward_and_errors_agree_with_chain_task(data: st.DataObject) -> None:
    verify = data.draw(st.sampled_from(["steps", "answer"]))
    task = ChainReasoning(**SMALL, verify=verify, train=8, test=2)
    example = task.examples("train")[data.draw(st.integers(0, 7))]
    right = task.chain.render_steps(example.data, task.chain.solution(example.data))
    lines = right.splitlines(keepends=True)
    odd = st.sampled_from(["1\n", "4\n", "\n", "x\n", "\\boxed{2}", "2", ""])
    thoughts = [data.draw(st.one_of(st.just(line), odd)) for line in lines]
    thoughts = thoughts[: data.draw(st.integers(1, 3))]
    text = "".join(thoughts)
    assert task.reward(example, text) == float(task.chain.verify(example.data, text, verify))
    errors = task.errors(example, thoughts)
    assert errors.dtype == np.bool_ and errors.shape == (len(thoughts),) and errors.sum() <= 1
    first = next((k for k, (a, b) in enumerate(zip(thoughts, lines)) if a != b), None)  # noqa: B905
    # Thoughts before the first difference are right. The one that differs is wrong if it is a
    # complete line, or the last thought.
    if first is None:
        assert not errors.any()
    else:
        assert not errors[:first].any()
        if "\n" in thoughts[first] or (first == len(thoughts) - 1 != 0 and thoughts[first]):
            assert errors[first]


def test_chain_errors__a_missing_step_marks_the_last_thought() -> None:
    # After a truncated episode, or EOS after a line break, an empty thought is the missing step.
    task = ChainReasoning(**SMALL, train=8, test=2)
    example = task.examples("train")[0]
    lines = task.chain.render_steps(example.data, task.chain.solution(example.data)).splitlines(
        keepends=True
    )
    np.testing.assert_array_equal(task.errors(example, lines[:2]), [False, False])
    np.testing.assert_array_equal(task.errors(example, [*lines[:2], ""]), [False, False, True])
    np.testing.assert_array_equal(task.errors(example, [*lines, ""]), [False] * 4)


def test_chain_localization_prompt__equals_the_pretraining_text() -> None:
    task = ChainReasoning(**SMALL, train=8, test=2)
    wrong = task.chain.wrong_values(0)
    seen = set()
    for seed in range(40):
        prompt, reply = sample_text(task.chain, 3, 0.5, wrong, 1.0, rng(seed))
        assert prompt.endswith("?\n")
        problem, *lines = prompt.removesuffix("\n?\n").splitlines(keepends=True)
        start, *operations = problem.split()
        example = Example("x", problem, task.chain.sample(rng(), 3))
        data = type(example.data)(int(start), tuple(operations))
        example = example._replace(data=data)
        assert task.localization_prompt(example, lines) == prompt
        (first,) = np.flatnonzero(task.errors(example, lines))
        *checks, box = reply.splitlines()
        assert box == f"\\boxed{{{first + 1}}}"
        # The right value of each step from the one before it; the last differs from the trace.
        before = [start, *(line.strip() for line in lines)]
        assert checks == [
            str(task.chain.apply(operations[k], int(before[k]))) for k in range(first + 1)
        ]
        last = re.sub(r"\D", "", lines[first])
        assert checks[-1] != last
        assert [line.strip() for line in lines[:first]] == checks[:-1]
        seen.add(int(first))
        assert task.localization_prompt(example, [*lines[:-1], lines[-1] + "\n"]) == prompt
    assert seen == {0, 1, 2}


def test_sample_text__traces_have_the_given_error_rate() -> None:
    # Whatever the share of localization texts, wrong traces are not left out.
    task, draw = ChainReasoning(**SMALL, train=8, test=2), rng()
    wrong = task.chain.wrong_values(0)
    assert (wrong != task.chain.results).all()
    right = asked = 0
    for _ in range(2000):
        prompt, reply = sample_text(task.chain, 3, 0.3, wrong, 0.5, draw)
        if prompt.endswith("?\n"):
            asked += 1
            continue
        start, *operations = prompt.split()
        problem = type(task.chain.sample(rng(), 3))(int(start), tuple(operations))
        right += task.chain.verify(problem, reply)
    assert abs(asked / 2000 - 0.5) < 4 * (0.25 / 2000) ** 0.5
    share = right / (2000 - asked)
    assert abs(share - 0.7**3) < 4 * (0.343 * 0.657 / (2000 - asked)) ** 0.5


def test_chain__stops_and_delimiter_are_single_tokens() -> None:
    task = ChainReasoning(**SMALL, train=8, test=2)
    tokenizer = chain_tokenizer(task.chain)
    for text in (task.delimiter, *task.stop):
        assert len(tokenizer(text).input_ids) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"verify": "luck"}, "verify: 'luck' is not one of 'steps', 'answer'"),
        ({"length": 0}, "length=0, train=24, test=8: each must be ≥ 1"),
        ({"train": 0}, "length=3, train=0, test=8: each must be ≥ 1"),
        ({"test": 0}, "length=3, train=24, test=0: each must be ≥ 1"),
        ({"train": 33}, "train=33, test=8: there are only 40 problems of length 3"),
        ({"modulus": 1}, "modulus: 1 is not a whole number ≥ 2"),
        ({"operations": ["/2"]}, "operations: '/2' is not a sign"),
        ({"colour": "red"}, "task: chain cannot be made with .*unexpected keyword argument 'colou"),
        ({"length": "three"}, "task: chain cannot be made with .*'three'"),
    ],
)
def test_make_task__invalid_chain_options_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        make_task("chain", **{**SMALL, "train": 24, "test": 8, **options})
    assert "\n" not in str(raised.value)


# --- tasks by name ---

MY_TASKS = """
from llm.tasks import Example, Task
import llm.nothing_of_this_name

"""


@pytest.fixture
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory of a user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def test_make_task__a_users_task(working_directory: Path) -> None:
    (working_directory / "my_riddles.py").write_text(
        "from llm.tasks import Example, Task\n"
        "class Riddles(Task):\n"
        "    def __init__(self, number=2):\n"
        "        self.number = number\n"
        "    def examples(self, split):\n"
        "        return [Example(f'{split} {i}', 'Q') for i in range(self.number)]\n"
    )
    task = make_task("my_riddles:Riddles", number=3)
    assert [e.id for e in task.examples("test")] == ["test 0", "test 1", "test 2"]
    assert str(working_directory) in sys.path  # so that later imports of the module work
    before = list(sys.path)
    make_task("my_riddles:Riddles")
    assert sys.path == before
    with pytest.raises(ValueError, match=r"my_riddles:Riddles cannot be made with {'size': 1}"):
        make_task("my_riddles:Riddles", size=1)
    with pytest.raises(NotImplementedError, match=r"Riddles has no reward\(example, completion\)"):
        task.reward(task.examples("test")[0], "")


def test_make_task__arguments_of_a_users_task_have_any_name(working_directory: Path) -> None:
    names = ["name", "options", "file", "make", "task", "error", "kinds", "path", "cls"]
    (working_directory / "my_named.py").write_text(
        "from llm.tasks import Task\n"
        "class Named(Task):\n"
        f"    def __init__(self, {', '.join(names)}):\n"
        f"        self.given = [{', '.join(names)}]\n"
    )
    assert make_task("my_named:Named", **dict.fromkeys(names, 1)).given == [1] * len(names)  # type: ignore[attr-defined]


def test_make_task__a_failing_import_is_refused(working_directory: Path) -> None:
    (working_directory / "my_broken.py").write_text("import no_such_package\n")
    with pytest.raises(ValueError, match=r"task: cannot import my_broken: No module named 'no_su"):
        make_task("my_broken:Task")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chains", "task: 'chains' is none of chain, sums, acereason_math, "),
        ("llm.tasks:NoSuch", "task: module llm.tasks has no NoSuch"),
        ("nowhere:Task", "task: cannot import nowhere: No module named 'nowhere'"),
        (":Task", "task: ':Task' is not of the form module:name"),
        ("llm.tasks:", "task: 'llm.tasks:' is not of the form module:name"),
        ("./mine:Task", "task: './mine:Task' is not of the form module:name"),
        ("builtins:dict", "task: builtins:dict gives a dict, not an llm.tasks.Task"),
    ],
)
def test_make_task__invalid_names_are_refused(
    name: str, message: str, working_directory: Path
) -> None:
    with pytest.raises(ValueError) as raised:
        make_task(name)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_import_object__names_the_option() -> None:
    assert import_object("llm.tasks:make_task", "reward") is make_task
    with pytest.raises(ValueError, match="reward: 'make_task' is not of the form module:name"):
        import_object("make_task", "reward")


def test_task__missing_methods_are_named() -> None:
    task = Task()
    with pytest.raises(NotImplementedError, match=r"Task has no examples\(split\)"):
        task.examples("train")
    with pytest.raises(NotImplementedError, match="Task has no step checker"):
        task.errors(Example("x", ""), [])
    assert task.localization_prompt(Example("x", ""), []) is None
    assert (task.delimiter, task.stop, task.success) == ("</thought>", (), 1.0)
