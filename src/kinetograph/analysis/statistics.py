"""Means of correlated time series and their statistical errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

SOKAL_WINDOW = 5.0
"""The sum of autocorrelations stops at the first lag beyond this many autocorrelation times (Sokal 1997)."""


@dataclass(frozen=True)
class SeriesStatistics:
    """Mean of a stationary series with its statistical error."""

    mean: float
    standard_deviation: float
    standard_error: float
    """Standard error of the mean: sqrt(g σ²/n) with the statistical inefficiency g."""
    statistical_inefficiency: float
    """g = 1 + 2 Σ ρ(lag): how many samples are worth one independent one."""
    n_samples: int

    @property
    def n_independent(self) -> float:
        return self.n_samples / self.statistical_inefficiency

    @property
    def reliable(self) -> bool:
        """The series is at least 50 times as long as it remembers; below, the error is a lower bound."""
        return self.n_independent >= 50

    def to_json(self) -> dict[str, Any]:
        return {
            "mean": self.mean,
            "standard_deviation": self.standard_deviation,
            "standard_error": self.standard_error,
            "statistical_inefficiency": self.statistical_inefficiency,
            "n_samples": self.n_samples,
            "n_independent": self.n_independent,
            "reliable": self.reliable,
        }


def series_statistics(series: ArrayLike) -> SeriesStatistics:
    """Mean, standard deviation and standard error of one stationary series (n_samples,)."""
    values = np.asarray(series, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(
            f"one series with at least one sample is needed, not an array of shape {values.shape}"
        )
    n = len(values)
    spread = float(values.std(ddof=1)) if n > 1 else float("nan")
    inefficiency = statistical_inefficiency(values)
    return SeriesStatistics(
        mean=float(values.mean()),
        standard_deviation=spread,
        standard_error=spread * float(np.sqrt(inefficiency / n)),
        statistical_inefficiency=inefficiency,
        n_samples=n,
    )


def pooled_statistics(series: list[NDArray[np.float64]]) -> SeriesStatistics:
    """The same over several independent series, weighted by their lengths.

    The variance of the mean is Σ nᵢ² SEᵢ² / (Σ nᵢ)²; the standard deviation is that of all samples.
    """
    parts = [series_statistics(values) for values in series]
    joined = np.concatenate(series)
    weights = np.array([part.n_samples for part in parts], dtype=np.float64)
    weights /= weights.sum()
    variances = np.array([part.standard_error for part in parts]) ** 2
    error = float(np.sqrt((weights**2 * variances).sum()))
    spread = float(joined.std(ddof=1)) if len(joined) > 1 else float("nan")
    inefficiency = len(joined) * error**2 / spread**2 if spread > 0 else 1.0
    return SeriesStatistics(float(joined.mean()), spread, error, max(1.0, float(inefficiency)), len(joined))


def statistical_inefficiency(series: ArrayLike) -> float:
    """g = 1 + 2 Σ ρ(lag), with the sum ended by Sokal's self-consistent window.

    A. Sokal, *Monte Carlo Methods in Statistical Mechanics*, in Functional Integration (1997), section 3.
    Never below 1: anticorrelation is not taken as extra information.
    """
    values = np.asarray(series, dtype=np.float64)
    n = len(values)
    centred = values - values.mean()
    variance = float((centred**2).mean())
    if n < 3 or variance <= 1e-28 * max(1.0, float((values**2).mean())):
        return 1.0
    spectrum = np.fft.rfft(centred, 2 * n)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[:n] / (n * variance)
    running = 1.0 + 2.0 * np.cumsum(correlation[1:])
    lags = np.arange(1, n)
    ended = np.nonzero(lags >= SOKAL_WINDOW * 0.5 * running)[0]
    return max(1.0, float(running[ended[0]] if len(ended) else running[-1]))


def t_factor(n_blocks: float, level: float = 0.95) -> float:
    """Half-width of a two-sided confidence band in standard errors, for the mean of ``n_blocks`` blocks."""
    return float(stats.t.ppf(0.5 * (1.0 + level), max(1.0, n_blocks - 1.0)))


def histogram_edges(samples: Sequence[NDArray[np.float64]], n_bins: int) -> NDArray[np.float64]:
    """(n_bins + 1,) edges from 0 to a little above all but the largest 0.5 % of all samples together."""
    top = 1.1 * float(np.percentile(np.concatenate(samples), 99.5))
    return np.linspace(0.0, top if top > 0 else 1.0, n_bins + 1)


def overflow_histogram(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Counts per bin; what lies above the last edge goes into the last bin."""
    return np.histogram(np.minimum(values, edges[-1]), edges)[0].astype(np.int64)
