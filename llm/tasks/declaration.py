r"""Tasks declared in YAML: data, prompts, answers and verifier.

`llm/tasks/data/` holds the declarations of this package; `--task` takes their names. Your own
declaration has the same form:

    path: problems.jsonl          # or data: a hub name; JSON lines, JSON, CSV, TSV or Parquet
    prompt: question              # a field, or text with {field}s
    answer: solution              # a field ...
    extract: boxed                # ... and which part of it
    verifier: math
    test: 100                     # held out (or .1, a share); the others are for training

`--task my.yaml --task_args.test 50` overrides: every key is an option of `task_args`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

from llm.common.arguments import fits, from_text
from llm.common.yaml_text import read_yaml

DECLARATIONS = Path(__file__).parent / "data"

INSTRUCTION = (
    "Reason step by step. End every step of your reasoning with {delimiter}, and after the last "
    "one give the final answer as \\boxed{answer}."
)


@dataclass(frozen=True)
class Declaration:
    r"""A task over a data set.

    Parameters
    ----------
    name : str
        Name in messages: the stem of the file.
    data : str
        Name of a data set on the Hugging Face hub.
    config : str or list of str, optional
        Configuration (subset) of the data set; several are concatenated.
    revision : str, optional
        Commit, tag or branch of the data set; by default the newest.
    files : str or list of str, optional
        Files of the data set's repository, for data sets that cannot be loaded by name.
    path : str, list of str, or dict, optional
        Local files, used instead of the hub: JSON lines, JSON, CSV and TSV in UTF-8, also
        compressed (.gz), or Parquet. `*` and `?` as in a shell. In a declaration, relative to its
        folder; on the command line, relative to the working directory.
        `{train: a.jsonl, test: b.jsonl}` gives named splits.
    split : str or dict
        Split of the data set from which both `train` and `test` problems are drawn; or named
        splits, as in `{train: train, test: validation}`.
    prompt : str or list of str
        A field, or text with {field}s. Of a list, parts whose fields are all empty are omitted.
        `a.b` is field b of field a. Choices are written one per line, after their labels. One
        field may also hold chat messages, the last of them the user's: instructions are added to
        that one.
    answer : str
        Field with the answer. A list may hold one answer, and for `exact` several accepted ones.
    extract : str
        Part of the answer field: "after ####", "boxed" (content of the last balanced \boxed{}),
        "regex …" (its group), "json", or "livecodebench" (the tests of a row of that data set).
    id : str
        Field with the problem's name; by default file and row.
    where : dict
        Conditions that a row must meet, by field. Each is a value, a list of values, or any of
        `matches: regex`, `not_matches: regex`, `integer: true`, `balanced: true` (brackets). On
        the command line `--task_args.where.FIELD.matches REGEX`.
    answer_where : dict, list or value, optional
        Condition on the extracted answer; rows without an answer are then omitted.
    train : int, optional
        Maximum number of training problems; by default the whole named split, or all that `test`
        leaves.
    test : int or float, optional
        Maximum number of held-out problems, or their share of the rows, below 1; by default the
        whole named split.
    shots : int
        Worked examples before each question. They are drawn from the training problems, and are
        not trained on.
    worked : str
        Solution of a worked example: a field, or text with {field}s; by default the answer field.
        {delimiter} stands for the delimiter. The verifier must find it right.
    seed : int
        Seed of the order in which problems are drawn.
    bad_rows : {"error", "drop"}
        What to do with a bad row: a field is missing, the answer cannot be verified, the prompt is
        too long, or a training problem is also a test problem.
    max_prompt_chars : int
        Maximum characters of a problem.
    system : str
        System message.
    instruction : str
        Text after the problem; {delimiter} stands for the delimiter.
    chat : bool
        Prompt with chat messages, through the model's template; otherwise with plain text.
    chat_template_kwargs : dict
        Variables of the model's template, as in `{enable_thinking: false}`.
    verifier : str
        Name of a verifier (math, numeric, choice, yes_no, exact, code, format), or module:function.
    verifier_args : dict
        Options of the verifier.
    reward : dict
        Several rewards with weights instead of one verifier: `{math: 1, format: .1}`. An entry is a
        weight ≥ 0, or `{weight: .1}` with options. The first one decides: a success has a reward of
        at least its weight. Means are logged as rewards/NAME/mean.
    delimiter : str
        Text that ends a thought.
    stop : list of str
        Texts of single tokens that end an episode, besides EOS.
    """

    name: str
    data: str = ""
    config: str | list[str] | None = None
    revision: str | None = None
    files: str | list[str] | None = None
    path: str | list[str] | dict[str, str | list[str]] | None = None
    split: str | dict[str, str] = "train"
    prompt: str | list[str] = ""
    answer: str = ""
    extract: str = ""
    id: str = ""
    where: dict[str, Any] = field(default_factory=dict)
    answer_where: Any = None
    train: int | None = None
    test: int | float | None = None
    shots: int = 0
    worked: str = ""
    seed: int = 0
    bad_rows: Literal["error", "drop"] = "error"
    max_prompt_chars: int = 20_000
    system: str = ""
    instruction: str = INSTRUCTION
    chat: bool = True
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    verifier: str = "math"
    verifier_args: dict[str, Any] = field(default_factory=dict)
    reward: dict[str, Any] = field(default_factory=dict)
    delimiter: str = "</thought>"
    stop: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.data and not self.path:
            raise ValueError("data: neither a data set nor a path is given; name one")
        for key in ("prompt", "answer"):
            if not getattr(self, key):
                raise ValueError(f"{key}: none given; name the field that holds it")
        if "\\n" in self.delimiter:
            raise ValueError(
                f"delimiter: {self.delimiter!r} holds a backslash and an n, not the end of a line; "
                "in a shell write $'\\n\\n', in YAML \"\\n\\n\""
            )
        for key in ("train", "shots"):
            if (getattr(self, key) or 0) < 0:
                raise ValueError(f"{key}: {getattr(self, key)} is not a whole number ≥ 0")
        whole = isinstance(self.test, int) and self.test >= 0
        if not (self.test is None or whole or 0 < self.test < 1):
            raise ValueError(
                f"test: {self.test} is not a whole number ≥ 0, nor a share of the rows below 1"
            )
        if self.chat_template_kwargs and not self.chat:
            raise ValueError("chat_template_kwargs: with chat false no template is used; drop one")
        if self.seed < 0 or self.max_prompt_chars < 1:
            raise ValueError(
                f"seed={self.seed}, max_prompt_chars={self.max_prompt_chars}: must be ≥ 0 and ≥ 1"
            )
        for key in ("path", "split"):
            value = getattr(self, key)
            if isinstance(value, dict) and value.keys() != {"train", "test"}:
                raise ValueError(f"{key}: {value} does not name a train and a test split")
        if not self.named_splits and self.test is None:
            raise ValueError(
                "test: training and test problems come from one split; say how many are held out, "
                "as by --task_args.test 100"
            )

    @property
    def named_splits(self) -> bool:
        """Whether training and test problems come from separate splits."""
        return isinstance(self.split if self.path is None else self.path, dict)


def declared() -> dict[str, Path]:
    """Return the paths of the declarations of this package, by name."""
    return {path.stem: path for path in sorted(DECLARATIONS.glob("*.yaml"))}


def read(path: Path, options: Mapping[str, Any]) -> Declaration:
    """Read a declaration and override its keys by the options of `task_args`.

    `where`, `verifier_args` and `chat_template_kwargs` are merged; other keys are replaced.

    Raises
    ------
    ValueError
        If the file is no declaration, or a key is unknown or has the wrong type.
    """
    try:
        content = read_yaml(path)
    except OSError as error:
        raise ValueError(f"task: {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"task: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"task: {path} holds no keys; see {DECLARATIONS / 'gsm8k.yaml'}")
    kinds = get_type_hints(Declaration)
    values: dict[str, Any] = {"name": path.stem}
    for where, given in ((f"{path}: ", content), ("task_args.", options)):
        for key, value in given.items():
            if key not in kinds:
                raise ValueError(f"{where}{key} is not a key of a task: {', '.join(kinds)}")
            if not fits(value, kinds[key]):
                kind = Declaration.__annotations__[key]
                raise ValueError(f"{where}{key}: {value!r} is not of type {kind}")
            if key == "path" and given is content:
                value = _relative(value, path.parent)
            if key == "verifier_args" and given is options:
                # Text in the settings of earlier versions' runs.
                value = {
                    k: from_text(v, Any) if isinstance(v, str) else v for k, v in value.items()
                }
            if key in ("where", "verifier_args", "chat_template_kwargs"):
                value = {**values.get(key, {}), **value}
            values[key] = value
    try:
        return Declaration(**values)
    except ValueError as error:
        raise ValueError(f"task: {path}: {error}") from None


def _relative(value: Any, folder: Path) -> Any:
    """Resolve the paths of a declaration relative to its folder."""
    if isinstance(value, dict):
        return {key: _relative(each, folder) for key, each in value.items()}
    if isinstance(value, list):
        return [_relative(each, folder) for each in value]
    return value and str(folder / Path(value).expanduser())
