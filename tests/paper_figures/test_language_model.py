"""The figures of language models: their statistics by hand, and their data twice the same."""

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
    apart,
    paired,
    said,
    signs,
    stuck_words,
    where,
)
from paper_figures.framework.wilson import clustered_share

# ------------------------------------------------------------------ shares in clusters

#: Of all figures.
RECORDS = Path(l6_published.__file__).parent / "results"


def test_share_of_trials_on_their_own_is_wilsons() -> None:
    y = np.repeat([1, 0], [300, 700])
    share = clustered_share(y, np.ones(1000))
    own = binomtest(300, 1000).proportion_ci(method="wilson")
    assert (share.value, share.trials, share.clusters) == (0.3, 1000, 1000)
    assert (share.low, share.high) == pytest.approx((own.low, own.high), abs=1e-4)


def test_interval_covers_when_trials_of_a_cluster_are_alike() -> None:
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


def test_share_at_an_end_counts_clusters() -> None:
    share, few = clustered_share([0, 0, 0], [8, 8, 8]), clustered_share([0, 0, 0], [1, 1, 1])
    assert share[:3] == few[:3]
    assert (share.low, share.value) == (0, 0)
    assert share.high == pytest.approx(binomtest(0, 3).proportion_ci(method="wilson").high)
    # All clusters alike by chance: no more than the trials.
    assert clustered_share([1, 1], [2, 2]).high < 1
    with pytest.raises(ValueError, match="trials: there are none"):
        clustered_share([0], [0])


# ------------------------------------------------------------------ verdicts


def test_verdicts_follow_from_tests_of_all_comparisons() -> None:
    above, level, below = ({"value": v, "p": p} for v, p in ((1, 1e-3), (1, 0.5), (-1, 1e-3)))
    assert ahead([above, above]) == "holds"
    assert ahead([above, level]) == "holds with a caveat"
    assert ahead([above, level, level]) == "not seen here"
    assert ahead([above, below]) == "mixed"
    assert ahead([level, level]) == "not seen here"
    assert ahead([level, below]) == "does not hold here"
    assert ahead([{"value": None, "p": 1e-3}], 1) == "holds"
    told = "ahead in 1 of 3, behind in 1, undecided in 1"
    assert where([above, level, below]) == told
    assert said({"value": -1.5, "low": -2, "high": None}, ".1f") == "−1.5 [−2.0, ∞]"


def test_one_interval_that_barely_excludes_0_decides_nothing_among_many() -> None:
    barely, level = {"value": -0.03, "p": 0.04}, {"value": 0.0, "p": 0.6}
    assert signs([barely]) == [-1]
    assert signs([barely, level, level, level]) == [0, 0, 0, 0]
    # Holm is step-down: once 0.01 is decided, 0.024 is held against 0.05/2.
    ps = [{"value": 1.0, "p": p} for p in (0.024, 0.01, 0.9)]
    assert signs(ps) == [1, 1, 0]
    assert signs([{"value": 1.0, "p": p} for p in (0.024, 0.02, 0.9)]) == [0, 0, 0]


def test_p_values_of_few_differences() -> None:
    values = np.array([0.1, 0.2, -0.05, 0.12, 0.3, 0.07, 0.01, 0.15])
    found = paired(values)
    assert found["p"] == pytest.approx(ttest_1samp(values, 0).pvalue)
    assert found["value"] == pytest.approx(values.mean())
    assert found["low"] < found["value"] < found["high"]
    assert (paired([0.0, 0.0])["p"], paired([0.1, 0.1])["p"]) == (1.0, 0.0)
    drawn = np.linspace(0.9, 1.9, 1000)
    assert speed.bootstrap_p(drawn, 1) == pytest.approx(0.2, abs=0.005)
    assert speed.bootstrap_p(drawn, 0) == pytest.approx(2 / 1001)
    assert speed.bootstrap_p(np.ones(10), 1) == 1


def test_intervals_apart_and_runs_that_never_took_off() -> None:
    a, b = {"low": 0.1, "high": 0.2}, {"low": 0.3, "high": 0.4}
    assert (apart(a, b), apart(b, a), apart(a, a)) == (-1, 1, 0)
    assert stuck_words({"few": {"GRPO": [0.0, 0.9], "SRPO": [0.9, 0.9]}}) == (
        "Ended below 0.1: 1 of 2 of GRPO in few."
    )
    assert stuck_words({"few": {"SRPO": [0.9]}}) == ""


def test_rounding_keeps_significant_digits() -> None:
    assert rounded({"a": [1234567.0, 1e-9 / 3], "n": 1234567}, 3) == {
        "a": [1230000.0, 3.33e-10],
        "n": 1234567,
    }


# ------------------------------------------------------------------ L1


def run(tokens: list[float], success: list[float]) -> dict[str, Any]:
    curve = {"tokens": tokens, "step": list(range(len(tokens))), "success": success}
    return {"curve": curve, "config": {"token_budget": tokens[-1]}}


def test_ratios_of_what_it_takes() -> None:
    slow = {seed: run([0, 100, 200], [0, 0.2, 1]) for seed in range(4)}
    fast = {seed: run([0, 100, 200], [0, 0.6, 1]) for seed in range(4)}
    never = {seed: run([0, 100, 200], [0, 0.1, 0.2]) for seed in range(4)}
    records = {"grpo": slow, "fast": fast, "never": never}

    def ratio(arm: str, over: str = "grpo") -> tuple[Any, ...]:
        found = speed.ratio(records, arm, "tokens", 0.5, 50, over)
        return tuple(found[name] for name in ("value", "low", "high", "p"))

    sure = pytest.approx(2 / 51)
    assert ratio("fast") == (2.0, 2.0, 2.0, sure)
    assert ratio("never") == (0.0, 0.0, 0.0, sure)
    assert ratio("fast", "never") == (None, None, None, sure)
    assert ratio("never", "never") == (1.0, 1.0, 1.0, 1.0)
    # Half of the seeds are stuck: a bootstrap over them goes from 0 to 2.
    records["mixed"] = {**fast, 0: never[0], 1: never[1]}
    _, low, high, p = ratio("mixed")
    assert (low, high) == (0.0, 2.0)
    assert p > 0.05
    assert l1_curves.ends(records["mixed"]) == [0.2, 0.2, 1, 1]


def test_bands_are_of_the_mean() -> None:
    alike = {"grpo": {seed: run([0, 100], [0, 0.8]) for seed in range(8)}}
    settings = {"points": 5, "resamples": 200}
    band = l1_curves.band(alike, "grpo", "tokens", settings)
    assert band["mean"] == band["low"] == band["high"] == [0, 0.2, 0.4, 0.6, 0.8]
    apart = {"grpo": {seed: run([0, 100], [0, seed / 7]) for seed in range(8)}}
    band = l1_curves.band(apart, "grpo", "tokens", settings)
    assert band["low"][-1] < band["mean"][-1] == 0.5 < band["high"][-1]
    assert band["high"][-1] - band["low"][-1] == pytest.approx(2 * 1.96 * 0.327 / 8**0.5, rel=0.15)


# ------------------------------------------------------------------ L2


def test_resets_are_counted() -> None:
    rows = np.array([[0, 3, 1, 1, 2], [0, 3, 2, 0, 0], [1, 4, 0, 3, 1]])  # kept: at, before, after
    found = {"fresh": [0.0, 1.0], "right": [0, 4], "unparsed": 0.5, "self": rows, "random": rows}
    summed = reset_outcomes.summed([found, found], 3, samples=4, continuations=4)
    own = summed["rules"]["self"]
    assert (summed["success"], summed["fresh"]["value"]) == (0.5, 0.5)
    assert summed["first_errors"] == [2, 2, 2]
    assert own["landed"] == [2, 2, 2]  # a fourth step counts as the third
    assert own["off"] == [0, 0, 2, 0, 2, 0, 0, 2, 0]
    assert own["exact"]["value"] == own["within_1"]["value"] == pytest.approx(1 / 3)
    assert own["clean"]["value"] == pytest.approx(2 / 3)
    assert {d: c["value"] for d, c in own["correction"].items()} == {"-2": 0, "0": 0.5, "3": 0.25}
    assert own["correction"]["0"]["trials"] == 8
    # A run is a cluster; of one run, a problem is.
    assert own["exact"]["clusters"] == 2
    assert (own["pass"]["clean"]["value"], own["pass"]["erroneous"]["value"]) == (0.5, 1.0)


# ------------------------------------------------------------------ L3


def thought(probability: float) -> Thought:
    return Thought((1, 2), np.log([probability, 1.0]), "x", "delimiter")


def test_signal_of_a_thought() -> None:
    shared = (thought(0.3),)
    prefix = Prefix(None, shared)
    right = Episode(prefix, (*shared, thought(0.25)), 1.0, False, 2)
    wrong = Episode(prefix, (*shared, thought(0.5), thought(0.5)), 0.0, True, 4)
    silent = Group(0, prefix, [wrong, wrong])
    found = l3_signal.signals([Group(0, prefix, [right, wrong]), silent])
    # Â = ±½/(½√2 + 1e-4); the prefix has none.
    a = 0.5 / (0.5**0.5 + 1e-4)
    sums = found["sums"]
    assert sums["rollouts"][:3] == pytest.approx([0, a * 0.75 + a / 2 * 0.5, a / 2 * 0.5])
    assert sums["thoughts"][:3] == pytest.approx([0, a * 0.75 + a * 0.5, a * 0.5])
    assert found["counts"][:4].tolist() == [0, 4, 3, 0]
    assert found["informative"] == 0.5


def test_signals_are_paired_by_seed() -> None:
    def kind(name: str, seed: int, signal: float) -> dict[str, Any]:
        sums = {weighting: np.array([signal, signal]) for weighting in l3_signal.WEIGHTINGS}
        return {"kind": name, "seed": seed, "step": 0, "sums": sums, "counts": np.array([1, 3])}

    found = [kind("fresh", s, 0.1 * s) for s in range(1, 5)]
    found += [kind("self", s, 0.1 * s + 0.02) for s in range(1, 5)]
    pair = l3_signal.pair(found, "self", 0, "thoughts")
    # Seeds differ, and the difference does not.
    assert pair["value"] == pair["low"] == pair["high"] == pytest.approx(0.01)
    assert pair["p"] == 0
    assert pair["ratio"] == pytest.approx(0.27 / 0.25)


# ------------------------------------------------------------------ L4


def test_clips_differ_from_the_comparison_by_passes_and_clip_alone() -> None:
    base = asdict(run_config(ARMS["grpo"], REGIMES[REGIME], "chain-base", LEARNING_RATE, 3))
    for clip in CLIPS:
        settings = asdict(clip_config("grpo", clip, 3))
        assert {name for name in base if settings[name] != base[name]} == {"loss", "update"}


def test_rules_that_differ_nowhere_are_told_from_those_that_do() -> None:
    same, other = ({"arm": arm, "value": -1.0, "p": p} for arm, p in (("a", 0.5), ("b", 0.001)))
    assert l4_ablations.different([same, other]) == "holds with a caveat"
    assert l4_ablations.that_differ([same, other]) == ["b"]
    assert l4_ablations.different([other]) == "holds"
    assert l4_ablations.different([same]) == "not seen here"


def test_training_without_the_mask_is_not_tested() -> None:
    data = read(RECORDS, l4_ablations.FIGURE).data
    (mask,) = (c for c in l4_ablations.claims(data) if "no-mask" in c.claim)
    assert mask.verdict == "not tested here"


# ------------------------------------------------------------------ data from models


def test_ablations_are_what_the_runs_say(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = read(RECORDS, l4_ablations.FIGURE).data
    # Gradients are of samples, which need not be the same on another machine.
    monkeypatch.setattr(l4_ablations, "summary", lambda seeds: recorded["mask"])
    again = plain(l4_ablations.compute(l4_ablations.SETTINGS, lambda what: None))
    assert json.dumps(rounded(again, 6)) == json.dumps(rounded(recorded, 6))


@pytest.mark.slow
def test_a_shared_prefix_cancels_where_tokens_weigh_alike() -> None:
    found = prefix_mask.gradients(0)
    assert found["dapo"]["cosine"] == pytest.approx(1, abs=1e-9)
    assert found["dapo"]["length"] * found["tokens"] == pytest.approx(1, rel=1e-6)
    assert found["grpo"]["cosine"] < 0.999
    assert 0 < found["tokens"] < 1


# ------------------------------------------------------------------ L6


def test_steps_to_the_last_value_of_a_rival() -> None:
    slow = {seed: run([0, 100, 200, 300, 400], [0, 0.1, 0.2, 0.3, 0.4]) for seed in range(3)}
    fast = {seed: run([0, 100, 200, 300, 400], [0, 0.4, 0.4, 0.4, 0.5]) for seed in range(3)}
    records = {"slow": slow, "fast": fast}
    ratio = speed.to_last_value(records, "fast", "slow", 20)
    assert ratio["reached"]
    assert [ratio[name] for name in ("value", "low", "high")] == pytest.approx([4, 4, 4], rel=0.01)
    assert ratio["p"] == pytest.approx(2 / 21)
    # Never there, and it ends lower: a bound, and behind.
    never = speed.to_last_value(records, "slow", "fast", 20)
    assert not never["reached"]
    assert (never["value"], never["low"], never["high"]) == (1, 0, 1)
    assert never["p"] == pytest.approx(2 / 21)
    # Never there, of ends that differ by chance: undecided.
    ends = [0.52, 0.45, 0.5]
    records["near"] = {s: run([0, 100, 400], [0, 0.4, ends[s]]) for s in range(3)}
    near = speed.to_last_value(records, "near", "fast", 20)
    assert not near["reached"]
    assert near["p"] > 0.3


def test_intervals_of_success_stay_within_it() -> None:
    found = l6_published.level([0.0, *[0.96] * 7], {"resamples": 500})
    assert found["value"] == pytest.approx(0.84)
    assert 0 <= found["low"] < found["value"] < found["high"] <= 0.96 + 1e-9


def test_published_numbers_are_told_from_measured_ones() -> None:
    data = read(RECORDS, l6_published.FIGURE).data
    first, *_ = l6_published.claims(data)
    assert first.verdict == "not tested here"
    for each in PUBLISHED:
        assert all(
            f"{name} {x}" in first.found for name, x in each.percent.items() if name != "base"
        )


@pytest.mark.slow
def test_data_from_models_are_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_runs, "FOLDER", tmp_path)
    run = {"preset": "chain", "steps": 1, "save_steps": 1}
    small = {"run": run, "seeds": [0, 1]}  # of one there is no interval
    made = []
    for module, settings in (
        (l2_localization, {"step": 1, "problems": {"base": 4, "trained": 4}, "samples": 4}),
        (l3_signal, {"steps": [0], "by_position_at": 0, "tree": {"seed": 0, "step": 0},
                     "problems": 64}),
        (l5_model, {"problems": 4, "samples": 4, "localized_at": [0], "localizers": ["checker"]}),
    ):  # fmt: skip
        wanted = {**module.SETTINGS, **small, **settings}  # type: ignore[attr-defined]
        first, again = (plain(module.compute(wanted, lambda what: None)) for _ in range(2))  # type: ignore[attr-defined]
        assert first == again
        made.append(first)
    localized, signal, model = made
    assert localized["models"]["base"]["rules"]["self"]["resets"] > 0
    assert signal["tree"]["kind"] == "reset"
    assert model["violations"] == 0
    assert model["localizers"][0]["hit_rate"] == 1
    assert [row["step"] for row in model["runs"][0]["rows"]] == [0, 1]
