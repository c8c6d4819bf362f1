"""`guarantees`: equality on tight instances, certificates below gains, and its command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cpi
import envs
from cpi.bounds import __main__ as command
from cpi.conservative.step_sizes import ANYWHERE, DISCOUNTED, FINITE
from envs.gym import mdp_from_env
from tests.cpi.worlds import interior_policy, world


def test_guarantees__by_hand() -> None:
    """`tight_masked(2)`: 2α − α² is the gain and the bound, so that the step is 1."""
    case = envs.tight_masked(2)
    weights: Any = case.weights
    found = cpi.guarantees(case.mdp, case.policy, lambda _: weights, candidate=case.candidate)
    assert (found.alpha, found.certificate, found.gain) == pytest.approx((1.0, 1.0, 1.0))
    assert (found.advantage, found.p_w) == pytest.approx((2.0, 0.5))
    rows = {row["bound"]: row for row in found.bounds}
    assert rows["masked CPI"]["left"] == rows["masked CPI"]["right"] == pytest.approx(1.0)
    masked = {row["step"]: row for row in found.steps}["masked"]  # 𝔸_w/(H²r) = ½
    assert masked["alpha"] == 0.5 and masked["certificate"] == pytest.approx(0.75)


@pytest.mark.parametrize("time", [{"horizon": 4}, {"discount": 0.8}], ids=["finite", "discounted"])
@pytest.mark.parametrize("rule", [cpi.random_resets, cpi.oracle_resets(0.2)])
def test_guarantees__hold_and_the_largest_is_chosen(time: Any, rule: Any) -> None:
    mdp = world(3, **time)
    found = cpi.guarantees(mdp, interior_policy(mdp, 1), rule)
    finite, oracle = mdp.horizon is not None, rule is not cpi.random_resets
    names = {*ANYWHERE, *(FINITE if finite else {} if oracle else DISCOUNTED)}
    assert {row["step"] for row in found.steps} == names
    assert found.certificate == max(row["certificate"] for row in found.steps) > 0
    assert {"alpha": found.alpha, "gain": found.gain}.items() <= max(
        found.steps, key=lambda row: row["certificate"]
    ).items()
    assert all(row["gain"] >= row["certificate"] - 1e-12 for row in found.steps)
    assert len(found.bounds) > 9
    assert all(row["left"] >= row["right"] - 1e-12 for row in found.bounds)
    assert ("full oracle step" in str(found)) == oracle  # τ is the rule's
    assert found.records() == json.loads(json.dumps(found.to_json()))["bounds"]


def test_guarantees__from_samples() -> None:
    mdp = world(3, discount=0.5)
    policy = interior_policy(mdp, 1)
    options: Any = {"delta": 0.1, "resets": 60, "seed": 3}
    found = cpi.guarantees(mdp, policy, cpi.oracle_resets(0.2), **options)
    expected = cpi.certify(mdp, policy, cpi.oracle_resets(0.2), **options)
    assert found.sampled is not None and found.sampled.to_json() == expected.to_json()
    assert f"{expected.resets_needed:,}" in str(found)


def test_guarantees__refuse_what_is_wrong() -> None:
    mdp = envs.needle(0.5, horizon=2, num_actions=2)
    policy = cpi.uniform_policy(mdp)
    with pytest.raises(ValueError, match="rule: accepts no state that the policy visits"):
        cpi.guarantees(mdp, policy, cpi.oracle_resets(9.0))
    with pytest.raises(ValueError, match=r"rule: shape \(9,\), expected \(2, 3\), or \(3,\)"):
        cpi.guarantees(mdp, policy, lambda evaluation: np.ones(9))
    with pytest.raises(cpi.PolicyError, match="candidate: shape"):
        cpi.guarantees(mdp, policy, candidate=policy[:2])


def test_main__guarantees_of_random_and_oracle_resets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.json"
    args = ["--env", "resets/Needle-v0", "--tau", "0.1", "--json", str(path)]
    assert command.main([*args, "--guarantee", "40", "--seed", "2"]) == 0
    printed = capsys.readouterr().out
    mdp = mdp_from_env("resets/Needle-v0")
    record = json.loads(path.read_text())["guarantees"]
    rules = {"random": cpi.random_resets, "oracle": cpi.oracle_resets(0.1)}
    assert record.keys() == rules.keys()
    for name, rule in rules.items():
        assert f"{name} resets" in printed
        policy = cpi.uniform_policy(mdp)
        options: Any = {"tau": 0.1, "delta": 0.05, "resets": 40, "seed": 2}
        expected = cpi.guarantees(mdp, policy, rule, **options)
        assert record[name] == json.loads(json.dumps(expected.to_json()))
    assert command.main([*args[:4]]) == 0
    assert "random resets" not in capsys.readouterr().out.split("bound:")[0]
    assert command.main(["--guarantee"]) == 2
    assert "--guarantee needs a problem of yours" in capsys.readouterr().err
