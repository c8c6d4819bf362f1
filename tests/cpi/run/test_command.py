"""`python -m cpi.run`: what it runs, writes and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from rich.console import Console

import cpi
import envs
from cpi.exact.improvement import default_tau
from cpi.run import __main__ as command
from cpi.run.methods import METHODS, RULES, Record
from envs.gym import mdp_from_env

MDP = envs.garnet(num_states=5, num_actions=2, branching=2, seed=1, horizon=4)


@pytest.fixture
def mine(tmp_path: Path) -> str:
    """A file with an MDP."""
    path = tmp_path / "mine.npz"
    MDP.save(path)
    return str(path)


def run(*args: str, code: int = 0) -> None:
    assert command.main(args) == code


def read(folder: Path, name: str = "run") -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return record


def resets_of(rule: str, tau: float) -> Any:
    if rule == "random":
        return cpi.random_resets
    return cpi.oracle_resets(tau) if rule == "oracle" else cpi.self_resets(tau, 0.9, 0.7)


@pytest.mark.parametrize("samples", [None, 40])
def test_main__three_reset_rules_are_those_of_run_cpi(
    mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], samples: int | None
) -> None:
    args = ["--mdp", mine, "--iterations", "3", "--precision", "0.9", "--recall", "0.7"]
    chooser = cpi.conservative.choosers.exact_greedy
    if samples:
        args += ["--samples", str(samples), "--bound", "none", "--seed", "5"]
        chooser = cpi.conservative.choosers.sampled(samples, "per_state", bound="none")
    run(*args, "--output", str(tmp_path / "out"))
    printed = capsys.readouterr().out
    record = read(tmp_path / "out")
    uniform = cpi.uniform_policy(MDP)
    tau = default_tau(cpi.evaluate(MDP, uniform))
    assert tau is not None and record["problem"]["τ"] == tau
    assert [row["method"] for row in record["runs"]] == [f"cpi-{rule}" for rule in RULES]
    for rule, written in zip(RULES, record["runs"], strict=True):
        expected = cpi.run_cpi(
            MDP,
            uniform,
            resets=resets_of(rule, tau),
            chooser=chooser,
            iterations=3,
            tau=tau,
            seed=5 if samples else 0,
        )
        rows = [row._asdict() for row in expected.iterations]
        for row in rows:
            row["left"], row["right"] = row.pop("gain"), row.pop("certificate")
        assert written["iterations"] == rows
        assert written["final_J"] == expected.J and written["stopped"] == expected.stopped
        assert written["sum_right"] == sum(row["right"] for row in rows)
        assert written["curve"]["J"] == [*(row["J"] for row in rows), expected.J]
        steps = np.cumsum([0, *(row["steps"] for row in rows)])
        assert written["curve"]["steps"] == steps.tolist() and bool(steps.any()) == bool(samples)
        assert written["curve"]["p"][:-1] == [row["p"] for row in rows]
        policy = np.load(tmp_path / "out" / f"policy-cpi-{rule}.npy")
        np.testing.assert_array_equal(policy, expected.policy)
        assert f"cpi-{rule}: {expected.stopped}" in printed
    rows = [row for method in record["runs"] for row in method["iterations"]]
    held = sum(row["left"] >= row["right"] - 1e-12 for row in rows)
    assert f"{held} of {len(rows)} steps gained at least their certificate" in printed
    assert (held < len(rows)) == bool(samples)  # the estimates of 40 resets promise too much
    assert (tmp_path / "out" / "run.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "out").glob("*.part"))


def test_main__a_step_that_samples_certify(mine: str, tmp_path: Path) -> None:
    args = ["--mdp", mine, "--resets", "random", "--iterations", "2", "--step", "sampled"]
    run(*args, "--samples", "3000", "--delta", "0.2", "--output", str(tmp_path))
    (written,) = read(tmp_path)["runs"]
    expected = cpi.run_cpi(
        MDP,
        cpi.uniform_policy(MDP),
        chooser=cpi.sampled(3000, "per_state", delta=0.2),
        step="sampled",
        iterations=2,
        delta=0.2,
    )
    for row, iteration in zip(written["iterations"], expected.iterations, strict=True):
        assert row["alpha"] == iteration.alpha > 0 and row["certified"] == iteration.certified > 0


def test_main__policy_gradient_methods_are_those_of_learn(mine: str, tmp_path: Path) -> None:
    methods = [method for method in METHODS if method != "cpi"]
    options = ["--iterations", "2", "--starts", "3", "--lr", "0.5", "--seed", "4"]
    run("--mdp", mine, "--method", *methods, *options, "--output", str(tmp_path))
    written = read(tmp_path)["runs"]
    assert [row["method"] for row in written] == methods
    for method, row in zip(methods, written, strict=True):
        expected = cpi.learn(MDP, method, iterations=2, starts=3, lr=0.5, seed=4)
        plain = [
            {"iteration": p.iteration, "J": p.J, "grad_norm": p.grad_norm, **p.ledger.to_json()}
            for p in expected.progress
        ]
        assert row["iterations"] == plain
        assert row["curve"]["J"][1:] == [p.J for p in expected.progress]
        assert row["curve"]["steps"] == [0, *(p.ledger.steps for p in expected.progress)]
        assert row["sum_left"] is row["sum_right"] is None
        policy = np.load(tmp_path / f"policy-{method}.npy")
        np.testing.assert_array_equal(policy, cpi.softmax_policy(expected.theta))


def test_main__a_policy_that_was_written_is_read(mine: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    run("--mdp", mine, "--iterations", "2", "--resets", "oracle", "--output", str(first))
    file = str(first / "policy-cpi-oracle.npy")
    run("--mdp", mine, "--policy", file, "--iterations", "0", "--output", str(second))
    assert read(second)["problem"]["J(π)"] == read(first)["runs"][0]["final_J"]
    stationary = np.tile([0.75, 0.25], (5, 1))
    np.save(tmp_path / "policy.npy", stationary)
    options = ["--method", "grpo", "--policy", str(tmp_path / "policy.npy"), "--iterations", "0"]
    run("--mdp", mine, *options, "--output", str(second))
    np.testing.assert_allclose(np.load(second / "policy-grpo.npy"), stationary, atol=1e-15)


def test_main__an_environment_with_its_arguments(tmp_path: Path) -> None:
    args = ["--env", "FrozenLake-v1", "--env_args.is_slippery", "false", "--env_args.map_name=4x4"]
    run(*args, "--iterations", "1", "--output", str(tmp_path))
    record = read(tmp_path)
    mdp = mdp_from_env("FrozenLake-v1", env_args={"is_slippery": False})
    assert record["problem"]["problem"] == repr(mdp) and mdp.horizon == 100
    assert record["problem"]["J(π)"] == cpi.evaluate(mdp, cpi.uniform_policy(mdp)).J
    assert record["settings"]["env_args"] == {"is_slippery": False, "map_name": "4x4"}


def test_main__a_discounted_mdp_takes_all_rules(mine: str, tmp_path: Path) -> None:
    options = ["--gamma", "0.5", "--iterations", "2", "--tau", "0.1"]
    run("--mdp", mine, *options, "--output", str(tmp_path))
    mdp = MDP.with_time(discount=0.5)
    rules = {"random": cpi.random_resets, "oracle": cpi.oracle_resets(0.1)}
    found = {written["method"]: written for written in read(tmp_path)["runs"]}
    assert found.keys() == {"cpi-random", "cpi-oracle", "cpi-self"}
    for name, resets in rules.items():
        policy = cpi.uniform_policy(mdp)
        expected = cpi.run_cpi(mdp, policy, resets=resets, iterations=2, tau=0.1)
        assert found[f"cpi-{name}"]["final_J"] == expected.J


def test_main__bad_input_is_one_line_that_names_it(
    mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--mdp", mine]
    np.save(tmp_path / "greedy.npy", np.zeros(5, dtype=int))
    np.save(tmp_path / "timed.npy", np.full((4, 5, 2), 0.5))
    gradient = [*own, "--method", "grpo", "--policy"]
    frozen = ["--env", "FrozenLake-v1"]
    cases = [
        ([], "no problem: add --mdp FILE.npz or --env ID"),
        (["--mdp", str(tmp_path / "no.npz")], "no.npz: no such file"),
        ([*frozen, "--env_args.is_slipery", "0"], "no argument is_slipery; it takes"),
        ([*frozen, "--env_args.map_name", "9x9"], "map_name='9x9'"),
        ([*own, "--lr", "1"], "--lr has no effect here: it belongs to --method grpo"),
        ([*own, "--delta", "0.1"], "--delta has no effect here: it belongs to --samples"),
        ([*own, "--resets", "oracle", "--recall", "1"], "--recall has no effect"),
        ([*own, "--method", "grpo", "--step", "full"], "--step has no effect here"),
        ([*own, "--repeats", "9"], "--repeats has no effect here: it belongs to --theorem1"),
        ([*own, "--theorem1", "--iterations", "9"], "--iterations has no effect here"),
        ([*own, "--theorem1", "--bound", "none"], "--bound has no effect here"),
        ([*own, "--step", "sampled"], "--step: sampled is certified by resets; add --samples N"),
        ([*own, "--theorem1", "--repeats", "1"], "--repeats: 1 is below 2"),
        ([*own, "--theorem1", "--max_resets", "7"], "--max_resets: 7 is below 8"),
        ([*own, "--theorem1", "--gamma", "0.5"], "add --horizon H"),
        ([*own, "--tau", "-1"], "--tau: -1.0 is not a number ≥ 0"),
        ([*own, "--tau", "9"], "tau: no state has an advantage above 9"),
        ([*own, "--samples", "9", "--delta", "1"], "--delta: 1.0 is not in (0, 1)"),
        ([*own, "--samples", "0"], "--samples: 0 is below 4"),
        ([*own, "--precision", "0"], "precision: 0.0 is not in (0, 1]"),
        ([*own, "--recall", "2"], "recall: 2.0 is not in (0, 1]"),
        ([*own, "--step", "kl"], "step: 'kl' is none of certified, full, masked"),
        ([*own, "--epsilon", "-1"], "epsilon: -1.0"),
        ([*own, "--method", "grpo", "--lr", "0"], "lr: 0.0 is not a finite number > 0"),
        ([*own, "--method", "grpo", "--starts", "0"], "starts: 0"),
        ([*gradient, str(tmp_path / "greedy.npy")], "state 0, action 1 has probability 0"),
        ([*gradient, str(tmp_path / "timed.npy")], "--policy: depends on time"),
        (
            [*own, "--gamma", "0.5", "--resets", "oracle", "--step", "kl"],
            "cpi-oracle: step 'kl' is for random resets only; add --resets random",
        ),
        ([*own, "--gamma", "0.5", "--method", "grpo"], "add --horizon H"),
        ([*own, "--output", mine], f"--output: {mine} is a file; name a folder"),
    ]
    for args, message in cases:
        assert command.main(args) == 2, args
        streams = capsys.readouterr()
        assert streams.out == "" and streams.err.count("\n") == 1, args
        assert message in streams.err, (args, streams.err)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--env_args.x", "1"], "--env_args.x needs an environment: add --env ID"),
        (["--env", "a", "--env_args.x"], "--env_args.x: write --env_args.NAME VALUE"),
        (["--env", "a", "--env_args.", "1"], "write --env_args.NAME VALUE"),
        (["--env", "a", "--env_args.x", "1", "--env_args.x=2"], "--env_args.x: given twice"),
        (["--method", "ppo"], "choose from"),
        (["--samples", "-1"], "'-1' is not a whole number"),
    ],
)
def test_main__bad_usage(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(args)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and "usage" not in error


def test_main__tables_are_whole_at_80_columns(
    mine: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "console", lambda file=None: Console(file=file, width=80))
    run("--mdp", mine, "--samples", "4000", "--iterations", "2", "--step", "full")
    printed = capsys.readouterr().out
    assert "…" not in printed and "environment steps" in printed and "Σ certified" in printed


def test_main__sums_below_0_are_explained(mine: str, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["--mdp", mine, "--resets", "random", "--iterations", "1"]
    run(*args, "--samples", "4000", "--step", "full")
    assert "A sum below 0: steps were longer than the bounds allow" in capsys.readouterr().out
    run(*args)
    printed = capsys.readouterr().out
    assert "A sum below 0" not in printed and "drawn" not in printed
    assert "Advantages were exact, for no environment step." in printed


def test_main__a_method_that_is_refused_on_its_way_leaves_the_others(
    mine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--mdp", mine, "--iterations", "2", "--precision", "0.01", "--output", str(tmp_path)]
    run(*args, code=2)
    streams = capsys.readouterr()
    assert "cpi.run: cpi-self: precision: 0.01 is below" in streams.err
    assert [len(row["iterations"]) for row in read(tmp_path)["runs"]] == [2, 2, 0]


def test_main__ctrl_c_keeps_what_was_done(
    mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reached = Record.reached
    calls = []

    def interrupt(record: Record, *args: Any) -> None:
        reached(record, *args)
        calls.append(record.name)
        if calls.count("cpi-oracle") == 4:  # a check before, the start, two iterations
            raise KeyboardInterrupt

    monkeypatch.setattr(Record, "reached", interrupt)
    args = ["--mdp", mine, "--iterations", "3", "--output", str(tmp_path)]
    run(*args, code=130)
    record = read(tmp_path)
    assert record["interrupted"] is True
    assert [len(row["iterations"]) for row in record["runs"]] == [3, 2]
    assert record["runs"][1]["stopped"] == "interrupted"
    assert (tmp_path / "run.png").exists() and (tmp_path / "policy-cpi-oracle.npy").exists()
    assert "Interrupted" in capsys.readouterr().out


def test_main__ctrl_c_before_the_first_iteration(
    mine: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "load_problem", Mock(side_effect=KeyboardInterrupt))
    run("--mdp", mine, code=130)
    assert capsys.readouterr().err == "python -m cpi.run: interrupted, nothing was run\n"


def test_main__without_matplotlib_the_numbers_are_written(
    mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    run("--mdp", mine, "--iterations", "1", "--output", str(tmp_path))
    assert "pip install matplotlib" in capsys.readouterr().out
    assert (tmp_path / "run.json").exists() and not (tmp_path / "run.png").exists()
    assert find_spec("matplotlib")


def test_help__teaches_and_loads_neither_plots_nor_environments(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for word in ("--env_args.is_slippery false", "exit code", "(left)", "--theorem1", *METHODS):
        assert word in text
    code = (
        "import sys, cpi.run.__main__\n"
        "heavy = {'torch', 'gymnasium', 'matplotlib', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
