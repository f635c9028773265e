"""Peaks, error bands and comparisons of radial distribution functions whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from kinetograph.analysis import RadialDistribution, compare_rdf


def gaussian_peak(r: np.ndarray, noise: np.ndarray, center: float = 3.8, height: float = 2.5) -> np.ndarray:
    return (
        1.0 / (1.0 + np.exp(-8.0 * (r - 3.3))) + (height - 1.0) * np.exp(-((r - center) ** 2) / 0.16) + noise
    )


def test_the_first_peak_of_a_known_curve_is_found_with_its_error(rng: np.random.Generator) -> None:
    r = (np.arange(200) + 0.5) * 0.05
    noise = 0.05 * rng.normal(size=(10, 200))
    rdf = RadialDistribution(("Ar", "Ar"), "all", r, gaussian_peak(r, noise), np.zeros(10, dtype=np.int64))
    peak = rdf.first_peak()
    assert peak is not None
    exact = np.linspace(3.5, 4.1, 100_001)
    top = np.argmax(gaussian_peak(exact, np.zeros_like(exact)))
    assert peak.position == pytest.approx(exact[top], abs=0.01)
    assert peak.height == pytest.approx(gaussian_peak(exact, np.zeros_like(exact))[top], rel=0.02)
    assert 0.0 < peak.position_error < 0.02
    assert 0.0 < peak.height_error < 0.05


def test_equal_distributions_agree_within_the_band_and_different_ones_do_not(
    rng: np.random.Generator,
) -> None:
    r = (np.arange(200) + 0.5) * 0.05

    def sample(center: float) -> RadialDistribution:
        noise = 0.03 * rng.normal(size=(10, 200))
        return RadialDistribution(
            ("Ar", "Ar"), "all", r, gaussian_peak(r, noise, center), np.zeros(10, dtype=np.int64)
        )

    reference = sample(3.8)
    same = compare_rdf(sample(3.8), reference)
    assert same.within_band
    assert same.share_within_band > 0.9
    assert abs(same.peak_position_difference) < 0.003
    moved = compare_rdf(sample(3.95), reference)
    assert not moved.within_band
    assert moved.peak_position_difference == pytest.approx(0.15 / 3.8, abs=0.005)
    assert moved.mae > same.mae


def test_related_blocks_widen_the_error() -> None:
    # three runs, each stuck at its own value: fifteen blocks are worth three
    blocks = np.repeat([[0.9], [1.0], [1.1]], 5, axis=0) * np.ones((1, 8))
    runs = np.repeat([0, 1, 2], 5)
    rdf = RadialDistribution(("Ar", "Ar"), "all", np.arange(8) + 0.5, blocks, runs)
    assert rdf.standard_error == pytest.approx(np.full(8, 0.1 / np.sqrt(3)))
