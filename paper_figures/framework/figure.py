"""What a figure is: settings, how its data come about, how they are drawn, what they say.

Its data are recorded in results/NAME.json with settings, versions and commit, so that drawing needs
no experiment; a record whose settings are no longer the figure's, or whose inputs have changed, is
called stale.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cpi.reporting.json_files import write_json
from paper_figures import HOME
from paper_figures.framework.inputs import digest

if TYPE_CHECKING:
    import matplotlib.figure

#: JSON-able: what is recorded is what is drawn.
Data = dict[str, Any]
Verdict = Literal[
    "holds",
    "holds with a caveat",
    "mixed",
    "does not hold here",
    "not seen here",
    "not tested here",
]

#: Of a record; one of a figure that has inputs has those too.
_FIELDS = ("settings", "data", "environment")

NEED_A_REASON: tuple[Verdict, ...] = ("holds with a caveat", "mixed", "not tested here")


@dataclass(frozen=True)
class Claim:
    """A statement, what was found of it, and the verdict, which code draws from the data.

    Parameters
    ----------
    claim : str
        What the paper says, or what is ours.
    checked : str
        What was checked, and how.
    found : str
        The numbers.
    verdict : Verdict
        "not seen here" is that the data decide neither way, "mixed" that they say yes in one place
        and no in another.
    of : {"paper", "ours"}
        Whose statement it is; caveats to the paper's are ours.
    caveat : str
        Of "holds with a caveat": which; of "mixed": where; of "not tested here": why. May also be
        given of what does not hold or is not seen; not told of what plainly holds.

    Raises
    ------
    ValueError
        If a verdict that needs a reason has none.
    """

    claim: str
    checked: str
    found: str
    verdict: Verdict
    of: Literal["paper", "ours"] = "paper"
    caveat: str = ""

    def __post_init__(self) -> None:
        if self.verdict in NEED_A_REASON and not self.caveat:
            raise ValueError(f"caveat: {self.verdict!r} of {self.claim!r} needs a reason")

    @property
    def verdict_in_words(self) -> str:
        """The verdict, with its reason if it has one."""
        told = self.caveat and self.verdict != "holds"
        return f"{self.verdict}: {self.caveat}" if told else self.verdict


def limit(verdict: Verdict, caveat: str) -> str:
    """A caveat that makes sense only beside "holds with a caveat", for that verdict."""
    return caveat if verdict == "holds with a caveat" else ""


@dataclass(frozen=True)
class Figure:
    """One figure of the paper; its module ends with `FIGURE = Figure(...)`.

    Parameters
    ----------
    name : str
        Stem of its files.
    title : str
        Of its section in the report.
    caption : str
        What to see. Numbers are placeholders, `{arms[rr][slope]:.2f}`, filled from the data.
    settings : mapping
        All that the data depend on: seeds, sizes. JSON-able.
    compute : function of settings and progress
        The data; progress is told in a few words what comes next. Settings have also, if there are
        inputs, "inputs": name → path.
    draw : function of the data
        A matplotlib figure, made by `paper_figures.framework.style.blank`.
    claims : function of the data
        For the report.
    cheap : bool
        Takes seconds, so `--recompute` does it without being asked by name.
    inputs : tuple of str
        Records and folders of runs in results/ that the data depend on, "l5_model.json".
    """

    name: str
    title: str
    caption: str
    settings: Mapping[str, Any]
    compute: Callable[[Mapping[str, Any], Callable[[str], None]], Data]
    draw: Callable[[Data], matplotlib.figure.Figure]
    claims: Callable[[Data], Sequence[Claim]]
    cheap: bool = False
    inputs: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """What makes the data anew."""
        return f"python -m paper_figures {self.name} --recompute"


@dataclass(frozen=True)
class Record:
    """Data of a figure as recorded, what they were made with, from, and by what.

    `inputs` and `inputs_now` are digests by name, of when it was made and of now.
    """

    path: Path
    settings: Mapping[str, Any]
    data: Data
    environment: Mapping[str, Any]
    inputs: Mapping[str, str]
    inputs_now: Mapping[str, str]

    @property
    def made(self) -> str:
        """Date and commit, in words."""
        commit = self.environment.get("commit") or "unknown"
        return f"{self.environment['time'][:10]}, commit {commit[:9]}{'+' * commit.endswith('+')}"

    def stale(self, figure: Figure) -> str:
        """Which settings are not the figure's now, and which inputs have changed; "" if none."""
        now = plain(figure.settings)
        names = [n for n in {**now, **self.settings} if now.get(n) != self.settings.get(n)]
        changes = (f"{n} was {self.settings.get(n)}, is {now.get(n)}" for n in names)
        others = [n for n in figure.inputs if self.inputs.get(n) != self.inputs_now.get(n)]
        return "; ".join([*changes, *(f"{n} is not what it was made from" for n in others)])


def told(value: float, interval: Sequence[float], form: str = "+.3f") -> str:
    """A number with its interval, in words."""
    low, high = interval
    return f"{value:{form}} [{low:{form}}, {high:{form}}]".replace("-", "−")


def plain(value: Any) -> Any:
    """What a value is once it has been written as JSON and read again: tuples are lists."""
    return json.loads(json.dumps(value, allow_nan=False))


def read(folder: Path, figure: Figure) -> Record:
    """The record of a figure.

    Raises
    ------
    ValueError
        If there is none, or the file is no record; says how to make one.
    """
    path = folder / f"{figure.name}.json"
    if not path.is_file():
        raise ValueError(f"{figure.name}: no record {path}; {figure.command} makes it")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        settings, data, by = (found[name] for name in _FIELDS)
        inputs = found.get("inputs", {})
        fields = (settings, data, by, inputs)
        if not all(isinstance(field, dict) for field in fields) or "time" not in by:
            raise TypeError("a field is of another kind")
    except (ValueError, LookupError, TypeError):
        raise ValueError(
            f"{figure.name}: {path} is no record; {figure.command} makes it anew"
        ) from None
    now = {name: digest(folder / name) for name in figure.inputs}
    return Record(path, settings, data, by, inputs, now)


def record(
    folder: Path,
    figure: Figure,
    progress: Callable[[str], None],
    inputs: Mapping[str, Path] | None = None,
) -> Record:
    """Compute a figure's data, and write and return the record.

    `inputs` says where they are, by default in the project's results/.
    """
    from llm.runs.folder import environment

    if inputs is None:
        inputs = {name: HOME / "results" / name for name in figure.inputs}
    # Before the work: what runs is the code of now. The command as anyone would type it.
    by = environment() | {"command": figure.command}
    digests = {name: digest(path) for name, path in inputs.items()}
    settings = {**figure.settings, "inputs": inputs} if inputs else figure.settings
    data = plain(figure.compute(settings, progress))
    path = folder / f"{figure.name}.json"
    made = Record(path, plain(figure.settings), data, by, digests, digests)
    folder.mkdir(parents=True, exist_ok=True)
    names = (*_FIELDS, "inputs") if inputs else _FIELDS
    write_json(path, {name: getattr(made, name) for name in names})
    return made


@contextmanager
def drawn_from(figure: Figure, made: Record) -> Iterator[None]:
    """Draw or tell a figure from its record within; data that it cannot use are said in one line.

    Raises
    ------
    ValueError
        Names the record, and the command that makes it anew.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{figure.name}: {made.path} has not what the figure draws "
            f"({type(error).__name__}: {error}); {figure.command} makes it anew"
        ) from error
