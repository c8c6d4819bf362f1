"""Records of the rollouts of training steps: `RUN/rollouts/step-000012.jsonl`, a line per group.

`python -m llm.show` displays them. Texts are for people; token ids and masks show which tokens were
trained on. The trainer reads nothing back.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from cpi.core.collect import Group
from cpi.core.episodes import Episode, Steps
from cpi.core.plans import GroupPlan
from envs.tabular import FloatArray
from llm.common.atomic_files import write_whole
from llm.resets.quality import SeedWeights
from llm.tasks.task import PromptText
from llm.thoughts.simulator import Thought, is_cut, token_ids

Kind = Literal["fresh", "reset", "fallback"]
KINDS: tuple[Kind, ...] = ("fresh", "reset", "fallback")

_FILE = re.compile(r"step-(\d+)\.jsonl")


class Continuation(TypedDict):
    """The suffix of an episode, after the prefix that its group shares.

    `tokens` were trained on and `generated` were sampled, including those after a cut. `ids` are
    the token ids of the completion, prefix included; `mask` is 1 for each token trained on. An
    `end` of "open" marks a segment that other episodes continue.
    """

    thoughts: list[str]
    reward: float
    advantage: float
    end: Literal["stop", "cut", "open"]
    tokens: int
    generated: int
    ids: list[int]
    mask: list[int]


class Seed(TypedDict):
    """The seed episode of a reset group.

    `weights` are those of the reset rule, one per thought. `first_error` is the first wrong thought
    according to the task's step checker, counted from 1. Both are None if unknown.
    """

    thoughts: list[str]
    reward: float
    weights: list[float] | None
    first_error: int | None
    why: str


class _Answer(TypedDict, total=False):
    """The reference answer of a problem; earlier versions did not record it."""

    answer: str


class Record(_Answer):
    """A group: episodes that share a prompt and a prefix.

    `kind` is "fallback" for a fresh group that replaces a reset without a seed episode. `group`
    numbers the groups of a step, `start` its prompts.
    """

    step: int
    group: int
    start: int
    id: str
    kind: Kind
    prompt: PromptText
    prompt_tokens: int
    prefix: list[str]
    prefix_tokens: int
    seed: Seed | None
    continuations: list[Continuation]


def step_records(
    step: int,
    groups: Sequence[Group],
    advantages: Sequence[FloatArray],
    plan: GroupPlan,
    *,
    rule: str,
    seed_weights: Sequence[SeedWeights] = (),
    mask_truncated_completions: bool = False,
) -> list[Record]:
    """Records of the groups that `cpi.collect` returned for one step.

    Parameters
    ----------
    step : int
    groups : sequence of Group
        In the order of `collect`.
    advantages : sequence of arrays (G,)
    plan : GroupPlan
        Plan of the collection; it determines which groups should have been resets.
    rule : str
        Name of the rule that chose the reset steps, such as "srpo prompted".
    seed_weights : sequence of SeedWeights
        The weights that the rule gave the seed episodes.
    mask_truncated_completions : bool
        Whether cut episodes were left out of training, as in `llm.learner.rows.make_rows`.
    """
    weights_by_seed = {id(weights.episode): weights for weights in seed_weights}
    fresh_groups = int(plan.fresh > 0)  # per start; they come first
    groups_seen: Counter[int] = Counter()
    records = []
    for number, (group, values) in enumerate(zip(groups, advantages, strict=True)):
        reset_planned = groups_seen[group.start] >= fresh_groups
        groups_seen[group.start] += 1
        number_of_reset = groups_seen[group.start] - fresh_groups
        records.append(
            group_record(
                step,
                number,
                group,
                values,
                reset_planned=reset_planned,
                rule=f"{rule}, reset {number_of_reset}" if plan.retries else rule,
                seed_weights=weights_by_seed.get(id(group.seed)),
                mask_truncated_completions=mask_truncated_completions,
            )
        )
    return records


def group_record(
    step: int,
    number: int,
    group: Group,
    advantages: ArrayLike,
    *,
    reset_planned: bool,
    rule: str = "",
    seed_weights: SeedWeights | None = None,
    mask_truncated_completions: bool = False,
) -> Record:
    """The record of one group.

    Parameters
    ----------
    step, number : int
        The training step, and the number of the group in it.
    group : Group
        A group of a `llm.thoughts.simulator.ThoughtSimulator`.
    advantages : array (G,)
    reset_planned : bool
        Whether the plan has a reset group here. Without a seed, the group is then a fallback.
    rule : str
        Name of the rule that chose the reset step, such as "srpo prompted".
    seed_weights : SeedWeights, optional
        The weights that the rule gave the seed episode.
    mask_truncated_completions : bool
        Whether cut episodes were left out of training.

    Raises
    ------
    ValueError
        If there is not one advantage per episode, or a number is not finite.
    """
    location = f"step {step}, group {number}"
    numbers = np.asarray(advantages, dtype=np.float64).tolist()
    if len(numbers) != len(group.episodes):
        raise ValueError(
            f"{location}: {len(numbers)} advantages for {len(group.episodes)} episodes"
        )
    seed = None if group.seed is None else _seed(group, group.seed, rule, seed_weights)
    record = Record(
        step=step,
        group=number,
        start=group.start,
        id=group.prefix.start.example.id,
        kind="reset" if seed is not None else "fallback" if reset_planned else "fresh",
        prompt=group.prefix.start.example.prompt,
        prompt_tokens=len(group.prefix.start.ids),
        answer=group.prefix.start.answer,
        prefix=_texts(group.prefix.steps),
        prefix_tokens=len(token_ids(_thoughts(group.prefix.steps))),
        seed=seed,
        continuations=[
            _continuation(group, episode, value, mask_truncated_completions)
            for episode, value in zip(group.episodes, numbers, strict=True)
        ],
    )
    # JSON has neither NaN nor infinity: raise an error that names the bad value.
    for name, values in [("advantages", numbers), ("rewards", group.returns.tolist())]:
        if not all(map(math.isfinite, values)):
            raise ValueError(f"{location}: {name} {values} are not all finite numbers")
    return record


def _seed(group: Group, episode: Episode, rule: str, weights: SeedWeights | None) -> Seed:
    first = None if weights is None else weights.first_error
    place = f"step {group.prefix.length + 1} of {episode.length}"
    return Seed(
        thoughts=_texts(episode.steps),
        reward=float(episode.ret),
        weights=None if weights is None else [float(w) for w in weights.weights],
        first_error=None if first is None else first + 1,
        why=f"{rule}: {place}" if rule else place,
    )


def _continuation(
    group: Group, episode: Episode, advantage: float, mask_truncated_completions: bool
) -> Continuation:
    ids = token_ids(_thoughts(episode.steps))
    kept = len(token_ids(_thoughts(group.prefix.steps)))
    ends: dict[str, Literal["stop", "cut", "open"]] = {"stop": "stop", "cut": "cut"}
    trained = 0 if mask_truncated_completions and is_cut(episode) else len(ids) - kept
    return Continuation(
        thoughts=_texts(episode.steps[group.prefix.length :]),
        reward=float(episode.ret),
        advantage=advantage,
        end=ends.get(episode.steps[-1].end, "open"),
        tokens=trained,
        generated=episode.cost,
        ids=ids,
        mask=[int(kept <= position < kept + trained) for position in range(len(ids))],
    )


def _thoughts(steps: Steps) -> list[Thought]:
    return list(steps)


def _texts(steps: Steps) -> list[str]:
    return [thought.text for thought in _thoughts(steps)]


def write_rollouts(run: Path, step: int, records: Sequence[Record]) -> Path:
    """Write the groups of a step to the run's folder atomically; returns the file."""
    path = run / "rollouts" / f"step-{step:06}.jsonl"
    lines = [json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records]
    # A lone surrogate, which UTF-8 cannot encode, becomes \udc00: that is also JSON's escape.
    write_whole(path, "".join(lines), errors="backslashreplace")
    return path


def rollout_files(run: Path) -> dict[int, Path]:
    """The rollout files of a run by step, in ascending order.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist or has no rollouts.
    """
    if not run.is_dir():
        raise FileNotFoundError(f"{run}: no such run folder or rollouts file")
    files = {}
    for path in (run / "rollouts").glob("step-*.jsonl"):
        if match := _FILE.fullmatch(path.name):
            files[int(match[1])] = path
    if not files:
        raise FileNotFoundError(
            f"{run}: no rollouts/step-*.jsonl in it; a run keeps rollouts "
            "if its setting rollout_steps is not 0"
        )
    return dict(sorted(files.items()))


def read_rollouts(path: Path) -> list[Record]:
    """The records of one rollout file.

    Raises
    ------
    ValueError
        If a line is not a record; the message names the line.
    """
    records: list[Record] = []
    # Read as bytes: in text mode, Python also ends lines at other characters.
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                _check(record)
            except (ValueError, TypeError, RecursionError) as error:
                raise ValueError(
                    f"{path}:{number}: not a rollouts record ({error}); remove the line, "
                    "or the file"
                ) from error
            records.append(record)
    return records


def _check(record: object) -> None:
    """Refuse a record that lacks a field."""
    _require_fields(record, Record)
    assert isinstance(record, dict)
    if record["kind"] not in KINDS:
        raise ValueError(f"kind {record['kind']!r} is none of {', '.join(KINDS)}")
    if record["seed"] is not None:
        _require_fields(record["seed"], Seed)
    for continuation in record["continuations"]:
        _require_fields(continuation, Continuation)


def _require_fields(value: object, form: type) -> None:
    fields: frozenset[str] = form.__required_keys__  # type: ignore[attr-defined]
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} in place of a {form.__name__.lower()}")
    missing = [name for name in form.__annotations__ if name in fields - value.keys()]
    if missing:
        raise ValueError(f"a {form.__name__.lower()} without {', '.join(missing)}")
