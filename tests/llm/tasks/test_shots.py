"""Worked examples, shares of rows for testing, and variables of chat templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm.config.train import parse_config
from llm.tasks import DataTask
from llm.tasks.declaration import Declaration
from llm.tasks.delimiters import after_thinking
from llm.thoughts.simulator import encode
from tests.llm.small import byte_tokenizer

ROWS = [
    {"q": f"{n} + {n} = ?", "steps": f"twice {n}", "a": str(2 * n), "n": 2 * n} for n in range(40)
]


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "sums.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(file)


def task(path: Any, **keys: Any) -> DataTask:
    options = {"prompt": "q", "answer": "a", "verifier": "numeric", "instruction": "", "test": 8}
    return DataTask(Declaration("sums", path=path, **{**options, **keys}))


WORKED = "{steps}{delimiter}\nAnswer: {a}"


def test_shots__plain_text(path: str) -> None:
    made = task(path, shots=2, worked=WORKED, chat=False, system="Add.", instruction="Go.")
    example = made.examples("test")[0]
    first, second = (row for row in ROWS if row["q"] in str(example.prompt).split("\n\n")[1:-2])
    shown = [row for part in str(example.prompt).split("\n\n") for row in ROWS if row["q"] == part]
    assert {first["n"], second["n"]} == {row["n"] for row in shown[:2]}
    worked = [
        f"{row['q']}\n\nGo.\ntwice {row['n'] // 2}</thought>\nAnswer: {row['n']}"  # type: ignore[operator]
        for row in shown[:2]
    ]
    assert example.prompt == "\n\n".join(["Add.", *worked, example.problem, "Go."]) + "\n"


def test_shots__chat(path: str) -> None:
    made = task(path, shots=1, worked=WORKED, delimiter="\n\n", instruction="End with {delimiter}.")
    example = made.examples("train")[0]
    user, assistant, question = example.prompt
    (row,) = (row for row in ROWS if user == {"role": "user", "content": f"{row['q']}\n\nEnd with "
              "an empty line."})  # fmt: skip
    text = f"twice {row['n'] // 2}\n\n\nAnswer: {row['n']}"  # type: ignore[operator]
    assert assistant == {"role": "assistant", "content": text}
    assert question["content"] == f"{example.problem}\n\nEnd with an empty line."  # type: ignore[index]


def test_shots__are_not_trained_on_and_test_problems_stay(path: str) -> None:
    without, made = task(path), task(path, shots=3, worked=WORKED)
    assert [e.id for e in made.examples("test")] == [e.id for e in without.examples("test")]
    train = [e.id for e in without.examples("train")]
    assert [e.id for e in made.examples("train")] == train[3:]  # the first three are shown
    prompts = {str(e.prompt[:-1]) for s in ("train", "test") for e in made.examples(s)}  # type: ignore[arg-type]
    assert len(prompts) == 1


def test_shots__of_named_splits_come_from_the_training_file(path: str, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"q": "7 * 7 = ?", "steps": "seven sevens", "a": "49"}\n')
    made = task({"train": path, "test": str(other)}, shots=2, worked=WORKED)
    assert "twice" in str(made.examples("test")[0].prompt)
    assert len(made.examples("train")) == len(ROWS) - 2
    assert made.reward(made.examples("test")[0], "Answer: 49") == 1.0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"shots": 2, "worked": "steps"}, "the verifier finds no right answer in the worked"),
        ({"shots": 99, "worked": WORKED}, "shots: 99 worked examples, but sums has 32 training"),
        ({"shots": 1, "worked": "{stepz}"}, "has no field 'stepz'"),
    ],
)
def test_shots__bad_input_is_one_line(path: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        task(path, **keys).examples("train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"test": 1.5}, "test: 1.5 is not a whole number"),
        ({"test": -1}, "test: -1 is not"),
        ({"shots": -1}, "shots: -1 is not"),
        ({"chat": False, "chat_template_kwargs": {"a": 1}}, "chat false no template is used"),
    ],
)
def test_declaration__refuses(path: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(path, **keys)


@pytest.mark.parametrize(("share", "held_out"), [(0.25, 10), (0.001, 1), (0.3125, 12)])
def test_test__share_of_the_rows(path: str, share: float, held_out: int) -> None:
    made = task(path, test=share)
    assert len(made.examples("test")) == held_out
    assert len(made.examples("train")) == len(ROWS) - held_out


def test_command_line__files_by_name_and_a_share() -> None:
    flags = ["--model=m", "--task=gsm8k", "--task_args.path.train", "a.jsonl", "--task_args.test",
             ".1", "--task_args.path.test=b.jsonl",
             "--task_args.chat_template_kwargs.enable_thinking", "false"]  # fmt: skip
    assert parse_config(flags, "x").task_args == {
        "path": {"train": "a.jsonl", "test": "b.jsonl"},
        "test": 0.1,
        "chat_template_kwargs": {"enable_thinking": False},
    }


# --- templates ---

TEMPLATE = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if not enable_thinking %}off{% endif %}{% endif %}"
)


def test_encode__variables_of_the_template() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    messages = [{"role": "user", "content": "a"}]
    for value, end in ((True, "<assistant>"), (False, "<assistant>off")):
        ids = encode(tokenizer, messages, {"enable_thinking": value})
        assert tokenizer.decode(ids) == f"<user>a{end}"


@pytest.mark.parametrize(
    ("messages", "variables", "message"),
    [
        ([("system", "s"), ("user", "a")], {}, "refuses messages of system, user: no system role"),
        ([("user", "a")], {"thinking": True}, "chat template has no variable 'thinking'"),
        ([("user", "a")], {"messages": []}, "refuses messages of user with {'messages': "),
    ],
)
def test_encode__refusals_are_one_line(
    messages: list[tuple[str, str]], variables: dict[str, Any], message: str
) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    chat = [{"role": role, "content": content} for role, content in messages]
    with pytest.raises(ValueError, match=message) as error:
        encode(tokenizer, chat, variables)
    assert "\n" not in str(error.value)


# --- thinking ---


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("4", "4"),
        ("<think>5?</think>4", "4"),
        ("5?</think>4", "4"),  # the prompt ended with <think>
        ("<think>5", ""),
        ("<think>a</think>b<think>c</think>d", "d"),
    ],
)
def test_after_thinking(text: str, answer: str) -> None:
    assert after_thinking(text) == answer


def test_verify__reads_what_follows_thinking(path: str) -> None:
    made = task(path)
    example = made.examples("train")[0]
    right = made.answer(example)
    assert made.reward(example, f"<think>Answer: -1</think>Answer: {right}") == 1.0
    assert made.reward(example, f"<think>Answer: {right}</think>Answer: -1") == 0.0
    assert made.reward(example, f"<think>Answer: {right}") == 0.0
