"""A figure: settings, functions that compute and draw its data, and claims.

results/NAME.json records the data with settings, versions and commit, so drawing needs no
experiment. A record is stale if the figure's settings or inputs have changed since.
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

#: The recorded data of a figure; JSON types only.
Data = dict[str, Any]
Verdict = Literal[
    "holds",
    "holds with a caveat",
    "mixed",
    "does not hold here",
    "not seen here",
    "not tested here",
]

#: Fields of every record; figures with inputs add "inputs".
_FIELDS = ("settings", "data", "environment")

NEED_A_REASON: tuple[Verdict, ...] = ("holds with a caveat", "mixed", "not tested here")


@dataclass(frozen=True)
class Claim:
    """A statement, its evidence, and a verdict computed from the data.

    Parameters
    ----------
    claim : str
        The statement.
    checked : str
        The measurement and the method.
    found : str
        The numbers.
    verdict : Verdict
        "mixed": confirmed in some comparisons, contradicted in others. "not seen here": undecided
        by the data.
    of : {"paper", "ours"}
        Origin of the statement. Caveats are always ours.
    caveat : str
        Required for the verdicts of `NEED_A_REASON`: the caveat, the places, or the reason.
        Optional otherwise; not shown with "holds".

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
        """The verdict and its caveat, if any."""
        shown = self.caveat and self.verdict != "holds"
        return f"{self.verdict}: {self.caveat}" if shown else self.verdict


def limit(verdict: Verdict, caveat: str) -> str:
    """The caveat if the verdict is "holds with a caveat", else ""."""
    return caveat if verdict == "holds with a caveat" else ""


@dataclass(frozen=True)
class Figure:
    """One figure of the paper; its module ends with `FIGURE = Figure(...)`.

    Parameters
    ----------
    name : str
        Stem of its files.
    title : str
        Heading of its section in the report.
    caption : str
        Text below the figure. Placeholders, `{arms[rr][slope]:.2f}`, are filled from the data.
    settings : mapping
        Everything that the data depend on, such as seeds and sizes. JSON types only.
    compute : function of settings and progress
        Returns the data. It calls progress with a short description of each stage. If the figure
        has inputs, settings["inputs"] maps their names to paths.
    draw : function of the data
        Returns a matplotlib figure, made by `paper_figures.framework.style.blank`.
    claims : function of the data
        Returns the claims for the report.
    cheap : bool
        Whether computing takes only seconds; then `--recompute` without names includes it.
    inputs : tuple of str
        Files in results/ that the data depend on: records of figures ("l5_model.json") and packed
        runs.
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
        """The command that recomputes the data."""
        return f"python -m paper_figures {self.name} --recompute"


@dataclass(frozen=True)
class Record:
    """Recorded data of a figure, with settings, environment and input digests.

    `inputs` maps input names to digests at recording time, `inputs_now` to current digests.
    """

    path: Path
    settings: Mapping[str, Any]
    data: Data
    environment: Mapping[str, Any]
    inputs: Mapping[str, str]
    inputs_now: Mapping[str, str]

    @property
    def made(self) -> str:
        """Date and commit, as text."""
        commit = self.environment.get("commit") or "unknown"
        return f"{self.environment['time'][:10]}, commit {commit[:9]}{'+' * commit.endswith('+')}"

    def stale(self, figure: Figure) -> str:
        """Describe the changed settings and inputs; "" if there are none."""
        now = plain(figure.settings)
        names = [n for n in {**now, **self.settings} if now.get(n) != self.settings.get(n)]
        changes = (f"{n} was {self.settings.get(n)}, is {now.get(n)}" for n in names)
        others = [n for n in figure.inputs if self.inputs.get(n) != self.inputs_now.get(n)]
        return "; ".join([*changes, *(f"{n} is not what it was made from" for n in others)])


def interval_text(value: float, interval: Sequence[float], form: str = "+.3f") -> str:
    """A number and its interval, as text."""
    low, high = interval
    return f"{value:{form}} [{low:{form}}, {high:{form}}]".replace("-", "−")


def plain(value: Any) -> Any:
    """The value after a JSON round trip; tuples become lists."""
    return json.loads(json.dumps(value, allow_nan=False))


def read(folder: Path, figure: Figure) -> Record:
    """Read the record of a figure.

    Raises
    ------
    ValueError
        If the file is missing or no record; gives the command that makes it.
    """
    path = folder / f"{figure.name}.json"
    if not path.is_file():
        raise ValueError(f"{figure.name}: no record {path}; {figure.command} makes it")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        settings, data, made_by = (content[name] for name in _FIELDS)
        inputs = content.get("inputs", {})
        fields = (settings, data, made_by, inputs)
        if not all(isinstance(field, dict) for field in fields) or "time" not in made_by:
            raise TypeError("a field has the wrong type")
    except (ValueError, LookupError, TypeError):
        raise ValueError(
            f"{figure.name}: {path} is no record; {figure.command} makes it anew"
        ) from None
    now = {name: digest(folder / name) for name in figure.inputs}
    return Record(path, settings, data, made_by, inputs, now)


def record(
    folder: Path,
    figure: Figure,
    progress: Callable[[str], None],
    inputs: Mapping[str, Path] | None = None,
) -> Record:
    """Compute a figure's data; write and return the record.

    `inputs` maps input names to paths, by default in the project's results/.
    """
    from llm.runs.folder import environment

    if inputs is None:
        inputs = {name: HOME / "results" / name for name in figure.inputs}
    # Before computing: the commit must be that of the loaded code.
    made_by = environment() | {"command": figure.command}
    digests = {name: digest(path) for name, path in inputs.items()}
    settings = {**figure.settings, "inputs": inputs} if inputs else figure.settings
    data = plain(figure.compute(settings, progress))
    path = folder / f"{figure.name}.json"
    new_record = Record(path, plain(figure.settings), data, made_by, digests, digests)
    folder.mkdir(parents=True, exist_ok=True)
    names = (*_FIELDS, "inputs") if inputs else _FIELDS
    write_json(path, {name: getattr(new_record, name) for name in names})
    return new_record


@contextmanager
def drawn_from(figure: Figure, figure_record: Record) -> Iterator[None]:
    """Convert errors from unusable recorded data into one ValueError.

    Raises
    ------
    ValueError
        Names the record and the command that recomputes it.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{figure.name}: {figure_record.path} has not what the figure draws "
            f"({type(error).__name__}: {error}); {figure.command} makes it anew"
        ) from error
