"""`python -m llm.localize`: verdicts of a model on files and on rollouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm.common.bars import ProblemBars
from llm.localize.__main__ import main, make_parser
from llm.localize.data import Solution, read_data
from llm.localize.measurement import batches
from llm.localize.options import LocalizeOptions
from llm.localize.verdicts import as_episodes, make_judge
from llm.resets.localizers import LOCALIZERS
from llm.tasks import Example
from llm.thoughts.options import ThoughtLimits
from llm.thoughts.simulator import ThoughtSimulator
from tests.llm.localize.test_data import PROCESS, write
from tests.llm.small import ScriptedEngine, byte_tokenizer
from tests.llm.training_runs import train

BYTES = byte_tokenizer()


@pytest.fixture(scope="module")
def run(
    chain_base: Path, chain_args: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("localize") / "run"
    assert train(chain_base, folder, chain_args, "--steps=2", "--evaluation.steps=0") == 0
    return folder


def world(engine: ScriptedEngine, path: Path) -> tuple[Any, ThoughtSimulator]:
    data = read_data(path)
    return data, ThoughtSimulator(engine, BYTES, data.task, ThoughtLimits())


def test_as_episodes__tokens_and_logprobs(tmp_path: Path) -> None:
    calls = []

    def score(prompt: Any, ids: Any) -> Any:
        calls.append((BYTES.decode(prompt), BYTES.decode(ids)))
        return -np.arange(1.0, len(ids) + 1)

    engine = ScriptedEngine(lambda *_: [], score=score)
    rows = [{**PROCESS, "steps": ["ab", "c"]}, {**PROCESS, "steps": ["d"], "label": -1}]
    data, simulator = world(engine, write(tmp_path / "a.jsonl", rows))
    first, second = as_episodes(data.solutions, data.separator, simulator)
    assert calls == [("1+1?\n\n", "ab\n\nc"), ("1+1?\n\n", "d")]
    assert [step.text for step in first.steps] == ["ab\n\n", "c"]
    assert [step.logprobs.tolist() for step in first.steps] == [[-1, -2, -3, -4], [-5]]
    assert [BYTES.decode(list(step.ids)) for step in second.steps] == ["d"]
    (first, _) = as_episodes(data.solutions, data.separator, simulator, scored=False)
    assert len(calls) == 2 and np.isnan(first.steps[0].logprobs).tolist() == [True] * 4


def test_verdicts__of_replies(tmp_path: Path) -> None:
    def answer(prompt: Any, params: Any, j: int) -> list[int]:
        text = BYTES.decode(prompt)
        reply = r"\boxed{2}" if "UNO" in text else r"\boxed{0}" if "DUE" in text else "?"
        return [*BYTES(reply).input_ids, BYTES.eos_token_id]

    def score(prompt: Any, ids: Any) -> Any:
        scored.append(BYTES.decode(ids))
        return np.full(len(ids), -1.0 if BYTES.decode(ids) == "1}" else -2.0)

    scored: list[str] = []
    rows = [{**PROCESS, "steps": [word, "b"]} for word in ("UNO", "DUE", "TRE")]
    data, simulator = world(ScriptedEngine(answer, score=score), write(tmp_path / "a.jsonl", rows))
    names = ("first", "step_logprob", "prompted", "random")
    for may_be_right in (False, True):
        each = make_judge(data, simulator, LocalizeOptions(names, may_be_right))(data.solutions)
        assert list(each[0]) == ["prompted", "first", "step_logprob", "random"]
        found = {name: [verdict[name] for verdict in each] for name in names}
        best = [v.best.tolist() for v in found["prompted"]]
        assert best == [[2], [0] if may_be_right else [], []]
        assert [v.tokens for v in found["prompted"]] == [10, 10, 2]
        odds = np.exp(-2.0), np.exp(-4.0)  # two tokens each after the common ones
        expected = np.array([odds[1] * may_be_right, *odds])
        np.testing.assert_allclose(found["step_logprob"][0].weights, expected / expected.sum())
        assert [v.best.tolist() for v in found["first"]] == [[1]] * 3
        assert [v.best.tolist() for v in found["random"]] == [[1, 2]] * 3
    assert set(scored) == {"0}", "1}", "2}"}  # no log-prob of a solution: nobody reads them
    judge = make_judge(data, simulator, LocalizeOptions((f"{__name__}:last", "surprisal")))
    assert [v[f"{__name__}:last"].best.tolist() for v in judge(data.solutions)] == [[2]] * 3
    assert scored[-3:] == ["UNO\n\nb", "DUE\n\nb", "TRE\n\nb"]


def last(episodes: Any) -> Any:
    return [np.eye(e.length)[-1] for e in episodes]


def negative(episodes: Any) -> Any:
    return [-np.ones(e.length) for e in episodes]


def short(episodes: Any) -> Any:
    return [np.ones(1) for _ in episodes]


def test_command__on_the_rollouts_of_a_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "table.json"
    names = ["prompted", "step_logprob", "surprisal", "checker", "random"]
    flags = [str(run), "--data", str(run), "--limit=40", "--localization.temperature=0"]
    flags += [f"--json={path}", "--localizer", *names]
    assert main(flags) == 0
    captured = capsys.readouterr()
    assert "run, step 2 on run:" in captured.out and ": 40 of 40 solutions" in captured.err
    assert "in a random sample of 40 of" in " ".join(captured.out.split())
    record = json.loads(path.read_text())
    results = {each["localizer"]: each for each in record["results"]}
    assert list(results) == names and len(record["verdicts"]) == 40
    assert results["checker"]["exact"]["value"] == 1.0
    for verdict in record["verdicts"]:
        weights = verdict["weights"]
        assert weights["step_logprob"][0] == weights["prompted"][0] == 0  # no reply "none"
        assert sum(weights["step_logprob"]) == pytest.approx(1, abs=1e-5)
    assert results["prompted"]["tokens"] > 0 == results["step_logprob"]["tokens"]
    first = json.loads(path.read_text())["results"]
    assert main([*flags, "--batch_size=7"]) == 0  # a verdict depends on its solution alone
    second = json.loads(path.read_text())["results"]
    for a, b in zip(first, second, strict=True):
        assert a["exact"] == b["exact"] and a["tokens"] == pytest.approx(b["tokens"])


def interrupt_after(monkeypatch: pytest.MonkeyPatch, solutions: int) -> None:
    """Ctrl-C as soon as so many solutions are finished."""
    show = ProblemBars.__call__

    def call(bars: ProblemBars, name: str, done: int, total: int) -> None:
        show(bars, name, done, total)
        if done >= solutions:
            raise KeyboardInterrupt

    monkeypatch.setattr(ProblemBars, "__call__", call)


def test_command__interrupted_and_resumed(
    chain_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps = [["1\n"] * (2 + i % 3) for i in range(12)]
    rows = [{**PROCESS, "problem": f"+{i % 9} +1", "steps": s} for i, s in enumerate(steps)]
    names = ("a", "b")
    files = [str(write(tmp_path / f"{name}.jsonl", rows[k:])) for k, name in enumerate(names)]
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    table = tmp_path / "table.json"

    def run(records: Path, *flags: str) -> int:
        words = ["--localizer", "step_logprob", "random", "--batch_size=4", f"--json={table}"]
        return main([str(chain_base), "--data", *files, f"--records={records}", *words, *flags])

    assert run(whole) == 0
    expected = json.loads(table.read_text())
    capsys.readouterr()
    with monkeypatch.context() as patch:
        interrupt_after(patch, 8)
        assert run(parts, "--limit=10") == 130
    captured = capsys.readouterr()
    assert " of 10 rows." in captured.out and "interrupted after" in captured.out
    assert len(json.loads(table.read_text())["verdicts"]) == 8
    assert captured.err.splitlines()[-1].endswith(f"the same command resumes from {parts}")
    assert len(parts.read_text().splitlines()) == 1 + 8
    # As if the disk had taken half of the last line. More rows are a longer run of the same.
    parts.write_text(parts.read_text()[:-40])
    assert run(parts) == 0
    assert capsys.readouterr().err.startswith(f"{chain_base}: 7 of 23 solutions")
    resumed = json.loads(table.read_text())
    for one, other in zip(resumed["verdicts"], expected["verdicts"], strict=True):
        assert (one["data"], one["number"]) == (other["data"], other["number"])
        weights = (each["weights"]["step_logprob"] for each in (one, other))
        np.testing.assert_allclose(*weights, atol=1e-5)  # other batches round otherwise
    for flags, message in (
        (["--seed=1"], "was made with other settings (seed: 0 is now 1)"),
        (["--may_be_right"], "was made with other settings (may_be_right: False is now True)"),
    ):
        assert run(parts, *flags) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line and "give the same ones, or another --records" in line
    write(tmp_path / "b.jsonl", [{**row, "label": 0} for row in rows[1:]])
    assert run(parts) == 2
    assert "of b has changed since; give another --records" in capsys.readouterr().err
    lines = parts.read_text().splitlines()
    parts.write_text("\n".join([lines[0], "{}", *lines[2:]]) + "\n")
    assert run(parts) == 2
    assert "line 2 is damaged (KeyError: 'data'); delete the line" in capsys.readouterr().err
    assert main([str(chain_base), "--data", files[0], files[0]]) == 2
    assert "data: two of the files have the same name" in capsys.readouterr().err


def test_batches__like_length_in_random_order() -> None:
    def solution(number: int, size: int) -> Solution:
        return Solution(str(number), number, Example("", "p", problem="p"), ["x" * size], None)

    sizes = np.random.default_rng(0).permutation(60).tolist()
    todo = [[solution(i, size) for i, size in enumerate(sizes)], [solution(0, 5)], []]
    parts = list(batches(todo, 10))
    assert sorted(at for at, _ in parts) == [0] * 6 + [1]
    lengths = [sorted(len(s.steps[0]) for s in batch) for at, batch in parts if not at]
    assert sorted(lengths) == [list(range(i, i + 10)) for i in range(0, 60, 10)]
    assert lengths != sorted(lengths)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--localizer", "guess"], "localizer: 'guess' is none of prompted"),
        (["--localizer", "first", "first"], "localizer: first is named twice"),
        (["--localizer", "checker"], "localizer: checker needs a step checker"),
        (["--localizer", f"{__name__}:negative"], "gives a weight that is not a number"),
        (["--localizer", f"{__name__}:short"], "does not give one weight for each step"),
        (["--limit=0"], "limit: 0 is not a whole number ≥ 1"),
        (["--localization.votes=0"], "localization.votes: 0 is not ≥ 1"),
        (["--json=pyproject.toml/x.json"], "pyproject.toml"),
        (["--records=pyproject.toml/x.jsonl"], "--records: pyproject.toml is a file"),
        (["--step=1"], "which is no training run"),
    ],
)
def test_command__bad_input(
    flags: list[str],
    message: str,
    chain_base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = {**PROCESS, "problem": "+1 +1", "steps": ["1\n", "2\n"]}
    path = write(tmp_path / "a.jsonl", [row])
    assert main([str(chain_base), "--data", str(path), *flags]) == 2
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert last_line.startswith("python -m llm.localize: ") and message in last_line


def test_command__refuses_what_it_cannot_read(
    run: Path, chain_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = write(tmp_path / "bad.jsonl", [{**PROCESS, "label": 5}])
    assert main([str(chain_base), "--data", str(bad)]) == 2
    assert f"{bad}:1: label 5 is no step of the 2" in capsys.readouterr().err
    assert main([str(run), "--data", str(run), "--may_be_right", "--limit=2"]) == 2
    assert "may_be_right: ChainReasoning words its own request" in capsys.readouterr().err
    assert main([str(chain_base), "--data", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_parser__lists_all_localizers() -> None:
    text = " ".join(make_parser().format_help().split())
    assert ", ".join(LOCALIZERS) in text
