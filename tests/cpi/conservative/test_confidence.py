"""Confidence radii: formulas by hand, and failure rates in simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.special import betainc, betaincc, gammainc, gammaincc
from scipy.stats import binom, nbinom

from cpi.conservative.confidence import acceptance_interval, empirical_bernstein, hoeffding


def test_hoeffding_by_hand() -> None:
    # 2 · sqrt(ln 20 / 100)
    assert hoeffding(50, 2.0, 0.05) == pytest.approx(0.346163677, abs=1e-9)
    assert hoeffding(200, 1.0, 0.1) == pytest.approx(math.sqrt(math.log(10) / 400))


def test_empirical_bernstein_by_hand() -> None:
    # V = 2/3 with ddof 1, ln(2/δ) = ln 40 = 3.68888: sqrt(2 · ⅔ · 3.68888 / 4) + 7 · 3.68888 / 9
    samples = np.array([0.0, 1.0, 2.0, 1.0])
    expected = 1.108885 + 2.869128
    assert empirical_bernstein(samples, 1.0, 0.05) == pytest.approx(expected, abs=1e-5)
    # Only the second term depends on the width, and only the first on the samples.
    assert empirical_bernstein(samples, 3.0, 0.05) == pytest.approx(1.108885 + 3 * 2.869128)
    assert empirical_bernstein(samples + 9, 1.0, 0.05) == pytest.approx(expected, abs=1e-5)
    assert empirical_bernstein(np.ones(4), 1.0, 0.05) == pytest.approx(2.869128, abs=1e-5)


SAMPLES = np.array([0.1, 0.4, 0.2, 0.9])
BOUNDS: dict[str, Callable[..., float]] = {
    "hoeffding": lambda delta, **more: hoeffding(4, 1.0, delta, **more),
    "bernstein": lambda delta, **more: empirical_bernstein(SAMPLES, 1.0, delta, **more),
}
each = pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)


@each
def test_members_and_sides_share_delta(bound: Callable[..., float]) -> None:
    assert bound(0.05, members=10) == pytest.approx(bound(0.005))
    assert bound(0.05, sides=2) == pytest.approx(bound(0.025))
    assert bound(0.06, members=3, sides=2) == pytest.approx(bound(0.01))
    assert bound(0.05, members=10) > bound(0.05)


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_radius__level_outside_0_1_is_refused(delta: float) -> None:
    message = rf"delta: {delta} is not in \(0, 1\)"
    for bound in BOUNDS.values():
        with pytest.raises(ValueError, match=message):
            bound(delta)


@pytest.mark.parametrize("n", [0, 1])
def test_empirical_bernstein__infinite_below_two_samples(n: int) -> None:
    assert empirical_bernstein(np.ones(n), 1.0, 0.05) == math.inf


TRIALS = 2000


def bernoulli(p: float) -> Callable[[np.random.Generator, int], Any]:
    return lambda rng, n: (rng.random((TRIALS, n)) < p).astype(np.float64)


def uniform(rng: np.random.Generator, n: int) -> Any:
    return rng.random((TRIALS, n))


DRAWS: dict[str, tuple[Callable[[np.random.Generator, int], Any], float]] = {
    "fair coin": (bernoulli(0.5), 0.5),
    "rare event": (bernoulli(0.02), 0.02),
    "frequent event": (bernoulli(0.9), 0.9),
    "uniform": (uniform, 0.5),
}


def slack(delta: float) -> float:
    """Three standard deviations of a frequency whose expectation is at most δ."""
    return 3 * math.sqrt(delta * (1 - delta) / TRIALS)


@pytest.mark.parametrize("n", [8, 60])
@pytest.mark.parametrize("delta", [0.05, 0.3])
@pytest.mark.parametrize(("draw", "mean"), DRAWS.values(), ids=DRAWS)
def test_radius__covers_the_mean_with_its_confidence(
    draw: Callable[[np.random.Generator, int], Any], mean: float, delta: float, n: int
) -> None:
    samples = draw(np.random.default_rng(n), n)
    above = samples.mean(axis=1) - mean
    radii = np.array([empirical_bernstein(row, 1.0, delta) for row in samples])
    for radius in (hoeffding(n, 1.0, delta), radii):
        for error in (above, -above):
            assert (error > radius).mean() <= delta + slack(delta)
    two = hoeffding(n, 1.0, delta, sides=2)
    assert (np.abs(above) > two).mean() <= delta + slack(delta)


def test_hoeffding_is_nearly_tight_for_a_fair_coin() -> None:
    """A radius of 0.3 times the width fails more often than δ."""
    samples = bernoulli(0.5)(np.random.default_rng(1), 400)
    error = samples.mean(axis=1) - 0.5
    radius = hoeffding(400, 1.0, 0.3)
    assert 0.02 < (error > radius).mean() <= 0.3
    assert (error > 0.3 * radius).mean() > 0.3


def test_radius__members_cover_a_whole_class() -> None:
    """The largest of 50 errors needs the radius of 50 members; the radius of one fails."""
    rng = np.random.default_rng(2)
    error = (rng.random((500, 50, 100)) < 0.5).mean(axis=2) - 0.5
    largest = error.max(axis=1)
    assert (largest > hoeffding(100, 1.0, 0.1, members=50)).mean() <= 0.1
    assert (largest > hoeffding(100, 1.0, 0.1)).mean() > 0.1


def test_empirical_bernstein__smaller_at_low_variance() -> None:
    samples = bernoulli(0.01)(np.random.default_rng(3), 2000)
    radii = np.array([empirical_bernstein(row, 1.0, 0.05) for row in samples])
    assert (samples.mean(axis=1) - 0.01 > radii).mean() <= 0.05 + slack(0.05)
    assert radii.mean() < 0.45 * hoeffding(2000, 1.0, 0.05)
    # Close to the radius by the variance alone, 1.64 standard errors.
    assert radii.mean() < 7 * 1.64 * math.sqrt(0.01 * 0.99 / 2000)


# Acceptance intervals.


@pytest.mark.parametrize("delta", [0.2, 0.01])
@pytest.mark.parametrize(("accepted", "drawn"), [(1, 1), (1, 9), (5, 8), (40, 1000), (7, 7)])
def test_acceptance_interval__exact_for_the_draws_until_an_acceptance(
    accepted: int, drawn: int, delta: float
) -> None:
    """At the ends of the interval, that many refusals or fewer (or more) have probability δ."""
    low, high = acceptance_interval(accepted, drawn, delta)
    refused = drawn - accepted
    assert nbinom.cdf(refused, accepted, low) == pytest.approx(delta)
    if refused:
        assert nbinom.sf(refused - 1, accepted, high) == pytest.approx(delta)
    else:
        assert high == 1.0


@pytest.mark.parametrize("delta", [0.2, 0.01])
@pytest.mark.parametrize(("accepted", "drawn"), [(0, 9), (1, 9), (5, 8), (40, 1000)])
def test_acceptance_interval__exact_for_a_fixed_number_of_draws(
    accepted: int, drawn: int, delta: float
) -> None:
    low, high = acceptance_interval(accepted, drawn, delta, exhausted=True)
    assert binom.cdf(accepted, drawn, high) == pytest.approx(delta)
    if accepted:
        assert binom.sf(accepted - 1, drawn, low) == pytest.approx(delta)
    else:
        assert low == 0.0


@pytest.mark.parametrize("p", [0.03, 0.2, 0.5, 0.9, 0.999])
def test_acceptance_interval__covers_at_a_limit_of_draws(p: float) -> None:
    """Until 4 acceptances, or 12 draws: the probability of every outcome is added up."""
    wanted, limit, delta = 4, 12, 0.1
    below = above = total = 0.0
    outcomes = [(wanted, n, nbinom.pmf(n - wanted, wanted, p)) for n in range(wanted, limit + 1)]
    outcomes += [(k, limit, binom.pmf(k, limit, p)) for k in range(wanted)]
    for accepted, drawn, chance in outcomes:
        low, high = acceptance_interval(accepted, drawn, delta, exhausted=accepted < wanted)
        below += chance * (low > p)
        above += chance * (high < p)
        total += chance
    assert total == pytest.approx(1.0)
    assert below <= delta and above <= delta


@pytest.mark.parametrize("accepted", [1, 40, 1000, 20_000])
@pytest.mark.parametrize("p", [0.3, 1e-3, 1e-5, 1e-6, 1e-8, 1e-13, 1e-200])
def test_acceptance_interval__rare_acceptance(accepted: int, p: float) -> None:
    """Both ends have probability δ, by the Poisson distribution where p is too small to matter."""
    delta, drawn = 0.0125, math.ceil(accepted / p)
    low, high = acceptance_interval(accepted, drawn, delta)
    assert low < accepted / drawn < high
    if p < 1e-7:
        assert gammainc(accepted, low * drawn) == pytest.approx(delta, rel=1e-4)
        assert gammaincc(accepted, high * drawn) == pytest.approx(delta, rel=1e-4)
    else:
        assert betainc(accepted, drawn - accepted + 1, low) == pytest.approx(delta, rel=1e-8)
        assert betaincc(accepted, drawn - accepted, high) == pytest.approx(delta, rel=1e-8)


def test_acceptance_interval__level_outside_0_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"delta: 1 is not in \(0, 1\)"):
        acceptance_interval(3, 5, 1)
