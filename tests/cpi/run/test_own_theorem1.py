"""Theorem 1's experiment on any MDP, against closed forms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

import cpi
import envs
from cpi.conservative.choosers import Choice, Chooser, sampled
from cpi.exact.values import Evaluation
from cpi.run import __main__ as command
from cpi.run.own_theorem1 import TARGET, Need, OwnExperiment, own_theorem1
from envs.tabular import FloatArray

P, HORIZON, ACTIONS = 0.25, 3, 3
TAU = 0.5
BEST = 1 - 1 / ACTIONS  # the advantage at the needle


def needle() -> Evaluation:
    mdp = envs.needle(P, HORIZON, ACTIONS)
    return cpi.evaluate(mdp, cpi.uniform_policy(mdp))


def probit_chooser(slope: float, offset: float) -> Callable[[int], Chooser]:
    """Certifies with probability Φ(slope · p_w · √n − offset)."""

    def chooser(size: int) -> Chooser:
        def choose(base: Evaluation, weights: FloatArray, rng: np.random.Generator) -> Choice:
            p = ndtr(slope * cpi.coverage(base, weights) * np.sqrt(size) - offset)
            lower = 1.0 if rng.random() < p else -1.0
            return Choice(base.policy, lower, lower)

        return choose

    return chooser


def test_own_theorem1__resets_needed_of_a_known_rate() -> None:
    oracle, random = own_theorem1(needle(), TAU, probit_chooser(0.4, 1.0), repeats=400)
    for need, p_w in ((oracle, P), (random, 1.0)):
        exact = ((ndtri(TARGET) + 1) / (0.4 * p_w)) ** 2
        assert need.p_w == pytest.approx(p_w, abs=1e-12)
        assert need.needed == pytest.approx(exact, rel=0.1)
        low, high = np.percentile(need.replicates, [2.5, 97.5])
        assert low < exact < high and high - low < 0.4 * exact
        assert need.to_json()["drawn"] == pytest.approx(need.needed / p_w)


def test_own_theorem1__gains_of_the_needle() -> None:
    oracle, random = own_theorem1(needle(), TAU, probit_chooser(9.0, 0.0), repeats=2)
    squared = BEST**2 / (2 * HORIZON)
    assert oracle.certificate == pytest.approx(P * squared, rel=1e-12)
    assert random.certificate == pytest.approx(P**2 * squared, rel=1e-12)
    # Actions do not influence the next state: the gain of a step is α H p 𝔸, twice its certificate.
    for need in (oracle, random):
        assert need.gain == pytest.approx(2 * need.certificate, rel=1e-9)


def test_own_theorem1__hoeffding_needs_what_its_formula_says() -> None:
    """Half the resets measure: n = width² ln(1/δ)/𝔸², and a little more for 9 repeats in 10."""
    mdp = envs.needle(P, 1, 2)
    base = cpi.evaluate(mdp, cpi.uniform_policy(mdp))

    def chooser(size: int) -> Chooser:
        return sampled(size, "shared", delta=0.05, bound="hoeffding")

    oracle, random = own_theorem1(base, TAU / 2, chooser, repeats=12)
    width, noise = 2 * 2 * 1, 1.0  # |A| (π' − π) (G − b) is within ± 1
    for need, advantage in ((oracle, 0.5), (random, 0.5 * P)):
        exact = width**2 * np.log(20) / advantage**2
        most = (width * np.sqrt(np.log(20)) + noise * np.sqrt(2) * ndtri(0.99)) ** 2 / advantage**2
        assert need.needed is not None and 0.9 * exact < need.needed < most
    experiment = OwnExperiment(TAU / 2, P, "shared", 100_000, [oracle, random])
    value, (low, high) = experiment.ratios["resets"]
    assert low <= value <= high and value == pytest.approx(P**-2, rel=0.35)
    assert experiment.ratios["drawn"][0] == pytest.approx(P * value)
    assert experiment.theory["resets"] == pytest.approx([1 / P, P**-2])


def test_own_theorem1__theory_counts_steps_before_the_end() -> None:
    mdp = envs.lock_chain(3, 2)  # half of the episodes end after the first step
    base = cpi.evaluate(mdp, cpi.uniform_policy(mdp))
    needs = own_theorem1(base, 0.2, probit_chooser(9.0, 0.0), repeats=2)
    going_on = 1 - float((base.occupancy * mdp.terminal).sum())
    experiment = OwnExperiment(0.2, 0.0, "shared", 100, needs)
    p = cpi.coverage(base, cpi.improvable(base, 0.2)) / going_on
    assert needs[1].p_w == pytest.approx(going_on) and 0 < p < 1
    assert experiment.theory["certified_gain"] == pytest.approx([p, p])
    assert experiment.theory["drawn"] == pytest.approx([1, 1 / p])
    assert experiment.ratios["certified_gain"][0] >= p


def test_own_theorem1__an_advantage_out_of_reach() -> None:
    chooser = probit_chooser(0.06, 1.0)  # the oracle, by its small p_w here, needs far more
    oracle, random = own_theorem1(needle(), TAU, chooser, most=3000, repeats=40)
    assert oracle.needed is None and oracle.to_json()["resets_interval"] is None
    assert random.needed is not None and max(random.sizes) <= 3000
    experiment = OwnExperiment(TAU, P, "shared", 3000, [oracle, random])
    assert set(experiment.to_json()["ratios"]) == {"certified_gain"}


def test_main__theorem1_on_ones_own_mdp(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    envs.needle(P, 1, 2).save(tmp_path / "mine.npz")
    args = ["--mdp", str(tmp_path / "mine.npz"), "--theorem1", "--repeats", "6"]
    args += ["--policy_class", "shared", "--output", str(tmp_path)]
    assert command.main([*args, "--max_resets", "400"]) == 0
    printed = capsys.readouterr().out
    assert "> 400" in printed and "random / oracle" in printed
    assert (tmp_path / "theorem1.png").exists() and not (tmp_path / "run.json").exists()
    record = json.loads((tmp_path / "theorem1.json").read_text())["theorem1"]
    assert [rule["rule"] for rule in record["rules"]] == ["oracle", "random"]
    assert record["p"] == pytest.approx(P) and record["rules"][1]["resets"] is None
    assert record["ratios"]["certified_gain"]["value"] == pytest.approx(P)
    mdp = envs.needle(P, 1, 2)
    needed = record["rules"][0]["resets"]
    for factor, certifies in ((0.5, False), (2, True)):
        arguments = {"resets": int(factor * needed), "policy_class": "shared"}
        certificate = cpi.certify(mdp, cpi.uniform_policy(mdp), cpi.oracle_resets(0.2), **arguments)
        assert (certificate.gain > 0) == certifies
    assert command.main([*args, "--max_resets", "400", "--delta", "1e-4"]) == 0
    record = json.loads((tmp_path / "theorem1.json").read_text())["theorem1"]
    assert record["rules"][0]["resets"] > 1.5 * needed


def test_main__ctrl_c_keeps_the_rule_that_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, on_rule: Callable[[Need], None], **kwargs: object) -> None:
        (oracle, _) = own_theorem1(needle(), TAU, probit_chooser(9.0, 0.0), repeats=2)
        on_rule(oracle)
        raise KeyboardInterrupt

    monkeypatch.setattr("cpi.run.jobs.own_theorem1", interrupted)
    args = ["--env", "resets/Needle-v0", "--theorem1", "--output", str(tmp_path)]
    assert command.main(args) == 130
    record = json.loads((tmp_path / "theorem1.json").read_text())
    assert record["interrupted"] and len(record["theorem1"]["rules"]) == 1
    assert record["theorem1"]["ratios"] == {}


def test_main__theorem1_of_an_optimal_policy_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "best.npy", np.zeros(3, dtype=int))
    args = ["--env", "resets/Needle-v0", "--policy", str(tmp_path / "best.npy"), "--theorem1"]
    assert command.main(args) == 2
    assert "no action anywhere improves the policy" in capsys.readouterr().err
