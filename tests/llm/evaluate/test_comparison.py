"""`llm.evaluate --baseline`: paired differences to the base model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from llm.common.statistics import mean_over_problems
from llm.evaluate.__main__ import main
from llm.evaluate.comparison import compare
from llm.evaluate.report import EvaluationReport, Result
from tests.llm.training_runs import train


def report(folder: Path, counts: list[int], n: int = 4) -> EvaluationReport:
    """An evaluation with these numbers of right completions, and its records, in any order."""
    folder.mkdir()
    lines = [json.dumps({"settings": {}})]
    order = np.random.default_rng(ord(folder.name[0])).permutation(len(counts)).tolist()
    lines += [json.dumps({"index": i, "c": counts[i]}) for i in order]
    (folder / "t.jsonl").write_text("\n".join(lines) + "\n")
    pass_at = {k: mean_over_problems(np.array(counts) / n) for k in (1, 4)}
    result = Result("t", "T=1", len(counts), 9, n, pass_at, 0, 0, 0, 0, None, [], {}, "t.jsonl")
    return EvaluationReport("model", None, "r", [result], {}, {})


def test_compare__pairs_problems(tmp_path: Path) -> None:
    before, after = [0, 4, 1, 2, 0, 3], [1, 4, 2, 3, 1, 4]
    base, trained = report(tmp_path / "a", before), report(tmp_path / "b", after)
    first, second = compare(base, tmp_path / "a", trained, tmp_path / "b").differences
    assert (first.k, second.k, first.problems) == (1, 4, 6)
    gains = (np.array(after) - np.array(before)) / 4
    assert first.difference.value == pytest.approx(gains.mean())
    assert first.trained.value - first.base.value == pytest.approx(first.difference.value)
    assert second.difference.value == pytest.approx(2 / 6)  # problems solved at all
    # The pairing removes the spread between problems: the gain is far clearer than either mean.
    assert first.difference.low > 0
    width = first.difference.high - first.difference.low
    assert width < 0.5 * (first.base.high - first.base.low)
    assert first.difference == mean_over_problems(gains, (-1, 1))


def test_report_and_comparison__records_and_pictures(tmp_path: Path) -> None:
    base, trained = (report(tmp_path / "a", [0, 4, 1, 2]), report(tmp_path / "b", [1, 4, 2, 2]))
    rows = {row["measure"]: row for row in trained.records()}
    assert list(rows) == ["pass@1", "pass@4", "reward", "tokens", "cut", "unjudged"]
    assert rows["pass@1"]["value"] == 9 / 16
    assert rows["pass@1"]["low"] < 9 / 16 < rows["pass@1"]["high"]
    assert rows["reward"]["low"] is None
    comparison = compare(base, tmp_path / "a", trained, tmp_path / "b")
    first, second = comparison.records()
    assert (first["k"], first["base"], first["trained"], first["difference"]) == (
        1, 7 / 16, 9 / 16, 2 / 16,
    )  # fmt: skip
    assert (second["low"], second["high"]) == (
        comparison.differences[1].difference.low, comparison.differences[1].difference.high,
    )  # fmt: skip
    for result, count in ((trained, 1), (comparison, 2)):
        html = result._repr_html_()
        assert "pass@1" in html and html.startswith("<pre")
        axes = Figure().subplots()
        assert result.plot(axes) is axes
        assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "4"]
        assert len(axes.containers) == count
        points, _, bars = axes.containers[-1].lines
        np.testing.assert_allclose(points.get_ydata()[0], 9 / 16)
        low, high = bars[0].get_segments()[0][:, 1]
        np.testing.assert_allclose([low, high], [rows["pass@1"]["low"], rows["pass@1"]["high"]])


def test_compare__equal_models(tmp_path: Path) -> None:
    # No difference seen in 5 problems: the bound for values in [−1, 1].
    reports = [report(tmp_path / name, [1, 2, 3, 0, 4]) for name in "ab"]
    first = compare(reports[0], tmp_path / "a", reports[1], tmp_path / "b").differences[0]
    assert first.difference.value == 0
    share = 1 - 0.05 ** (1 / 5)
    assert first.difference.low == pytest.approx(-share)
    assert first.difference.high == pytest.approx(share)


def test_baseline__in_one_command(
    chain_base: Path, chain_args: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(chain_base, run, chain_args, "--steps=3", "--evaluation.steps=0") == 0
    out = tmp_path / "out"
    flags = [str(run), "--samples=16", "--baseline", f"--output={out}"]
    assert main([*flags, "--greedy"]) == 0
    assert "against its base model" in " ".join(capsys.readouterr().out.split())
    record = json.loads((out / "comparison.json").read_text())
    assert (record["base"], record["trained"]) == (str(chain_base), f"{run}, step 3")
    assert len(record["differences"]) == 1 + 5  # greedy; pass@1, 2, 4, 8 and 16
    before, after = (
        {r["decoding"]: r for r in json.loads((folder / "results.json").read_text())["results"]}
        for folder in (out / "baseline", out)
    )
    for row in record["differences"]:
        for name, results in (("base", before), ("trained", after)):
            assert row[name] == results[row["decoding"]]["pass_at"][str(row["k"])]
        gain = row["trained"]["value"] - row["base"]["value"]
        assert row["difference"]["value"] == pytest.approx(gain)
    # The base model is that of step 0.
    assert main([str(run), "--step=0", "--samples=16", f"--output={tmp_path / 'zero'}"]) == 0
    zero = json.loads((tmp_path / "zero" / "results.json").read_text())["results"][0]
    assert zero["pass_at"] == before["T=1, top-p 1"]["pass_at"]
    # Nothing is sampled twice.
    files = sorted(out.rglob("*.jsonl"))
    contents = [file.read_bytes() for file in files]
    assert main(flags) == 0 and [file.read_bytes() for file in files] == contents
    capsys.readouterr()
    assert main([str(chain_base), "--tasks", "chain", "--baseline"]) == 2
    assert "baseline: " in capsys.readouterr().err
