"""What training steps rolled out, as files: `RUN/rollouts/step-000012.jsonl`, a line per group.

`python -m llm.show` draws them. Texts are for people, token ids and masks for checks of what was
trained on; nothing is read back by the trainer.
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
    """An episode of a group, from the shared prefix on.

    `tokens` of it were trained on, `generated` were sampled (also those after a cut). `ids` are of
    the whole completion, prefix included; `mask` has a 1 for each token that was trained on. One
    whose end is "open" is a part that others go on from.
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
    """The episode that was reset.

    `weights` are the reset rule's, one a thought; `first_error` is the first wrong thought, counted
    from 1, by the task's step checker. Both are None where unknown.
    """

    thoughts: list[str]
    reward: float
    weights: list[float] | None
    first_error: int | None
    why: str


class Record(TypedDict):
    """A group: episodes that share a prompt and a prefix.

    `kind` is "fallback" for a fresh group in place of a reset that found nothing to start from.
    `group` numbers the groups of a step, `start` its prompts.
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
    verdicts: Sequence[SeedWeights] = (),
    mask_truncated_completions: bool = False,
) -> list[Record]:
    """The records of what `cpi.collect` gave for one step.

    Parameters
    ----------
    step : int
    groups : sequence of Group
        In the order in which `collect` gives them.
    advantages : sequence of arrays (G,)
    plan : GroupPlan
        The one collected with: it says which groups should have been resets.
    rule : str
        Who chose the reset steps, such as "srpo prompted".
    verdicts : sequence of Verdict
        What the rule said of the seeds.
    mask_truncated_completions : bool
        Whether cut episodes were left out of training, as in `llm.learner.rows.make_rows`.
    """
    said = {id(verdict.episode): verdict for verdict in verdicts}
    fresh_groups = int(plan.fresh > 0)  # of each start; they come first
    before: Counter[int] = Counter()
    records = []
    for number, (group, values) in enumerate(zip(groups, advantages, strict=True)):
        reset_planned = before[group.start] >= fresh_groups
        before[group.start] += 1
        records.append(
            group_record(
                step,
                number,
                group,
                values,
                reset_planned=reset_planned,
                rule=rule,
                verdict=said.get(id(group.seed)),
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
    verdict: SeedWeights | None = None,
    mask_truncated_completions: bool = False,
) -> Record:
    """One group as plain data.

    Parameters
    ----------
    step, number : int
        The training step, and the group's place in it.
    group : Group
        Of a `llm.thoughts.simulator.ThoughtSimulator`.
    advantages : array (G,)
    reset_planned : bool
        Whether the plan wanted a reset here: without a seed, the group is then a fallback.
    rule : str
        Who chose the reset step, such as "srpo prompted".
    verdict : Verdict, optional
        What the rule said of the seed.
    mask_truncated_completions : bool
        Whether cut episodes were left out of training.

    Raises
    ------
    ValueError
        If there is not one advantage per episode, or a number is not finite.
    """
    where = f"step {step}, group {number}"
    numbers = np.asarray(advantages, dtype=np.float64).tolist()
    if len(numbers) != len(group.episodes):
        raise ValueError(f"{where}: {len(numbers)} advantages for {len(group.episodes)} episodes")
    seed = None if group.seed is None else _seed(group, group.seed, rule, verdict)
    record = Record(
        step=step,
        group=number,
        start=group.start,
        id=group.prefix.start.example.id,
        kind="reset" if seed is not None else "fallback" if reset_planned else "fresh",
        prompt=group.prefix.start.example.prompt,
        prompt_tokens=len(group.prefix.start.ids),
        prefix=_texts(group.prefix.steps),
        prefix_tokens=len(token_ids(_thoughts(group.prefix.steps))),
        seed=seed,
        continuations=[
            _continuation(group, episode, value, mask_truncated_completions)
            for episode, value in zip(group.episodes, numbers, strict=True)
        ],
    )
    # JSON has no NaN and no infinity; a run that meets one should hear of it here, by name.
    for name, found in [("advantages", numbers), ("rewards", group.returns.tolist())]:
        if not all(map(math.isfinite, found)):
            raise ValueError(f"{where}: {name} {found} are not all finite numbers")
    return record


def _seed(group: Group, episode: Episode, rule: str, verdict: SeedWeights | None) -> Seed:
    first = None if verdict is None else verdict.first_error
    place = f"step {group.prefix.length + 1} of {episode.length}"
    return Seed(
        thoughts=_texts(episode.steps),
        reward=float(episode.ret),
        weights=None if verdict is None else [float(w) for w in verdict.weights],
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
    """Write all groups of a step to the run's folder, or nothing; returns the file."""
    path = run / "rollouts" / f"step-{step:06}.jsonl"
    lines = [json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records]
    # Half a surrogate pair, which UTF-8 cannot hold, becomes \udc00: as it happens, JSON's escape.
    write_whole(path, "".join(lines), errors="backslashreplace")
    return path


def rollout_files(run: Path) -> dict[int, Path]:
    """The rollouts files of a run's folder by step, in order of steps.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or it has no rollouts.
    """
    if not run.is_dir():
        raise FileNotFoundError(f"{run}: no such run folder or rollouts file")
    found = {}
    for path in (run / "rollouts").glob("step-*.jsonl"):
        if match := _FILE.fullmatch(path.name):
            found[int(match[1])] = path
    if not found:
        raise FileNotFoundError(
            f"{run}: no rollouts/step-*.jsonl in it; a run keeps rollouts "
            "if its setting rollout_steps is not 0"
        )
    return dict(sorted(found.items()))


def read_rollouts(path: Path) -> list[Record]:
    """The records of one file.

    Raises
    ------
    ValueError
        If a line is not a record; the message says which.
    """
    records: list[Record] = []
    # As bytes, because text may hold characters at which Python, too, would end a line.
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
    """Refuse what lacks a field, so that readers need not look."""
    _need(record, Record)
    assert isinstance(record, dict)
    if record["kind"] not in KINDS:
        raise ValueError(f"kind {record['kind']!r} is none of {', '.join(KINDS)}")
    if record["seed"] is not None:
        _need(record["seed"], Seed)
    for continuation in record["continuations"]:
        _need(continuation, Continuation)


def _need(value: object, form: type) -> None:
    fields = form.__annotations__
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} in place of a {form.__name__.lower()}")
    missing = [name for name in fields if name not in value]
    if missing:
        raise ValueError(f"a {form.__name__.lower()} without {', '.join(missing)}")
