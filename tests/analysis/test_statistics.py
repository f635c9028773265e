"""Statistical errors against noise whose autocorrelation is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from kinetograph.analysis import series_statistics, statistical_inefficiency
from kinetograph.analysis.statistics import pooled_statistics


def autoregressive(rng: np.random.Generator, n_series: int, n: int, memory: float) -> np.ndarray:
    """(n_series, n) with ρ(lag) = memory^lag and unit variance."""
    noise = rng.normal(size=(n_series, n + 200)) * np.sqrt(1.0 - memory**2)
    return lfilter([1.0], [1.0, -memory], noise, axis=1)[:, 200:]


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_inefficiency_of_autoregressive_noise_is_the_closed_form(
    rng: np.random.Generator, memory: float
) -> None:
    # g = 1 + 2 Σ memory^lag = (1 + memory)/(1 − memory)
    found = np.mean([statistical_inefficiency(x) for x in autoregressive(rng, 20, 20_000, memory)])
    # Sokal: each estimate has a relative error of about sqrt(2·(2·5+1)·τ/n) ≤ 7 %; 20 of them 1.6 %, and a
    # small negative bias from the window
    assert found == pytest.approx((1.0 + memory) / (1.0 - memory), rel=0.05)


def test_the_standard_error_is_the_scatter_of_repeated_means(rng: np.random.Generator) -> None:
    parts = [series_statistics(x) for x in autoregressive(rng, 400, 2_000, 0.8)]
    scatter = np.std([part.mean for part in parts])
    predicted = np.mean([part.standard_error for part in parts])
    # the scatter of 400 means is itself known to 1/sqrt(800) = 3.5 %; three of those
    assert predicted == pytest.approx(scatter, rel=0.11)
    assert all(part.reliable for part in parts)


def test_pooling_equals_one_long_series(rng: np.random.Generator) -> None:
    series = autoregressive(rng, 10, 5_000, 0.7)
    pooled = pooled_statistics(list(series))
    assert pooled.mean == pytest.approx(series.mean())
    assert pooled.standard_error == pytest.approx(np.sqrt((1.7 / 0.3) / series.size), rel=0.1)


def test_constant_and_short_series_have_no_inefficiency() -> None:
    assert statistical_inefficiency(np.full(100, 3.7)) == 1.0
    assert series_statistics([2.0]).mean == 2.0
    assert not series_statistics([2.0, 3.0, 4.0]).reliable
