"""Figures of language models: hand-computed statistics, verdicts, and reproducible data."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from cpi.core.collect import Group
from cpi.core.episodes import Episode, Prefix
from llm.compare.arms import (
    ARMS,
    LEARNING_RATE,
    REGIMES,
    run_config,
)
from llm.evaluate.published import PUBLISHED
from llm.thoughts.simulator import Thought
from paper_figures import (
    l1_curves,
    l2_localization,
    l3_signal,
    l4_ablations,
    l5_model,
    l6_published,
)
from paper_figures.analyses import (
    chain_runs,
    prefix_mask,
    reset_outcomes,
    speed,
)
from paper_figures.clip_runs import CLIPS, REGIME, clip_config
from paper_figures.framework.figure import plain, read
from paper_figures.framework.rounding import rounded
from paper_figures.framework.verdicts import (
    ahead,
    compare_intervals,
    estimate_text,
    paired,
    signs,
    stuck_words,
    tally,
)
from paper_figures.framework.wilson import clustered_share

# ------------------------------------------------------------------ shares in clusters

#: Folder of the recorded data.
RECORDS = Path(l6_published.__file__).parent / "results"


def test_clustered_share__independent_trials_give_wilson() -> None:
    y = np.repeat([1, 0], [300, 700])
    share = clustered_share(y, np.ones(1000))
    own = binomtest(300, 1000).proportion_ci(method="wilson")
    assert (share.value, share.trials, share.clusters) == (0.3, 1000, 1000)
    assert (share.low, share.high) == pytest.approx((own.low, own.high), abs=1e-4)


def test_clustered_share__covers_with_correlated_trials() -> None:
    rng = np.random.default_rng(0)
    covered, naive = 0, 0
    for _ in range(400):
        y = rng.binomial(8, rng.beta(0.6, 1.4, size=40))  # 40 problems, 8 rollouts each
        share = clustered_share(y, np.full(40, 8))
        covered += share.low <= 0.3 <= share.high
        own = binomtest(int(y.sum()), 320).proportion_ci(method="wilson")
        naive += own.low <= 0.3 <= own.high
    assert covered > 365  # 380, less 3 standard deviations
    assert naive < 320


def test_clustered_share__counts_clusters_at_0_and_1() -> None:
    share, few = clustered_share([0, 0, 0], [8, 8, 8]), clustered_share([0, 0, 0], [1, 1, 1])
    assert share[:3] == few[:3]
    assert (share.low, share.value) == (0, 0)
    assert share.high == pytest.approx(binomtest(0, 3).proportion_ci(method="wilson").high)
    # Zero variance: n_eff is capped at the number of trials.
    assert clustered_share([1, 1], [2, 2]).high < 1
    with pytest.raises(ValueError, match="trials: there are none"):
        clustered_share([0], [0])


# ------------------------------------------------------------------ verdicts


def test_ahead__verdict_from_all_comparisons() -> None:
    above, level, below = ({"value": v, "p": p} for v, p in ((1, 1e-3), (1, 0.5), (-1, 1e-3)))
    assert ahead([above, above]) == "holds"
    assert ahead([above, level]) == "holds with a caveat"
    assert ahead([above, level, level]) == "not seen here"
    assert ahead([above, below]) == "mixed"
    assert ahead([level, level]) == "not seen here"
    assert ahead([level, below]) == "does not hold here"
    assert ahead([{"value": None, "p": 1e-3}], 1) == "holds"
    counts = "ahead in 1 of 3, behind in 1, undecided in 1"
    assert tally([above, level, below]) == counts
    assert estimate_text({"value": -1.5, "low": -2, "high": None}, ".1f") == "−1.5 [−2.0, ∞]"


def test_signs__holm_correction() -> None:
    barely, level = {"value": -0.03, "p": 0.04}, {"value": 0.0, "p": 0.6}
    assert signs([barely]) == [-1]
    assert signs([barely, level, level, level]) == [0, 0, 0, 0]
    # Holm is step-down: after 0.01 is decided, 0.024 is compared with 0.05/2.
    ps = [{"value": 1.0, "p": p} for p in (0.024, 0.01, 0.9)]
    assert signs(ps) == [1, 1, 0]
    assert signs([{"value": 1.0, "p": p} for p in (0.024, 0.02, 0.9)]) == [0, 0, 0]


def test_p_values__t_test_and_bootstrap() -> None:
    values = np.array([0.1, 0.2, -0.05, 0.12, 0.3, 0.07, 0.01, 0.15])
    estimate = paired(values)
    assert estimate["p"] == pytest.approx(ttest_1samp(values, 0).pvalue)
    assert estimate["value"] == pytest.approx(values.mean())
    assert estimate["low"] < estimate["value"] < estimate["high"]
    assert (paired([0.0, 0.0])["p"], paired([0.1, 0.1])["p"]) == (1.0, 0.0)
    samples = np.linspace(0.9, 1.9, 1000)
    assert speed.bootstrap_p(samples, 1) == pytest.approx(0.2, abs=0.005)
    assert speed.bootstrap_p(samples, 0) == pytest.approx(2 / 1001)
    assert speed.bootstrap_p(np.ones(10), 1) == 1


def test_compare_intervals__and_stuck_words() -> None:
    a, b = {"low": 0.1, "high": 0.2}, {"low": 0.3, "high": 0.4}
    assert (compare_intervals(a, b), compare_intervals(b, a), compare_intervals(a, a)) == (-1, 1, 0)
    assert stuck_words({"few": {"GRPO": [0.0, 0.9], "SRPO": [0.9, 0.9]}}) == (
        "Ended below 0.1: 1 of 2 of GRPO in few."
    )
    assert stuck_words({"few": {"SRPO": [0.9]}}) == ""


def test_rounded__keeps_significant_digits() -> None:
    assert rounded({"a": [1234567.0, 1e-9 / 3], "n": 1234567}, 3) == {
        "a": [1230000.0, 3.33e-10],
        "n": 1234567,
    }


# ------------------------------------------------------------------ L1


def run(tokens: list[float], success: list[float]) -> dict[str, Any]:
    curve = {"tokens": tokens, "step": list(range(len(tokens))), "success": success}
    return {"curve": curve, "config": {"token_budget": tokens[-1]}}


def test_ratio__of_costs_with_unreached_targets() -> None:
    slow = {seed: run([0, 100, 200], [0, 0.2, 1]) for seed in range(4)}
    fast = {seed: run([0, 100, 200], [0, 0.6, 1]) for seed in range(4)}
    never = {seed: run([0, 100, 200], [0, 0.1, 0.2]) for seed in range(4)}
    records = {"grpo": slow, "fast": fast, "never": never}

    def ratio(arm: str, over: str = "grpo") -> tuple[Any, ...]:
        estimate = speed.ratio(records, arm, "tokens", 0.5, 50, over)
        return tuple(estimate[name] for name in ("value", "low", "high", "p"))

    sure = pytest.approx(2 / 51)
    assert ratio("fast") == (2.0, 2.0, 2.0, sure)
    assert ratio("never") == (0.0, 0.0, 0.0, sure)
    assert ratio("fast", "never") == (None, None, None, sure)
    assert ratio("never", "never") == (1.0, 1.0, 1.0, 1.0)
    # Half of the seeds are stuck: the bootstrap interval is 0 to 2.
    records["mixed"] = {**fast, 0: never[0], 1: never[1]}
    _, low, high, p = ratio("mixed")
    assert (low, high) == (0.0, 2.0)
    assert p > 0.05
    assert l1_curves.ends(records["mixed"]) == [0.2, 0.2, 1, 1]


def test_band__interval_of_the_mean() -> None:
    alike = {"grpo": {seed: run([0, 100], [0, 0.8]) for seed in range(8)}}
    settings = {"points": 5, "resamples": 200}
    band = l1_curves.band(alike, "grpo", "tokens", settings)
    assert band["mean"] == band["low"] == band["high"] == [0, 0.2, 0.4, 0.6, 0.8]
    apart = {"grpo": {seed: run([0, 100], [0, seed / 7]) for seed in range(8)}}
    band = l1_curves.band(apart, "grpo", "tokens", settings)
    assert band["low"][-1] < band["mean"][-1] == 0.5 < band["high"][-1]
    assert band["high"][-1] - band["low"][-1] == pytest.approx(2 * 1.96 * 0.327 / 8**0.5, rel=0.15)


# ------------------------------------------------------------------ L2


def test_summarize__counts_resets_by_distance() -> None:
    rows = np.array([[0, 3, 1, 1, 2], [0, 3, 2, 0, 0], [1, 4, 0, 3, 1]])  # kept: at, before, after
    outcomes = {"fresh": [0.0, 1.0], "right": [0, 4], "unparsed": 0.5, "self": rows, "random": rows}
    summary = reset_outcomes.summarize([outcomes, outcomes], 3, samples=4, continuations=4)
    rule = summary["rules"]["self"]
    assert (summary["success"], summary["fresh"]["value"]) == (0.5, 0.5)
    assert summary["first_errors"] == [2, 2, 2]
    assert rule["landed"] == [2, 2, 2]  # a fourth step counts as the third
    assert rule["off"] == [0, 0, 2, 0, 2, 0, 0, 2, 0]
    assert rule["exact"]["value"] == rule["within_1"]["value"] == pytest.approx(1 / 3)
    assert rule["clean"]["value"] == pytest.approx(2 / 3)
    assert {d: c["value"] for d, c in rule["correction"].items()} == {
        "-2": 0,
        "0": 0.5,
        "3": 0.25,
    }
    assert rule["correction"]["0"]["trials"] == 8
    # With several runs, a cluster is a run.
    assert rule["exact"]["clusters"] == 2
    assert (rule["pass"]["clean"]["value"], rule["pass"]["erroneous"]["value"]) == (
        0.5,
        1.0,
    )


# ------------------------------------------------------------------ L3


def thought(probability: float) -> Thought:
    return Thought((1, 2), np.log([probability, 1.0]), "x", "delimiter")


def test_signals__hand_computed() -> None:
    shared = (thought(0.3),)
    prefix = Prefix(None, shared)
    right = Episode(prefix, (*shared, thought(0.25)), 1.0, False, 2)
    wrong = Episode(prefix, (*shared, thought(0.5), thought(0.5)), 0.0, True, 4)
    silent = Group(0, prefix, [wrong, wrong])
    result = l3_signal.signals([Group(0, prefix, [right, wrong]), silent])
    # Â = ±½/(½√2 + 1e-4); the prefix has none.
    a = 0.5 / (0.5**0.5 + 1e-4)
    sums = result["sums"]
    assert sums["rollouts"][:3] == pytest.approx([0, a * 0.75 + a / 2 * 0.5, a / 2 * 0.5])
    assert sums["thoughts"][:3] == pytest.approx([0, a * 0.75 + a * 0.5, a * 0.5])
    assert result["counts"][:4].tolist() == [0, 4, 3, 0]
    assert result["informative"] == 0.5


def test_pair__differences_by_seed() -> None:
    def kind(name: str, seed: int, signal: float) -> dict[str, Any]:
        sums = {weighting: np.array([signal, signal]) for weighting in l3_signal.WEIGHTINGS}
        return {"kind": name, "seed": seed, "step": 0, "sums": sums, "counts": np.array([1, 3])}

    by_kind = [kind("fresh", s, 0.1 * s) for s in range(1, 5)]
    by_kind += [kind("self", s, 0.1 * s + 0.02) for s in range(1, 5)]
    pair = l3_signal.pair(by_kind, "self", 0, "thoughts")
    # Levels differ between seeds, the difference does not.
    assert pair["value"] == pair["low"] == pair["high"] == pytest.approx(0.01)
    assert pair["p"] == 0
    assert pair["ratio"] == pytest.approx(0.27 / 0.25)


# ------------------------------------------------------------------ L4


def test_clip_config__changes_only_passes_and_clip() -> None:
    base = asdict(run_config(ARMS["grpo"], REGIMES[REGIME], "chain-base", LEARNING_RATE, 3))
    for clip in CLIPS:
        settings = asdict(clip_config("grpo", clip, 3))
        assert {name for name in base if settings[name] != base[name]} == {"loss", "update"}


def test_difference_verdict__arms_that_differ() -> None:
    same, other = ({"arm": arm, "value": -1.0, "p": p} for arm, p in (("a", 0.5), ("b", 0.001)))
    assert l4_ablations.difference_verdict([same, other]) == "holds with a caveat"
    assert l4_ablations.differing_arms([same, other]) == ["b"]
    assert l4_ablations.difference_verdict([other]) == "holds"
    assert l4_ablations.difference_verdict([same]) == "not seen here"


def test_claims__no_mask_training_is_not_tested() -> None:
    data = read(RECORDS, l4_ablations.FIGURE).data
    (mask,) = (c for c in l4_ablations.claims(data) if "no-mask" in c.claim)
    assert mask.verdict == "not tested here"


# ------------------------------------------------------------------ data from models


def test_l4_compute__reproduces_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = read(RECORDS, l4_ablations.FIGURE).data
    # Gradients depend on samples, which may differ between machines.
    monkeypatch.setattr(l4_ablations, "summary", lambda seeds: recorded["mask"])
    recomputed = plain(l4_ablations.compute(l4_ablations.SETTINGS, lambda stage: None))
    assert json.dumps(rounded(recomputed, 6)) == json.dumps(rounded(recorded, 6))


@pytest.mark.slow
def test_prefix_mask_gradients__prefix_cancels_with_equal_weights() -> None:
    comparison = prefix_mask.gradients(0)
    assert comparison["dapo"]["cosine"] == pytest.approx(1, abs=1e-9)
    assert comparison["dapo"]["length"] * comparison["tokens"] == pytest.approx(1, rel=1e-6)
    assert comparison["grpo"]["cosine"] < 0.999
    assert 0 < comparison["tokens"] < 1


# ------------------------------------------------------------------ L6


def test_to_last_value__reached_and_censored() -> None:
    slow = {seed: run([0, 100, 200, 300, 400], [0, 0.1, 0.2, 0.3, 0.4]) for seed in range(3)}
    fast = {seed: run([0, 100, 200, 300, 400], [0, 0.4, 0.4, 0.4, 0.5]) for seed in range(3)}
    records = {"slow": slow, "fast": fast}
    ratio = speed.to_last_value(records, "fast", "slow", 20)
    assert ratio["reached"]
    assert [ratio[name] for name in ("value", "low", "high")] == pytest.approx([4, 4, 4], rel=0.01)
    assert ratio["p"] == pytest.approx(2 / 21)
    # Censored, and the last value is lower: an upper bound, and behind.
    never = speed.to_last_value(records, "slow", "fast", 20)
    assert not never["reached"]
    assert (never["value"], never["low"], never["high"]) == (1, 0, 1)
    assert never["p"] == pytest.approx(2 / 21)
    # Censored, with last values that differ by chance: undecided.
    ends = [0.52, 0.45, 0.5]
    records["near"] = {s: run([0, 100, 400], [0, 0.4, ends[s]]) for s in range(3)}
    near = speed.to_last_value(records, "near", "fast", 20)
    assert not near["reached"]
    assert near["p"] > 0.3


def test_mean_success__interval_within_0_and_1() -> None:
    estimate = l6_published.mean_success([0.0, *[0.96] * 7], {"resamples": 500})
    assert estimate["value"] == pytest.approx(0.84)
    assert 0 <= estimate["low"] < estimate["value"] < estimate["high"] <= 0.96 + 1e-9


def test_claims__published_numbers_are_not_tested_here() -> None:
    data = read(RECORDS, l6_published.FIGURE).data
    first, *_ = l6_published.claims(data)
    assert first.verdict == "not tested here"
    for each in PUBLISHED:
        assert all(
            f"{name} {x}" in first.found for name, x in each.percent.items() if name != "base"
        )


@pytest.mark.slow
def test_compute__model_data_are_reproducible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_runs, "FOLDER", tmp_path)
    run = {"preset": "chain", "steps": 1, "save_steps": 1}
    small = {"run": run, "seeds": [0, 1]}  # one seed has no interval
    data = []
    for module, settings in (
        (l2_localization, {"step": 1, "problems": {"base": 4, "trained": 4}, "samples": 4}),
        (l3_signal, {"steps": [0], "by_position_at": 0, "tree": {"seed": 0, "step": 0},
                     "problems": 16}),
        (l5_model, {"problems": 4, "samples": 4, "localized_at": [0], "localizers": ["checker"]}),
    ):  # fmt: skip
        full_settings = {**module.SETTINGS, **small, **settings}  # type: ignore[attr-defined]
        first, second = (plain(module.compute(full_settings, lambda stage: None)) for _ in range(2))  # type: ignore[attr-defined]
        assert first == second
        data.append(first)
    localized, signal, model = data
    assert localized["models"]["base"]["rules"]["self"]["resets"] > 0
    assert signal["tree"]["kind"] == "reset"
    assert model["violations"] == 0
    assert model["localizers"][0]["hit_rate"] == 1
    assert [row["step"] for row in model["runs"][0]["rows"]] == [0, 1]
