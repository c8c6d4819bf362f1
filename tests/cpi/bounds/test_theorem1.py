"""The experiment behind Theorem 1: how it reads numbers off, and what it finds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import norm

import envs
from cpi.bounds import theorem1 as module
from cpi.bounds.theorem1 import (
    _slope,
    per_state_correct,
    resets_needed,
    shared_correct,
    theorem1,
)
from cpi.bounds.theorem1_report import Experiment
from cpi.conservative import measure as measurement
from cpi.conservative.reset_weights import random_resets
from cpi.conservative.resets import Resets, draw_resets
from cpi.exact.policies import uniform_policy
from cpi.exact.values import evaluate
from cpi.reporting.tables import plain
from envs.needle import NEEDLE, QUIET

# Reading off the number of resets.

SIZES = np.unique(np.geomspace(8, 400, 40).astype(np.intp))


def table(rates: Any, repeats: int = 20_000) -> Any:
    """A table of successes, (repeats, sizes), whose column means are `rates` to 1 / repeats."""
    return (np.arange(repeats)[:, None] + 0.5) / repeats < rates


@pytest.mark.parametrize("needed", [30, 100, 250])
def test_the_reset_count_of_gaussian_means(needed: int) -> None:
    """Two means of n returns are a n-th part apart: Pr(right) = Φ(Δ √n / σ) = 0.9 at n90."""
    rates = norm.cdf(norm.ppf(0.9) * np.sqrt(SIZES / needed))
    assert resets_needed(SIZES, table(rates)) == pytest.approx(needed, rel=2e-3)


def test_the_reset_count_may_have_a_head_start() -> None:
    """The line in √n need not go through Φ⁻¹ = 0."""
    root = (norm.ppf(0.9) - 0.3) / 0.1
    rates = norm.cdf(0.3 + 0.1 * np.sqrt(SIZES))
    assert resets_needed(SIZES, table(rates)) == pytest.approx(root**2, rel=2e-3)


def test_sure_and_hopeless_rates_do_not_bend_the_line() -> None:
    """Only rates between 50 and 98 % are used: outside them a count of repeats knows little."""
    rates = norm.cdf(norm.ppf(0.9) * np.sqrt(SIZES / 60))
    bent = np.where(rates > 0.98, 0.99999, rates)
    bent[0] = 0.2
    assert resets_needed(SIZES, table(bent)) == pytest.approx(60, rel=5e-3)


def test_the_reset_count_of_noisy_rates() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(40):
        needed = 80
        signal = norm.ppf(0.9) / math.sqrt(needed)
        paths = rng.normal(size=(600, SIZES.max())).cumsum(axis=1)[:, SIZES - 1]
        found.append(resets_needed(SIZES, paths + signal * SIZES > 0))
    assert np.mean(found) == pytest.approx(80, rel=0.05)
    assert np.std(found) < 8


def test_a_success_rate_that_jumps_still_gives_a_number() -> None:
    """Few repeats and few resets: --quick with seeds 3 and 19."""
    needed = resets_needed(np.array([4, 8, 16]), table(np.array([0.3, 0.99, 1.0]), 60))
    assert math.isfinite(needed) and needed > 0


def resets(step: Any, state: Any, action: Any, ret: Any) -> Resets:
    arrays = (np.array(step), np.array(state), np.array(action), np.array(ret, dtype=np.float64))
    return Resets(*arrays, 0, 0)


def test_the_shared_class_is_right_by_hand() -> None:
    """Two repeats of four resets: action 0 leads after 1 and 4, and after 3."""
    data = resets(
        [0] * 8, [QUIET] * 8, [0, 1, 2, 0, 1, 2, 0, 1], [1.0, 2.0, 0.0, 5.0, 0.0, 1.0, 1.5, 9.0]
    )
    right = shared_correct(data, np.array([1, 2, 3, 4]), 2)
    assert right.tolist() == [[True, False, False, True], [False, False, True, False]]


def test_the_per_state_class_is_right_by_hand() -> None:
    """At every step every action must have been tried in the needle, and 0 be the best."""
    step = np.tile(np.repeat([0, 1, 2], 3), 2)
    action = np.tile([0, 1, 2], 6)
    state = np.full(18, NEEDLE)
    ret = np.tile([1.0, 0.0, 0.0], 6)
    ret[[3, 4]] = 0.0, 1.0  # wrong at step 1 of the first repeat
    data = resets(step, state, action, ret)
    sizes = np.array([8, 9])
    assert per_state_correct(data, sizes, 2).tolist() == [[False, False], [False, True]]
    elsewhere = np.array(state)
    elsewhere[12] = QUIET  # then action 0 is not tried at step 1 of the second
    data = resets(step, elsewhere, action, ret)
    assert not per_state_correct(data, sizes, 2).any()


def test_a_tie_is_no_right_choice() -> None:
    """Or the right action would be found by its number: 7 oracle resets, where it takes 10."""
    data = resets([0] * 6, [QUIET] * 6, [0, 1, 2] * 2, [1.0, 1.0, 0.0, 2.0, 1.0, 1.5])
    right = shared_correct(data, np.array([2, 3]), 2)
    assert right.tolist() == [[False, False], [True, True]]


def test_a_tie_is_no_right_choice_per_state_either() -> None:
    step, action = np.repeat([0, 1, 2], 3), np.tile([0, 1, 2], 3)
    ret = np.array([1.0, 0.0, 0.0] * 2 + [1.0, 0.0, 1.0])
    data = resets(step, np.full(9, NEEDLE), action, ret)
    assert not per_state_correct(data, np.array([9]), 1).any()


# Slopes.


def test_a_power_law_is_recovered() -> None:
    p = np.array([0.4, 0.2, 0.1, 0.05])
    y = 3.0 * p**-1.7
    slope = _slope(p, y, np.tile(y[:, None], 50))
    assert (slope.value, slope.low, slope.high) == pytest.approx((-1.7, -1.7, -1.7))
    assert str(slope) == "-1.70 [-1.70, -1.70]"
    assert slope.to_json() == {"value": slope.value, "low": slope.low, "high": slope.high}


def test_the_interval_holds_95_percent_of_the_replicates() -> None:
    """Replicates of exponents 0, 0.01, …, 1: from 0.025 to 0.975."""
    p = np.array([0.4, 0.2, 0.1])
    replicates = p[:, None] ** np.linspace(0, 1, 101)
    slope = _slope(p, 2 * p**0.4, replicates)
    assert (slope.value, slope.low, slope.high) == pytest.approx((0.4, 0.025, 0.975))


# A small run.


def small(coverages: tuple[float, ...], **more: Any) -> Experiment:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "COVERAGES", coverages)
        patch.setattr(module, "PRECISIONS", (0.4, 1.0))
        patch.setattr(module, "RECALLS", (0.5, 1.0))
        return theorem1(**more)


@pytest.fixture(scope="module")
def experiment() -> Iterator[Experiment]:
    yield small((0.4, 0.2, 0.1), seed=0, repeats=80, bootstrap=60)


def test_the_record_has_the_keys_of_the_issue(experiment: Experiment) -> None:
    record = json.loads(json.dumps(experiment.to_json(), allow_nan=False))
    found = record["theorem1"]
    assert found["p"] == [0.4, 0.2, 0.1]
    assert found["setting"] == {"horizon": 3, "num_actions": 3, "tau": 0.5, "delta": 0.05}
    for arm in ("rr", "caro", "caro_total", "rr_per_state"):
        assert len(found[arm]["resets"]) == 3 and min(found[arm]["resets"]) > 0
        low, high = found[arm]["resets_slope_interval"]
        assert low <= found[arm]["resets_slope"] <= high
        for value, (low, high) in zip(
            found[arm]["resets"], found[arm]["resets_interval"], strict=True
        ):
            assert low < value < high
    for arm in ("rr", "caro"):
        for value, (low, high) in zip(found[arm]["gain"], found[arm]["gain_interval"], strict=True):
            assert low < value < high
        assert len(found[arm]["gain"]) == len(found[arm]["true_gain"]) == 3
        assert len(found[arm]["gain_at_delta"]) == len(found[arm]["true_gain_at_delta"]) == 3
        low, high = found[arm]["gain_slope_interval"]
        assert low <= found[arm]["gain_slope"] <= high
    assert isinstance(record["localizer"], list) and len(record["localizer"]) == 4
    assert record["localizer_slopes"]


def test_slopes_are_roughly_those_of_the_theorem(experiment: Experiment) -> None:
    """80 repeats over a factor of 4: bands of 3 to 4 standard deviations over seeds."""
    slopes = experiment.slopes
    assert slopes["rr"]["resets"].value == pytest.approx(-2, abs=0.8)
    assert slopes["caro"]["resets"].value == pytest.approx(0, abs=0.4)
    assert slopes["caro_total"]["resets"].value == pytest.approx(-1, abs=0.4)
    assert slopes["rr_per_state"]["resets"].value == pytest.approx(-1, abs=0.3)
    assert slopes["rr"]["gain"].value == pytest.approx(2, abs=0.4)
    assert slopes["caro"]["gain"].value == pytest.approx(1, abs=0.16)


def test_measures_are_those_of_the_needle(experiment: Experiment) -> None:
    """𝔸 = ⅔p at random and ⅔ with the oracle; blind rejection draws 1/p states for one."""
    for p, rr, caro in zip(
        experiment.p, experiment.arms["rr"], experiment.arms["caro"], strict=True
    ):
        assert rr.p_w == 1.0 and caro.p_w == pytest.approx(p, rel=0.03)
        assert rr.advantage == pytest.approx(2 / 3 * p, rel=0.3)
        assert caro.advantage == pytest.approx(2 / 3, rel=0.1)
        assert rr.drawn == rr.accepted
        assert caro.drawn / caro.accepted == pytest.approx(1 / p, rel=0.1)
        for point in (rr, caro):
            # p_w 𝔸² / (2 H r), from what was measured.
            assert point.certificate == pytest.approx(point.p_w * point.advantage**2 / 6)
            assert point.certificate != point.p_w * (2 / 3 * (p if point is rr else 1)) ** 2 / 6
            assert point.gain > point.certificate
    totals = experiment.to_json()["theorem1"]["caro_total"]["resets"]
    assert totals == [point.drawn for point in experiment.arms["caro"]]


def test_the_baseline_comes_from_the_other_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resets whose returns are their own baseline would measure too small an advantage."""
    halves: dict[str, tuple[int, ...]] = {}

    def spy(name: str, function: Any, position: int) -> None:
        def recorded(*args: Any) -> Any:
            halves[name] = tuple(args[position].ret)
            return function(*args)

        monkeypatch.setattr(measurement, name, recorded)

    spy("mean_returns", measurement.mean_returns, 0)
    spy("advantage_samples", measurement.advantage_samples, 2)
    drawn: list[Resets] = []

    def draw(*args: Any, **options: Any) -> Resets:
        drawn.append(draw_resets(*args, **options))
        return drawn[-1]

    monkeypatch.setattr(module, "draw_resets", draw)
    base = module._base(0.4)
    rng = np.random.default_rng(0)
    module._point(base, random_resets(base), shared_correct, 20, 101, 2, rng)
    returns = tuple(drawn[-1].ret)
    assert len(returns) == 101
    assert halves == {"mean_returns": returns[:50], "advantage_samples": returns[50:]}


def test_the_gain_is_that_of_the_step_taken(experiment: Experiment) -> None:
    """α = 𝔸̂/(H² r) towards action 0 in all states gains α H p a: nothing changes the future."""
    for arm in ("rr", "caro"):
        for p, point in zip(experiment.p, experiment.arms[arm], strict=True):
            assert point.gain == pytest.approx(point.advantage / 9 * 3 * p * 2 / 3)


def test_the_gain_at_delta_is_that_of_the_measurement(experiment: Experiment) -> None:
    """It is close to p_w 𝔸_w²/(4B), B = 8/3 at random steps, when 𝔸_w is known well."""
    for arm in ("rr", "caro"):
        for p, point in zip(experiment.p, experiment.arms[arm], strict=True):
            best = 3 * point.p_w * point.advantage**2 / (4 * 8 / 3)
            assert 0.3 * best < point.certified < best
            # A step α towards action 0 in all states gains α H p a: nothing changes the future.
            largest = point.advantage / (2 * 8 / 3) * 3 * p * 2 / 3
            assert point.certified < point.certified_gain < largest
            # The step of the plug-in is shorter: 𝔸̂/(H² r), not about 𝔸̂/(2B).
            assert point.certified_gain > 1.1 * point.gain


def test_the_localizer_formula(experiment: Experiment) -> None:
    """gain p t q a²/(2Hr), advantage q a, accepted share p t / q, at p = 1/8 and a = 2/3."""
    rows = {(row["precision"], row["recall"]): row for row in experiment.localizer}
    assert set(rows) == {(0.4, 0.5), (0.4, 1.0), (1.0, 0.5), (1.0, 1.0)}
    for (q, t), row in rows.items():
        assert row["p_w"] == pytest.approx(t / 8 / q, rel=0.05)
        assert row["predicted_advantage"] == pytest.approx(q * 2 / 3)
        assert row["advantage"] == pytest.approx(q * 2 / 3, rel=0.25)
        assert row["predicted_gain"] == pytest.approx(t * q / 8 * (4 / 9) / 6)
        assert row["gain"] == pytest.approx(row["predicted_gain"], rel=0.5)
        assert row["gain"] == pytest.approx(row["p_w"] * row["advantage"] ** 2 / 6)
        assert row["true_gain"] > row["gain"] > 0
        # α H p t a with α = 𝔸̂/(H² r): nothing that is done changes the future.
        assert row["true_gain"] == pytest.approx(row["advantage"] / 9 * 3 * t / 8 * 2 / 3)
        assert row["drawn"] / row["resets"] == pytest.approx(1 / row["p_w"], rel=0.1)
    slopes = experiment.localizer_slopes
    assert slopes["accepted_by_precision"].value == pytest.approx(-2, abs=0.8)
    assert slopes["gain_by_precision_times_recall"].value == pytest.approx(1, abs=0.3)
    # Two grid lines of recall: drawn ∝ 1/(p t q² / q) is one power of the product.
    assert slopes["drawn_by_precision_times_recall"].value == pytest.approx(-1, abs=0.6)


def test_every_step_gained_what_was_certified_or_it_says_so(experiment: Experiment) -> None:
    assert experiment.certified
    assert "every step gained at least" in experiment.verdict()
    assert str(experiment.slopes["rr"]["resets"]) in experiment.verdict()
    point = experiment.arms["caro"][1]
    short = replace(point, gain=0.99 * point.certificate)
    arms = {**experiment.arms, "caro": [short, *experiment.arms["caro"]]}
    broken = replace(experiment, arms=arms)
    assert not broken.certified and "NOT every step gained" in broken.verdict()
    short = replace(point, certified_gain=0.99 * point.certified)
    arms = {**experiment.arms, "caro": [short, *experiment.arms["caro"]]}
    assert point.certified > 0 and not replace(experiment, arms=arms).certified
    row = max(experiment.localizer, key=lambda row: row["gain_at_delta"])
    assert row["gain_at_delta"] > 0
    short_row = {**row, "true_gain_at_delta": 0.99 * row["gain_at_delta"]}
    assert not replace(experiment, localizer=[short_row]).certified
    row = experiment.localizer[0]
    rows = [*experiment.localizer, {**row, "true_gain": 0.99 * row["gain"]}]
    assert not replace(experiment, localizer=rows).certified


def test_the_tables_show_the_numbers(experiment: Experiment) -> None:
    printed = plain(experiment)
    for slopes in experiment.slopes.values():
        for slope in slopes.values():
            assert str(slope) in printed
    for point in (*experiment.arms["rr"], *experiment.arms["caro"]):
        assert f"{point.certificate:.2g}" in printed and f"{point.gain:.2g}" in printed
        assert f"{point.accepted:,.0f}" in printed
        assert f"{point.certified:.2g}" in printed and f"{point.certified_gain:.2g}" in printed
    assert "p = 0.4" in printed and "oracle resets, refused draws included" in printed


def test_the_tables_are_whole_at_80_columns(experiment: Experiment) -> None:
    arms = {name: [*points, *points[:2]] for name, points in experiment.arms.items()}
    five = replace(experiment, p=(0.4, 0.2, 0.1, 0.05, 0.025), arms=arms)
    recorder = Console(width=80, no_color=True)
    with recorder.capture() as capture:
        recorder.print(five)
    printed = capture.get()
    assert "…" not in printed and "probability" in printed and "included" in printed


def test_one_seed_gives_one_experiment() -> None:
    steps: list[str] = []
    options: Any = {"repeats": 40, "bootstrap": 10, "progress": steps.append}
    one, two, other = (small((0.4, 0.2), seed=seed, **options) for seed in (5, 5, 6))
    assert one.to_json() == two.to_json()
    assert one.to_json() != other.to_json()
    assert steps == 3 * ["Theorem 1 at p = 0.4", "Theorem 1 at p = 0.2", "localizer formula"]


def numbers(experiment: Experiment) -> Any:
    """Each number of the tables that has an interval: value and ends, costs and gains as logs."""
    record = experiment.to_json()
    rows = [[s["value"], s["low"], s["high"]] for s in record["localizer_slopes"].values()]
    for arm in experiment.arms:
        found = record["theorem1"][arm]
        for name in ("resets", "gain"):
            if name in found:
                rows += np.log(np.c_[found[name], found[f"{name}_interval"]]).tolist()
                rows.append([found[f"{name}_slope"], *found[f"{name}_slope_interval"]])
    return np.array(rows)


def test_two_seeds_give_the_same_tables_within_their_intervals(experiment: Experiment) -> None:
    """Differences between seeds are as large as the 95 % intervals say."""
    other = small((0.4, 0.2, 0.1), seed=1, repeats=80, bootstrap=60)
    one, two = numbers(experiment), numbers(other)
    error = np.hypot(np.ptp(one[:, 1:], axis=1), np.ptp(two[:, 1:], axis=1)) / (2 * 1.96)
    z = (one[:, 0] - two[:, 0]) / error
    assert len(z) == 27 and (np.abs(z) < 3).all()
    assert 0.5 < np.sqrt(np.mean(z**2)) < 1.4


@pytest.mark.parametrize("name", ["repeats", "bootstrap", "seed"])
@pytest.mark.parametrize("number", [-1, 2.5])
def test_theorem1__numbers_are_checked(name: str, number: Any) -> None:
    options: Any = {name: number}
    with pytest.raises(ValueError, match=f"{name}: {number} is not a whole number ≥"):
        module.theorem1(**options)


def test_the_family_varies_the_coverage_and_nothing_else() -> None:
    """H, |A| and τ are fixed; at every p the needle is I_τ and its advantage ⅔."""
    assert len(module.COVERAGES) >= 5
    assert max(module.COVERAGES) / min(module.COVERAGES) >= 16 - 1e-9
    for p in module.COVERAGES:
        mdp = envs.needle(p, module.HORIZON, module.NUM_ACTIONS)
        base = evaluate(mdp, uniform_policy(mdp))
        best = base.A.max(axis=-1)
        np.testing.assert_allclose(best[:, NEEDLE], 2 / 3)
        assert (best[:, NEEDLE] > module.TAU).all()
        np.testing.assert_allclose(best[:, NEEDLE + 1 :], 0, atol=1e-12)
        assert float(base.occupancy[:, NEEDLE].sum()) == pytest.approx(p)
