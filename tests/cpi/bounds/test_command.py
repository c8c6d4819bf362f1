"""`python -m cpi.bounds` as a user runs it: real processes, real files, real signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

import cpi
import envs
from cpi.bounds import REGISTRY, Bound, finite
from cpi.bounds import __main__ as command
from cpi.bounds.symbols import SYMBOLS
from cpi.bounds.theorem1 import theorem1
from cpi.bounds.theorem1_report import Experiment


def run(*args: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "cpi.bounds", *args],
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the whole command prints, as `make run` runs it, and the file that it writes."""
    path = tmp_path_factory.mktemp("bounds") / "new folder" / "bounds.json"
    result = run("--json", str(path), timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout, path


@pytest.mark.slow
def test_main__the_suite_holds_and_is_written(whole_run: tuple[str, Path]) -> None:
    printed, path = whole_run
    assert "no violation" in printed and str(path) in printed.replace("\n", "")
    record = json.loads(path.read_text())
    assert {"checks", "versions", "seed", "seconds"} <= set(record)
    assert [row["name"] for row in record["checks"]] == [bound.name for bound in REGISTRY]
    for row in record["checks"]:
        assert row["instances"] > 0 and row["violations"] == 0
        assert row["name"] in printed
        assert isinstance(row["min_slack"], float) and isinstance(row["tightness"], float)
    assert set(record["versions"]) >= {"python", "numpy", "scipy"}
    assert list(path.parent.iterdir()) == [path]  # no half-written file is left


@pytest.mark.slow
def test_main__every_slope_of_theorem_1_is_in_its_band(whole_run: tuple[str, Path]) -> None:
    printed, path = whole_run
    record = json.loads(path.read_text())
    assert all(row["violations"] == 0 for row in record["checks"])
    found = record["theorem1"]
    assert len(found["p"]) >= 5 and max(found["p"]) / min(found["p"]) >= 16 - 1e-9
    assert found["rr"]["resets_slope"] == pytest.approx(-2, abs=0.15)
    assert found["caro"]["resets_slope"] == pytest.approx(0, abs=0.15)
    assert found["caro_total"]["resets_slope"] == pytest.approx(-1, abs=0.15)
    assert found["rr_per_state"]["resets_slope"] == pytest.approx(-1, abs=0.2)
    for arm, exponent in (("rr", 2), ("caro", 1)):
        low, high = found[arm]["gain_slope_interval"]
        assert exponent - 0.1 <= low <= found[arm]["gain_slope"] <= high <= exponent + 0.1
        for certified, true in zip(found[arm]["gain"], found[arm]["true_gain"], strict=True):
            assert true >= certified > 0
    assert len(record["localizer"]) >= 9
    for row in record["localizer"]:
        assert row["true_gain"] >= row["gain"]
        assert row["gain"] == pytest.approx(row["predicted_gain"], rel=0.15)
    slopes = record["localizer_slopes"]
    assert slopes["accepted_by_precision"]["value"] == pytest.approx(-2, abs=0.2)
    assert slopes["gain_by_precision_times_recall"]["value"] == pytest.approx(1, abs=0.1)
    assert "Theorem 1, measured" in printed and "no violation" in printed


@pytest.fixture
def small_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Theorem 1's experiment with few repeats, for tests of all else that the command does."""

    def small(seed: int, quick: bool) -> Experiment:
        return theorem1(seed, repeats=6, bootstrap=9)

    monkeypatch.setattr(command, "run_theorem1", small)


@pytest.mark.usefixtures("small_experiment")
def test_main__one_seed_gives_one_result(tmp_path: Path) -> None:
    records = []
    for number, seed in enumerate(["3", "3", "4"]):
        path = tmp_path / f"{number}.json"
        flags = ["--quick", "--instances", "4", "--seed", seed, "--json", str(path)]
        if number == 0:
            assert run(*flags).returncode == 0  # another process, and the whole of --quick
        else:
            command.main(flags)
        records.append(json.loads(path.read_text()))
    assert records[0]["checks"] == records[1]["checks"]
    assert records[0]["checks"] != records[2]["checks"]
    assert records[2]["seed"] == 4


def test_list_names_every_bound_and_its_hypothesis() -> None:
    result = run("--list")
    assert result.returncode == 0
    for bound in REGISTRY:
        assert bound.name in result.stdout
        assert bound.id in result.stdout
    assert "a ≥ τ on I_τ" in result.stdout
    for symbols in SYMBOLS:
        assert symbols in result.stdout


def test_symbols__explain_every_symbol_of_the_statements() -> None:
    words = "gain|at|or|if|is|in|of|max|span|pair|form|then"
    known = set("".join(SYMBOLS))
    for bound in REGISTRY:
        text = re.sub(
            rf"\b({words})\b|[a-z]{{3,}}('s)?", " ", f"{bound.statement} {bound.requires}"
        )
        symbols = {character for character in text if character.isalpha()}
        assert symbols - known <= set("ΣΠ"), (bound.name, symbols - known)


def test_place__is_the_line_of_the_definition() -> None:
    assert len({bound.id for bound in REGISTRY}) == len(REGISTRY)
    for bound in REGISTRY:
        file, _, line = command.place(bound).partition(":")
        assert bound.name in Path(file).read_text().splitlines()[int(line) - 1]
    elsewhere = replace(REGISTRY[0], name="of a user")
    assert command.place(elsewhere) == ""
    assert elsewhere.id == "of-a-user"


OWN = [
    ("FrozenLake-v1", "--gamma", "0.99"),
    ("CliffWalking-v1", "--gamma", "0.9"),
    ("Taxi-v4", "--horizon", "15"),
    ("resets/LockChain-v0", "--env_args.length", "6"),
    ("envs.gym:resets/KLChain-v0", "--gamma", "0.5"),
]


@pytest.mark.parametrize("args", OWN, ids=[args[0] for args in OWN])
def test_environments_by_id(
    args: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.json"
    assert command.main(["--env", *args, "--json", str(path)]) == 0
    assert "reward range used by the bounds" in capsys.readouterr().out
    record = json.loads(path.read_text())
    assert record["problem"]["J*"] >= record["problem"]["J(π)"]
    assert sum(row["instances"] for row in record["checks"]) > 100


def own_mdp(tmp_path: Path) -> tuple[envs.TabularMDP, str]:
    mdp = envs.garnet(num_states=5, num_actions=2, branching=2, seed=1, horizon=4)
    path = tmp_path / "mine.npz"
    mdp.save(path)
    return mdp, str(path)


def test_own_mdp_and_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mdp, path = own_mdp(tmp_path)
    policy = cpi.random_policy(mdp, np.random.default_rng(0), time_dependent=True)
    np.save(tmp_path / "policy.npy", policy)
    np.savez(tmp_path / "policy.npz", policy=policy)
    expected = f"J(π): {cpi.evaluate(mdp, policy).J:.6g}"
    result = run("--mdp", path, "--policy", str(tmp_path / "policy.npy"))
    assert result.returncode == 0, result.stderr
    assert expected in result.stdout.splitlines()
    assert command.main(["--mdp", path, "--policy", str(tmp_path / "policy.npz")]) == 0
    assert expected in capsys.readouterr().out.splitlines()
    numbers = []
    for seed in ("0", "0", "1"):  # of the random candidate
        out = tmp_path / "out.json"
        assert command.main(["--mdp", path, "--seed", seed, "--json", str(out)]) == 0
        numbers.append([row["min_slack"] for row in json.loads(out.read_text())["checks"]])
    assert numbers[0] == numbers[1] != numbers[2]
    capsys.readouterr()
    assert command.main(["--mdp", path, "--horizon", "9", "--tau", "0.01"]) == 0
    printed = capsys.readouterr().out
    assert "horizon=9" in printed and "τ: 0.01" in printed


@pytest.mark.parametrize("name", ["[/x]", "[red]x", "[link=a", ":bug:"])
def test_main__names_with_brackets_are_printed_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    mdp = envs.garnet(num_states=3, num_actions=2, branching=2, seed=1, horizon=2)
    folder = tmp_path / name.replace("/", "")
    folder.mkdir()
    path, out = folder / "mine.npz", folder / "out.json"
    replace(mdp, name=name).save(path)
    assert command.main(["--mdp", str(path), "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"TabularMDP({name!r}, S=3" in printed
    assert folder.name in printed.replace("\n", "") and out.exists()


def test_main__default_tau_of_an_environment_with_unreachable_states(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Nobody stands on the cliff, where the largest advantages are."""
    path = tmp_path / "out.json"
    assert command.main(["--env", "CliffWalking-v1", "--gamma", "0.9", "--json", str(path)]) == 0
    finite_path = tmp_path / "finite.json"
    args = ["--env", "CliffWalking-v1", "--horizon", "30", "--json", str(finite_path)]
    assert command.main(args) == 0
    for file in (path, finite_path):
        facts = json.loads(file.read_text())["problem"]
        assert facts["p_π(τ)"] > 1e-3
        assert facts["τ"] == facts["largest advantage where π goes"] / 2
        assert facts["τ"] < facts["largest advantage"] / 3
    checks = {row["name"]: row for row in json.loads(finite_path.read_text())["checks"]}
    for bound in ("CPI-RR", "CPI-CARO", "full oracle step", "localizer"):
        assert checks[bound]["instances"] > 0 and checks[bound]["powerless"] == 0
    capsys.readouterr()


def test_a_policy_for_the_environment_fits_without_the_added_state(tmp_path: Path) -> None:
    policy = np.tile([0.7, 0.1, 0.1, 0.1], (16, 1))
    np.save(tmp_path / "policy.npy", policy)
    flags = ["--env", "FrozenLake-v1", "--gamma", "0.9"]
    assert command.main([*flags, "--policy", str(tmp_path / "policy.npy")]) == 0


def test_main__an_added_state_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--env", "FrozenLake-v1", "--gamma", "0.5"]) == 0
    printed = capsys.readouterr().out
    assert "S=17" in printed
    assert "terminal states: 1 (episodes end there, and no reset does; --env adds one" in printed
    assert "K&L" in printed  # the legend
    _, path = own_mdp(tmp_path)
    assert command.main(["--mdp", path]) == 0
    assert "terminal states: 0\n" in capsys.readouterr().out


def test_unknown_environment_is_refused_in_one_line() -> None:
    result = run("--env", "FrozenLak-v1", "--gamma", "0.9")
    assert result.returncode == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert "FrozenLak-v1" in line


def test_bad_input_is_refused_in_one_line_that_names_it(tmp_path: Path) -> None:
    _, path = own_mdp(tmp_path)
    (tmp_path / "broken.npz").write_bytes(b"PK not really a zip")
    np.save(tmp_path / "short.npy", np.full((4, 2), 0.5))
    for name, share in (("sums", 0.6), ("nan", np.nan), ("zeros", 0.0)):
        np.save(tmp_path / f"{name}.npy", np.full((5, 2), share))
    for name in ("notes.npy", "notes.txt"):
        (tmp_path / name).write_text("not numbers")
    cases = [
        (["--mdp", str(tmp_path / "no.npz")], "no.npz: no such file"),
        (["--mdp", str(tmp_path / "broken.npz")], "broken.npz: not a readable"),
        (["--mdp", path, "--policy", str(tmp_path / "short.npy")], "shape (4, 2)"),
        (["--mdp", path, "--policy", str(tmp_path / "sums.npy")], "state 0"),
        (["--mdp", path, "--gamma", "1"], "for γ = 1 give horizon=H"),
        (["--mdp", path, "--gamma", "nan"], "nan is not in [0, 1)"),
        (["--mdp", path, "--horizon", "0"], "horizon: 0"),
        (["--mdp", path, "--tau", "-0.1"], "tau: -0.1"),
        (["--mdp", path, "--tau", "1e9"], "no state has an advantage above 1e+09"),
        (["--env", "CliffWalking-v1"], "horizon"),
        (["--gamma", "0.9"], "--gamma needs a problem"),
        (["--policy", "x.npy"], "--policy needs a problem"),
        (["--tau", "-1"], "tau: -1"),
        (["--json", str(tmp_path)], "is a folder"),
        (["--mdp", str(tmp_path)], "is a folder"),
        (["--mdp", str(tmp_path / "sums.npy")], "sums.npy: a single array (.npy) of shape (5, 2)"),
        (["--mdp", path, "--policy", str(tmp_path / "nan.npy")], "negative or no numbers"),
        (["--mdp", path, "--policy", str(tmp_path / "zeros.npy")], "give an action some"),
        (["--json", str(tmp_path / "notes.txt" / "x.json")], "notes.txt is a file; name a folder"),
        (["--mdp", path, "--horizon", "100000000"], "100000000 steps are more than 1,000,000"),
        (["--mdp", path, "--horizon", "1" + "0" * 400], "horizon: too large a number"),
        (["--mdp", path, "--policy", str(tmp_path / "notes.npy")], "begins with b'not nu'"),
        (["--mdp", path, "--policy", str(tmp_path / "notes.txt")], "not a table of numbers"),
    ]
    for args, message in cases:
        # In process: starting 14 interpreters would test nothing more.
        assert message in capture_refusal(args), args


def capture_refusal(args: list[str]) -> str:
    import contextlib
    import io

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert command.main(args) == 2
    assert out.getvalue() == "" and err.getvalue().count("\n") == 1
    return err.getvalue()


@pytest.mark.parametrize(
    "args",
    [["--seed", "-1"], ["--instances", "many"], ["--mdp", "a", "--env", "b"], ["--nonsense"]],
)
def test_bad_usage_exits_with_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(args)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("python -m cpi.bounds: ") and error.count("\n") == 1
    assert error.endswith("--help lists the options\n")


@pytest.mark.usefixtures("small_experiment")
def test_main__a_violation_is_reported_and_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def too_much(update: Any) -> float:
        return float(update.gain) + 0.5

    false = Bound("too good", "gain ≥ gain + ½", "nobody", ">=", lambda u: u.gain, too_much)
    monkeypatch.setattr(finite, "BOUNDS", (*finite.BOUNDS, false))
    monkeypatch.setattr(command, "REGISTRY", (*REGISTRY, false))
    path = tmp_path / "out.json"
    assert command.main(["--quick", "--instances", "2", "--json", str(path)]) == 1
    printed = capsys.readouterr().out
    assert "violated: too good on TabularMDP('tight_returns'" in printed
    assert f"violations of 1 of {len(REGISTRY) + 1} bounds" in printed
    rows = {row["name"]: row for row in json.loads(path.read_text())["checks"]}
    assert rows["too good"]["violations"] == rows["too good"]["instances"] > 0
    assert rows["CPI"]["violations"] == 0


def test_run__a_step_that_gains_less_than_certified_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, few in (("COVERAGES", (0.4, 0.3)), ("PRECISIONS", (0.5, 1.0)), ("RECALLS", (1.0,))):
        monkeypatch.setattr(f"cpi.bounds.theorem1.{name}", few)
    experiment = theorem1(0, repeats=6, bootstrap=2)
    row = {**experiment.localizer[0], "true_gain": 0.0}
    short = replace(experiment, localizer=[row])
    args = command.make_parser().parse_args([])
    for result, code in ((experiment, 0), (short, 1)):
        monkeypatch.setattr(command, "run_theorem1", lambda seed, quick, result=result: result)
        report = command.BoundReport([])
        assert command.run(args, command.console(), report, iter(()), {}) == code
    assert "NOT every step gained" in capsys.readouterr().out


def test_ctrl_c_keeps_what_was_checked(tmp_path: Path) -> None:
    path = tmp_path / "made by the command" / "partial.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "cpi.bounds", "--instances", "1000000", "--json", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background jobs with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 60
        while not path.parent.exists() and time.monotonic() < deadline:  # just before the work
            time.sleep(0.05)
        time.sleep(2.0)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Interrupted" in out and "no violation" in out
    record = json.loads(path.read_text())
    assert record["interrupted"] is True
    assert sum(row["instances"] for row in record["checks"]) > 0


@pytest.mark.parametrize("part", ["load_problem", "problem_facts"])
def test_main__ctrl_c_before_the_first_check(
    part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A large MDP takes long to load and to solve."""
    monkeypatch.setattr(command, part, Mock(side_effect=KeyboardInterrupt))
    assert command.main(["--env", "resets/Needle-v0"]) == 130
    assert capsys.readouterr().err == ("python -m cpi.bounds: interrupted, nothing was checked\n")


def test_help_teaches() -> None:
    result = run("--help")
    assert result.returncode == 0
    for word in ("examples:", "--env FrozenLake-v1 --gamma 0.99", "exit code", "transitions"):
        assert word in result.stdout


def test_import_cpi_is_light() -> None:
    code = (
        "import sys, cpi, cpi.bounds\n"
        "heavy = {'torch', 'gymnasium', 'matplotlib', 'transformers', 'vllm', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ), timeout=60)
