"""Problems of reasoning-gym, generated and scored by its data sets.

`--task reasoning_gym:NAME` takes any of them; their arguments are arguments of the task:

    --task reasoning_gym:chain_sum --task_args.min_terms 3 --task_args.max_terms 3
    --task reasoning_gym:composite --task_args.datasets '{chain_sum: 2, leg_counting: 1}'

An entry of `datasets` is a weight, or `{weight: 2, min_terms: 3}` with arguments of the data set.

The answer is the content of the last `<answer>…</answer>`, as in reasoning-gym itself. The reward
is the data set's `score_answer`, which may be a part of 1; a success has 1.
"""

from __future__ import annotations

import base64
import dataclasses
import difflib
import importlib.util
import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from llm.common.arguments import kinds_of
from llm.common.plugins import import_object, plugin_errors
from llm.tasks.delimiters import after_thinking, without_delimiters
from llm.tasks.prompts import Shot, prompt_of
from llm.tasks.task import Example, Split, Task
from llm.verifiers import Verification
from llm.verifiers.workers import WorkerPool

PREFIX = "reasoning_gym:"

INSTRUCTION = (
    "Reason step by step. End every step of your reasoning with {delimiter}, and after the last "
    "one give the final answer as <answer>answer</answer>."
)

#: Distance between the seeds of splits. Item i of a data set has the seed `seed + i`, so the items
#: of neighbouring seeds are the same.
APART = 1_000_000_000


class Scoring(NamedTuple):
    """Request to `llm.tasks.reasoning_gym_worker`.

    Attributes
    ----------
    name, config : str
        Data set, and its arguments as JSON.
    entry : str
        Pickled problem, in base 64.
    answer : str
    """

    name: str
    config: str
    entry: str
    answer: str


class ReasoningGym(Task):
    """Problems of a data set of reasoning-gym.

    Parameters
    ----------
    name : str
        Name of the data set.
    train, test : int
        Number of problems; repeated ones are left out.
    seed : int
        Seed of the problems. Training, held-out and worked problems have seeds far apart.
    shots : int
        Problems shown with their answers before each question.
    worked : str
        module:function from an item of the data set to the solution shown, whose answer must score
        1; by default the answer alone.
    chat : bool
        Prompt with chat messages, through the model's template; otherwise with plain text.
    chat_template_kwargs : dict
        Variables of the model's template.
    system : str
        System message.
    instruction : str
        Text after the problem; {delimiter} stands for the delimiter.
    delimiter : str
        Text that ends a thought.
    stop : list of str
        Texts of single tokens that end an episode, besides EOS.
    timeout : float
        Seconds for scoring one answer.
    **config
        Arguments of the data set.

    Raises
    ------
    ValueError
        If reasoning-gym is not installed, has no such data set, or the data set refuses an
        argument.
    """

    def __init__(
        self,
        name: str,
        *,
        train: int = 1000,
        test: int = 200,
        seed: int = 0,
        shots: int = 0,
        worked: str = "",
        chat: bool = True,
        chat_template_kwargs: dict[str, Any] | None = None,
        system: str = "",
        instruction: str = INSTRUCTION,
        delimiter: str = "</thought>",
        stop: Sequence[str] = (),
        timeout: float = 10.0,
        **config: Any,
    ) -> None:
        for key, size, least in (("train", train, 1), ("test", test, 1), ("shots", shots, 0)):
            if not least <= size < APART:
                raise ValueError(f"task_args.{key}: {size} is not a whole number ≥ {least}")
        if not 0 <= seed <= APART - max(train, test, shots):
            raise ValueError(f"task_args.seed: {seed} is not in 0 … {APART - max(train, test)}")
        self.name, self.sizes, self.seed = name, (train, test, shots), seed
        self.worked = import_object(worked, "task_args.worked") if worked else None
        self.chat_template_kwargs = chat_template_kwargs or {}
        self.chat, self.system, self.instruction = chat, system, instruction
        self.delimiter, self.stop, self.config = delimiter, tuple(stop), config
        check_config(name, config)
        self._workers = WorkerPool(timeout, 1, 2048, "llm.tasks.reasoning_gym_worker")
        self._notes: list[str] = []
        self._splits: dict[str, list[Example]] = {}
        self._made = make_dataset(name, config, seed, 1)

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}"

    def examples(self, split: Split) -> Sequence[Example]:
        """See `Task.examples`."""
        if not self._splits:
            train, test, shots = self.sizes
            seen = set[str]()
            worked = [self._shot(entry) for entry in self._entries(2, shots, seen, "shots")]
            for number, part, size in ((1, "test", test), (0, "train", train)):
                self._splits[part] = [
                    self._example(f"{self.name}-{part}-{i}", entry, worked)
                    for i, entry in enumerate(self._entries(number, size, seen, part))
                ]
        return self._splits[split]

    def notes(self) -> Sequence[str]:
        """See `Task.notes`."""
        return self._notes

    def _entries(
        self, part: int, size: int, seen: set[str], label: str
    ) -> Iterator[dict[str, Any]]:
        """Yield problems that are not in `seen`, and add them to it."""
        if not size:
            return
        dataset, kept = make_dataset(self.name, self.config, self.seed + part * APART, size), 0
        for i in range(size):
            entry = dataset[i]
            if (key := " ".join(entry["question"].split())) not in seen:
                seen.add(key)
                kept += 1
                yield entry
        if not kept:
            raise ValueError(
                f"task_args.{label}: {self} has no {label} problem left: all {size} repeat others, "
                "as its arguments allow too few problems"
            )
        if kept < size:
            self._notes.append(
                f"task: {self}: {kept} {label} problems, {size} asked for; {size - kept} repeat a "
                "problem"
            )

    def _shot(self, entry: dict[str, Any]) -> Shot:
        """Worked example of a problem."""
        if self.worked is None:
            return Shot(entry["question"], f"<answer>{entry['answer']}</answer>")
        with plugin_errors(f"task_args.worked of {self}", self.worked):
            solution = str(self.worked(entry))
        if self.reward(self._example("worked", entry, []), solution) < self.success:
            raise ValueError(
                f"task_args.worked: {self} does not score {solution[-60:]!r} as right; write the "
                "answer as <answer>…</answer>"
            )
        return Shot(entry["question"], solution)

    def _example(self, name: str, entry: dict[str, Any], worked: Sequence[Shot]) -> Example:
        messages = [{"role": "user", "content": entry["question"]}]
        prompt = prompt_of(
            messages, self.chat, self.system, self.instruction, self.delimiter, worked
        )
        data = [str(entry["answer"]), base64.b64encode(pickle.dumps(entry)).decode()]
        return Example(name, prompt, data, entry["question"])

    def verify(self, examples: Sequence[Example], completions: Sequence[str]) -> list[Verification]:
        """Score the answers of completions; a scorer that takes too long has failed."""
        from reasoning_gym.utils import extract_answer

        config = json.dumps(self.config, sort_keys=True)
        texts = [without_delimiters(after_thinking(text), self.delimiter) for text in completions]
        requests = [
            Scoring(self.name, config, example.data[1], answer) if answer else None
            for example, answer in zip(examples, map(extract_answer, texts), strict=True)
        ]
        given = [request for request in requests if request is not None]
        results: Mapping[Scoring | None, Verification]
        if self._compares_text:
            results = {r: Verification(score(self._made, r.entry, r.answer)) for r in given}
        else:
            results = self._workers.verify_all(given) if given else {}
        return [results[r] if r is not None else Verification(0.0) for r in requests]

    @property
    def _compares_text(self) -> bool:
        """Whether the data set scores an answer by its text, which needs no process of its own."""
        from reasoning_gym.dataset import ProceduralDataset

        return bool(type(self._made).score_answer is ProceduralDataset.score_answer)

    def reward(self, example: Example, completion: str) -> float:
        """See `Task.reward`."""
        return self.verify([example], [completion])[0].reward


def check_name(name: str) -> None:
    """Check that there is such a data set.

    Raises
    ------
    ValueError
        If not; the message names the nearest ones.
    """
    _fields(name)


def argument_kinds(name: str) -> dict[str, Any]:
    """Types of the arguments of a data set and of the task; {} if there is no such data set."""
    try:
        fields = _fields(name)
    except ValueError:  # reported when the task is made
        return {}
    options = kinds_of(ReasoningGym.__init__)
    if name == "composite":
        fields["datasets"] = Any
    return fields | {key: kind for key, kind in options.items() if key != "config"}


def score(dataset: Any, entry: str, answer: str) -> float:
    """Score of an answer to a pickled problem."""
    return float(dataset.score_answer(answer, pickle.loads(base64.b64decode(entry))))


def check_config(name: str, config: Mapping[str, Any]) -> None:
    """Check that a data set and its arguments exist.

    Raises
    ------
    ValueError
        If not; the message names the nearest ones.
    """
    fields = _fields(name)
    if name == "composite":
        parts = config.get("datasets")
        if not isinstance(parts, Mapping) or not parts:
            raise ValueError(
                "task_args.datasets: composite needs data sets and weights, as in "
                "--task_args.datasets.chain_sum 2"
            )
        for part, value in parts.items():
            check_config(part, _part(part, value)[1])
        fields["datasets"] = Any
    for key in config:
        if key in ("size", "seed"):
            raise ValueError(f"task_args.{key}: the task has `train`, `test` and `seed` for that")
        if key not in fields:
            raise ValueError(f"task_args.{key}: {name} has no such argument; {_near(key, fields)}")


def make_dataset(name: str, config: Mapping[str, Any], seed: int, size: int) -> Any:
    """Make a data set of reasoning-gym.

    Raises
    ------
    ValueError
        If it refuses an argument.
    """
    import reasoning_gym
    from reasoning_gym.composite import DatasetSpec

    config = dict(config)
    if name == "composite":
        parts = [(part, *_part(part, value)) for part, value in config["datasets"].items()]
        config["datasets"] = [DatasetSpec(*part) for part in parts]
    try:
        return reasoning_gym.create_dataset(name, seed=seed, size=size, **config)
    except Exception as error:  # assertions, and whatever a wrong type causes
        cause = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"task_args: {name} refuses {json.dumps(config, default=str)}: {cause}"
        ) from error


def _part(name: str, value: Any) -> tuple[float, dict[str, Any]]:
    """Weight and arguments of a data set of a composite."""
    arguments = dict(value) if isinstance(value, Mapping) else {"weight": value}
    weight = arguments.pop("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0:
        raise ValueError(f"task_args.datasets.{name}: the weight {weight!r} is not a number > 0")
    return float(weight), arguments


def _fields(name: str) -> dict[str, Any]:
    """Types of the arguments of a data set."""
    if importlib.util.find_spec("reasoning_gym") is None:
        raise ValueError(
            "task: reasoning-gym is not installed; pip install 'credit-resets[reasoning-gym]'"
        )
    import typing

    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        raise ValueError(f"task: reasoning-gym has no data set {name!r}; {_near(name, DATASETS)}")
    config = DATASETS[name][1]
    try:
        hints = typing.get_type_hints(config)
    except Exception:  # an annotation that cannot be evaluated
        hints = {}
    return {field.name: hints.get(field.name, Any) for field in dataclasses.fields(config)}


def _near(name: str, names: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, names, 3, 0.5)
    return f"nearest: {', '.join(near)}" if near else f"there are {', '.join(names)}"
