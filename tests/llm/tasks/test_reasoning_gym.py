from __future__ import annotations

import base64
import pickle
import re
from typing import Any

import pytest

from llm.config.train import parse_config
from llm.tasks import argument_kinds, check_task_name, make_task
from llm.tasks.reasoning_gym import APART, ReasoningGym, make_dataset
from llm.tasks.reasoning_gym_worker import is_formula, judge, scorer
from llm.tasks.task import Task
from llm.verifiers import Verification

SUMS = {"min_terms": 3, "max_terms": 3, "min_digits": 1, "max_digits": 1}


def sums(**options: Any) -> Task:
    return make_task("reasoning_gym:chain_sum", **{"train": 20, "test": 10, **SUMS, **options})


def test_examples__are_those_of_the_data_set_with_its_arguments() -> None:
    task = sums(seed=7, instruction="End with {delimiter}.", delimiter="\n")
    first = task.examples("train")[0]
    item = make_dataset("chain_sum", SUMS, 7, 20)[0]
    assert first.problem == item["question"]
    assert first.prompt == [
        {"role": "user", "content": f"{item['question']}\n\nEnd with a line break."}
    ]
    assert all(len(re.findall(r"\d+", e.problem)) == 3 for e in task.examples("train"))


def test_examples__held_out_problems_have_seeds_far_away() -> None:
    # Item i has the seed `seed + i`: neighbouring seeds would share all items but one.
    task = sums(shots=2, train=200, test=100)
    parts = [{e.problem for e in task.examples(split)} for split in ("train", "test")]
    assert not parts[0] & parts[1]
    item = make_dataset("chain_sum", SUMS, APART, 1)[0]
    assert task.examples("test")[0].problem == item["question"]
    prompt = task.examples("train")[0].prompt
    assert not any(e.problem in str(prompt[:4]) for e in task.examples("train"))  # the shots
    (note,) = [note for note in task.notes() if "train problems" in note]
    left, repeated = len(task.examples("train")), 200 - len(task.examples("train"))
    assert f"{left} train problems, 200 asked for; {repeated} repeat" in note


def test_shots__show_questions_with_right_answers() -> None:
    task = sums(shots=1, chat=False, instruction="")
    example = task.examples("test")[0]
    assert isinstance(example.prompt, str)
    worked, answer, rest = re.split(r"\n<answer>(.*?)</answer>\n\n", example.prompt)
    assert rest == f"{example.problem}\n"
    assert eval(worked.rpartition(":")[2].rstrip(" =")) == int(answer)


def test_worked__shows_steps_that_are_true() -> None:
    args = {"min_digits": 1, "max_digits": 1, "max_terms": 2, "chat": False, "instruction": ""}
    task = make_task("reasoning_gym:chain_sum", train=40, test=40, shots=10,
                     worked="llm.tasks.worked:chain_sum", **args)  # fmt: skip
    steps = re.findall(r"^(.+ [+-] .+) = (.+)$", str(task.examples("test")[0].prompt), re.M)
    assert len(steps) >= 5
    assert all(eval(left) == int(right) for left, right in steps)


def test_examples__too_few_problems_are_one_line() -> None:
    task = make_task("reasoning_gym:chain_sum", train=5, test=900, shots=0,
                     **{**SUMS, "min_terms": 1, "max_terms": 1})  # fmt: skip
    with pytest.raises(ValueError, match=r"train: .* has no train problem left: all 5 repeat"):
        task.examples("train")


def test_worked__wrong_solutions_are_refused() -> None:
    task = sums(shots=1, worked="builtins:str")
    with pytest.raises(ValueError, match=r"^task_args.worked: .* does not score .* as right"):
        task.examples("train")


def test_verify__scores_the_last_answer_after_thinking() -> None:
    task = sums()
    example = task.examples("train")[0]
    answer = example.data[0]
    for text, reward in [
        (f"<answer>{answer}</answer>", 1.0),
        (f"<answer>x</answer> no: <answer> {answer} </answer>", 1.0),
        (f"<think><answer>{answer}</answer>", 0.0),
        (f"<think>so</think><answer>{answer}</answer>", 1.0),
        (answer, 0.0),
        ("<answer></answer>", 0.0),
        (f"<answer>about {answer}</answer>", len(answer) / len(f"about {answer}")),
    ]:
        assert task.reward(example, text) == pytest.approx(reward), text


def test_composite__weights_and_arguments_of_its_parts() -> None:
    parts = {"chain_sum": {"weight": 3, **SUMS}, "leg_counting": 1}
    task = make_task("reasoning_gym:composite", datasets=parts, train=80, test=5)
    texts = [e.problem for e in task.examples("train")]
    animals = sum("legs" in text for text in texts)
    assert 0.1 < animals / len(texts) < 0.5
    example = next(e for e in task.examples("train") if "legs" in e.problem)
    # Of a composite, the scorer is that of the part; it runs in a process of its own.
    texts = [f"<answer>{example.data[0]}</answer>", "<answer>-1</answer>"]
    assert task.verify([example, example], texts) == [Verification(1.0), Verification(0.0)]
    task._workers.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("chain_summ", {}, "no data set 'chain_summ'; nearest: chain_sum"),
        ("chain_sum", {"min_termz": 3}, r"task_args.min_termz: chain_sum .* nearest: min_terms"),
        ("chain_sum", {"min_terms": 9}, "chain_sum refuses .*: max_terms must be >= min_terms"),
        ("chain_sum", {"min_terms": "three"}, "chain_sum refuses"),
        ("chain_sum", {"size": 3}, "task_args.size: the task has `train`, `test` and `seed`"),
        ("chain_sum", {"train": 0}, "task_args.train: 0 is not"),
        ("chain_sum", {"seed": -1}, "task_args.seed: -1 is not"),
        ("composite", {}, "task_args.datasets: composite needs data sets and weights"),
        (
            "composite",
            {"datasets": {"chain_sun": 1}},
            "no data set 'chain_sun'; nearest: chain_sum",
        ),
        ("composite", {"datasets": {"chain_sum": 0}}, "datasets.chain_sum: the weight 0"),
        (
            "composite",
            {"datasets": {"chain_sum": {"terms": 3}}},
            "task_args.terms: chain_sum has no",
        ),
    ],
)
def test_make_task__bad_input_is_one_line(name: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make_task(f"reasoning_gym:{name}", **args)
    assert "\n" not in str(error.value)


def test_command_line__arguments_have_the_types_of_the_data_set() -> None:
    check_task_name("reasoning_gym:chain_sum", {})
    assert argument_kinds("reasoning_gym:chain_sum")["min_terms"] is int
    flags = ["--model=m", "--task=reasoning_gym:composite", "--task_args.datasets.chain_sum", "2",
             "--task_args.datasets.leg_counting.weight=1", "--task_args.train", "9"]  # fmt: skip
    assert parse_config(flags, "x").task_args == {
        "datasets": {"chain_sum": 2, "leg_counting": {"weight": 1}},
        "train": 9,
    }


# --- the worker ---


def request(name: str, answer: str) -> dict[str, Any]:
    entry = make_dataset(name, {}, 0, 1)[0]
    return {
        "name": name,
        "config": "{}",
        "entry": base64.b64encode(pickle.dumps(entry)).decode(),
        "answer": answer,
    }


@pytest.mark.parametrize("name", ["n_queens", "binary_matrix", "spiral_matrix", "string_insertion"])
def test_judge__runs_no_code_of_an_answer(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    scorer.cache_clear()
    reply = judge(request(name, "[print('ran')]"))
    assert reply["reward"] < 1
    assert "ran" not in capfd.readouterr().out


@pytest.mark.parametrize("name", ["countdown", "simple_integration"])
def test_judge__evaluates_formulas_alone(name: str) -> None:
    assert judge(request(name, "print(1)")) == {"reward": 0.0}
    entry = make_dataset(name, {}, 0, 1)[0]
    expected = entry["metadata"].get("expression", entry["answer"])
    assert judge(request(name, expected))["reward"] == 1.0


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        ("3*x**2 + sin(x)/2 - 0.5 + C", True),
        ("(1+2)*(3)", True),
        ("open(x)", False),
        ("x.__class__", False),
        ("x. y", False),
        ("sin (x)", True),
        ("exit ()", False),
        ("'a'", False),
        ("[1]", False),
    ],
)
def test_is_formula(text: str, formula: bool) -> None:
    assert is_formula(text) is formula


def test_timeout__is_a_failure_without_a_reward() -> None:
    task = make_task("reasoning_gym:countdown", train=3, test=1, timeout=3.0)
    assert isinstance(task, ReasoningGym)
    example = task.examples("train")[0]
    verification = task.verify([example], ["<answer>9**9**9**9</answer>"])
    task._workers.close()
    assert verification[0].reward < 1
    assert verification[0].failure in ("timeout", "memory")
