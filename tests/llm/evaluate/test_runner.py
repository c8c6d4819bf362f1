"""`python -m llm.evaluate`: what it tells, and that it goes on where it was stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from llm.common.statistics import bootstrap, mean_over_problems
from llm.config.train import TrainConfig
from llm.evaluate import __main__ as evaluate
from llm.evaluate import published
from llm.evaluate import runner as measurement
from llm.evaluate.__main__ import main
from llm.evaluate.published import (
    PUBLISHED,
    TEN,
    Measured,
    comparisons,
)
from llm.evaluate.report import EvaluationReport
from llm.runs.checkpoints import complete
from llm.runs.saved_model import SavedModel, find_model
from llm.tasks import ChainReasoning, Example, Task, make_task
from llm.tasks.declaration import declared
from llm.verifiers import Verification
from tests.llm.forked import Forked
from tests.llm.training_runs import kill, train

#: Enough problems for a kill to come in the middle.
MANY = ["length=4", "modulus=5", 'operations=["+1","*2"]', "train=8", "test=30"]


class Marked(ChainReasoning):
    """A task whose arguments look like markup."""

    def __init__(self, kind: list[str], **options: Any) -> None:
        super().__init__(**options)


class Long(Task):
    """A prompt that fills the model."""

    def examples(self, split: str) -> list[Example]:
        return [Example("long", "+1 " * 300)] if split == "test" else []

    def reward(self, example: Example, completion: str) -> float:
        return 0.0


class Doubtful(ChainReasoning):
    """A verifier that gives up on long answers, and a line about the problems."""

    def verify(self, examples: Sequence[Example], completions: Sequence[str]) -> list[Verification]:
        """No verdict on every other completion."""
        return [
            Verification(0.0, "timeout") if i % 2 else Verification(1.0)
            for i in range(len(examples))
        ]

    def notes(self) -> list[str]:
        """Of the problems."""
        return ["2 [problems] were left out"]


class Empty(Long):
    """No problem at all."""

    def examples(self, split: str) -> list[Example]:
        return []


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Two threads gain nothing at this size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(
    chain_base: Path, chain_args: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    more = ("--steps=4", "--evaluation.steps=0", "--sampling.temperature=0.9")
    assert train(chain_base, folder, chain_args, *more) == 0
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_is_evaluated_on_its_own_task(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from llm.exact.bridge import exact_bridge

    out = run / "evaluations" / "step-000004"
    assert main([str(run), "--samples=64", "--greedy", "--k", "1", "64"]) == 0
    captured = capsys.readouterr()
    for line, done in zip(captured.err.splitlines()[-2:], (4, 8), strict=True):
        assert line.startswith(f"chain, sampled: {done} of 8 problems, ") and " a minute" in line
    assert f"{run}, step 4: held-out problems" in captured.out and "pass@64" in captured.out
    assert max(map(len, captured.out.split("Records")[0].splitlines()[1:])) <= 130
    record = json.loads((out / "results.json").read_text())
    greedy, sampled = record["results"]
    assert (greedy["decoding"], sampled["decoding"]) == ("greedy", "T=0.9, top-p 1")
    assert record["step"] == 4 and record["options"]["sampling"]["temperature"] == 0.9
    assert record["options"]["k"] == [1, 64] and set(sampled["pass_at"]) == {"1", "64"}
    assert "commit" in record["environment"] and "torch" in record["environment"]["versions"]

    # Held against exact values, at the run's temperature.
    exact = next(row for row in exact_bridge(run, samples=2).rows if row.step == 4)
    q = np.array(exact.q)
    J = q.prod(axis=1)
    assert sampled["pass_at"]["1"]["value"] == pytest.approx(J.mean(), abs=4 * 0.5 / 512**0.5)
    low, high = sampled["pass_at"]["1"]["low"], sampled["pass_at"]["1"]["high"]
    assert low < sampled["pass_at"]["1"]["value"] < high
    header, *records = lines(out / "chain-sampled.jsonl")
    assert header["settings"] == sampled["settings"] and header["step"] == 4
    assert header["settings"]["task_args"]["length"] == 3
    for r, j in zip(records, J, strict=True):
        assert r["c"] == 64 - sum(r["failed"]) == sum(r["rewards"])
        assert r["c"] / 64 == pytest.approx(j, abs=4 * 0.5 / 8)
        assert len(r["completions"]) == len(r["tokens"]) == len(r["cut"]) == r["n"] == 64
        assert all(text.startswith(tuple("01234")) for text in r["completions"])
    task = ChainReasoning(**header["settings"]["task_args"])
    assert [r["id"] for r in records] == [example.id for example in task.examples("test")]
    (one,) = {len(r["completions"]) for r in lines(out / "chain-greedy.jsonl")[1:]}
    assert one == 1

    # More beside it, and another step; what was done is not done again.
    before = (out / "chain-sampled.jsonl").read_bytes()
    assert main([str(run), "--samples=64", "--correct=2", "--problems=3"]) == 0
    assert (out / "chain-sampled.jsonl").read_bytes() == before
    record = json.loads((out / "results.json").read_text())
    names = ["chain-correct-2-prompted", "chain-greedy", "chain-sampled"]
    assert [r["records"] for r in record["results"]] == [f"{name}.jsonl" for name in names]
    corrected = record["results"][0]
    assert corrected["problems"] == 3 and corrected["of"] == 8
    assert len(corrected["correction"]["rounds"]) == 3
    # The first completions are those of the plain evaluation: the same random numbers.
    again = lines(out / "chain-correct-2-prompted.jsonl")[1:]
    assert [r["completions"] for r in again] == [r["completions"] for r in records[:3]]
    assert main([str(run), "--step=0", "--samples=64", f"--output={tmp_path}"]) == 0
    first = json.loads((tmp_path / "results.json").read_text())["results"][0]
    assert first["settings"]["model"] != sampled["settings"]["model"]
    assert first["reward"] < sampled["reward"]


@pytest.mark.parametrize("damaged", ["[1]", '{"results": [1]}', '{"results": [{}]}', "{"])
def test_write_results__replaces_a_damaged_file(damaged: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(damaged)
    evaluate.write_results(path, EvaluationReport("m", None, "r", [], {}, {}))
    assert json.loads(path.read_text())["results"] == []


def test_adapters_are_merged(chain_base: Path, chain_args: dict[str, Any], tmp_path: Path) -> None:
    more = ("--steps=2", "--lora.r=4", "--optimizer.learning_rate=2e-2", "--evaluation.steps=0")
    assert train(chain_base, tmp_path, chain_args, *more) == 0
    found = {}
    for step in (0, 2):
        flags = ["--samples=16", f"--step={step}", f"--output={tmp_path / str(step)}"]
        assert main([str(tmp_path), *flags]) == 0
        found[step] = lines(tmp_path / str(step) / "chain-sampled.jsonl")[1:]
    base = tmp_path / "base"
    spec = [f"{name}={json.dumps(value)}" for name, value in chain_args.items()]
    assert (
        main([str(chain_base), "--samples=16", f"--output={base}", "--tasks", "chain", *spec]) == 0
    )
    (path,) = base.glob("*.jsonl")
    limits = {"sampling": lines(path)[0]["settings"]["sampling"]}
    assert limits["sampling"]["max_completion_length"] == 256  # the defaults, not the run's
    # Adapters begin at zero: step 0 is the base model, and says the same.
    assert [r["completions"] for r in lines(path)[1:]] == [r["completions"] for r in found[0]]
    assert [r["completions"] for r in found[2]] != [r["completions"] for r in found[0]]


# --- interruptions ---


def flags(model: Path, output: Path, *more: str) -> list[str]:
    return [str(model), f"--output={output}", "--samples=8", "--correct=1", "--batch_size=8",
            "--tasks", "chain", *MANY, *more]  # fmt: skip


def records(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.glob("chain*.jsonl")
    return lines(path)[1:]


@pytest.fixture(scope="module")
def whole(chain_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "evaluation"
    assert main(flags(chain_base, folder)) == 0
    return folder


def test_a_killed_evaluation_goes_on_to_the_same(
    chain_base: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "killed"
    process = Forked("llm.evaluate", flags(chain_base, folder))
    end = time.monotonic() + 120
    while time.monotonic() < end and process.returncode is None:
        found = list(folder.glob("*.jsonl"))
        if found and found[0].read_text().count("\n") > 5:
            break
        time.sleep(0.005)
    kill(process)
    assert process.returncode == -9, "it was done before it was killed"
    (path,) = folder.glob("*.jsonl")
    kept = path.read_text()
    done = kept.count("\n") - 1
    assert 5 <= done < 30 and not (folder / "results.json").exists()
    # As if the disk had taken half of the last line.
    path.write_text(kept.rstrip("\n")[:-40])
    # Other batches: what comes of a problem does not depend on them.
    assert main(flags(chain_base, folder, "--batch_size=128")) == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert first.endswith(f": {kept.rstrip(chr(10)).count(chr(10)) - 1} of 30 problems")
    assert sorted(records(folder), key=lambda r: r["index"]) == records(whole)
    mine, theirs = (
        json.loads((each / "results.json").read_text())["results"] for each in (folder, whole)
    )
    assert mine == theirs


def test_ctrl_c_keeps_what_is_finished(
    chain_base: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    batch = measurement.EvaluationRunner._batch
    calls = 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return batch(*arguments)

    monkeypatch.setattr(measurement.EvaluationRunner, "_batch", interrupted)
    assert main(flags(chain_base, tmp_path)) == 130
    assert f"what is finished is in {tmp_path}" in capsys.readouterr().err.splitlines()[-1]
    assert records(tmp_path) == records(whole)[:3]
    assert main(flags(chain_base, tmp_path)) == 0
    assert records(tmp_path) == records(whole)
    assert calls == 4 + 27


def test_other_settings_are_refused(
    chain_base: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = records(whole)
    for more, message in {
        "--seed=1": "seed: 0 is now 1",
        "--samples=6": "samples: 8 is now 6",
        "--sampling.temperature=0.5": "sampling.temperature: 1.0 is now 0.5",
    }.items():
        assert main(flags(chain_base, whole, more)) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert "was made with other settings" in line and message in line, line
    assert records(whole) == before


def edited(line: str, **values: Any) -> str:
    """A record with other values; None removes an entry."""
    record = {**json.loads(line), **values}
    return json.dumps({name: value for name, value in record.items() if value is not None})


DAMAGE: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "line": (lambda found: [found[0], "{", *found[1:]], "line 2 is damaged"),
    "header": (lambda found: ["[]", *found[1:]], "line 1 is damaged (not an object); delete the"),
    "field": (lambda found: [*found, '{"index": 3}'], "is damaged (no id)"),
    "no count": (lambda found: [found[0], edited(found[1], c=None)], "line 2 is damaged (no c)"),
    "index": (lambda found: [found[0], edited(found[1], index="0")], "is damaged (index '0')"),
    "count": (lambda found: [found[0], edited(found[1], c=99)], "is damaged (99 of "),
    "problem": (
        lambda found: [*found[:-1], found[-1].replace('"id": "', '"id": "x')],
        "is of problem 'x",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_records_are_named(
    name: str, chain_base: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = whole.glob("*.jsonl")
    change, message = DAMAGE[name]
    text = "\n".join(change(path.read_text().splitlines())) + "\n"
    (tmp_path / path.name).write_text(text)
    assert main(flags(chain_base, tmp_path)) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert (tmp_path / path.name).read_text() == text


# --- bad input ---

BAD: dict[str, tuple[list[str], str]] = {
    "no task": ([], "tasks: none named"),
    "argument first": (["--tasks", "length=3"], "'length=3' is an argument of no task"),
    "unknown task": (["--tasks", "chess"], "task: 'chess' is none of chain"),
    "twice": (["--tasks", "chain", "chain"], "tasks: chain is named twice"),
    "bad argument": (["--tasks", "chain", "colour=red"], "cannot be made with {'colour': 'red'}"),
    "no yaml": (["--tasks", "chain", "length=[3"], "cannot be made with {'length': '[3'}"),
    "no problems": (["--tasks", f"{__name__}:Empty"], "has no test problems"),
    "no room": (["--tasks", f"{__name__}:Long"], "prompt 'long' are more than the model's 512"),
    "no step": (["--tasks", "chain", "--step=3"], "which is no training run"),
    "nothing": (["--tasks", "chain", "--samples=0"], "nothing would be measured"),
    "k": (["--tasks", "chain", "--samples=2", "--k", "3"], "k: 3 is not in 1 … 2"),
    "correct greedy": (
        ["--tasks", "chain", "--samples=0", "--greedy", "--correct=1"],
        "correct: 1, but samples is 0",
    ),
    "localizer": (["--tasks", "chain", "--correct=1", "--localizer=guess"], "'guess' is none of"),
    "temperature": (["--tasks", "chain", "--sampling.temperature=0"], "sampling.temperature: 0.0"),
    "negative": (["--tasks", "chain", "--seed=-1"], "seed: -1 is not a whole number ≥ 0"),
    "problems": (["--tasks", "chain", "--problems=0"], "problems: 0 is not"),
    "output": (
        ["--tasks", "chain", "--output=pyproject.toml/x"],
        "output: pyproject.toml/x cannot",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line(
    name: str, chain_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more, message = BAD[name]
    assert main([str(chain_base), f"--output={tmp_path}", *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m llm.evaluate: ") and message in line
    assert not (tmp_path / "results.json").exists()


def test_a_run_without_what_is_asked(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    checkpoint = complete(run / "checkpoints")[2]
    for arguments, message in [
        ([str(tmp_path)], "no checkpoints/step-* in it"),
        ([str(run), "--step=7"], "step: 7 is not among the checkpoints of"),
        ([str(checkpoint)], f"is a checkpoint; name its run: {run} --step 2"),
        (["/no/such/model", "--tasks", "chain"], "model: no tokenizer could be loaded"),
    ]:
        assert main(arguments) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_published_numbers_stand_beside_the_same_tasks_only(
    chain_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        published, "PUBLISHED", (replace(PUBLISHED[2], tasks=("chain",), verifier_args={}),)
    )
    args = [str(chain_base), "--samples=2", f"--output={tmp_path}", "--tasks", "chain"]
    # The task's own operations are words that this model does not know.
    small = lambda **o: ChainReasoning(5, ["+1", "*2"], 3, test=9, **o)  # noqa: E731
    monkeypatch.setattr("llm.tasks.ChainReasoning", small)
    assert main([*args, "train=8"]) == 0
    told = capsys.readouterr().out
    assert "of other models on other hardware" in told
    row = next(line for line in told.splitlines() if line.startswith("LiveCodeBench"))
    record = json.loads((tmp_path / "results.json").read_text())
    ours = 100 * record["results"][0]["reward"]
    assert row.split()[-1] == f"{ours:.1f}" and "29.8" in row
    assert record["published"][0]["here"] == pytest.approx(ours)
    for other in (["train=8", "--problems=3"], ["train=8", "seed=1"]):  # another draw, or a part
        assert main([*args, *other]) == 0
        assert "LiveCodeBench" not in capsys.readouterr().out


def test_published_means_need_all_their_tasks() -> None:
    assert comparisons(dict.fromkeys(TEN[1:], Measured(0.1, {}))) == []
    means = comparisons({name: Measured(i / 10, {}) for i, name in enumerate(TEN)})
    assert [paper.model.split("-")[0] for paper, _ in means] == ["Qwen2.5", "OLMo"]
    assert means[0][1] == pytest.approx(0.45)
    programs = {"verifier_args": {"allow_code": True}}
    parts = {"verifier_args": {"allow_code": True, "reward": "fraction"}}
    for args, number in ((programs, 0), (parts, 1), (parts | {"seed": 1}, 0)):
        assert len(comparisons({"livecodebench_v6_medium": Measured(0.2, args)})) == number
    assert all(set(paper.percent) <= {"base", "GRPO", "RRPO", "SRPO"} for paper in PUBLISHED)


def test_published_names_are_names_of_tasks() -> None:
    assert {name for paper in PUBLISHED for name in paper.tasks} <= {"chain", *declared()}


def test_what_could_not_be_judged_is_counted_apart(
    chain_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = [f"{__name__}:Doubtful", *MANY]
    argv = [str(chain_base), "--samples=4", "--greedy", "--problems=3", f"--output={tmp_path}"]
    assert main([*argv, "--tasks", *task]) == 0
    told = capsys.readouterr().out
    assert told.count("2 [problems] were left out") == 1
    greedy, sampled = json.loads((tmp_path / "results.json").read_text())["results"]
    assert (greedy["unjudged"], sampled["unjudged"]) == (1 / 3, 0.5)
    assert sampled["reward"] == 0.5 and "50%" in told
    records = [line for path in tmp_path.glob("*sampled*.jsonl") for line in lines(path)[1:]]
    assert [record["unjudged"] for record in records] == [["timeout"] * 2] * 3


def test_problems_that_it_was_trained_on_are_left_out(run: Path, tmp_path: Path) -> None:
    config = find_model(str(run)).config
    assert config is not None
    own = [f"{name}={json.dumps(value)}" for name, value in config.task_args.items()]
    seen = {e.id for e in ChainReasoning(**config.task_args).examples("train")}
    argv = [str(run), "--samples=1", f"--output={tmp_path}", "--tasks", "chain", *own, "seed=5"]
    assert main(argv) == 0
    drawn = ChainReasoning(**{**config.task_args, "seed": 5}).examples("test")
    (result,) = json.loads((tmp_path / "results.json").read_text())["results"]
    left = [e.id for e in drawn if e.id not in seen]
    assert 0 < len(left) < len(drawn) == result["of"] and result["problems"] == len(left)
    assert "test problems left out" in result["notes"][0]
    assert [record["id"] for record in lines(tmp_path / result["records"])[1:]] == left


@pytest.mark.parametrize("change", ["answer", "verifier", "code"])
def test_what_was_judged_otherwise_is_not_gone_on_with(
    change: str,
    chain_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, declared, code = (tmp_path / name for name in ("a.jsonl", "a.yaml", "mine_to_judge.py"))

    def write(gold: str = "7", verifier: str = "exact", reward: float = 0.0) -> None:
        data.write_text(json.dumps({"q": "+1 3\n", "a": gold}) + "\n")
        declared.write_text(
            f"path: {data}\nprompt: q\nanswer: a\nverifier: {verifier}\ntest: 1\ntrain: 0\n"
            "chat: false\ninstruction: ''\n"
        )
        code.write_text(
            "from llm.tasks import ChainReasoning\n\n\nclass Mine(ChainReasoning):\n"
            f"    def reward(self, example, completion):\n        return {reward}\n"
        )

    monkeypatch.syspath_prepend(tmp_path)
    task = [str(declared)] if change != "code" else ["mine_to_judge:Mine", *MANY]
    argv = [str(chain_base), "--samples=1", "--problems=1", f"--output={tmp_path}/out", "--tasks"]
    write()
    assert main([*argv, *task]) == main([*argv, *task]) == 0
    write(**{"answer": {"gold": "8"}, "verifier": {"verifier": "numeric"},
             "code": {"reward": 1.0}}[change])  # fmt: skip
    capsys.readouterr()
    assert main([*argv, *task]) == 2
    assert "another --output" in capsys.readouterr().err


def test_names_are_no_markup(
    chain_base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "m.py").write_text(f"from {__name__} import Marked\n")  # a label of one line
    monkeypatch.syspath_prepend(tmp_path)
    task = ["m:Marked", "kind=[bold]", *MANY]
    assert main([str(chain_base), "--samples=2", f"--output={tmp_path}", "--tasks", *task]) == 0
    assert "Marked kind=[bold] length=4" in capsys.readouterr().out


# --- intervals ---


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        found = mean_over_problems(rng.beta(0.5, 1.0, size=60))
        assert found.low < found.value < found.high
        hits += found.miss(1 / 3) == 0
    assert 88 <= hits <= 100


@pytest.mark.parametrize("right", [0, 1])
@pytest.mark.parametrize("problems", [1, 2, 50])
def test_intervals__of_problems_that_are_all_alike(right: int, problems: int) -> None:
    found = mean_over_problems(np.full(problems, float(right)))
    # The exact one-sided interval of a share.
    side = "greater" if right else "less"
    exact = binomtest(right * problems, problems, alternative=side).proportion_ci(0.95)
    assert found.value == right
    assert (found.low, found.high) == pytest.approx(tuple(exact))
    # At its end, as many problems would look alike in 5 % of the evaluations.
    rate = found.low if right else 1 - found.high
    assert rate**problems == pytest.approx(0.05)


def test_intervals__of_alike_statistics_lie_within_their_bounds() -> None:
    q = 1 - 0.05**0.5
    same = mean_over_problems(np.full(2, 0.1))
    assert (same.low, same.high) == pytest.approx((0.1 - 0.1 * q, 0.1 + 0.9 * q))
    gain = bootstrap(lambda chosen: 0.25, 2, (-1.0, 1.0))
    assert (gain.low, gain.high) == pytest.approx((0.25 - 1.25 * q, 0.25 + 0.75 * q))


def test_options_of_a_run_are_its_own_unless_given(run: Path) -> None:
    from llm.runs.saved_model import find_model

    saved = find_model(str(run))
    parser = evaluate.make_parser()
    own = evaluate.read_options(parser.parse_args([str(run)]), saved)
    assert own.sampling == saved.config.sampling and own.sampling.temperature == 0.9
    given = ["--sampling.temperature=0.5", "--vllm.max_num_seqs=7", "--localization.max_tokens=9"]
    other = evaluate.read_options(parser.parse_args([str(run), *given]), saved)
    assert (other.sampling.temperature, other.vllm.max_num_seqs) == (0.5, 7)
    assert other.sampling.max_completion_length == own.sampling.max_completion_length
    assert other.localization.max_tokens == 9
    assert own.ks == [1, 2, 4, 8]
    six = evaluate.read_options(parser.parse_args([str(run), "--samples=6"]), saved)
    assert six.ks == [1, 2, 4, 6]
    specs = evaluate.read_tasks(["gsm8k", "delimiter=\n", "stop=[a]"], saved)
    assert specs[0].args == {"delimiter": "\n", "stop": ["a"]}
    assert specs[0].label == "gsm8k delimiter='\\n' stop=[a]"
    specs = evaluate.read_tasks(["chain", "length=4", "chain", "m:T", "x=[1]"], saved)
    assert [spec.label for spec in specs] == ["chain length=4", "chain", "m:T x=[1]"]
    assert specs[0].args == {**saved.config.task_args, "length": 4}
    assert specs[1].args == saved.config.task_args != specs[0].args
    assert specs[2].args == {"x": [1]}


def test_arguments_within_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = SavedModel("m", "m")
    words = ["a", "v.allow_code=true", "v.jobs=2", "w.x.y=[1]", "b", "v=3"]
    first, second = evaluate.read_tasks(words, saved)
    assert first.args == {"v": {"allow_code": True, "jobs": 2}, "w": {"x": {"y": [1]}}}
    assert (first.label, second.args) == ("a v.allow_code=true v.jobs=2 w.x.y=[1]", {"v": 3})
    with pytest.raises(ValueError, match=r"^tasks: 'v\.jobs=2': v is 3, which has no part jobs"):
        evaluate.read_tasks(["b", "v=3", "v.jobs=2"], saved)
    # A path may have an "=".
    folder = tmp_path / "rate=1"
    (folder / "x=1").mkdir(parents=True)
    monkeypatch.chdir(folder)
    Path("x=1/t.yaml").touch()
    for path in (str(folder / "t.yaml"), "./y=1.yaml", "x=1/t.yaml"):
        config = TrainConfig(model="m", task=path)
        for words in ([path, "x=1/t.yml"], None):
            (spec,) = evaluate.read_tasks(words, SavedModel("m", "m", config=config))
            assert (spec.name, spec.args) == (path, {"x": "1/t.yml"} if words else {})
    # A run's own arguments stay as they are, and a declaration's are merged.
    declaration = tmp_path / "mine.yaml"
    declaration.write_text("path: x.jsonl\nprompt: q\nanswer: a\ntest: 1\nverifier: numeric\n")
    name, args = str(declaration), {"verifier_args": {"absolute": 0.5}}
    config = TrainConfig(model="m", task=name, task_args=args)
    saved = SavedModel("m", "m", config=config)
    (spec,) = evaluate.read_tasks([name, "verifier_args.relative=0.25"], saved)
    verifier = make_task(spec.name, **spec.args).verifier  # type: ignore[attr-defined]
    assert (verifier.relative, verifier.absolute) == (0.25, 0.5)
    assert args == {"verifier_args": {"absolute": 0.5}}


@pytest.mark.vllm
def test_vllm_measures_the_same_model(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [str(run), "--samples=16", "--greedy", "--correct=1"]
    found = {}
    for engine in ("transformers", "vllm"):
        out = tmp_path / engine
        assert main([*args, f"--engine={engine}", f"--output={out}"]) == 0
        found[engine] = [r["completions"] for r in lines(out / "chain-greedy.jsonl")[1:]]
    assert found["vllm"] == found["transformers"]
    a, b = (
        json.loads((tmp_path / engine / "results.json").read_text())["results"][1]
        for engine in found
    )
    assert a["reward"] == pytest.approx(b["reward"], abs=4 * 0.5 / 128**0.5)
