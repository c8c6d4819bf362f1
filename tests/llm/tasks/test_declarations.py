"""The declared tasks of the package, on local files in the schemas of their data sets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from llm.tasks import DataTask, Split, declared, make_task
from llm.tasks.declaration import Declaration, read
from llm.verifiers import Verification
from tests.llm.sandboxes import skip_without_sandbox
from tests.llm.tasks.rows import SCHEMAS, write

OPTIONS: dict[str, Any] = {
    "livecodebench_v6_medium": {"verifier_args": {"allow_code": "true", "jobs": "1"}},
}
ENDINGS = ("jsonl", "json", "parquet")


def task_of(name: str, folder: Path, ending: str = "jsonl", **options: Any) -> DataTask:
    """Make a declared task over a file with thirty rows of its schema."""
    if name in OPTIONS:
        skip_without_sandbox()
    make, _, _ = SCHEMAS[name]
    path = write(folder / f"{name}.{ending}", [make(i) for i in range(30)])
    task = make_task(name, path=str(path), **{**OPTIONS.get(name, {}), **options})
    assert isinstance(task, DataTask)
    return task


def rows_of(task: DataTask, split: Split) -> list[Any]:
    return [task._sources[e.data[0]].rows[e.data[1]] for e in task.examples(split)]


def test_declared__every_declaration_has_test_rows() -> None:
    assert set(declared()) == set(SCHEMAS)


@pytest.mark.parametrize("name", SCHEMAS)
def test_declared__declarations_are_complete(name: str) -> None:
    task = read(declared()[name], {})
    assert task.name == name and task.data
    if "code" not in name:
        assert "{delimiter}" in task.instruction and "\\boxed" in task.instruction
    # Every task has test problems.
    assert task.named_splits or task.test


@pytest.mark.parametrize("name", SCHEMAS)
def test_declared__verifies_right_and_wrong_completions(name: str, tmp_path: Path) -> None:
    ending = ENDINGS[sorted(SCHEMAS).index(name) % 3]
    number = 2 if "code" in name else 10  # each program starts several processes
    task = task_of(name, tmp_path, ending, test=number)
    _, right, wrong = SCHEMAS[name]
    for split in get_args(Split):
        examples = task.examples(split)[:number]
        if task.declaration.train == 0 and split == "train":
            assert examples == []
            continue
        assert len(examples) == number
        completions = [right(row) for row in rows_of(task, split)[:number]]
        results = task.verify(examples * 2, completions + [wrong] * len(examples))
        assert [result.reward for result in results] == [1.0] * len(examples) + [0.0] * len(
            examples
        )
        assert not any(result.failure for result in results)
        assert task.reward(examples[0], completions[0]) == 1.0
        for example in examples:
            ((_, message),) = [m.values() for m in example.prompt]  # type: ignore[union-attr]
            assert message.startswith(example.problem) and "</thought>" in message
    assert len(task.examples("test")) == number


def test_numina_olympiads__keeps_only_verifiable_answers(tmp_path: Path) -> None:
    task = task_of("numina_olympiads", tmp_path, test=5)
    kept = {row["problem"] for split in get_args(Split) for row in rows_of(task, split)}
    # Rows 1 to 8 break one rule each; row 9 has a negative answer, which is allowed.
    assert kept == {f"What is {i} + {i}?" for i in (0, *range(9, 30))}


def test_sciknoweval__keeps_problems_of_its_subject(tmp_path: Path) -> None:
    task = task_of("sciknoweval_materials", tmp_path)
    assert len(task.examples("test")) == 27
    assert task.notes() == ["task: sciknoweval_materials: 27 test problems, 500 asked for"]
    for example, row in zip(task.examples("test"), rows_of(task, "test"), strict=True):
        assert f"\n\nA. {row['choices']['text'][0]}\nB. " in example.problem


def test_livecodebench__prompts_and_unit_tests(tmp_path: Path) -> None:
    task = task_of("livecodebench_v6_medium", tmp_path, test=4)
    for split in get_args(Split):
        for example, row in zip(task.examples(split), rows_of(task, split), strict=True):
            assert ("Complete this code" in example.problem) == bool(row["starter_code"])
            answer = task.answer(example)
            assert answer["fn_name"] == ("double" if row["starter_code"] else None)
            assert (len(answer["inputs"]), len(answer["outputs"])) == (3, 3)
            assert row["difficulty"] == "medium" and example.id == row["question_id"]


def test_livecodebench__requires_allow_code() -> None:
    with pytest.raises(ValueError, match="allow_code"):
        make_task("livecodebench_v6_medium")


# --- splits ---


@pytest.mark.parametrize("name", ["gsm8k", "acereason_math"])
def test_splits__disjoint_by_text_and_reproducible(name: str, tmp_path: Path) -> None:
    make, _, _ = SCHEMAS[name]
    rows = [make(i) for i in range(20)]
    key = "question" if name == "gsm8k" else "problem"
    variants = [{**row, key: f" {row[key].upper().replace(' ', '  ')}\n"} for row in rows]
    path = write(tmp_path / "twice.jsonl", rows + variants)

    def texts(**options: Any) -> dict[str, list[str]]:
        task = make_task(name, path=str(path), **{"test": 6, "train": None, **options})
        return {s: [e.problem.casefold() for e in task.examples(s)] for s in get_args(Split)}

    drawn = texts()
    plain = [{" ".join(text.split()) for text in drawn[split]} for split in get_args(Split)]
    assert [len(part) for part in plain] == [14, 6]
    assert len(plain[0] | plain[1]) == 20
    assert texts() == drawn
    assert texts(seed=1) != drawn
    # The number of training problems changes neither the test problems nor their order.
    fewer = texts(train=3)
    assert fewer["test"] == drawn["test"] and fewer["train"] == drawn["train"][:3]


def test_splits__named_files_and_wildcards(tmp_path: Path) -> None:
    make, _, _ = SCHEMAS["gsm8k"]
    paths = {
        "train": [str(write(tmp_path / f"train-{k}.csv", [make(i) for i in range(k, k + 5)]))
                  for k in (0, 5)],
        "test": str(write(tmp_path / "test.parquet", [make(i) for i in range(20, 24)])),
    }  # fmt: skip
    task = make_task("gsm8k", path=paths)
    assert isinstance(task, DataTask)
    assert sorted(e.id for e in task.examples("train")) == sorted(
        f"train-{k}-{row}" for k in (0, 5) for row in range(1, 6)
    )
    assert sorted(e.id for e in task.examples("test")) == [f"test-{row}" for row in range(1, 5)]
    shards = {**paths, "train": str(tmp_path / "train-*.csv")}
    assert make_task("gsm8k", path=shards).examples("train") == task.examples("train")


def test_splits__training_problem_that_is_a_test_problem(tmp_path: Path) -> None:
    make, _, _ = SCHEMAS["gsm8k"]
    paths = {
        "train": str(write(tmp_path / "train.jsonl", [make(i) for i in range(6)])),
        "test": str(write(tmp_path / "test.jsonl", [make(i) for i in range(5, 8)])),
    }
    task = make_task("gsm8k", path=paths)  # whose declaration drops bad rows
    assert len(task.examples("train")) == 5 and len(task.examples("test")) == 3
    (note,) = task.notes()
    assert note.startswith("task: gsm8k: 5 train problems; 1 rows left out, the first: ")
    assert note.endswith("train.jsonl, row 6: the problem is a test problem, too")
    with pytest.raises(ValueError, match=r"train.jsonl, row 6: the problem is a test problem, too"):
        make_task("gsm8k", path=paths, bad_rows="error").examples("train")


# --- a user's declaration ---


def test_read__a_users_declaration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"q": f"{i}?", "context": "", "key": f"x={i}", "kind": i % 2} for i in range(8)]
    write(tmp_path / "mine.csv", rows)
    (tmp_path / "mine.yaml").write_text(
        "path: mine.csv\n"
        "prompt: ['Given {context}:', 'Solve \\frac{1}{2} {q}']\n"
        "answer: key\n"
        "extract: regex x=(\\d+)\n"
        "where: {kind: [1]}\n"
        "system: You are brief.\n"
        "verifier: exact\n"
        "delimiter: \"\\n\\n\"\n"
        "test: 1\n"
    )  # fmt: skip
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    task = make_task(str(tmp_path / "mine.yaml"), chat=False)
    assert isinstance(task, DataTask) and str(task) == "mine"
    examples = [*task.examples("train"), *task.examples("test")]
    assert sorted(e.id for e in examples) == ["mine-2", "mine-4", "mine-6", "mine-8"]
    for example in examples:
        number = int(example.id[-1]) - 1
        assert example.problem == f"Solve \\frac{{1}}{{2}} {number}?"
        assert task.answer(example) == str(number)
        assert isinstance(example.prompt, str)
        assert example.prompt.startswith(f"You are brief.\n\n{example.problem}\n\n")
        assert "with an empty line" in example.prompt and example.prompt.endswith("}.\n")
        assert task.reward(example, f"Hm.\n\n\\boxed{{{number}}}") == 1
    messages = make_task(str(tmp_path / "mine.yaml")).examples("test")[0].prompt
    assert [m["role"] for m in messages] == ["system", "user"]  # type: ignore[index]
    merged = make_task(str(tmp_path / "mine.yaml"), where={"q": {"matches": "[37]"}}, train=1)
    assert isinstance(merged, DataTask)
    assert {e.id for s in get_args(Split) for e in merged.examples(s)} == {"mine-4", "mine-8"}


# --- prompts of chat messages ---

SYSTEM = {"role": "system", "content": "You are brief."}
USER = {"role": "user", "content": " What is 1 + 2?\n"}
TALK = [{"role": "user", "content": "Hi. "}, {"role": "assistant", "content": "Yes?"}, USER]


def chat_task(folder: Path, messages: Any, ending: str = "jsonl", **options: Any) -> DataTask:
    """A task of two problems; the first has these messages."""
    other = [{"role": "user", "content": "And 2 + 2?"}]
    rows = [{"talk": {"turns": messages}, "a": "3"}, {"talk": {"turns": other}, "a": "4"}]
    path = str(write(folder / f"chats.{ending}", rows))
    keys = {"prompt": "talk.turns", "answer": "a", "verifier": "numeric", "test": 1, "train": 1}
    return DataTask(Declaration("chats", path=path, instruction="Think.", **(keys | options)))


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
@pytest.mark.parametrize("before", [[], [SYSTEM], TALK[:2], [SYSTEM, *TALK[:2]]])
def test_prompt__chat_messages_end_with_the_instruction(
    before: list[dict[str, str]], ending: str, tmp_path: Path
) -> None:
    task = chat_task(tmp_path, [*before, USER], ending)
    (example,) = [e for split in get_args(Split) for e in task.examples(split) if "-1" in e.id]
    last = {"role": "user", "content": "What is 1 + 2?\n\nThink."}
    assert example.prompt == [*before, last]
    said = [m["content"] for m in before if m["role"] != "system"]
    assert example.problem == "\n\n".join([*said, USER["content"]]).strip()
    assert (task.answer(example), task.reward(example, r"\boxed{3}")) == ("3", 1)


def test_prompt__messages_with_a_system_message_and_as_plain_text(tmp_path: Path) -> None:
    task = chat_task(tmp_path, [USER], system="Be brief.")
    for split in get_args(Split):
        (example,) = task.examples(split)
        roles = [message["role"] for message in example.prompt]  # type: ignore[index]
        assert roles == ["system", "user"]
    task = chat_task(tmp_path, [SYSTEM, USER], chat=False)
    prompts = {e.prompt for split in get_args(Split) for e in task.examples(split)}  # type: ignore[misc]
    assert prompts == {"You are brief.\n\nWhat is 1 + 2?\n\nThink.\n", "And 2 + 2?\n\nThink.\n"}


BAD_MESSAGES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "the answer": (
        TALK[:2],
        {},
        "field 'talk.turns': the last message is of the assistant, not of",
    ),
    "number": ([{"role": "user", "content": 3}], {}, "the content of message 1 is a int, not text"),
    "parts": (
        [SYSTEM, {"role": "user", "content": [{"type": "text", "text": "1?"}]}],
        {},
        "the content of message 2 is a list, not text",
    ),
    "role": (
        [{"role": None, "content": "1?"}],
        {},
        "the role of message 1 is a NoneType, not text",
    ),
    "no role": (
        [{"content": "1?"}],
        {},
        "field 'talk.turns' is a list, not text, a number or choic",
    ),
    "empty": ([{"role": "user", "content": " "}], {}, "the prompt is empty"),
    "none": ([], {}, "field 'talk.turns' is a list, not text"),
    "system": (
        [SYSTEM, USER],
        {"system": "Hm."},
        "a system message of their own; leave out `system`",
    ),
    "plain": (TALK, {"chat": False}, "its prompt is a conversation, which needs `chat: true`"),
    "part": ([USER], {"prompt": "So: {talk.turns}"}, "field 'talk.turns' is a list, not text"),
}


@pytest.mark.parametrize("case", BAD_MESSAGES)
def test_prompt__other_messages_are_bad_rows(case: str, tmp_path: Path) -> None:
    messages, options, message = BAD_MESSAGES[case]
    with pytest.raises(ValueError, match=rf"chats.jsonl, row \d: .*{re.escape(message)}"):
        chat_task(tmp_path, messages, **options).examples("train")


# --- answers in other forms ---


@pytest.mark.parametrize(
    ("verifier", "answer", "right", "wrong"),
    [
        ("yes_no", True, "Yes", "No"),
        ("yes_no", False, "False", "True"),
        ("yes_no", ["no"], "No", "Yes"),
        ("exact", True, "true", "false"),
        ("exact", ["a", "b"], "b", "a, b"),
        ("numeric", [3], "3", "4"),
        ("numeric", ["3"], "3.0", "4"),
        ("math", [r"\frac{1}{2}"], "0.5", "2"),
        ("choice", ["B"], "B", "A"),
    ],
)
def test_answer__forms_with_one_meaning(
    verifier: str, answer: Any, right: str, wrong: str, tmp_path: Path
) -> None:
    rows = [{"q": "1?", "a": answer}, {"q": "2?", "a": answer}]
    path = str(write(tmp_path / "a.jsonl", rows))
    task = DataTask(
        Declaration("mine", path=path, prompt="q", answer="a", verifier=verifier, test=1)
    )
    for split in get_args(Split):
        (example,) = task.examples(split)
        texts = [f"\\boxed{{{text}}}" for text in (right, wrong)]
        assert [r.reward for r in task.verify([example] * 2, texts)] == [1, 0]


@pytest.mark.parametrize(
    ("verifier", "answer"),
    [
        *(("numeric", answer) for answer in ([3, 4], [], True, [True], [[3]])),
        *(("math", answer) for answer in (["3", "4"], [], ["3", "3"])),
        *(("choice", answer) for answer in (["A", "B"], True)),
        *(("yes_no", answer) for answer in ([True, False], 1, "perhaps")),
        *(("exact", answer) for answer in ([], 0.5, ["a", 0.5], {"a": 1})),
    ],
)
def test_answer__forms_with_several_meanings_are_bad_rows(
    verifier: str, answer: Any, tmp_path: Path
) -> None:
    path = str(write(tmp_path / "a.jsonl", [{"q": f"{i}?", "a": answer} for i in range(3)]))
    task = DataTask(
        Declaration("mine", path=path, prompt="q", answer="a", verifier=verifier, test=1)
    )
    with pytest.raises(ValueError, match=r"a.jsonl, row \d: .*; mend it, or leave such rows out"):
        task.examples("train")


def test_verify__a_users_verifier_gets_lists_as_they_are(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.jsonl", [{"q": f"{i}?", "a": ["x"]} for i in range(2)]))
    name = f"{__name__}:of_lists"
    task = DataTask(Declaration("mine", path=path, prompt="q", answer="a", verifier=name, test=1))
    assert task.reward(task.examples("train")[0], "x") == 1


def of_lists() -> Any:
    """A verifier whose answers are lists."""
    return lambda answers, texts: [
        Verification(float(isinstance(a, list) and t in a))
        for a, t in zip(answers, texts, strict=True)
    ]


# --- conditions by name ---


def test_where__a_condition_may_be_part_of_the_key(tmp_path: Path) -> None:
    rows = [{"q": f"{i}?", "d": {"level": f"L{i % 3}", "n": i}, "a": i} for i in range(9)]
    path = str(write(tmp_path / "a.jsonl", rows))
    more: dict[str, Any] = {"path": path, "prompt": "q", "answer": "a", "verifier": "numeric"}
    where = {"d.level.matches": "[12]", "d.level.not_matches": "2", "d.n.integer": True}
    task = DataTask(Declaration("mine", where=where, test=1, **more))
    assert {task.answer(e) for s in get_args(Split) for e in task.examples(s)} == {1, 4, 7}


INVALID_DECLARATIONS: dict[str, tuple[str, str]] = {
    "no YAML": ("a: [", "my.yaml is not YAML: while parsing"),
    "no keys": ("- a\n", "my.yaml holds no keys; see"),
    "twice": ("path: a\nprompt: q\npath: b\n", "my.yaml is not YAML: 'path' is given twice in"),
    "deep": ("where: " + "[" * 500, "my.yaml is not YAML: it is nested too deeply"),
    "unknown": ("promt: q\n", "my.yaml: promt is not a key of a task: name, data, config"),
    "type": ("prompt: 3\n", "my.yaml: prompt: 3 is not of type str | list[str]"),
    "bool": ("train: true\n", "my.yaml: train: True is not of type int | None"),
    "no data": ("prompt: q\n", "my.yaml: data: neither a data set nor a path is given"),
    "no prompt": ("path: a.csv\nanswer: a\n", "my.yaml: prompt: none given; name the field"),
    "no answer": ("path: a.csv\nprompt: a\n", "my.yaml: answer: none given; name the field"),
    "no size": ("path: a.csv\nprompt: a\nanswer: b\n", "my.yaml: test: training and test problems"),
    "no test": ("path: {train: a}\nprompt: a\nanswer: b\n", "does not name a train and a test sp"),
    "minus": ("path: a\nprompt: a\nanswer: b\ntest: -1\n", "test: -1 is not a whole number ≥ 0"),
}
VALID = "path: a.csv\nprompt: a\nanswer: b\ntest: 1\n"
INVALID_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "extract": ({"extract": "last"}, "extract: 'last' is none of 'after …', 'regex …', boxed"),
    "groups": ({"extract": "regex 1|2"}, "extract: '1|2' has 0 groups, not one"),
    "regex": ({"extract": "regex ("}, "extract: '(' is not a regular expression: "),
    "test": ({"where": {"a": {"like": "x"}}}, "a: like: 'x' is no condition; give a value, a"),
    "pattern": ({"where": {"a": {"matches": "("}}}, "a.matches: '(' is not a regular expression"),
    "prompt": ({"prompt": "What is it?"}, "prompt: 'What is it?' is neither a field nor has a"),
    "unknown": ({"sise": 3}, "task_args.sise is not a key of a task: name, data"),
    "type": ({"train": "all"}, "task_args.train: 'all' is not of type int | None"),
    "verifier": ({"verifier": "maths"}, "maths"),
    "option": ({"verifier_args": {"colour": 1}}, "colour"),
    "delimiter": ({"delimiter": ""}, "it is empty; give the text that ends a thought"),
}


@pytest.mark.parametrize("case", INVALID_DECLARATIONS)
def test_read__invalid_declarations_are_refused(case: str, tmp_path: Path) -> None:
    text, message = INVALID_DECLARATIONS[case]
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(ValueError) as raised:
        make_task(str(tmp_path / "my.yaml"))
    assert message in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("case", INVALID_OPTIONS)
def test_make_task__invalid_options_are_refused(case: str, tmp_path: Path) -> None:
    options, message = INVALID_OPTIONS[case]
    (tmp_path / "my.yaml").write_text(VALID)
    with pytest.raises(ValueError) as raised:
        make_task(str(tmp_path / "my.yaml"), **options)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_read__a_missing_file_is_refused() -> None:
    with pytest.raises(ValueError, match=r"task: no/such.yaml cannot be read: No such file"):
        make_task("no/such.yaml")


def test_declaration__every_key_is_documented() -> None:
    lines = (Declaration.__doc__ or "").splitlines()
    heads = [line.split(" : ")[0].strip() for line in lines if " : " in line]
    named = [name for head in heads for name in head.split(", ")]
    assert named == list(Declaration.__dataclass_fields__)
