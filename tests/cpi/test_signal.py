"""Where resets pay: the numbers of the maps, the conclusions, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

import envs
from cpi import signal
from cpi.core.plans import GroupPlan
from cpi.core.resets import RandomReset
from cpi.signal import (
    ADAPTIVE,
    ARMS,
    adaptive_map,
    compare,
    conclusions,
    signal_map,
    speed,
    split_map,
)
from cpi.tabular.gradient import exact_moments, policy_gradient

RRPO = GroupPlan(4, 1, 4)


@pytest.mark.parametrize("size", [2, 8])
@pytest.mark.parametrize("arm", ["grpo", *ARMS])
def test_compare__plan_without_resets_is_worth_1(arm: str, size: int) -> None:
    """Without resets the rule of the arm is not used."""
    row = compare(3, 0.6, {"fresh": (GroupPlan(size), arm)})
    assert row["fresh"] == (pytest.approx(1.0, abs=1e-12), pytest.approx(1.0, abs=1e-12))
    assert (row["length"], row["q"], row["success"]) == (3, 0.6, pytest.approx(0.216))


@pytest.mark.parametrize(("length", "q"), [(1, 0.5), (3, 0.6), (4, 0.8)])
def test_compare__cost_ratio_by_hand(length: int, q: float) -> None:
    """A reset at a uniform step leaves (n+1)/2 steps; without a failure the group is fresh."""
    row = compare(length, q, {"rrpo": (RRPO, "rrpo"), "seeded": (GroupPlan(0, 1, 8), "rrpo")})
    solved = q**length
    for name, fresh, size, chance in (
        ("rrpo", 4, 4, 1 - solved**4),
        ("seeded", 1, 8, 1 - solved),  # the seed is not trained on, but it costs
    ):
        steps = fresh * length + size * (chance * (length + 1) / 2 + (1 - chance) * length)
        per_rollout, per_step = row[name]
        assert per_step / per_rollout == pytest.approx(8 * length / steps)


def test_compare__worth_is_the_squared_ratio_of_snr() -> None:
    mdp = envs.first_error_chain(2)
    policy = np.tile([0.4, 0.6], (mdp.num_states, 1))
    gradient = policy_gradient(mdp, policy)
    direction = gradient / np.sqrt((gradient**2).sum())
    squares = []
    for plan in (RRPO, GroupPlan(8)):
        moments = exact_moments(mdp, policy, plan, RandomReset())
        squares.append((moments.mean * direction).sum() ** 2 / moments.variance)
    row = compare(2, 0.4, {"rrpo": (RRPO, "rrpo")})
    assert row["rrpo"][0] == pytest.approx(squares[0] / squares[1])


def test_chain_moments__accuracy_is_the_share_of_resets_at_the_first_error() -> None:
    """Weights 0.8 and 0.1 find the first of n errors with probability 0.8 / (0.8 + 0.1 (n − 1))."""
    n = 4
    plan, share = GroupPlan(4, 1, 4), 0.8 / (0.8 + 0.1 * (n - 1))
    row = compare(n, 0.5, {"share": (plan, share), "weights": (plan, "srpo 0.8/0.1"),
                           "all": (plan, 1.0), "oracle": (plan, "oracle")})  # fmt: skip
    assert row["share"] == pytest.approx(row["weights"])
    assert row["all"] == pytest.approx(row["oracle"])


def test_speed__alignment_per_step() -> None:
    plan, grpo = ADAPTIVE["oracle, deepest"][0], GroupPlan(8)
    moments, gradient = signal.chain_moments(3, 0.6, plan, "oracle")
    fresh, _ = signal.chain_moments(3, 0.6, grpo, "grpo")
    gains = [m.alignment(gradient, 5) / m.steps for m in (moments, fresh)]
    assert speed(3, 0.6, plan, "oracle", 5) == pytest.approx(gains[0] / gains[1])
    assert speed(3, 0.6, grpo, "grpo", 5) == pytest.approx(1.0, abs=1e-12)
    # At equal cost a step has as many generated steps as GRPO's, of fewer starts.
    fewer = moments.alignment(gradient, 5 * fresh.steps / moments.steps)
    expected = fewer / fresh.alignment(gradient, 5)
    assert speed(3, 0.6, plan, "oracle", 5, equal_cost=True) == pytest.approx(expected)
    # With one start and rare success, updates are mostly noise: the root of the worth at equal
    # batches, per step.
    worth = compare(8, 0.3, {"o": (RRPO, "oracle")})["o"][1]
    cost = math.sqrt(worth * grpo_steps_over(RRPO, 8, 0.3))
    assert speed(8, 0.3, RRPO, "oracle", 1) == pytest.approx(cost, rel=1e-3)
    # At equal cost it is the root of the worth.
    equal = speed(8, 0.3, RRPO, "oracle", 1, equal_cost=True)
    assert equal == pytest.approx(math.sqrt(worth), rel=1e-3)


def grpo_steps_over(plan: GroupPlan, length: int, q: float) -> float:
    """Steps of GRPO over those of a plan with the oracle."""
    return 8 * length / signal.chain_moments(length, q, plan, "oracle")[0].steps


def test_speed__signal_is_of_no_use_where_updates_are_aligned() -> None:
    """Where success is common the adaptive plan is worth more than GRPO and yet not faster."""
    plan = ADAPTIVE["oracle, deepest"][0]
    assert compare(3, 0.5, {"a": (plan, "oracle")})["a"][1] > 1.6
    assert speed(3, 0.5, plan, "oracle", 8) < 1 < speed(8, 0.5, plan, "oracle", 8)


def test_arms__ordered_by_localizer_quality() -> None:
    """More recall and fewer false positives help; perfect localization is the oracle."""
    plans = {name: (RRPO, name) for name in ARMS}
    row = compare(6, 0.4, plans)
    worth = [row[name][0] for name in ("rrpo", "srpo 0.6/0.2", "srpo 0.8/0.1", "oracle")]
    assert worth == sorted(worth) and len(set(worth)) == 4
    ARMS["as good"] = ("srpo", (1.0, 0.0))
    ARMS["blind"] = ("srpo", (0.5, 0.5))
    try:
        more = compare(6, 0.4, {name: (RRPO, name) for name in ("as good", "blind")})
    finally:
        del ARMS["as good"], ARMS["blind"]
    assert more["as good"] == pytest.approx(row["oracle"])
    assert more["blind"] == pytest.approx(row["rrpo"])


def test_signal_map__oracle_ahead_of_random_resets() -> None:
    """The oracle beats RRPO on all but the easiest chain; RRPO never beats GRPO."""
    rows = signal_map((2, 4, 8), (0.3, 0.5, 0.7, 0.9))
    at = {(row["length"], row["q"]): row for row in rows}
    assert len(at) == 12
    for where, row in at.items():
        for budget in (0, 1):
            ahead = row["oracle"][budget] > row["rrpo"][budget]
            assert ahead == (where != (2, 0.9)), row
            assert row["rrpo"][budget] < 1, row
    assert at[8, 0.3]["oracle"][0] > 1.5 and at[8, 0.3]["oracle"][1] > 1.5
    assert at[4, 0.7]["oracle"][0] < 0.8 and at[4, 0.7]["oracle"][1] < 0.8


def test_signal_map__sorted_by_falling_success() -> None:
    rows = signal_map((1, 2, 3), (0.3, 0.8))
    success = [row["success"] for row in rows]
    assert success == sorted(success, reverse=True)
    assert {(row["length"], row["q"]) for row in rows} == {
        (n, q) for n in (1, 2, 3) for q in (0.3, 0.8)
    }
    assert all(set(row) == {"length", "q", "success", *ARMS} for row in rows)


def test_compare__adaptive_plan_at_equal_rollouts_by_hand() -> None:
    """All groups start at the first step of a chain of one, so they are all like the fresh one."""
    (per_rollout, per_step) = compare(1, 0.4, {"a": ADAPTIVE["oracle, deepest"]})["a"]
    # A group of m has Σ Â φ with second moment E S and mean signal E D; advantages differ by size.
    q = 0.4

    def moments(size: int) -> tuple[float, float]:
        first = second = 0.0
        for wins in range(1, size):
            chance = math.comb(size, wins) * q**wins * (1 - q) ** (size - wins)
            deviation = math.sqrt(wins * (size - wins) / (size * (size - 1))) + 1e-4
            # Â of a success is (1 − w/m)/σ; scores of success and failure are √2 apart.
            total = wins * (1 - wins / size) / deviation * math.sqrt(2)
            first, second = first + chance * total, second + chance * total**2
        return first, second

    (d8, s8), (d4, s4) = moments(8), moments(4)
    all_fail, again = (1 - q) ** 8, (1 - q) ** 4
    more = all_fail * sum(again**k for k in range(4))
    worth = (d8 + more * d4) ** 2 / (s8 + more * s4 - (d8 + more * d4) ** 2)
    worth /= d8**2 / (s8 - d8**2)
    assert per_rollout == pytest.approx(worth * 8 / (8 + 4 * more))
    assert per_step == pytest.approx(per_rollout)  # each rollout has one step


def test_adaptive_map__which_failure_to_reset_depends_on_the_localizer() -> None:
    """The deepest of all failures pays with an oracle and not with a localizer that errs."""
    names = ("0.6/0.2, random", "0.6/0.2, deepest of 2", "0.8/0.1, random", "0.8/0.1, deepest")
    (row,) = adaptive_map((5,), (0.5,))
    weak, weak_deep, good, good_deepest = (row[name][1] for name in names)
    assert weak > weak_deep and good > good_deepest > 1
    assert row["oracle, deepest"][1] > row["oracle, random"][1] > good
    assert row["halving"][1] < good
    # The control pays on short chains, where more rollouts find a success, and not on long ones.
    short, long = compare(3, 0.5, ADAPTIVE)["first"], compare(8, 0.5, {"s": ADAPTIVE["first"]})["s"]
    assert short[1] > 1.3 and long[1] < 1


def test_split_map__names_plans() -> None:
    rows = split_map(3, 0.5)
    by_plan = {row["plan"]: row for row in rows}
    assert len(by_plan) == len(rows) >= 5
    expected = compare(3, 0.5, {"oracle": (RRPO, "oracle")})
    assert by_plan["4+1×4"]["oracle"] == pytest.approx(expected["oracle"])
    expected = compare(3, 0.5, {"rrpo": (GroupPlan(0, 2, 4), "rrpo")})
    assert by_plan["0+2×4"]["rrpo"] == pytest.approx(expected["rrpo"])


def made_up(length: int, q: float, success: float, **cells: tuple[float, float]) -> dict[str, Any]:
    """A row of the map in which arms that are not given are far behind."""
    behind = dict.fromkeys(ARMS, (0.1, 0.1))
    return {"length": length, "q": q, "success": success, **behind, **cells}


def test_conclusions__follow_from_the_rows() -> None:
    srpo = "srpo 0.8/0.1"
    rows = [
        made_up(2, 0.9, 0.81, oracle=(0.9, 0.99), rrpo=(1.0, 1.0)),
        made_up(3, 0.5, 0.125, oracle=(1.25, 1.5), **{srpo: (0.9, 1.1)}),
        made_up(4, 0.5, 0.0625, oracle=(0.8, 1.01), **{srpo: (0.5, 0.9)}),
        made_up(8, 0.3, 0.01, oracle=(2.5, 2.0), **{srpo: (0.99, 1.2)}),
    ]
    assert conclusions(rows) == [
        "rrpo: behind GRPO everywhere at equal rollouts; at equal steps nowhere ahead",
        "srpo 0.6/0.2: behind GRPO everywhere at equal rollouts; at equal steps nowhere ahead",
        "srpo 0.8/0.1: behind GRPO everywhere at equal rollouts; at equal steps ahead on 2, "
        "up to success 0.125",
        "oracle: ahead of GRPO at equal rollouts on 2 of 4 chains, none with a success above "
        "0.125; behind on chains down to 0.0625; at best ×2.50 (n = 8, q = 0.3); at equal steps "
        "ahead on 3, up to success 0.125",
    ]


def test_conclusions__arm_never_behind() -> None:
    (line,) = (line for line in conclusions([made_up(8, 0.3, 0.01, oracle=(2, 2))]) if "×2" in line)
    assert "on 1 of 1 chains" in line and "behind on" not in line


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], list[Any]]:
    """Replace the maps of the command by small ones."""
    maps = signal_map((2, 4), (0.4, 0.8)), split_map(2, 0.5)
    adaptive = adaptive_map((2,), (0.5,))
    monkeypatch.setattr(signal, "adaptive_map", lambda: adaptive)
    monkeypatch.setattr(signal, "signal_map", lambda progress: maps[0])
    monkeypatch.setattr(signal, "split_map", lambda: maps[1])
    return maps


def test_main__prints_and_writes_the_numbers(
    small: tuple[list[Any], list[Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new folder" / "signal.json"
    assert signal.main(["--json", str(path)]) == 0
    record = json.loads(path.read_text())
    rows, splits = small
    adaptive = signal.adaptive_map()
    expected = {"map": rows, "splits": splits, "adaptive": adaptive}
    assert record == json.loads(json.dumps(expected))
    printed = capsys.readouterr().out
    for row in rows:
        cell = f"{row['oracle'][0]:.2f} / {row['oracle'][1]:.2f}"
        assert any(
            cell in line and f" {row['q']:g} " in line and f" {row['length']} " in line
            for line in printed.splitlines()
        )
    assert all(row["plan"] in printed for row in splits)
    assert f"{adaptive[0]['halving'][0]:.2f} / {adaptive[0]['halving'][1]:.2f}" in printed
    flat = " ".join(printed.split())
    assert all(line in flat for line in conclusions(rows))
    assert str(path) in printed.replace("\n", "")


def test_main__writes_no_file_without_json_option(
    small: tuple[list[Any], list[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert signal.main([]) == 0
    assert list(tmp_path.iterdir()) == []
    assert "Written" not in capsys.readouterr().out


def test_main__ctrl_c_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(signal, "split_map", Mock(side_effect=KeyboardInterrupt))
    monkeypatch.setattr(signal, "signal_map", Mock(return_value=[]))
    monkeypatch.setattr(signal, "adaptive_map", Mock(return_value=[]))
    assert signal.main([]) == 130
    assert capsys.readouterr() == ("", "python -m cpi.signal: interrupted\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_main__full_disk_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = signal.signal_map([2], [0.5])
    monkeypatch.setattr(signal, "signal_map", lambda progress: rows)
    monkeypatch.setattr(signal, "split_map", lambda: [{**rows[0], "plan": "4+1×4"}])
    monkeypatch.setattr(signal, "adaptive_map", list)
    assert signal.main(["--json", "/dev/full"]) == 2
    message = "python -m cpi.signal: [Errno 28] No space left on device: '/dev/full'\n"
    assert capsys.readouterr().err == message


def test_main__help_explains_a_cell(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        signal.main(["--help"])
    assert stop.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "above 1 the method is ahead" in printed and "--json FILE" in printed


@pytest.mark.parametrize("option", ["--length=4", "--js"])
def test_main__bad_usage_is_one_line(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        signal.main([option])
    assert stop.value.code == 2
    error = f"python -m cpi.signal: unrecognized arguments: {option}; --help lists the options\n"
    assert capsys.readouterr() == ("", error)


def test_main__list_names_every_arm(capsys: pytest.CaptureFixture[str]) -> None:
    assert signal.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:14].strip() for line in lines] == list(signal.ARMS)


def test_signal_map__says_which_chain_it_computes() -> None:
    told: list[str] = []
    rows = signal.signal_map((2,), (0.5, 0.9), told.append)
    assert told == ["chain 1 of 2: n = 2, q = 0.5", "chain 2 of 2: n = 2, q = 0.9"]
    assert len(rows) == 2
